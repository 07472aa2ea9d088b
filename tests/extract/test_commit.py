"""Commits: once however often, atomic, and the truth about files that change under us."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.errors import BusyError
from featstore.extract.commit import Committer
from featstore.extract.journal import Receipt
from featstore.extract.plan import Plan
from featstore.runs import RunFolder


def open_plan(lab: Any, feature_set: str = "s") -> Plan:
    """The plan of the unfinished run of a feature set."""
    (row,) = [r for r in lab.sql("SELECT run_id FROM runs WHERE state = 'running'") if _of(lab, r, feature_set)]
    with lab.store.catalog.read() as connection:
        (id,) = connection.execute("SELECT id FROM core.run WHERE run_id = ?", [row["run_id"]]).fetchone()
    return Plan.load(RunFolder(lab.root / "store/runs" / row["run_id"]), id)


def _of(lab: Any, row: dict[str, Any], feature_set: str) -> bool:
    facts = RunFolder(lab.root / "store/runs" / row["run_id"]).facts()
    return bool(facts["plan"]["sets"][0]["name"] == feature_set)


def samples(lab: Any) -> list[tuple[Any, ...]]:
    with lab.store.catalog.read() as connection:
        rows: list[tuple[Any, ...]] = connection.execute(
            "SELECT content, content_hash, size, mtime_ns FROM core.sample ORDER BY id"
        ).fetchall()
    return rows


def test_receipts_are_absorbed_once_however_often(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(22).begun(keep=2)
    plan = open_plan(lab)
    for _ in range(3):
        assert Committer(lab.store.catalog, plan).commit() is False
        assert len(lab.vectors()) == 16
        (run,) = lab.sql("SELECT done, failed FROM runs WHERE state = 'running'")
        assert run == {"done": 16, "failed": 0}
        (row,) = lab.sql("SELECT sum(extracted)::INT n FROM coverage")
        assert row == {"n": 16}


def test_the_inputs_of_a_damaged_receipt_are_tried_again(
    make_lab: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    lab = make_lab(22).begun(keep=2)
    plan = open_plan(lab)
    (plan.run.journal / "00000000.json").write_text('{"chunk": 0')
    lab.write(800)
    lab.ingest()  # any writing verb absorbs the rest
    assert "is damaged" in caplog.text
    assert lab.vectors().keys() == {lab.key(n) for n in range(8, 16)}
    assert lab.sql("SELECT done FROM runs WHERE state = 'running'") == [{"done": 8}]
    lab.forwards()
    assert lab.extract().done == 22 - 8 + 1
    assert sorted(n for batch in lab.forwards() for n in batch) == [*range(8), *range(16, 22), 800]
    assert len(lab.vectors()) == 23


def test_a_users_tables_may_have_the_names_of_ours(make_lab: Callable[..., Any], tmp_path: Path) -> None:
    lab = make_lab(3)
    (tmp_path / "table.csv").write_text("patient_id,age\np000,50\n")
    for name in ("selected", "fresh", "added", "settled", "reads", "incoming", "chosen"):
        lab.store.ingest_table(tmp_path / "table.csv", name=name)
    assert lab.extract(where="true").done == 3
    assert lab.sql("SELECT age FROM selected") == [{"age": 50}]
    assert lab.extract().pending == 0


def test_a_busy_catalog_makes_now_and_then_give_up_and_commit_wait(make_lab: Callable[..., Any]) -> None:
    import subprocess
    import sys

    lab = make_lab(22).begun(keep=2)
    plan = open_plan(lab)
    holder = subprocess.Popen(
        [sys.executable, "-c", "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input()",
         str(lab.root / "store/catalog.duckdb")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout
        holder.stdout.readline()
        committer = Committer(lab.store.catalog, plan, every_s=0)
        committer.now_and_then()
        with pytest.raises(BusyError):
            committer.commit(wait_s=0.1)
    finally:
        holder.communicate("\n")
    committer.now_and_then()
    assert len(lab.vectors()) == 16


# --------------------------------------------------------------------- files that change while nobody looks
def receipt_for(lab: Any, plan: Plan, content_hash: str, size: int, mtime_ns: int) -> None:
    Receipt(0, 0, [(content_hash, size, mtime_ns)], at="2026-01-01T00:00:00").write(plan.run)


def planned(make_lab: Callable[..., Any], *, hashed: bool) -> tuple[Any, Plan, str, int]:
    """One sample; s has a vector of it where ``hashed``; t is planned, with its chunk written and no receipt."""
    lab = make_lab(1)
    lab.begun("t", keep=0)
    if hashed:
        lab.extract("s", settings={"scale": "2"})
    _, content_hash, _, mtime_ns = samples(lab)[0]
    return lab, open_plan(lab, "t"), content_hash, mtime_ns


CASES = [
    # s has a vector; how the read of t differs: hash, later by; → is t's vector visible, is s's, content
    pytest.param(True, None, 0, True, True, 1, id="the same bytes"),
    pytest.param(True, None, 5, True, True, 1, id="the same bytes, touched"),
    pytest.param(True, "other", 5, True, False, 2, id="changed since"),
    pytest.param(True, "other", 0, True, False, 2, id="changed within the clock's resolution"),
    pytest.param(True, "other", -5, False, True, 1, id="read before the change that s saw"),
    pytest.param(False, "other", 0, True, False, 1, id="nobody has read it yet"),
    pytest.param(False, "other", 5, True, False, 1, id="nobody has read it, changed since its ingest"),
]


@pytest.mark.parametrize(("hashed", "hash_", "later", "t_seen", "s_seen", "content"), CASES)
def test_contents_settle(
    make_lab: Callable[..., Any], hashed: bool, hash_: str | None, later: int, t_seen: bool, s_seen: bool, content: int
) -> None:
    lab, plan, content_hash, mtime_ns = planned(make_lab, hashed=hashed)
    receipt_for(lab, plan, hash_ or content_hash, 64, mtime_ns + later)
    committer = Committer(lab.store.catalog, plan)
    assert committer.commit() is True
    assert bool(lab.vectors("t")) == t_seen
    if hashed:
        assert bool(lab.vectors("s")) == s_seen
        assert committer.changed == (0 if s_seen else 1)
    assert samples(lab)[0][0] == content
    if t_seen:
        assert samples(lab)[0][1] == (hash_ or content_hash)
    visible = sum(bool(lab.vectors(name)) for name in (("s", "t") if hashed else ("t",)))
    (row,) = lab.sql("SELECT sum(extracted)::INT n FROM coverage")
    assert row["n"] == visible


@pytest.mark.parametrize(("read_newer", "seen"), [(True, True), (False, False)])
def test_ingested_anew_while_it_was_read(make_lab: Callable[..., Any], read_newer: bool, seen: bool) -> None:
    """The plan is of the old content. If the worker read the new file, that counts; if the old one, it's stale."""
    lab, plan, _, _ = planned(make_lab, hashed=True)
    old = lab.path(0).stat()
    lab.write(0, fill=1)
    os.utime(lab.path(0), ns=(old.st_mtime_ns + 7, old.st_mtime_ns + 7))
    _ingest_without_absorbing(lab)
    assert samples(lab)[0][:2] == (2, None)
    receipt_for(lab, plan, "read", 64, old.st_mtime_ns + (7 if read_newer else 0))
    assert Committer(lab.store.catalog, plan).commit() is True
    assert bool(lab.vectors("t")) is seen
    assert lab.vectors("s") == {}
    assert samples(lab)[0][:2] == (2, "read" if seen else None)
    assert lab.extract("t").pending == (0 if seen else 1)


