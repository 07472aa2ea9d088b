"""Folds: each its own fitted objects and data, learned from the other folds alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from featstore import ConflictError, UsageError
from featstore.tables.recipe_plain import from_json

from .expected import assert_fitted_alike, check, remade

RECIPE: dict[str, Any] = {
    "name": "k", "scheme": "cv", "join": "outer", "missing": "mean", "steps": ["standardize", "pca(3)"],
    "inputs": [
        {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean", "steps": ["robust"]},
        {"alias": "p", "features": "v", "modality": "P", "aggregation": "max"},
    ],
    "tables": [{"name": "clinical", "numeric": ["age"], "categorical": ["stage"]}],
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """24 patients in three folds, and those of the test set held out."""
    import pandas as pd

    made = make_cohort(60, count=24, missing=0.25, slices=3)
    rows = {
        p: {"age": None if n % 7 == 1 else 20 + n * 1.5, "stage": ("I", "II", "rare" if n == 8 else "é")[n % 3]}
        for n, p in enumerate(made.patients)
    }
    made.clinical(rows)
    made.tables = {"clinical": pd.DataFrame([{"patient_id": p} | v for p, v in rows.items()])}
    made.store.split(scheme="cv", k_folds=3, holdout="split = 'test'", holdout_as="test", seed=4)
    found = made.store.sql("SELECT patient_id, split FROM splits WHERE scheme = 'cv'").to_pylist()
    made.of = {row["patient_id"]: row["split"] for row in found}
    assert set(made.of.values()) == {"fold0", "fold1", "fold2", "test"}
    return made


def seen_by(cohort: Any, fold: int) -> dict[str, str]:
    """The split of each patient as one fold sees it."""
    names = {f"fold{n}": "val" if n == fold else "train" for n in range(3)}
    return {p: names.get(s, s) for p, s in cohort.of.items()}


def test_every_fold_is_the_table_of_its_own_split(cohort: Any, tmp_path: Any) -> None:
    result = cohort.store.materialize(from_json(RECIPE), out=tmp_path / "k.parquet")
    table = cohort.store.table("k")
    assert (table.folds, table.entity) == (3, "patient")
    held, unseen = [], {}
    for fold in range(3):
        expected = remade(cohort, RECIPE, splits=seen_by(cohort, fold), tables=cohort.tables)
        fitted = table.fitted(fold=fold)
        ours, theirs = fitted["steps"]["pca"], expected.fitted["steps"][1]
        signs = np.sign((ours.components_ * theirs.components_).sum(axis=1))
        check(table, expected, fold=fold, signs=signs)
        assert_fitted_alike(fitted["steps"]["standardize"], expected.fitted["steps"][0])
        assert_fitted_alike(fitted["missing"], expected.fitted["missing"])
        assert_fitted_alike(fitted["inputs"]["a"]["robust"], expected.fitted["inputs"]["a"][0])
        assert_fitted_alike(fitted["encode"]["clinical"]["stage"], expected.fitted["encode"]["clinical"]["stage"])
        seen = {row["stage"] for row in table.to_arrow(split="train", fold=fold).select(["stage"]).to_pylist()}
        unseen[f"fold{fold}"] = {} if "rare" in seen else {"clinical": {"stage": ["rare"]}}
        assert table.splits(fold=fold) == ["test", "train", "val"]
        held += table.to_arrow(split="val", fold=fold).column("patient_id").to_pylist()
        assert result.report["folds"][f"fold{fold}"]["train_rows"] == expected.train.sum()
        out = tmp_path / f"k.fold{fold}.parquet"
        assert out.read_bytes() == (table.folder(fold) / "data.parquet").read_bytes()
    assert sorted(map(len, unseen.values())) == [0, 0, 1]
    assert {name: facts["unseen"] for name, facts in result.report["folds"].items()} == unseen
    assert result.report["tables"]["clinical"]["unseen"] == unseen["fold0"].get("clinical", {})
    assert result.out == [tmp_path / f"k.fold{n}.parquet" for n in range(3)]
    # Everybody who isn't held out is tested on once.
    everyone = table.to_arrow(fold=0)
    assert sorted(held) == [row["patient_id"] for row in everyone.to_pylist() if row["split"] != "test"]
    kept = pq.ParquetFile(table.path / "rows.parquet").read()
    assert kept.column("split").to_pylist() == [cohort.of[p] for p in kept.column("patient_id").to_pylist()]
    assert cohort.store.materialize(from_json(RECIPE)).unchanged


def test_a_fold_learns_nothing_from_the_one_that_it_holds_out(cohort: Any, make_cohort: Callable[..., Any]) -> None:
    """All of one fold's patients become others: what that fold has fitted stays, to the bit."""
    recipe = {k: v for k, v in RECIPE.items() if k != "tables"}
    other = make_cohort(60, count=24, missing=0.25, slices=3, extract=False)
    for key in other.vectors:
        if cohort.of[key[0]] == "fold1":
            other.vectors[key] = other.vectors[key] * -50
    other.write()
    other.ingest()
    other.extract()
    other.store.split(scheme="cv", k_folds=3, holdout="split = 'test'", holdout_as="test", seed=4)
    data = []
    for made in (cohort, other):
        made.store.materialize(from_json(recipe | {"name": "again"}))
        data.append([made.store.table("again").to_pandas(fold=n) for n in range(3)])
    for fold, (one, two) in enumerate(zip(*data, strict=True)):
        assert one.patient_id.tolist() == two.patient_id.tolist()
        train = (one.split == "train").to_numpy()
        same = np.stack(one.fused)[train].tobytes() == np.stack(two.fused)[train].tobytes()
        assert same == (fold == 1)


