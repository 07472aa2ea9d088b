"""Reproducing: the bytes of a version again, whatever came later, and what differs where they aren't."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featstore import CorruptError
from featstore.tables.recipe_plain import from_json

CLINICAL = {"name": "clinical", "numeric": ["age"], "categorical": ["stage"]}
INPUTS = [
    {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean", "steps": ["robust"]},
    {"alias": "p", "features": "v", "modality": "P", "aggregation": "max", "max_samples": 2},
]
RECIPES: dict[str, dict[str, Any]] = {
    "all": {"tables": [CLINICAL], "join": "outer", "missing": "knn(3)", "steps": ["standardize", "pca(4)"]},
    "late": {"join": "outer", "fuser": "late"},
    "folds": {"scheme": "cv", "join": "outer", "tables": [CLINICAL], "missing": "mean", "steps": ["minmax"]},
    "samples": {
        "entity": "sample", "fuser": "mean",
        "inputs": [{"alias": "a", "features": "v", "modality": "A"}, {"alias": "p", "features": "v", "modality": "P",
                                                                     "aggregation": "mean"}],
    },
    "bare": {
        "scheme": None, "label": "none", "tables": [{"name": "clinical", "numeric": ["age"]}],
        "inputs": [{"alias": "a", "features": "v", "modality": "A", "aggregation": "gem(3)"}],
    },
}  # fmt: skip


def rows_of(cohort: Any, shift: int = 0) -> dict[str, dict[str, object]]:
    return {
        p: {"age": None if n % 7 == 1 else 20 + n * 1.5 + shift, "stage": ("I", "II", "é")[(n + shift) % 3]}
        for n, p in enumerate(cohort.patients)
    }


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(80, count=24, missing=0.25, slices=3)
    made.clinical(rows_of(made))
    made.store.split(scheme="cv", k_folds=2, seed=4)
    for name, recipe in RECIPES.items():
        made.store.materialize(from_json({"name": name, "inputs": INPUTS, "scheme": "default"} | recipe))
    return made


def assert_reproduced(cohort: Any) -> None:
    for name in RECIPES:
        result = cohort.store.table(f"{name}@v1").reproduce()
        assert (result.table, result.same, result.apart, result.packages) == (f"{name}@v1", True, {}, {})


def test_the_same_again_and_nothing_is_left_behind(cohort: Any) -> None:
    before = sorted(cohort.store.path.rglob("*"))
    assert_reproduced(cohort)
    assert sorted(cohort.store.path.rglob("*")) == before


def test_what_came_later_changes_nothing(cohort: Any) -> None:
    """More samples and patients, other pixels, vectors and clinical values, another split, and the first ones gone."""
    store = cohort.store
    rng = np.random.default_rng(81)
    for patient in ("000", "007", "ZZZ"):
        for modality in "AP":
            cohort.vectors[patient, modality, 77] = rng.normal(size=5).astype(np.float32)
    changed = next(k for k in cohort.vectors if k[0] == "P1")
    cohort.vectors[changed] = np.full(5, 9, np.float32)
    cohort.write()
    cohort.ingest(order=rng)
    cohort.extract()
    cohort.extract(dtype="float16")
    cohort.clinical(rows_of(cohort, shift=5), replace=True)
    store.split(ratios={"train": 0.5, "test": 0.5}, seed=9, replace=True)
    store.split(scheme="cv", k_folds=2, seed=9, replace=True)
    assert_reproduced(cohort)
    later = from_json({"name": "all", "inputs": INPUTS, "scheme": "default"} | RECIPES["all"])
    assert store.materialize(later).version == 2
    assert store.table("all@v2").reproduce().same


@pytest.mark.parametrize("name", ["all", "folds"])
def test_data_that_were_altered_are_told_by_column(cohort: Any, name: str) -> None:
    table = cohort.store.table(f"{name}@v1")
    path = table.folder(0 if name == "folds" else None) / "data.parquet"
    kept = path.read_bytes()
    rows = pq.ParquetFile(path).read()
    width = rows.schema.field("fused").type.list_size
    fused = np.stack(rows.column("fused").to_pylist()).astype(np.float32)
    fused[3, 1] += 0.25
    labels = rows.column("label").to_pylist()
    labels[0] = 1 - labels[0]
    for column, values in (
        ("fused", pa.FixedSizeListArray.from_arrays(pa.array(fused.ravel()), width)), ("label", pa.array(labels)),
    ):  # fmt: skip
        rows = rows.set_column(rows.column_names.index(column), column, values)
    try:
        pq.write_table(rows, path)
        result = table.reproduce()
        assert not result.same
        assert result.apart.keys() == {"fused", "label"}
        assert result.apart["fused"] == pytest.approx(0.25, abs=1e-6)
        assert result.apart["label"] is None
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["has_a"]), path)
        assert table.reproduce().apart.keys() == {"fused", "label", "has_a"}
    finally:
        path.write_bytes(kept)
    assert table.reproduce().same


@pytest.mark.parametrize("what", ["pointers.parquet", "rows.parquet", "data.parquet", "runs"])
def test_what_is_gone_is_said(cohort: Any, what: str) -> None:
    table = cohort.store.table("all@v1")
    if what == "runs":
        query = "SELECT run_id FROM lineage WHERE \"table\" = 'all' AND table_version = 1 AND tabular = 'clinical'"
        (run,) = cohort.store.sql(query).column(0).to_pylist()
        path = cohort.store.path / "runs" / run / "clinical.parquet"
    else:
        path = table.path / what
    aside = path.with_name("aside")
    shutil.move(path, aside)
    try:
        with pytest.raises(CorruptError, match=path.name) as caught:
            table.reproduce()
        assert "backup" in caught.value.hint
    finally:
        shutil.move(aside, path)


def altered(path: Path, column: str, values: Callable[[int], list[Any]]) -> None:
    rows = pq.ParquetFile(path).read()
    place = rows.column_names.index(column)
    pq.write_table(rows.set_column(place, column, pa.array(values(len(rows)))), path)


@pytest.mark.parametrize(
    ("file", "column", "values"),
    [
        ("pointers.parquet", "segment", lambda n: [999] * n),
        ("pointers.parquet", "row", lambda n: [-5] * n),
        ("pointers.parquet", "row", lambda n: [10**6] * n),
        ("pointers.parquet", "position", lambda n: [10**6] * n),
        ("pointers.parquet", "row", lambda n: ["0"] * n),
        ("pointers.parquet", "alias", lambda n: ["other"] * n),
        ("rows.parquet", "row of clinical", lambda n: [10**6] * n),
        ("rows.parquet", "row of clinical", lambda n: [-1] * n),
        ("rows.parquet", "patient_id", lambda n: list(range(n))),
        ("rows.parquet", "split", None),
        ("rows.parquet", "row of clinical", None),
        ("pointers.parquet", "sample_key", None),
    ],
)
def test_a_strangers_files_are_refused_by_name(cohort: Any, file: str, column: str, values: Any) -> None:
    path = cohort.store.table("all@v1").path / file
    kept = path.read_bytes()
    try:
        if values is None:
            pq.write_table(pq.ParquetFile(path).read().drop_columns([column]), path)
        else:
            altered(path, column, values)
        with pytest.raises(CorruptError):
            cohort.store.table("all@v1").reproduce()
        for look in (cohort.store.leaks, cohort.store.lineage, lambda name: cohort.store.diff(name, "bare")):
            with contextlib.suppress(CorruptError):  # what they don't need, they may not look at
                look("all@v1")
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("column", ["recipe", "report"])
@pytest.mark.parametrize("text", ["[1]", '"x"'])
def test_a_strangers_catalog_is_refused(make_cohort: Callable[..., Any], column: str, text: str) -> None:
    cohort = make_cohort(83, count=6, slices=1)
    cohort.store.materialize(name="t", inputs=["a=v/A"])
    with cohort.store.catalog.write() as connection:
        connection.execute(f"UPDATE core.training_table SET {column} = ?", [text])
    for call in (
        lambda: cohort.store.table("t"), lambda: cohort.store.leaks("t"), lambda: cohort.store.lineage("t"),
        lambda: cohort.store.materialize(name="t", inputs=["a=v/A"]),
    ):  # fmt: skip
        with pytest.raises(CorruptError, match=rf"{column} of t@v1 is no JSON object"):
            call()


def test_a_table_that_was_replaced_under_another_spelling(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(82, count=12, slices=1)
    cohort.clinical(rows_of(cohort))
    cohort.clinical(rows_of(cohort, shift=1), name="Clinical", replace=True)
    cohort.store.materialize(name="t", inputs=["a=v/A"], tables=["clinical"], numeric=["age"], scheme="default")
    assert cohort.store.table("t").reproduce().same


def test_of_folds_the_largest_difference_is_told(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(84, count=12, slices=1)
    cohort.store.split(scheme="cv", k_folds=2)
    path = cohort.store.materialize(name="t", inputs=["a=v/A"], scheme="cv").path
    for fold, by in (("fold0", 100.0), ("fold1", 0.25)):
        rows = pq.ParquetFile(path / fold / "data.parquet").read()
        fused = np.stack(rows.column("fused").to_pylist()).astype(np.float32) + np.float32(by)
        place = rows.column_names.index("fused")
        column = pa.array(list(fused), rows.schema.field("fused").type)
        pq.write_table(rows.set_column(place, rows.schema.field("fused"), column), path / fold / "data.parquet")
    assert cohort.store.table("t").reproduce().apart == {"fused": pytest.approx(100, rel=1e-5)}


@pytest.mark.parametrize("join", ["outer", "left"])
def test_an_input_that_no_row_has(make_cohort: Callable[..., Any], join: str) -> None:
    """Its only patient is in no split: everybody else's is missing, which is what outer and left are for."""
    cohort = make_cohort(85, count=12, slices=1, extract=False)
    alone = cohort.patients[-1]
    cohort.vectors = {k: v for k, v in cohort.vectors.items() if k[1] == "A" or k[0] == alone}
    cohort.splits[alone] = None
    cohort.ingest()
    cohort.extract()
    inputs = ["a=v/A:mean", "p=v/P:mean"]
    result = cohort.store.materialize(name="t", inputs=inputs, scheme="default", join=join)
    frame = cohort.store.table("t").to_pandas()
    assert not frame.has_p.any()
    assert np.isnan(np.stack(frame.p)).all()
    assert np.isfinite(np.stack(frame.a)).all()
    assert result.report["inputs"]["p"]["missing"] == len(frame)
    assert cohort.store.table("t").reproduce().same
    assert cohort.store.leaks("t").leaks == []
