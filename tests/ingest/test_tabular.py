"""Tables keyed by patient_id become tables of the catalog."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import featstore
from featstore.errors import ConflictError, NotFoundError, UsageError
from featstore.ingest import IngestResult, TabularResult
from featstore.runs import RunFolder

Put = Callable[..., TabularResult]


@pytest.fixture
def put(store: featstore.Store, tmp_path: Path) -> Put:
    """A function that ingests a CSV from its text."""

    def ingest(text: str, name: str = "clinical", **arguments: bool) -> TabularResult:
        (tmp_path / "t.csv").write_text(text)
        return store.ingest_table(tmp_path / "t.csv", name=name, **arguments)

    return ingest


def test_types_and_sql(put: Put, store: featstore.Store) -> None:
    result = put("patient_id,age,bmi,sex,smoker,seen,zip\n007,61,24.5,m,true,2026-01-31,01234\n7,,NA,f,false,,99999\n")
    assert result.columns == {
        "patient_id": "string", "age": "int64", "bmi": "double", "sex": "string", "smoker": "bool",
        "seen": "timestamp[us]", "zip": "string",
    }  # fmt: skip
    assert store.sql("FROM clinical ORDER BY patient_id").to_pylist() == [
        {
            "patient_id": "007",
            "age": 61,
            "bmi": 24.5,
            "sex": "m",
            "smoker": True,
            "seen": datetime(2026, 1, 31),
            "zip": "01234",
        },
        {"patient_id": "7", "age": None, "bmi": None, "sex": "f", "smoker": False, "seen": None, "zip": "99999"},
    ]
    assert store.sql("SELECT kind, done FROM runs").to_pylist() == [{"kind": "ingest-table", "done": 2}]


def test_columns_may_be_called_anything(put: Put, store: featstore.Store) -> None:
    put('patient_id,a b,"q""x",select,Größe,"semi;colon",path\n1,1,2,3,4,5,6\n', name="odd.name-1")
    found = store.sql('SELECT "a b", "q""x", "select", "Größe", "semi;colon" FROM "odd.name-1"')
    assert list(found.to_pylist()[0].values()) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["incoming", "assignment", "select", "store"])
def test_names_that_sql_knows_do_no_harm(
    put: Put, take: Callable[..., IngestResult], store: featstore.Store, name: str
) -> None:
    put("patient_id,x\n1,2\n", name=name)
    assert store.sql(f'FROM main."{name}"').to_pylist() == [{"patient_id": "1", "x": 2}]
    take("path,patient_id,modality,split\na.png,1,A,train\n")
    store.split(scheme="other", ratios={"train": 1.0})
    put("patient_id,x\n1,3\n", name=name, replace=True)
    assert store.sql("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 1}]
    assert store.sql(f'SELECT x FROM "{name}"').to_pylist() == [{"x": 3}]


class TestAgain:
    def test_the_same_rows_are_no_run(self, put: Put, unchanged: Callable[[], bool]) -> None:
        assert put("patient_id,x\n1,2\n2,\n").run_id
        unchanged()
        assert put("patient_id,x\n2,NA\n1,2\n").run_id is None  # order is no content
        assert put("patient_id,x\n1,2\n2,\n", name="CLINICAL").run_id is None
        assert unchanged()

    def test_other_rows_need_replace(self, put: Put, store: featstore.Store, unchanged: Callable[[], bool]) -> None:
        put("patient_id,x\n1,2\n")
        unchanged()
        with pytest.raises(ConflictError, match=r"'clinical' with other rows\.\n  next: --replace"):
            put("patient_id,x\n1,3\n")
        with pytest.raises(ConflictError):
            put("patient_id,x\n1,3\n", name="Clinical")
        assert unchanged()
        put("patient_id,y\n1,3\n", name="Clinical", replace=True)
        assert store.sql("FROM clinical").to_pylist() == [{"patient_id": "1", "y": 3}]
        assert store.sql("SELECT name, row_count FROM core.tabular").to_pylist() == [
            {"name": "clinical", "row_count": 1}
        ]
        assert store.show("clinical")

    def test_the_run_holds_the_rows(self, put: Put, store: featstore.Store) -> None:
        run = put("patient_id,x\n2,1\n1,2\n").run_id
        assert pq.read_table(store.path / "runs" / str(run) / "clinical.parquet").to_pylist() == [
            {"patient_id": "1", "x": 2}, {"patient_id": "2", "x": 1},
        ]  # fmt: skip


def test_an_interrupt_after_the_commit_loses_no_rows(
    put: Put, store: featstore.Store, interrupted_after_commit: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_after_commit()
    with pytest.raises(KeyboardInterrupt):
        put("patient_id,x\n1,2\n")
    monkeypatch.undo()
    (run,) = store.sql("SELECT run_id FROM runs").to_pylist()
    assert RunFolder(store.path / "runs" / run["run_id"]).load_rows("clinical").num_rows == 1


def test_who_is_known_and_who_only_looks_so(put: Put, take: Callable[..., IngestResult]) -> None:
    take("path,patient_id,modality\na.png,007,A\nb.png,P-1,A\nc.png,8,A\n")
    result = put("patient_id,x\n7,1\np1,1\n8,1\n99,1\n")
    assert (result.patients, result.known) == (4, 1)
    assert result.lookalikes == [("7", "007"), ("p1", "P-1")]


def test_patients_of_several_rows_count_once(
    store: featstore.Store, put: Put, take: Callable[..., IngestResult]
) -> None:
    take("path,patient_id,modality\na.png,007,A\nb.png,8,A\n")
    result = put("patient_id,day,x\n007,2024-01-01,1\n007,2024-01-02,1\n9,2024-01-01,1\n9,2024-01-02,1\n", time="day")
    assert (result.rows, result.patients, result.known) == (4, 2, 1)


def test_parquet_with_categories_and_lists(store: featstore.Store, tmp_path: Path) -> None:
    rows = pa.table(
        {"patient_id": [1, 2], "sex": pa.array(["m", "f"]).dictionary_encode(), "doses": [[1, 2], []], "n": pa.nulls(2)}
    )
    pq.write_table(rows, tmp_path / "t.parquet")
    store.ingest_table(tmp_path / "t.parquet", name="clinical")
    assert store.sql("FROM clinical ORDER BY patient_id").to_pylist() == [
        {"patient_id": "1", "sex": "m", "doses": [1, 2], "n": None},
        {"patient_id": "2", "sex": "f", "doses": [], "n": None},
    ]  # fmt: skip


RESERVED = ["samples", "Patients", "features", "duckdb_tables", "sqlite_master"]


@pytest.mark.parametrize(
    ("text", "name", "error", "message"),
    [
        ("patient_id,x\n1,2\n1,3\n", "t", ConflictError, "1 patient(s) have more than one row, such as '1'"),
        ("patient_id,x\n,2\n", "t", ConflictError, "no patient_id"),
        ("patient_id,x\n", "t", UsageError, "t.csv has no rows"),
        ("patient_id\n1\n", "t", UsageError, "no columns beside patient_id"),
        ("Patient_ID,x\n1,2\n", "t", NotFoundError, "Did you mean 'Patient_ID'"),
        (",patient_id,x\n0,1,2\n", "t", UsageError, "Column 1 of t.csv has no name"),
        ("patient_id,x,X\n1,2,3\n", "t", UsageError, "two columns of one name"),
        ("patient_id,x\n1,2\n", "a b", UsageError, "can't be the name of a table"),
        ("patient_id,x\n1,2\n", 'x"; DROP TABLE core.run; --', UsageError, "can't be the name of a table"),
        *(("patient_id,x\n1,2\n", name, UsageError, "is taken by a view of the catalog") for name in RESERVED),
    ],
)
def test_refused_and_unchanged(
    put: Put, unchanged: Callable[[], bool], text: str, name: str, error: type[Exception], message: str
) -> None:
    unchanged()
    with pytest.raises(error) as caught:
        put(text, name=name)
    assert message in str(caught.value)
    assert unchanged()
