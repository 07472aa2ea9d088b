"""Training tables whose rows are known: written as materialize writes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featstore
from featstore.catalog import training_tables
from featstore.learn import ProbeResult, probe
from featstore.runs import finished, utc_now
from featstore.tables import TrainingTable
from featstore.tables.mending import of_all

from .reference import patients


class Lab:
    """A store into which tables are put."""

    def __init__(self, folder: Path) -> None:
        self.store = featstore.init(folder / "store")
        self.count = 0

    def table(
        self,
        x: Any,
        labels: list[Any],
        splits: Any,
        *,
        ids: list[str] | None = None,
        recipe: Mapping[str, Any] | None = None,
        keys: Mapping[str, list[str]] | None = None,
        survival: bool = False,
        folds: list[Any] | None = None,
    ) -> TrainingTable:
        """A new table. Of ``folds``, each is the features of one fold, and splits ``fold0``, … are as in a scheme."""
        self.count += 1
        name = f"t{self.count}"
        path = self.store.path / "tables" / name / "v1"
        digests = {}
        for number, features in enumerate([x] if folds is None else folds):
            own = splits
            if folds is not None:
                own = [_of_fold(split, number) for split in splits]
            target = path if folds is None else path / f"fold{number}"
            target.mkdir(parents=True)
            data = target / "data.parquet"
            pq.write_table(
                _data(features, labels, own, ids or patients(len(labels)), keys or {}, survival),
                data,
            )
            digests["" if folds is None else f"fold{number}"] = hashlib.sha256(data.read_bytes()).hexdigest()
        row = training_tables.Row(
            name, 1, "label", None, len(labels), f"tables/{name}/v1", of_all(digests), dict(recipe or {"steps": []}),
            {}, "visit" if keys else "patient", len(folds) if folds is not None else None,
        )  # fmt: skip
        with self.store.catalog.write() as connection:
            facts = finished("materialize", utc_now(), {}, self.store.plugins)
            training_tables.put(connection, row, [], [], f"20260101T000000-materialize-{self.count:04x}", facts)
        return self.store.table(name)

    def probe(self, table: TrainingTable, **options: Any) -> ProbeResult:
        return probe(self.store.path, self.store.catalog, self.store.plugins, table, **options)


def _of_fold(split: str | None, number: int) -> str | None:
    if split is None or not split.startswith("fold"):
        return split
    return "val" if split == f"fold{number}" else "train"


def _data(
    x: Any, labels: list[Any], splits: Any, ids: list[str], keys: Mapping[str, list[str]], survival: bool
) -> pa.Table:
    features = np.asarray(x, np.float32).reshape(len(labels), -1)
    columns: dict[str, Any] = {"patient_id": pa.array(ids, pa.string()), **{k: pa.array(v) for k, v in keys.items()}}
    columns["split"] = pa.array(list(splits), pa.string())
    if survival:
        columns |= {"time": pa.array([1.0] * len(labels)), "event": pa.array([True] * len(labels))}
    else:
        columns["label"] = pa.array(labels)
    columns["fused"] = pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), features.shape[1])
    return pa.table(columns)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


def separable_a_bit(rng: np.random.Generator, labels: Any, width: int = 4, shift: float = 0.8) -> np.ndarray:
    """Features that tell labels with errors: float32 (rows, width)."""
    y = np.asarray(labels, float)
    return (rng.normal(size=(len(y), width)) + shift * (y - y.mean())[:, None]).astype(np.float32)


@pytest.fixture(scope="session")
def cohort(lab: Lab) -> Callable[..., tuple[TrainingTable, dict[str, np.ndarray]]]:
    """``cohort(seed, rows=…, classes=…)``: a table with train, val, test and external, and its columns as arrays."""

    def make(
        seed: int, *, rows: int = 120, classes: int = 2, **options: Any
    ) -> tuple[TrainingTable, dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, classes, rows)
        splits = np.array(["train", "train", "val", "test", "train", "external"])[np.arange(rows) % 6]
        x = separable_a_bit(rng, labels)
        table = lab.table(x, labels.tolist(), splits, **options)
        return table, {"x": x.astype(np.float64), "y": labels, "split": splits, "id": np.array(patients(rows))}

    return make
