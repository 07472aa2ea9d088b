"""Deleting, reordering or duplicating rows anywhere upstream can't misalign a row.

Each test changes what a table is made of, somewhere between the user's files and the stored vectors, and looks whether
every row that is still there has just the values that it had before.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

import featstore
from featstore import ConflictError, FeatstoreError, InputError
from featstore.tables.recipe_plain import from_json

PLUGIN = str(Path(__file__).with_name("vectors_plugin.py"))
RECIPE: dict[str, Any] = {
    "name": "t", "scheme": "default", "join": "outer",
    "inputs": [
        {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean"},
        {"alias": "p", "features": "v", "modality": "P", "aggregation": "first", "order_by": "slice"},
    ],
    "tables": [{"name": "clinical", "numeric": ["age", "weight"], "categorical": ["sex"]}],
}  # fmt: skip

#: What every row of the table holds, but its key.
VALUES = ["split", "label", "a", "p", "age", "weight", "sex", "fused", "has_a", "has_p", "has_clinical"]
Rows = Sequence[Sequence[object]]


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """24 patients with odd ids; the files stay, and every test takes them into a store of its own."""
    made = make_cohort(90, count=24, missing=0.25, slices=4, extract=False)
    made.rows = {
        p: {"age": None if n % 7 == 1 else 20 + n, "weight": round(50 + n / 3, 3), "sex": "MF"[n % 2]}
        for n, p in enumerate(made.patients)
    }
    return made


@dataclass
class Lab:
    """A store for the cohort's files, a copy of an empty or of a filled one, and what is done to it step by step."""

    cohort: Any
    root: Path
    of: Path

    def __post_init__(self) -> None:
        shutil.copytree(self.of, self.root / "store")
        self.store = featstore.open(self.root / "store", plugins=[PLUGIN])
        self.mine = replace(self.cohort, store=self.store)

    def ingest(self, rows: Rows | None = None) -> Lab:
        self.mine.ingest_rows(self.cohort.manifest() if rows is None else rows)
        return self

    def extract(self, name: str = "v", **fields: Any) -> Lab:
        self.mine.extract(name, **fields)
        return self

    def clinical(self, rows: Sequence[tuple[str, Mapping[str, object]]] | None = None, **options: Any) -> Lab:
        """Rows in this order, a patient more than once where it is there more than once."""
        path = self.root / "clinical.csv"
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["patient_id", "age", "weight", "sex"])
            for patient, values in list(self.cohort.rows.items()) if rows is None else rows:
                writer.writerow([patient, *("" if v is None else v for v in values.values())])
        self.store.ingest_table(path, name="clinical", **options)
        return self

    def catalog(self, *statements: str) -> Lab:
        """Change the catalog behind featstore's back."""
        with duckdb.connect(str(self.store.path / "catalog.duckdb")) as connection:
            for statement in statements:
                connection.execute(statement)
        return self

    def frame(self) -> pd.DataFrame:
        """The table, by patient."""
        self.store.materialize(from_json(RECIPE))
        frame = self.store.table("t").to_pandas()
        assert frame.patient_id.is_unique
        return frame.set_index("patient_id")


@pytest.fixture
def lab(cohort: Any, empty_store: Path, tmp_path: Path) -> Lab:
    return Lab(cohort, tmp_path, empty_store)