def _ingest_without_absorbing(lab: Any) -> None:
    """As another process does it while the run is alive: the run's lock keeps its receipts from being absorbed."""
    (run,) = [RunFolder(lab.root / "store/runs" / r["run_id"]) for r in lab.sql("FROM runs WHERE state = 'running'")]
    with run.locked():
        lab.ingest()


def test_a_file_that_changed_between_two_feature_sets(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(5)
    lab.extract("s")
    lab.write(2, fill=1)
    lab.extract("t")
    assert lab.vectors("s").keys() == {lab.key(n) for n in (0, 1, 3, 4)}
    assert len(lab.vectors("t")) == 5
    assert lab.extract("s").done == 1
    assert lab.vectors("s") == lab.vectors("t")
    assert lab.ingest().changed == 0


def test_an_older_file_put_back(make_lab: Callable[..., Any]) -> None:
    """Its time is older than that of the bytes that were read, and still it is what there is now."""
    lab = make_lab(5)
    lab.extract("s")
    lab.write(2, fill=1)
    os.utime(lab.path(2), ns=(1, 1))
    assert lab.extract("t").done == 5
    assert len(lab.vectors("t")) == 5
    assert lab.vectors("s").keys() == {lab.key(n) for n in (0, 1, 3, 4)}
    lab.extract("s")
    assert lab.vectors("s") == lab.vectors("t")
    assert lab.extract("t").pending == 0
