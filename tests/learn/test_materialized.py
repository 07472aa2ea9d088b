"""Probes of tables that materialize made: folds, splits without rows, stale tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

import featstore
from featstore.learn import ProbeResult, probe

from .reference import close, patients


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[featstore.Store, pd.DataFrame, np.ndarray]:
    """A store with vectors of 60 patients of two sites, JM (40) and BK (20); the table of them; the vectors."""
    folder = tmp_path_factory.mktemp("made")
    store, rng = featstore.init(folder / "store"), np.random.default_rng(5)
    frame = pd.DataFrame({"patient_id": patients(60), "label": rng.integers(0, 2, 60)})
    frame = frame.assign(sample_key=[f"s{i:03}" for i in range(60)], modality="A", site=["JM", "JM", "BK"] * 20)
    frame.to_csv(folder / "index.csv", index=False)
    vectors = (rng.normal(size=(60, 5)) + frame.label.to_numpy()[:, None] * 0.8).astype(np.float32)
    np.save(folder / "v.npy", vectors)
    store.import_features(folder / "v.npy", name="v", index=folder / "index.csv", in_order=True, label_type="int")
    return store, frame, vectors


def run(store: featstore.Store, name: str, **options: Any) -> ProbeResult:
    return probe(store.path, store.catalog, store.plugins, store.table(name), **options)


def test_folds_equal_scikit_learn_on_the_vectors(made: Any) -> None:
    store, frame, vectors = made
    store.split(scheme="cv", k_folds=3, stratify="label", holdout="site = 'BK'", holdout_as="external", seed=1)
    store.materialize(name="cv", inputs=["a=v/A"], scheme="cv", steps=["standardize"])
    result = run(store, "cv", bootstrap=20)
    of = {r["patient_id"]: r["split"] for r in store.sql("SELECT * FROM splits WHERE scheme = 'cv'").to_pylist()}
    splits = frame.patient_id.map(of).to_numpy()
    y = frame.label.to_numpy()
    assert not [text for text in result.notes if "no row to measure" in text]
    for fold in ("fold0", "fold1", "fold2"):
        train, val = (splits != fold) & (splits != "external"), splits == fold
        x = StandardScaler().fit(vectors[train].astype(float)).transform(vectors.astype(float)).astype(np.float32)
        p = LogisticRegression(max_iter=1000).fit(x[train].astype(float), y[train]).predict_proba(x.astype(float))[:, 1]
        for split, rows in (("val", val), ("external", splits == "external")):
            found = result.of(split, fold)
            assert found.rows == rows.sum()
            assert close(found.measures["auc"].value, roc_auc_score(y[rows], p[rows]), 1e-6)
    assert result.of("val", "all").rows == 40


def test_a_split_of_the_scheme_without_a_row_is_said(made: Any) -> None:
    store, _, _ = made
    ratios = {"train": 0.6, "val": 0.4}
    store.split(scheme="sites", ratios=ratios, stratify="label", holdout="site = 'BK'", holdout_as="external")
    store.materialize(name="home", inputs=["a=v/A"], scheme="sites", where="site = 'JM'")
    result = run(store, "home", bootstrap=0)
    assert (result.of("external").rows, dict(result.of("external").measures)) == (0, {})
    assert "external: no row to measure." in result.notes


def test_a_stale_table_is_said_to_be(made: Any) -> None:
    store, _, _ = made
    ratios = {"train": 0.6, "val": 0.4}
    store.split(scheme="changing", ratios=ratios, stratify="label")
    store.materialize(name="old", inputs=["a=v/A"], scheme="changing")
    assert not any("stale" in text for text in run(store, "old", bootstrap=0).notes)
    store.split(scheme="changing", ratios=ratios, stratify="label", seed=9, replace=True)
    assert any("The table is stale" in text for text in run(store, "old", bootstrap=0).notes)


def test_samples_of_a_patient_are_rows_of_its_own(made: Any, tmp_path: Path) -> None:
    _, frame, vectors = made
    store = featstore.init(tmp_path / "store")
    twice = pd.concat([frame, frame.assign(sample_key=frame.sample_key + "b")])
    twice.to_csv(tmp_path / "index.csv", index=False)
    np.save(tmp_path / "v.npy", np.concatenate([vectors, vectors + 0.1]))
    store.import_features(tmp_path / "v.npy", name="v", index=tmp_path / "index.csv", in_order=True, label_type="int")
    store.split(ratios={"train": 0.7, "test": 0.3}, stratify="label")
    store.materialize(name="slices", inputs=["a=v/A"], entity="sample", scheme="default")
    result = run(store, "slices", bootstrap=20)
    for found in result.splits:
        assert found.rows == 2 * found.patients
    kept = pq.read_table(result.path / "predictions.parquet")
    assert kept.column_names[:5] == ["patient_id", "visit_id", "sample_key", "split", "fold"]
    assert kept.num_rows == 120
