"""Cohorts whose vectors are known to the bit, and an independent way to make the table that featstore should make."""

from __future__ import annotations

import csv
import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import featstore

PLUGIN = str(Path(__file__).with_name("vectors_plugin.py"))
#: Patient ids as hospitals have them.
ODD_IDS = ["007", "7", "é 3", "two words", "=x", "-1", "a'b", 'q"q', "Ω", "P1", "0", "x,y"]


@dataclass(repr=False)
class Cohort:
    """A store with samples of known vectors.

    Attributes:
        vectors: (patient, modality, slice) → float32 (dim,).
        labels, splits: by patient; None where there is none.
    """

    store: featstore.Store
    root: Path
    vectors: dict[tuple[str, str, int], np.ndarray] = field(default_factory=dict)
    labels: dict[str, object] = field(default_factory=dict)
    splits: dict[str, str | None] = field(default_factory=dict)

    @property
    def patients(self) -> list[str]:
        return sorted({patient for patient, _, _ in self.vectors})

    def file(self, key: tuple[str, str, int]) -> Path:
        # The path says nothing of the patient: alignment must come from the catalog, not from names.
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return self.root / f"{name}.f4"

    def write(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for key, vector in self.vectors.items():
            self.file(key).write_bytes(np.asarray(vector, "<f4").tobytes())

    def ingest(self, *, order: np.random.Generator | None = None, label_type: str | None = "int") -> None:
        keys = list(self.vectors)
        if order is not None:
            order.shuffle(keys)
        with open(self.root / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "patient_id", "modality", "label", "split", "slice"])
            for key in keys:
                patient, modality, number = key
                label, split = self.labels.get(patient), self.splits.get(patient)
                row = [self.file(key).name, patient, modality, "" if label is None else label, split or "", number]
                writer.writerow(row)
        self.store.ingest_manifest(self.root / "manifest.csv", dataset="cohort", label_type=label_type)

    def extract(self, name: str = "v", dim: int | None = None, **fields: object) -> object:
        dim = dim or len(next(iter(self.vectors.values())))
        return self.store.extract(name=name, backbone=f"numbers:{dim}", device="cpu", **fields)

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
def make_cohort(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Cohort]:
    """``make_cohort(seed, ids=…, …)``: a store with samples of known vectors, ingested and extracted as ``v``."""

    def make(seed: int, *, extract: bool = True, count: int = 18, **options: object) -> Cohort:
        folder = tmp_path_factory.mktemp("cohort")
        featstore.init(folder / "store")
        cohort = Cohort(featstore.open(folder / "store", plugins=[PLUGIN]), folder / "data")
        ids = [*ODD_IDS, *(f"N{n:03}" for n in range(count))][:count]
        fill(cohort, np.random.default_rng(seed), **({"ids": ids} | options))
        if extract:
            cohort.ingest()
            cohort.extract()
        return cohort

    return make


# ------------------------------------------------------------------------------- the table, made without featstore
AGGREGATES: Mapping[str, Callable[[pd.DataFrame], np.ndarray]] = {
    "mean": lambda rows: rows.mean().to_numpy(),
    "max": lambda rows: rows.max().to_numpy(),
    "meanstd": lambda rows: np.concatenate([rows.mean(), rows.std(ddof=0)]),
    "gem(3)": lambda rows: ((rows.clip(lower=1e-6) ** 3).mean() ** (1 / 3)).to_numpy(),
}


@dataclass
class Expected:
    """What featstore should make: by patient_id, with every fitted scikit-learn object."""

    frame: pd.DataFrame
    parts: dict[str, np.ndarray]
    fused: np.ndarray
    fitted: dict[str, Any]


def by_patient(store: featstore.Store, name: str, modality: str, agg: str) -> pd.DataFrame:
    """One row a patient, from what the store shows to everyone."""
    x, _, keys = store.features(name).arrays()
    samples = store.sql("SELECT sample_key, patient_id, modality FROM samples").to_pandas().set_index("sample_key")
    rows = pd.DataFrame(x.astype(np.float64), index=keys).join(samples, how="left")
    rows = rows[rows.modality == modality].drop(columns="modality")
    pooled = {
        patient: AGGREGATES[agg](group.drop(columns="patient_id")) for patient, group in rows.groupby("patient_id")
    }
    return pd.DataFrame.from_dict(pooled, orient="index")


def remade(
    store: featstore.Store,
    inputs: Mapping[str, tuple[str, str, str]],
    *,
    join: str = "inner",
    clinical: pd.DataFrame | None = None,
    numeric: tuple[str, ...] = (),
    categorical: tuple[str, ...] = (),
    impute: bool = False,
    standardize: bool = False,
    pca: float | None = None,
) -> Expected:
    """A training table by pandas and scikit-learn alone. ``inputs``: alias → (feature set, modality, aggregate)."""
    parts = {alias: by_patient(store, *source) for alias, source in inputs.items()}
    frame = store.sql("SELECT patient_id, label FROM patients").to_pandas().set_index("patient_id")
    splits = store.sql("SELECT patient_id, split FROM splits WHERE scheme = 'default'").to_pandas()
    frame = frame.join(splits.set_index("patient_id")).dropna()
    indexes = [part.index for part in parts.values()]
    every = [*indexes, *([clinical.index] if clinical is not None else [])]
    wanted = {
        "inner": lambda: functools.reduce(lambda a, b: a.intersection(b), every),
        "left": lambda: indexes[0],
        "outer": lambda: functools.reduce(lambda a, b: a.union(b), indexes),
    }[join]()
    frame = frame.loc[sorted(frame.index.intersection(wanted))]
    train = (frame.split == "train").to_numpy()
    aligned = {alias: part.reindex(frame.index).to_numpy(np.float64) for alias, part in parts.items()}
    fitted: dict[str, Any] = {}
    columns = list(aligned.values())
    if clinical is not None:
        rows = clinical.reindex(frame.index)
        columns.append(rows[list(numeric)].to_numpy(np.float64))
        for column in categorical:
            known = rows[[column]][train].dropna().astype(str)
            encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(known.to_numpy(object))
            encoded = encoder.transform(rows[[column]].astype(str).to_numpy(object))
            encoded[rows[column].isna()] = np.nan
            columns.append(encoded)
    fused = np.concatenate(columns, axis=1)
    if impute:
        fitted["impute"] = SimpleImputer().fit(fused[train])
        fused = fitted["impute"].transform(fused)
    if standardize:
        fitted["standardize"] = StandardScaler().fit(fused[train])
        fused = fitted["standardize"].transform(fused)
    if pca is not None:
        components = pca if pca < 1 else int(pca)
        solver = "full" if train.sum() <= fused.shape[1] else "covariance_eigh"  # neither draws random numbers
        fitted["pca"] = PCA(n_components=components, svd_solver=solver).fit(fused[train])
        fused = fitted["pca"].transform(fused)
    return Expected(frame, aligned, fused, fitted)


@pytest.fixture(scope="session")
def remake() -> Callable[..., Expected]:
    """:func:`remade`, as a fixture: test modules can't import one another."""
    return remade