def test_a_fold_must_be_named(cohort: Any) -> None:
    cohort.store.materialize(from_json(RECIPE))
    table = cohort.store.table("k")
    for read in (table.to_arrow, table.arrays, table.fitted, table.to_pandas, table.splits):
        with pytest.raises(UsageError, match=r"has 3 folds.*which") as caught:
            read()
        assert "fold=0" in caught.value.hint
    with pytest.raises(UsageError, match="3 is none of them"):
        table.arrays(fold=3)
    cohort.store.materialize(name="plain", inputs=["a=v/A:mean"], scheme="default")
    with pytest.raises(UsageError, match="no folds"):
        cohort.store.table("plain").arrays(fold=0)


def test_the_train_rows_of_each_fold_are_in_the_catalog(cohort: Any) -> None:
    import duckdb

    result = cohort.store.materialize(from_json(RECIPE | {"name": "hashes"}))
    with duckdb.connect(str(cohort.store.path / "catalog.duckdb"), read_only=True) as connection:
        rows = connection.execute(
            "SELECT f.fold, f.train_rows, f.train_hash FROM core.fit f JOIN core.training_table t "
            "ON t.id = f.training_table WHERE t.name = 'hashes' ORDER BY 1"
        ).fetchall()
    assert [row[0] for row in rows] == ["fold0", "fold1", "fold2"]
    assert [row[1] for row in rows] == [result.report["folds"][row[0]]["train_rows"] for row in rows]
    assert len({row[2] for row in rows}) == 3


def test_a_fold_without_anybody_to_learn_from_is_refused(make_cohort: Callable[..., Any]) -> None:
    """One fold has every patient of an input: the others' rows would have nothing of it."""
    cohort = make_cohort(61, count=12, slices=1, extract=False)
    cohort.ingest()
    cohort.extract()
    cohort.store.split(scheme="cv", k_folds=2, seed=1)
    of = {
        row["patient_id"]: row["split"]
        for row in cohort.store.sql("SELECT patient_id, split FROM splits WHERE scheme = 'cv'").to_pylist()
    }
    only = ", ".join("'" + p.replace("'", "''") + "'" for p, s in of.items() if s == "fold0")
    with pytest.raises(ConflictError):
        cohort.store.materialize(
            name="t", inputs=["a=v/A:mean"], scheme="cv", where=f"patient_id IN ({only})", steps=["standardize"]
        )
    assert cohort.store.ls("tables").num_rows == 0
    assert list((cohort.store.path / "tables").iterdir()) == []


def test_exported_by_fold_with_its_card(cohort: Any, tmp_path: Any) -> None:
    cohort.store.materialize(from_json(RECIPE | {"name": "out"}))
    table = cohort.store.table("out")
    result = cohort.store.export("out", out=tmp_path / "one.npz", fold=1)
    assert (result.contents[0].shape, result.files) == (table.arrays(fold=1)[0].shape, 2)
    with np.load(tmp_path / "one.npz", allow_pickle=False) as arrays:
        assert (arrays["fused"] == table.arrays(fold=1)[0]).all()
    assert (tmp_path / "one.npz.card.md").read_text() == (table.path / "card.md").read_text()
    for fold in (None, 3):
        with pytest.raises(UsageError, match="3 folds, each with its own data"):
            cohort.store.export("out", out=tmp_path / "two.npz", fold=fold)
    with pytest.raises(UsageError, match="a feature set has none"):
        cohort.store.export("v", out=tmp_path / "two.npy", fold=0)


def test_folds_of_sites_say_which(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(47, count=12, slices=1, extract=False)
    rows = cohort.manifest()
    rows[0].append("site")
    for row in rows[1:]:
        row.append(["KD", "JM"][cohort.patients.index(row[1]) % 2])
    cohort.ingest_rows(rows)
    cohort.extract()
    cohort.store.split(scheme="loso", leave_one_site_out=True)
    result = cohort.store.materialize(name="t", inputs=["a=v/A:mean"], scheme="loso")
    assert {name: facts["site"] for name, facts in result.report["folds"].items()} == {"fold0": "JM", "fold1": "KD"}
