"""Several processes on one store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from featstore.errors import BusyError
from featstore.runs import RunFolder
from featstore.store import Store

INPUTS = 61


def test_asking_works_while_an_extraction_runs(
    make_lab: Callable[..., Any], wait_for: Callable[..., None], commands: list[Any]
) -> None:
    lab = make_lab(INPUTS, LAB_SLEEP="2")  # half a minute, of which the end isn't waited for
    process = lab.extracting()
    commands.append(process)
    wait_for(lambda: lab.receipts() >= 1, "a receipt")
    asked = lab.command("sql", "SELECT count(*) AS n FROM samples", "--format", "json")
    commands.append(asked)
    output, errors = asked.communicate(timeout=60)
    assert (asked.returncode, json.loads(output)) == (0, [{"n": INPUTS}]), errors
    (run,) = lab.store.status()["unfinished"]
    assert run["alive"] is True
    assert run["rows"] == INPUTS
    assert process.poll() is None, "the extraction was to be running still"


def test_two_at_once_of_one_feature_set_compute_nothing_twice(
    make_lab: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    lab = make_lab(INPUTS, LAB_SLEEP="0.05")
    first = lab.fork()
    with paused(first, lab, wait_for):
        lab.write(700)
        lab.ingest()
        result = lab.extract(batch_size=8)
    assert (result.done, result.elsewhere, result.resumed) == (1, INPUTS, [])
    first.join()
    assert first.exitcode == 0
    counted = Counter(n for batch in lab.forwards()[1:] for n in batch)
    assert counted == Counter([*range(INPUTS), 700])
    assert len(lab.vectors()) == INPUTS + 1
    assert len(lab.sql("SELECT * FROM features")) == INPUTS + 1


def test_what_others_do_for_other_samples_is_not_elsewhere(
    make_lab: Callable[..., Any], wait_for: Callable[..., None]
) -> None:
    lab = make_lab(INPUTS, LAB_SLEEP="0.05")
    for number in (100, 101):
        lab.write(number, modality="P")
    lab.ingest()
    first = lab.fork(modalities=("A",))
    with paused(first, lab, wait_for):
        result = lab.extract(modalities=("P",))
    assert (result.done, result.elsewhere) == (2, 0)
    first.join()
    assert len(lab.vectors()) == INPUTS + 2


def test_a_run_that_is_being_taken_in_is_waited_for(make_lab: Callable[..., Any]) -> None:
    """Whoever takes a dead run in holds its lock, and still isn't making what it lacks."""
    lab = make_lab(INPUTS).begun(keep=2)
    (folder,) = (lab.root / "store/runs").glob("*-extract-*")
    absorber = RunFolder(folder)
    with ExitStack() as locks:
        locks.enter_context(absorber.absorbing())
        locks.enter_context(absorber.locked())
        lab.write(700)
        lab.ingest()  # waits for nobody
        lab.extract("other", settings={"scale": "2"})
        threading.Timer(0.7, locks.pop_all().close).start()
        result = lab.extract()
    assert (len(result.resumed), result.elsewhere, result.done) == (1, 0, INPUTS + 1 - 16)
    assert len(lab.vectors()) == INPUTS + 1


def test_a_run_that_is_taken_in_for_too_long(make_lab: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    lab = make_lab(INPUTS).begun(keep=2)
    (folder,) = (lab.root / "store/runs").glob("*-extract-*")
    config = lab.root / "store/featstore.toml"
    config.write_text(config.read_text() + "wait_s = 0.6\n")
    with RunFolder(folder).absorbing(), pytest.raises(BusyError, match="taken in by another process"):
        lab.extract()
    assert "waiting up to" in caplog.text
    assert lab.extract().done == INPUTS - 16


def test_begun_at_the_same_moment(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS, LAB_SLEEP="0.01")
    processes = [lab.fork() for _ in range(3)] + [lab.fork("other", settings={"scale": "2"})]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    counted = Counter(n for batch in lab.forwards() for n in batch)
    counted.subtract({0: counted[0] - 2})  # each process may find the shapes on zeros
    assert counted == Counter(dict.fromkeys(range(INPUTS), 2))
    assert len(lab.vectors()) == len(lab.vectors("other")) == INPUTS
    assert len(lab.sql("SELECT * FROM feature_sets")) == 2


def test_a_held_catalog_is_waited_for_with_a_message(
    make_lab: Callable[..., Any], wait_for: Callable[..., None], commands: list[Any]
) -> None:
    lab = make_lab(INPUTS)
    holder = hold(lab.store)
    process = lab.extracting("s", stdin=subprocess.DEVNULL)
    commands.append(process)
    assert process.stderr
    line = process.stderr.readline()
    assert f"held by process {holder.pid}" in line
    assert "waiting" in line
    holder.communicate("\n")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, f"{INPUTS} samples extracted" in errors) == (0, True), errors
    assert len(lab.vectors()) == INPUTS


def test_workers_go_on_while_the_catalog_is_held(make_lab: Callable[..., Any], wait_for: Callable[..., None]) -> None:
    lab = make_lab(INPUTS, LAB_SLEEP="0.03")
    process = lab.fork()
    with paused(process, lab, wait_for):
        holder = hold(lab.store)
    wait_for(lambda: lab.receipts() == 8, "the last receipt")  # nobody could commit meanwhile
    assert process.is_alive()
    holder.communicate("\n")
    process.join()
    assert process.exitcode == 0
    assert len(lab.vectors()) == INPUTS
    assert lab.run_states() == {"done": 1}


@contextmanager
def paused(process: Any, lab: Any, wait_for: Callable[..., None]) -> Iterator[None]:
    """Stop a process in the middle of its work, where it has its run's lock and not the catalog's."""
    wait_for(lambda: lab.receipts() >= 1, "a receipt")
    os.kill(process.pid, signal.SIGSTOP)
    assert 1 <= lab.receipts() < 8
    yield
    os.kill(process.pid, signal.SIGCONT)


def hold(store: Store) -> subprocess.Popen[str]:
    """A process that has the catalog open for writing until it gets a line."""
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); input(); c.close()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.catalog.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "\n"
    return process
