"""Small cohorts of ``.lab`` files, and ways to run, kill and look into extractions."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

import featstore
from featstore.store import Store

HERE = Path(__file__).parent
LAB = str(HERE / "lab.py")
#: What the third byte of an input makes go wrong; see lab.py.
MARKS = {"": 0, "nan": 255, "overflow": 254, "half_nan": 253, "bad_transform": 252, "bad_shape": 251, "fault": 250}
MAIN = "from featstore.cli import main; main()"


def write_input(path: Path, number: int, mark: str = "", fill: int = 0) -> None:
    """One input. ``fill`` makes other bytes of the same number."""
    pixels = np.random.default_rng([number, fill]).integers(0, 200, 64, dtype=np.uint8)
    pixels[:3] = number // 256, number % 256, MARKS[mark]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pixels.tobytes())


@dataclass
class Lab:
    """A store with a data set of ``.lab`` files, and the log of the plugin's forward passes."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.data, self.log = self.root / "data", self.root / "forward.log"
        if not (self.root / "store").exists():
            featstore.init(self.root / "store")
        self.environment = {"LAB_LOG": str(self.log)} | self.environment

    @property
    def store(self) -> Store:
        return featstore.open(self.root / "store", plugins=[LAB])

    def path(self, number: int, modality: str = "A") -> Path:
        return self.data / f"p{number // 4:03}" / modality / f"{number:05}.lab"

    def key(self, number: int, modality: str = "A") -> str:
        return f"data/{self.path(number, modality).relative_to(self.data).as_posix()}"

    def write(self, number: int, mark: str = "", fill: int = 0, modality: str = "A") -> Path:
        write_input(self.path(number, modality), number, mark, fill)
        return self.path(number, modality)

    def ingest(self) -> Any:
        return self.store.ingest(self.data, layouts=["{patient_id}/{modality}/*.lab"])

    def extract(self, name: str = "s", **fields: Any) -> Any:
        fields = {"backbone": "lab:stats", "batch_size": 4, "chunk_rows": 8, "device": "cpu"} | fields
        with environment(self.environment):
            return self.store.extract(name=name, **fields)

    def forwards(self) -> list[list[int]]:
        """The numbers of the inputs of each forward pass since the last look."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [[int(number) for number in line.split()] for line in lines]

    def vectors(self, name: str = "s") -> dict[str, bytes]:
        """Every visible vector by sample key."""
        values, _, keys = self.store.features(name).arrays()
        assert np.isfinite(values).all()
        return {str(key): value.tobytes() for key, value in zip(keys, values, strict=True)}

    def chunks(self, name: str = "s", version: int = 1) -> dict[str, bytes]:
        """Every chunk file of a feature set, by its path without the segment's name."""
        return chunk_files(self.root / "store" / "features" / name / f"v{version}.zarr")

    def failures(self, *, resolved: bool = False) -> dict[str, tuple[str, str, int]]:
        """Sample key → stage, error and number of attempts."""
        rows = self.store.errors(resolved=resolved).to_pylist()
        return {row["sample_key"]: (row["stage"], row["error"], row["attempts"]) for row in rows}

    def sql(self, query: str) -> list[dict[str, Any]]:
        return list(self.store.sql(query).to_pylist())

    def run_states(self) -> Counter[str]:
        return Counter(row["state"] for row in self.sql("SELECT state FROM runs WHERE kind = 'extract'"))

    def begun(self, name: str = "s", *, keep: int, **fields: Any) -> Lab:
        """As after a kill: the run is planned and ``keep`` of its chunks have receipts, none of them absorbed.

        Its other chunks' files are there, as if it was killed before it could write their receipts.
        """
        before = set(self.store.ls("runs").column("run_id").to_pylist())
        self.extract(name, **fields)
        (run_id,) = set(self.store.ls("runs").column("run_id").to_pylist()) - before
        folder = self.root / "store" / "runs" / run_id
        (folder / "journal").mkdir()
        table = pq.read_table(folder / "receipts.parquet").to_pylist()
        for row in table[:keep]:
            (folder / "journal" / f"{row['chunk']:08}.json").write_text(row["receipt"])
        (folder / "receipts.parquet").unlink()
        connection = duckdb.connect(str(self.root / "store" / "catalog.duckdb"))
        (id,) = connection.execute("SELECT id FROM core.run WHERE run_id = ?", [run_id]).fetchone()
        for statement in (
            "UPDATE core.run SET state = 'running', finished_at = NULL, done = 0, failed = 0 WHERE id = ?",
            "DELETE FROM core.chunk WHERE run = ?",
            "DELETE FROM core.failure WHERE run = ?",
            "DELETE FROM core.vector WHERE segment IN (SELECT id FROM core.segment WHERE run = ?)",
            "DELETE FROM core.coverage WHERE feature_set IN (SELECT feature_set FROM core.segment WHERE run = ?)",
            "UPDATE core.sample SET content_hash = NULL WHERE true OR ? IS NULL",
        ):
            connection.execute(statement, [id])
        connection.close()
        return self

    # ------------------------------------------------------------------------------------------ processes
    def command(self, verb: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``featstore VERB …`` on this store in a process group of its own."""
        argv = [sys.executable, "-c", MAIN, verb, "--store", str(self.root / "store"), "--plugin", LAB, *arguments]
        return subprocess.Popen(
            argv, env={**os.environ, **self.environment, **options.pop("env", {})}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **options,
        )  # fmt: skip

    def extracting(self, name: str = "s", *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``featstore extract`` with the fields of :meth:`extract`."""
        return self.command(
            "extract", "--name", name, "--backbone", "lab:stats", "--batch-size", "4", "--chunk-rows", "8", "--device",
            "cpu", "--num-workers", "0", *arguments, **options,
        )  # fmt: skip

    def fork(self, name: str = "s", **fields: Any) -> ForkServerProcess:
        """Start :meth:`extract` in a process that has everything imported, so that it begins at once."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.utils.data", "zarr", "duckdb", "featstore.extract"])
        names = {"root": str(self.root), "name": name, "fields": fields, "environment": self.environment}
        process = context.Process(target=runpy.run_path, args=(str(HERE / "child.py"), {"call": names}))
        process.start()
        return process

    def receipts(self) -> int:
        """How many receipts are in the journals."""
        return len(list((self.root / "store" / "runs").glob("*-extract-*/journal/[0-9]*.json")))


def chunk_files(group: Path) -> dict[str, bytes]:
    """Every chunk file of features and validity below a group, by its path without the segment's name."""
    return {
        "/".join(path.relative_to(group).parts[1:]): path.read_bytes()
        for array in ("features", "valid")
        for path in sorted(group.glob(f"*/{array}/c/**/*"))
        if path.is_file() and not path.name.startswith(".tmp-")
    }


def environment(values: Mapping[str, str]) -> Any:
    """Set environment variables for a block."""
    patch = pytest.MonkeyPatch()
    for name, value in values.items():
        patch.setenv(name, value)
    return _undone(patch)


class _undone:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None:
        self.patch.undo()


def kill_group(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def wait_for(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout:.0f} s for {what}"
        time.sleep(0.002)


@pytest.fixture
def make_lab(tmp_path: Path) -> Callable[..., Lab]:
    """``make_lab(inputs, name="lab")``: a store whose inputs 0 … ``inputs`` - 1 are ingested."""

    def make(inputs: int, name: str = "lab", **variables: str) -> Lab:
        lab = Lab(tmp_path / name, variables)
        for number in range(inputs):
            lab.write(number)
        if inputs:
            lab.ingest()
        return lab

    return make


@pytest.fixture(scope="session", name="wait_for")
def _wait_for() -> Callable[..., None]:
    return wait_for


@pytest.fixture
def commands() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be killed at the end, whatever happens."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            kill_group(process.pid)
        process.communicate()
