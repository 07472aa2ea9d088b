"""Killed at any moment and run again: all of it or nothing, and nothing is left over."""

from __future__ import annotations

import json
import multiprocessing
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featstore
from featstore.errors import BusyError, ConflictError
from featstore.imports.staging import Staging
from featstore.runs import RunFolder

from .conftest import read, rows, same

CHILD = str(Path(__file__).with_name("child.py"))
#: Waits for the disk that are tried: of some forty, those of the last third are within the transaction.
MOMENTS = (2, 4, 16, 25, 29, 32, 35, 36, 37)
FORKS = multiprocessing.get_context("forkserver")


def run_child(root: Path, options: dict[str, Any], moment: int) -> int:
    """Import in a process that dies at a moment, counted in waits for the disk; returns its exit code."""
    process = FORKS.Process(
        target=runpy.run_path, args=(CHILD, {"call": {"root": str(root), "options": options, "moment": moment}})
    )
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def layout_of(store: featstore.Store) -> set[str]:
    """What lies in a store, without the names of runs and the catalog's files."""
    found = set()
    for path in store.path.rglob("*"):
        parts = ["RUN" if "-import-" in part else part for part in path.relative_to(store.path).parts]
        if not parts[0].startswith("catalog"):
            found.add("/".join(parts))
    return found


def bare(paths: set[str]) -> set[str]:
    """Without the runs: of one that was killed at once, its empty folder stays."""
    return {path for path in paths if not path.startswith("runs/")}


@pytest.mark.trial
def test_killed_at_many_moments(tmp_path: Path, rng: np.random.Generator) -> None:
    FORKS.set_forkserver_preload(["featstore.store", "featstore.imports", "duckdb", "pyarrow.csv", "pyarrow.parquet"])
    vectors = rng.normal(size=(9, 4)).astype(np.float32)
    ids = [f"k{n}" for n in range(9)]
    frame = pd.DataFrame({"id": ids, "patient_id": ids, "modality": "A"})
    # Streamed into a file first, which is left over as well.
    pd.concat([frame, pd.DataFrame(vectors).add_prefix("f")], axis=1).to_csv(tmp_path / "x.csv", index=False)
    options = {"source": str(tmp_path / "x.csv"), "name": "f"}
    twin = featstore.init(tmp_path / "twin")
    twin.import_features(**options)
    expected = layout_of(twin)
    empty = featstore.init(tmp_path / "empty")
    before = layout_of(empty)

    seen = set()
    for number, moment in enumerate(MOMENTS):
        root = tmp_path / f"s{moment}"
        shutil.copytree(empty.path, root)
        assert run_child(root, options, moment) == -signal.SIGKILL
        store = featstore.open(root)
        assert not rows(store, "SELECT run_id FROM runs")
        assert not rows(store, "SELECT sample_key FROM samples")
        seen.add(frozenset(layout_of(store)))
        if number % 2:  # any command that writes takes away what is left
            store._absorb()
            assert bare(layout_of(store)) == bare(before)
        result = store.import_features(**options)
        assert (result.added, result.version) == (9, 1)
        assert same(read(store), [f"f/{key}" for key in ids], vectors)
        assert bare(layout_of(store)) == bare(expected)
        assert len(list(root.glob("runs/*/run.json"))) == 1
        assert len(list((root / "features/f").iterdir())) == 1
        assert len(list((root / "features/f/v1.zarr").glob("*-import-*"))) == 1
        shutil.rmtree(root)
    assert len(seen) > len(MOMENTS) // 2
    root = tmp_path / "whole"
    shutil.copytree(empty.path, root)
    assert run_child(root, options, 60) == 0, "there are more moments by now: add some"


