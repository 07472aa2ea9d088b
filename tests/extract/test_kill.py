"""Killed at any moment and run again: the same bytes, nothing twice, nothing half-written."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zarr

from featstore.extract.journal import load
from featstore.extract.plan import Plan
from featstore.runs import RunFolder

SEED = int(os.environ.get("FEATSTORE_TEST_SEED", "20261121"))
INPUTS = 61  # 8 chunks, the last one short, and its last batch shorter


def end(process: Any) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it hasn't made its group yet
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def with_receipts(lab: Any) -> Counter[int]:
    """Which inputs have a receipt."""
    done: Counter[int] = Counter()
    for folder in (lab.root / "store" / "runs").glob("*-extract-*"):
        run = RunFolder(folder)
        if (folder / "run.json").exists():
            plan = Plan.load(run, 0)
            keys = plan.rows.column("sample_key").to_pylist()
            chunks = sorted(int(file.stem) for file in run.journal.glob("[0-9]*.json"))
            for receipt in load(run, {chunk: plan.span(chunk) for chunk in chunks}):
                rows = range(receipt.first, receipt.first + len(receipt.read))
                done.update(int(Path(keys[row]).stem) for row in rows)
    return done


def check_nothing_half_written(lab: Any, expected: dict[str, bytes]) -> None:
    """What is visible is right: by SQL, by the arrays, and to a plain Zarr tool."""
    names = [row["name"] for row in lab.sql("SELECT name FROM feature_sets")]
    if names:
        seen = lab.vectors()
        assert seen.items() <= expected.items()
        rows = lab.sql("SELECT sample_key, segment, row FROM features")
        assert {row["sample_key"] for row in rows} == set(seen)
        for row in rows:
            group = zarr.open_group(lab.root / "store" / row["segment"], mode="r")
            assert group["valid"][row["row"]]
            assert group["features"][row["row"]].tobytes() == expected[row["sample_key"]]
    for group in (lab.root / "store" / "features").glob("*/*.zarr/*-extract-*"):
        segment = zarr.open_group(group, mode="r")
        valid, features = segment["valid"][:], segment["features"][:]
        for key, values in zip(segment["sample_key"][:][valid], features[valid], strict=True):
            assert values.tobytes() == expected[str(key)]


@pytest.mark.trial
def test_killed_at_many_moments(make_lab: Callable[..., Any], wait_for: Callable[..., None]) -> None:
    twin = make_lab(INPUTS, "twin")
    twin.extract()
    expected = twin.vectors()
    lab = make_lab(INPUTS, "killed", LAB_SLEEP="0.03")
    dice = random.Random(SEED)
    computed: Counter[int] = Counter()
    kills = 0
    for kills in range(60):
        before = with_receipts(lab)
        process = lab.fork()
        if kills % 3 == 0:  # while it plans, makes its arrays, or begins
            wait_for(lambda process=process: _has_group(process), "the process")
            time.sleep(dice.uniform(0, 0.35))
        else:  # while it writes a chunk or its receipt, or soon after
            more = lab.receipts() + (1 if kills % 3 == 1 else 0)
            wait_for(lambda more=more, process=process: lab.receipts() > more or not process.is_alive(), "a receipt")
            time.sleep(dice.choice([0, dice.uniform(0, 0.004), dice.uniform(0, 0.04)]))
        finished = not process.is_alive()
        if not finished:
            end(process)
        process.join()
        again = Counter(number for batch in lab.forwards() for number in batch)
        assert not before.keys() & again.keys(), "rows with a receipt were computed again"
        computed += again
        check_nothing_half_written(lab, expected)
        if finished:
            assert process.exitcode == 0
            break
    assert kills > 3
    assert lab.vectors() == expected
    assert lab.chunks() == twin.chunks()
    assert len(lab.sql("SELECT * FROM features")) == INPUTS
    assert lab.run_states() == {"done": 1}
    assert lab.extract().pending == 0
    assert set(computed) == set(range(INPUTS))


def _has_group(process: Any) -> bool:
    try:
        return os.getpgid(process.pid) == process.pid
    except ProcessLookupError:
        return True


@pytest.mark.parametrize("workers", ["0", "2"])
def test_killed_command(
    make_lab: Callable[..., Any], wait_for: Callable[..., None], commands: list[Any], workers: str
) -> None:
    """The command itself, its whole process group, with loader workers or without."""
    twin = make_lab(INPUTS, "twin")
    twin.extract()
    lab = make_lab(INPUTS, "killed", LAB_SLEEP="0.1")
    for least in (1, 4):
        process = lab.extracting("s", "--num-workers", workers)
        commands.append(process)
        wait_for(lambda least=least: lab.receipts() >= least, "receipts")
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    process = lab.extracting("s", "--num-workers", workers, "--json", env={"LAB_SLEEP": "0"})
    commands.append(process)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    result = json.loads(output)
    assert len(result["resumed"]) == 1
    assert result["done"] == result["pending"] <= INPUTS - 4 * 8
    assert lab.vectors() == twin.vectors()
    assert lab.chunks() == twin.chunks()


def test_killed_alone_its_orphaned_workers_dont_hold_the_run(
    make_lab: Callable[..., Any], wait_for: Callable[..., None], commands: list[Any]
) -> None:
    """As the kernel does it for want of memory: the loader's workers live on for some seconds."""
    lab = make_lab(INPUTS, LAB_SLEEP="0.05")
    process = lab.extracting("s", "--num-workers", "2")
    commands.append(process)
    wait_for(lambda: lab.receipts() >= 1, "a receipt")
    os.kill(process.pid, signal.SIGSTOP)
    workers = [int(p) for p in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)  # so that they surely are there still
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        result = lab.extract()
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
    assert workers
    assert (len(result.resumed), result.elsewhere) == (1, 0)
    assert len(lab.vectors()) == INPUTS