@pytest.fixture(scope="module")
def whole(cohort: Any, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with everything but a training table."""
    lab = Lab(cohort, tmp_path_factory.mktemp("whole"), empty_store)
    return lab.ingest().extract(chunk_rows=16).clinical().store.path


@pytest.fixture
def filled(cohort: Any, whole: Path, tmp_path: Path) -> Lab:
    return Lab(cohort, tmp_path, whole)


@pytest.fixture(scope="module")
def before(cohort: Any, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The table that nothing was done to, which is right: every vector is of its patient's files."""
    frame = Lab(cohort, tmp_path_factory.mktemp("before"), whole).frame()
    samples = cohort.samples()
    for alias, modality in (("a", "A"), ("p", "P")):
        for patient, vector in zip(frame.index, frame[alias], strict=True):
            mine = samples[(samples.patient_id == patient) & (samples.modality == modality)].sort_values("slice")
            if mine.empty:
                assert np.isnan(vector).all()
                continue
            stack = np.stack(mine.vector.tolist())
            wanted = stack.mean(axis=0, dtype=np.float64) if alias == "a" else stack[0]
            np.testing.assert_allclose(vector, wanted, rtol=1e-6)
    assert frame.age[frame.has_clinical].tolist() == pytest.approx(
        [np.nan if (v := cohort.rows[p]["age"]) is None else v for p in frame.index[frame.has_clinical]], nan_ok=True
    )
    assert len(frame) == 24
    return frame


def told(row: pd.Series) -> list[Any]:
    """A row's values, to be compared to the bit."""
    return [v.tobytes() if isinstance(v, np.ndarray) else None if pd.isna(v) else v for v in row[VALUES]]


def assert_same(after: pd.DataFrame, before: pd.DataFrame, *, patients: set[str] | None = None) -> None:
    """Every row of these patients (all) is there, and is what it was."""
    wanted = list(before.index) if patients is None else [p for p in before.index if p in patients]
    assert wanted
    assert [p for p in after.index if p in set(wanted)] == wanted  # in the order of before, too
    for patient in wanted:
        assert told(after.loc[patient]) == told(before.loc[patient]), patient


def shuffled(rows: Sequence[Any], seed: int) -> list[Any]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


# ------------------------------------------------------------------------------------------------ the manifest
@pytest.mark.parametrize("what", ["rows", "columns", "in parts", "twice, in other orders"])
def test_a_manifest_in_another_order(lab: Lab, before: pd.DataFrame, what: str) -> None:
    header, *rows = lab.cohort.manifest()
    if what == "columns":
        order = np.random.default_rng(1).permutation(len(header))
        lab.ingest([[row[i] for i in order] for row in [header, *rows]]).extract()
    elif what == "in parts":
        mixed = shuffled(rows, 2)
        for start in range(0, len(mixed), 17):
            lab.ingest([header, *mixed[start : start + 17]])
            if start % 2:
                lab.extract()
        lab.extract()
    elif what == "rows":
        lab.ingest([header, *shuffled(rows, 3)]).extract()
    else:
        lab.ingest([header, *shuffled(rows, 4)]).extract().ingest([header, *shuffled(rows, 5)]).extract()
    assert_same(lab.clinical().frame(), before)


def test_rows_that_are_gone_from_a_manifest_touch_nobody_else(lab: Lab, before: pd.DataFrame) -> None:
    """Of some patients all samples are gone, of some a few: each of the others has just what it had."""
    header, *rows = lab.cohort.manifest()
    rng = np.random.default_rng(6)
    gone = set(rng.choice(len(rows), 12, replace=False))
    nobody = str(rng.choice(lab.cohort.patients))
    kept = [row for n, row in enumerate(rows) if n not in gone and row[1] != nobody]
    after = lab.ingest([header, *kept]).extract().clinical().frame()
    touched = {row[1] for n, row in enumerate(rows) if n in gone} | {nobody}
    assert_same(after, before, patients=set(before.index) - touched)
    assert nobody not in after.index
    samples = lab.cohort.samples()
    samples = samples[samples.sample_key.isin([f"cohort/{row[0]}" for row in kept])]
    for patient in touched & set(after.index):
        mine = samples[(samples.patient_id == patient) & (samples.modality == "A")]
        assert after.has_a[patient] == (len(mine) > 0)
        if len(mine):
            np.testing.assert_allclose(after.a[patient], np.mean(mine.vector.tolist(), axis=0), rtol=1e-5, atol=1e-6)
        assert told(after.loc[patient])[4:7] == told(before.loc[patient])[4:7]


@pytest.mark.parametrize("change", [{}, {1: "another"}, {2: "P"}, {3: "1"}, {4: "test"}], ids=str)
def test_a_file_that_is_in_a_manifest_twice_is_refused(lab: Lab, change: dict[int, str]) -> None:
    """As the same row, or as that of another patient, modality, label or split."""
    header, *rows = lab.cohort.manifest()
    twin = list(rows[0])
    for place, value in change.items():
        twin[place] = value
    assert change == {} or twin != rows[0]
    with pytest.raises((ConflictError, InputError, featstore.LeakageError, featstore.UsageError)) as caught:
        lab.ingest([header, *rows, twin])
    assert rows[0][0] in str(caught.value) or str(rows[0][1]) in str(caught.value)
    assert lab.store.ls("samples").num_rows == 0


# ------------------------------------------------------------------------------------------------ the clinical table
def test_clinical_rows_in_another_order(filled: Lab, before: pd.DataFrame) -> None:
    rows = shuffled(list(filled.cohort.rows.items()), 8)
    others = [(p, values | {"age": 1}) for p, values in rows]
    filled.clinical(others, replace=True)
    assert filled.frame().age.eq(1).sum() > 20
    assert_same(filled.clinical(rows, replace=True).frame(), before)


def test_clinical_rows_that_are_gone_touch_nobody_else(filled: Lab, before: pd.DataFrame) -> None:
    gone = {"007", "é 3", "N001"}
    strangers = [("0070", {"age": 1, "weight": 1.0, "sex": "M"}), ("n001", {"age": 2, "weight": 2.0, "sex": "F"})]
    rows = [item for item in filled.cohort.rows.items() if item[0] not in gone]
    after = filled.clinical(shuffled([*strangers, *rows], 9), replace=True).frame()
    assert_same(after, before, patients=set(before.index) - gone)
    for patient in gone:
        assert told(after.loc[patient])[:4] == told(before.loc[patient])[:4]
        assert not after.has_clinical[patient]
        assert after.loc[patient, ["age", "weight", "sex"]].isna().all()
        assert np.isnan(after.fused[patient][10:]).all()


@pytest.mark.parametrize("age", [20, 99])
def test_a_patient_who_is_in_a_clinical_table_twice_is_refused(filled: Lab, before: pd.DataFrame, age: int) -> None:
    rows = list(filled.cohort.rows.items())
    with pytest.raises(ConflictError, match=r"more than one row, such as '007'"):
        filled.clinical([*rows, ("007", filled.cohort.rows["007"] | {"age": age})], replace=True)
    assert_same(filled.frame(), before)


# ------------------------------------------------------------------------------------------------ the vectors
@pytest.mark.parametrize(
    "fields", [{"chunk_rows": 8, "batch_size": 1}, {"chunk_rows": 16, "batch_size": 5}, {"chunk_rows": 4096}], ids=str
)
def test_extraction_in_other_batches_and_chunks(lab: Lab, before: pd.DataFrame, fields: dict[str, int]) -> None:
    assert_same(lab.ingest().extract(**fields).clinical().frame(), before)


def test_extraction_that_was_interrupted_and_resumed(lab: Lab, before: pd.DataFrame) -> None:
    total, stops = len(lab.cohort.vectors), 0
    lab.ingest()

    def stop(progress: Any) -> None:
        if progress.done >= total // 3:
            raise KeyboardInterrupt

    try:
        lab.extract(chunk_rows=8, batch_size=4, on_progress=stop)
    except KeyboardInterrupt:
        stops += 1
    assert stops
    lab.ingest([lab.cohort.manifest()[0], *shuffled(lab.cohort.manifest()[1:], 10)])
    assert lab.extract(chunk_rows=8, batch_size=4).store.status()["unfinished"] == []
    assert_same(lab.clinical().frame(), before)


def test_vectors_of_a_later_run(filled: Lab, before: pd.DataFrame) -> None:
    """Files with a new time are made anew: their vectors lie elsewhere, the others where they were."""
    lab = filled
    assert_same(lab.frame(), before)
    for number, key in enumerate(lab.cohort.vectors):
        if number % 3 == 0:
            stat = lab.cohort.file(key).stat()
            os.utime(lab.cohort.file(key), ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    lab.ingest([lab.cohort.manifest()[0], *shuffled(lab.cohort.manifest()[1:], 11)])
    lab.extract("other", poolers=("max",)).extract(chunk_rows=16)
    segments = lab.store.sql("SELECT count(DISTINCT run_id) n FROM features WHERE feature_set = 'v'").to_pylist()
    assert segments == [{"n": 2}]
    assert lab.store.materialize(from_json(RECIPE)).unchanged
    assert_same(lab.frame(), before)


def test_some_vectors_of_one_run_some_of_another(lab: Lab, before: pd.DataFrame) -> None:
    lab.ingest().extract(where="hash(sample_key) % 3 = 0").extract(where="modality = 'P'").extract()
    assert_same(lab.clinical().frame(), before)


# ------------------------------------------------------------------------------------------------ the catalog
def reorder(table: str, seed: int) -> list[str]:
    """The same rows in another physical order."""
    return [
        f"CREATE TEMP TABLE mixed AS SELECT * FROM {table} t ORDER BY hash(t::VARCHAR || '{seed}')",
        f"DELETE FROM {table}", f"INSERT INTO {table} SELECT * FROM mixed", "DROP TABLE mixed",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", [12, 13])
def test_rows_of_the_catalog_in_another_order(filled: Lab, before: pd.DataFrame, seed: int) -> None:
    """No table of the catalog promises an order, and none may be needed."""
    lab = filled
    for table in ("core.vector", "core.split", "core.coverage", 'tabular."clinical"'):
        lab.catalog(*reorder(table, seed))
    assert_same(lab.frame(), before)
    found, keys = lab.store.features("v").arrays()[0::2]
    by_key = {lab.cohort.key(key): vector for key, vector in lab.cohort.vectors.items()}
    for vector, key in zip(found, keys, strict=True):
        np.testing.assert_array_equal(vector, by_key[key])


def test_vectors_that_are_gone_from_the_catalog_touch_nobody_else(filled: Lab, before: pd.DataFrame) -> None:
    gone = {"7", "N002"}
    names = ", ".join(f"'{p}'" for p in gone)
    mine = f"SELECT s.id FROM core.sample s JOIN core.patient p ON p.id = s.patient WHERE p.patient_id IN ({names})"
    after = filled.catalog(f"DELETE FROM core.vector WHERE sample IN ({mine})").frame()
    assert set(before.index) - set(after.index) == gone
    assert_same(after, before, patients=set(before.index) - gone)


@pytest.mark.parametrize("table", ["core.vector", 'tabular."clinical"', "core.split", "core.sample"])
def test_rows_that_are_in_the_catalog_twice_are_refused(filled: Lab, table: str) -> None:
    """By a key of the table, or when a training table would be made of them."""
    with pytest.raises((FeatstoreError, duckdb.ConstraintException)) as caught:
        filled.catalog(f"INSERT INTO {table} SELECT * FROM {table} LIMIT 3").frame()
    if isinstance(caught.value, FeatstoreError):
        assert caught.value.hint
    assert filled.store.ls("tables").num_rows == 0
