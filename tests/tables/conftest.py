"""Cohorts whose vectors are known to the bit."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featstore

PLUGIN = str(Path(__file__).with_name("vectors_plugin.py"))
#: Patient ids as hospitals have them.
ODD_IDS = ["007", "7", "é 3", "two words", "=x", "-1", "a'b", 'q"q', "Ω", "P1", "0", "x,y"]


@dataclass
class Cohort:
    """A store with samples of known vectors.

    Attributes:
        vectors: (patient, modality, slice) → float32 (dim,).
        labels, splits: by patient; None where there is none.
        visits, times: by sample, where the cohort has them.
    """

    store: featstore.Store
    root: Path
    vectors: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)
    labels: dict[str, object] = field(default_factory=dict)
    splits: dict[str, str | None] = field(default_factory=dict)
    visits: dict[tuple[str, str, int], str | None] = field(default_factory=dict)
    times: dict[tuple[str, str, int], datetime | None] = field(default_factory=dict)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # Hypothesis would print every vector
        printer.text(f"Cohort({self.root})")

    @property
    def patients(self) -> list[str]:
        return sorted({patient for patient, _, _ in self.vectors})

    def file(self, key: tuple[str, str, int]) -> Path:
        # The path says nothing of the patient: alignment must come from the catalog, not from names.
        if not self.visits:
            name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
            return self.root / f"{name}.f4"
        # Slice 2 comes before slice 10, also where a visit and a modality have both.
        name = hashlib.sha256(repr(key[:2]).encode()).hexdigest()[:16]
        return self.root / f"{name}-{key[2]}.vec"

    def write(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for key, vector in self.vectors.items():
            self.file(key).write_bytes(np.asarray(vector, "<f4").tobytes())

    def key(self, key: tuple[str, str, int]) -> str:
        """The sample's key in the store."""
        return f"cohort/{self.file(key).name}"

    def samples(self) -> pd.DataFrame:
        """One row a sample, in no order that matters."""
        rows = [
            {
                "patient_id": key[0], "modality": key[1], "slice": key[2], "visit_id": self.visits.get(key),
                "acquired_at": self.times.get(key), "sample_key": self.key(key), "vector": vector,
            }
            for key, vector in self.vectors.items()
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def manifest(self, keys: Sequence[tuple[str, str, int]] | None = None) -> list[list[object]]:
        """The rows of the manifest, its header first."""
        timed = ["visit_id", "acquired_at"] if self.visits else []
        rows: list[list[object]] = [["path", "patient_id", "modality", "label", "split", "slice", *timed]]
        for key in self.vectors if keys is None else keys:
            patient, modality, number = key
            label, split = self.labels.get(patient), self.splits.get(patient)
            row = [self.file(key).name, patient, modality, "" if label is None else label, split or "", number]
            if timed:
                time = self.times[key]
                row += [self.visits[key] or "", time.isoformat() if time else ""]
            rows.append(row)
        return rows

    def ingest(self, *, order: np.random.Generator | None = None, label_type: str | None = "int") -> None:
        keys = list(self.vectors)
        if order is not None:
            order.shuffle(keys)
        self.ingest_rows(self.manifest(keys), label_type=label_type)

    def ingest_rows(self, rows: Sequence[Sequence[object]], *, label_type: str | None = "int") -> None:
        with open(self.root / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        self.store.ingest_manifest(self.root / "manifest.csv", dataset="cohort", label_type=label_type)

    def extract(self, name: str = "v", dim: int | None = None, **fields: object) -> object:
        dim = dim or len(next(iter(self.vectors.values())))
        return self.store.extract(name=name, backbone=f"numbers:{dim}", device="cpu", **fields)

    def dated(self, rows: Sequence[Mapping[str, object]], name: str, time: str = "drawn_at") -> pd.DataFrame:
        """Ingest a dated table, as these rows; None is an empty cell."""
        frame = pd.DataFrame(rows)
        frame.to_csv(self.root.parent / f"{name}.csv", index=False)
        self.store.ingest_table(self.root.parent / f"{name}.csv", name=name, time=time)
        return frame

    def clinical(self, rows: Mapping[str, Mapping[str, object]], name: str = "clinical", **options: object) -> Path:
        """Ingest a clinical table: patient → column → value; None is an empty cell."""
        columns = list(dict.fromkeys(c for values in rows.values() for c in values))
        path = self.root.parent / f"{name}.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["patient_id", *columns])
            for patient, values in rows.items():
                writer.writerow([patient, *("" if values.get(c) is None else values[c] for c in columns)])
        self.store.ingest_table(path, name=name, **options)
        return path


def fill(
    cohort: Cohort,
    rng: np.random.Generator,
    *,
    ids: list[str],
    dim: int = 5,
    slices: int = 4,
    missing: float = 0.0,
    modalities: tuple[str, ...] = ("A", "P"),
    classes: int = 2,
) -> Cohort:
    """Fill a cohort at random: ragged slices, missing modalities, labels in turns; 2/3 train, the rest val and test."""
    for number, patient in enumerate(ids):
        has = [m for m in modalities if rng.random() >= missing] or [modalities[number % len(modalities)]]
        for modality in has:
            for index in range(int(rng.integers(1, slices + 1))):
                cohort.vectors[patient, modality, index] = rng.normal(1, 2, dim).astype(np.float32)
        cohort.labels[patient] = number % classes
        cohort.splits[patient] = ("train", "train", "val", "train", "train", "test")[number % 6]
    cohort.write()
    return cohort


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with nothing in it, to be copied: that is cheaper than to make one."""
    return featstore.init(tmp_path_factory.mktemp("empty") / "store").path


@pytest.fixture(scope="session")
def make_cohort(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Callable[..., Cohort]:
    """``make_cohort(seed, ids=…, …)``: a store with samples of known vectors, ingested and extracted as ``v``."""

    def make(seed: int, *, extract: bool = True, count: int = 18, **options: object) -> Cohort:
        folder = tmp_path_factory.mktemp("cohort")
        shutil.copytree(empty_store, folder / "store")
        cohort = Cohort(featstore.open(folder / "store", plugins=[PLUGIN]), folder / "data")
        ids = [*ODD_IDS, *(f"N{n:03}" for n in range(count))][:count]
        fill(cohort, np.random.default_rng(seed), **({"ids": ids} | options))
        if extract:
            cohort.ingest()
            cohort.extract()
        return cohort

    return make


@pytest.fixture(scope="session")
def visited(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Cohort:
    """26 patients with up to three visits each, each visit with up to two modalities and ragged slices.

    Odd ids of patients and of visits; the same visit id at several patients; slices 2 and 10; a few samples of no
    visit; times in no order, and some without one; a patient in no split, and one without a label.
    """
    folder, rng = tmp_path_factory.mktemp("visited"), np.random.default_rng(77)
    shutil.copytree(empty_store, folder / "store")
    made = Cohort(featstore.open(folder / "store", plugins=[PLUGIN]), folder / "data")
    for number, patient in enumerate([*ODD_IDS, *(f"N{n:03}" for n in range(14))]):
        slices = iter(rng.permutation(24))
        for visit in list(rng.permutation(["1", "01", "é 2", "Ω"]))[: 1 + number % 3]:
            day = datetime(2024, 1, 1) + timedelta(days=int(rng.integers(0, 400)))
            has = [m for m in "AP" if rng.random() > 0.25] or ["AP"[number % 2]]
            for modality in has:
                for _ in range(int(rng.integers(1, 6))):
                    key = (patient, modality, int(next(slices)))
                    made.vectors[key] = rng.normal(1, 2, 4).astype(np.float32)
                    made.visits[key] = None if rng.random() < 0.06 else str(visit)
                    made.times[key] = day + timedelta(hours=int(rng.integers(0, 40)))
        if number % 9 == 4:
            made.times[next(k for k in made.vectors if k[0] == patient)] = None
        made.labels[patient] = None if number == 5 else (number // 2) % 2
        made.splits[patient] = None if number == 8 else ("train", "train", "val", "train", "test")[number % 5]
    made.write()
    made.ingest()
    made.extract()
    return made