def test_killed_between_chunk_and_receipt(make_lab: Callable[..., Any]) -> None:
    """A chunk without a receipt isn't done: it is made again, to the same bytes."""
    lab = make_lab(INPUTS).begun(keep=5)
    before = lab.chunks()
    lab.forwards()
    result = lab.extract()
    assert sorted(n for batch in lab.forwards() for n in batch) == list(range(40, INPUTS))
    assert (result.done, result.pending, len(result.resumed)) == (21, 21, 1)
    assert lab.chunks() == before
    assert len(lab.vectors()) == INPUTS


def test_half_a_chunk_file_and_leftovers_are_of_no_account(make_lab: Callable[..., Any]) -> None:
    twin = make_lab(INPUTS, "twin")
    twin.extract()
    lab = make_lab(INPUTS).begun(keep=5)
    (segment,) = (lab.root / "store/features/s/v1.zarr").glob("*-extract-*")
    (segment / "features/c/5/.tmp-0badbeef-0").write_bytes(b"half")
    (segment / "features/c/6/0").unlink()
    (segment / "valid/c/6").unlink()
    (segment / "valid/c/7").unlink()
    (run,) = (lab.root / "store/runs").glob("*-extract-*")
    (run / "journal/.tmp-0badbeef-00000005.json").write_text('{"chunk": 5, ')
    check_nothing_half_written(lab, twin.vectors())
    lab.extract()
    assert lab.vectors() == twin.vectors()
    assert lab.chunks() == twin.chunks()
    assert not (run / "journal").exists()


def test_killed_after_the_last_receipt_it_is_absorbed_without_work(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun(keep=8)
    lab.forwards()
    result = lab.extract()
    assert lab.forwards() == []
    assert (result.pending, result.resumed, result.runs) == (0, [], [])
    assert len(lab.vectors()) == INPUTS
    assert lab.run_states() == {"done": 1}


def test_receipts_of_a_killed_run_are_absorbed_by_other_commands(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun(keep=3)
    assert lab.vectors() == {}
    lab.write(900)
    lab.ingest()
    assert len(lab.vectors()) == 24
    assert lab.run_states() == {"running": 1}
    result = lab.extract()
    assert (result.done, len(result.resumed), len(result.runs)) == (INPUTS - 24 + 1, 1, 2)
    assert len(lab.vectors()) == INPUTS + 1


def test_killed_before_its_arrays_were_made(make_lab: Callable[..., Any]) -> None:
    import shutil

    lab = make_lab(INPUTS).begun(keep=0)
    shutil.rmtree(lab.root / "store/features/s")
    (run,) = (lab.root / "store/runs").glob("*-extract-*")
    (run / "journal").rmdir()
    assert lab.vectors() == {}
    assert len(lab.extract().resumed) == 1
    assert len(lab.vectors()) == INPUTS


def test_killed_before_the_plan_was_committed_leaves_no_trace_in_the_catalog(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(5)
    (lab.root / "store/runs/20260101T000000-extract-0000").mkdir()
    assert lab.run_states() == {}
    lab.extract()
    assert len(lab.vectors()) == 5