def test_a_killed_command(tmp_path: Path, rng: np.random.Generator) -> None:
    """The command itself, while it writes chunks."""
    store = featstore.init(tmp_path / "store")
    rows_, dim = 20_000, 512
    vectors = rng.normal(size=(rows_, dim)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    keys = [f"k{n}" for n in range(rows_)]
    pd.DataFrame({"id": keys, "patient_id": "p", "modality": "A"}).to_csv(tmp_path / "i.csv", index=False)
    words = [
        sys.executable, "-c", "from featstore.cli import main; main()", "import", "--store", str(store.path), "--json",
        str(tmp_path / "x.npy"), "--name", "f", "--index", str(tmp_path / "i.csv"), "--in-order",
    ]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not list(store.path.glob("features/f/.*/staged.zarr/*/features/c/*")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert not rows(store, "SELECT * FROM runs")
    assert list((store.path / "features/f").iterdir())
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["added"] == rows_
    assert [p.name for p in (store.path / "features/f").iterdir()] == ["v1.zarr"]
    assert len(list((store.path / "runs").iterdir())) == 1
    assert same(read(store), [f"f/{key}" for key in keys], vectors)


class TestBesideOthers:
    @pytest.fixture
    def options(self, tmp_path: Path, meta: pd.DataFrame, vectors: np.ndarray) -> dict[str, Any]:
        np.save(tmp_path / "x.npy", vectors)
        meta.to_csv(tmp_path / "i.csv", index=False)
        return {"source": tmp_path / "x.npy", "name": "f", "index": tmp_path / "i.csv", "in_order": True}

    def test_a_living_import_is_left_alone(self, store: featstore.Store, options: dict[str, Any]) -> None:
        run = RunFolder.create(store.path, "import")
        with run.locked():
            staging = Staging(store.path, run, "f")
            staging.begin()
            # As another process sees it, which doesn't share the lock.
            code = run_child(store.path, options, 10**9)
            assert code == 0
            assert staging.group.is_dir()
        store._absorb()
        assert not staging.group.exists()
        assert len(read(store)) == 6

    def test_an_interrupt_after_the_commit(
        self, store: featstore.Store, options: dict[str, Any], vectors: np.ndarray, meta: pd.DataFrame,
        interrupted_after_commit: Callable[[], None], monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        interrupted_after_commit()
        with pytest.raises(KeyboardInterrupt):
            store.import_features(**options)
        monkeypatch.undo()
        store._absorb()
        assert same(read(store), [f"f/{key}" for key in meta["key"]], vectors)
        assert [p.name for p in (store.path / "features/f").iterdir()] == ["v1.zarr"]
        assert not list(store.path.glob("runs/*/unfinished.json"))

    def test_a_store_that_changes_meanwhile(
        self, store: featstore.Store, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two imports of the same name at once: the later one begins anew, and finds all there."""
        begin = Staging.begin
        codes = []

        def slowly(self: Staging) -> None:
            begin(self)
            monkeypatch.setattr(Staging, "begin", begin)
            codes.append(run_child(store.path, options, 10**9))

        monkeypatch.setattr(Staging, "begin", slowly)
        with pytest.raises(ConflictError, match="changed by another process"):
            store.import_features(**options)
        assert codes == [0]
        assert store.import_features(**options).unchanged == 6
        assert len(list((store.path / "runs").iterdir())) == 1

    def test_a_source_that_changes_meanwhile(
        self, store: featstore.Store, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray
    ) -> None:
        begin = Staging.begin

        def slowly(self: Staging) -> None:
            begin(self)
            np.save(options["source"], vectors + 1)

        monkeypatch.setattr(Staging, "begin", slowly)
        with pytest.raises(ConflictError, match="was changed while it was read"):
            store.import_features(**options)
        assert not rows(store, "SELECT * FROM runs")
        assert not list((store.path / "features").iterdir())

    def test_a_busy_catalog(self, store: featstore.Store, options: dict[str, Any]) -> None:
        path = str(store.path / "catalog.duckdb")
        script = f"import duckdb; held = duckdb.connect({path!r}); print(1, flush=True); input()"
        holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        holder.stdout.readline()
        store.catalog.wait_s = 0.1
        with pytest.raises(BusyError):
            store.import_features(**options)
        holder.communicate(b"\n")
        assert store.import_features(**options).added == 6
