"""Plans: the laws of chunks, what is pending, and what is reserved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import CorruptError
from featstore.extract.plan import CHUNK_BYTES, Frozen, Plan, chunk_rows
from featstore.runs import RunFolder


@given(st.integers(1, 10**5), st.integers(1, 512), st.integers(1, 10**7), st.integers(1, 10**9))
def test_chunks_are_whole_batches_bounded_and_no_larger_than_needed(
    wanted: int, batch: int, rows: int, nbytes: int
) -> None:
    found = chunk_rows(wanted, batch, rows, nbytes)
    assert found > 0
    assert found % batch == 0
    assert found == batch or (found <= wanted and found * nbytes <= CHUNK_BYTES)
    assert found < rows + batch  # no more padding than the last batch needs
    # As large as may be: another batch would be too many rows, too many bytes, or more than there are.
    assert found + batch > wanted or (found + batch) * nbytes > CHUNK_BYTES or found >= rows


def plan(rows: int, chunk: int, tmp_path: Any = None) -> Plan:
    table = pa.table({"sample": pa.chunked_array([list(range(rows // 2)), list(range(rows // 2, rows))], pa.int64())})
    return Plan(RunFolder(tmp_path), 1, [], Frozen(1, chunk, 1, True, "off", "cpu", {}), table)


@given(st.integers(1, 200), st.integers(1, 50), st.data())
def test_spans_partition_the_rows(rows: int, chunk: int, data: st.DataObject) -> None:
    made = plan(rows, chunk)
    assert [row for index in range(made.chunks) for row in made.span(index)] == list(range(rows))
    finished = data.draw(st.sets(st.integers(0, made.chunks - 1)))
    left = made.left(finished).to_pylist()
    assert left == [row for row in range(rows) if row // chunk not in finished]


def test_a_damaged_folder_is_said(tmp_path: Any) -> None:
    run = RunFolder(tmp_path)
    run.record(plan={"sets": [], "frozen": {"batch_size": 1}})
    with pytest.raises(CorruptError, match="damaged"):
        Plan.load(run, 1)


def test_nothing_pending_makes_nothing(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(9)
    lab.extract()
    before = sorted(p for p in (lab.root / "store").rglob("*") if p.name != "catalog.duckdb")
    assert lab.forwards()
    result = lab.extract()
    assert (result.pending, result.done, result.runs, result.matching) == (0, 0, [], 9)
    assert sorted(p for p in (lab.root / "store").rglob("*") if p.name != "catalog.duckdb") == before
    assert lab.forwards() == []


def test_ten_thousand_samples_then_nothing_then_ten(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(10_000)
    first = lab.extract(batch_size=500, chunk_rows=2000)
    assert (first.done, first.failed) == (10_000, 0)
    lab.forwards()
    again = lab.extract(batch_size=500, chunk_rows=2000)
    assert lab.forwards() == []
    assert (again.pending, again.matching) == (0, 10_000)
    # The claim is under a second on an idle machine, where it takes 0.2 s.
    assert again.seconds < 5
    for number in range(20_000, 20_010):
        lab.write(number)
    lab.ingest()
    ten = lab.extract(batch_size=500, chunk_rows=2000)
    assert lab.forwards() == [list(range(20_000, 20_010))]
    assert (ten.done, ten.pending, ten.matching) == (10, 10, 10_010)
    assert len(lab.vectors()) == 10_010


def test_another_selection_takes_what_it_lacks(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(4)
    for number in range(4):
        lab.write(number + 100, modality="P")
    lab.ingest()
    assert lab.extract(modalities=("P",)).done == 4
    assert lab.extract(where="patient_id = 'p000'").done == 4
    assert lab.extract().pending == 0
    assert [row["n"] for row in lab.sql("SELECT count(*) n FROM features GROUP BY modality")] == [4, 4]
    lab.forwards()


def test_a_changed_file_alone_is_pending_and_its_old_vector_is_gone(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(9)
    lab.extract("s")
    lab.extract("t", settings={"scale": "2"})
    old = lab.vectors()
    lab.write(3, fill=1)
    lab.ingest()
    key = lab.key(3)
    for name in ("s", "t"):
        assert lab.vectors(name).keys() == old.keys() - {key}
    coverage = lab.sql("SELECT sum(extracted)::INT n FROM coverage GROUP BY feature_set")
    assert [row["n"] for row in coverage] == [8, 8]
    lab.forwards()
    lab.extract("s")
    assert lab.forwards() == [[3]]
    assert lab.vectors()[key] != old[key]
    assert {k: v for k, v in lab.vectors().items() if k != key} == {k: v for k, v in old.items() if k != key}
    assert lab.vectors("t").keys() == old.keys() - {key}
    lab.extract("t", settings={"scale": "2"})
    assert len(lab.vectors("t")) == 9
    assert lab.extract("s").pending == 0


def test_a_touched_file_is_hashed_again_and_keeps_its_place(make_lab: Callable[..., Any]) -> None:
    """Ingest looks at size and time only: a touched file is pending, and its new vector is the old one."""
    import os

    lab = make_lab(3)
    lab.extract()
    old = lab.vectors()
    os.utime(lab.path(1), ns=(1, 1))
    assert lab.extract().pending == 0  # nobody has said that it changed
    lab.ingest()
    assert lab.extract().done == 1
    assert lab.vectors() == old


def test_ingest_after_a_kill_takes_the_changed_sample_too(make_lab: Callable[..., Any]) -> None:
    """It was done before the kill and changed since: the resumed run hasn't it, so the same command plans it."""
    lab = make_lab(20).begun(keep=1)
    old = lab.vectors()
    lab.write(2, fill=1)
    lab.ingest()
    result = lab.extract()
    assert (len(result.resumed), len(result.runs), result.done) == (1, 2, 13)
    assert len(lab.vectors()) == 20
    assert old == {}
    assert lab.extract().pending == 0


def test_no_sample_at_all(make_lab: Callable[..., Any]) -> None:
    from featstore import NotFoundError

    lab = make_lab(3)
    with pytest.raises(NotFoundError, match="modality 'X'"):
        lab.extract(modalities=("X",))
    with pytest.raises(NotFoundError, match="meets the condition"):
        lab.extract(where="patient_id = 'nobody'")
    assert lab.sql("SELECT * FROM feature_sets") == []
