"""Runs: one invocation that made something, its folder, its lock, and its provenance.

``runs/<run>/`` holds ``run.json`` and whatever a verb must not lose: the rows of an ingest, the plan and the journal of
an extraction. With the arrays and tables it is enough to rebuild the catalog.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from featstore.errors import BusyError, CorruptError
from featstore.files import fsync, read_json, replacing, write_json
from featstore.plugins import Plugins

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("featstore")

_ANNOUNCE_AFTER = 0.5
_RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[a-z]+(-[a-z]+)*-[0-9a-f]{4}")

_PACKAGES = (
    "duckdb", "featstore", "numpy", "open_clip_torch", "pandas", "pillow", "pyarrow", "scikit-learn", "skops",
    "tifffile", "timm", "torch", "torchvision", "zarr",
)  # fmt: skip


#: Locks that this process holds. A forked child shares them, so that a loader worker which outlives its killed parent
#: by a few seconds would keep the run from being taken over. The child closes its own copy, which unlocks nothing.
_locks: set[int] = set()


def _let_go() -> None:
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_let_go)


def utc_now() -> datetime:
    """The time, in UTC, without a zone: as the catalog keeps it."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``<store>/runs/<run_id>/``."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's name: time, verb and four hex digits, so that names sort by time."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """Where an extraction keeps its receipts until they are folded."""
        return self.path / "journal"

    @classmethod
    def of(cls, store: Path, run_id: str) -> Self:
        """The folder of a run that the catalog names; whether it is there is not looked at.

        Raises:
            CorruptError: this is no run's name: a catalog may be a stranger's, and ``../..`` must lead nowhere.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise CorruptError(f"The catalog names a run {run_id!r}, which is no run's name.")
        return cls(store / "runs" / run_id)

    @classmethod
    def create(cls, store: Path, kind: str) -> Self:
        """Make the folder of a new run."""
        name = f"{utc_now():%Y%m%dT%H%M%S}-{kind}-{secrets.token_hex(2)}"
        path = store / "runs" / name
        path.mkdir(parents=True)
        fsync(path.parent)
        return cls(path)

    @classmethod
    @contextlib.contextmanager
    def creating(cls, store: Path, kind: str) -> Iterator[Callable[[], RunFolder]]:
        """Give a function that makes a run's folder. If the block fails, the folder goes again: nothing happened."""
        made: list[RunFolder] = []

        def create() -> RunFolder:
            made.append(cls.create(store, kind))
            return made[-1]

        try:
            yield create
        except BaseException:
            for run in made:
                shutil.rmtree(run.path, ignore_errors=True)
            raise

    def record(self, **facts: Any) -> None:
        """Add facts to ``run.json``, atomically."""
        write_json(self.path / "run.json", self.facts() | facts)

    def facts(self) -> dict[str, Any]:
        """What ``run.json`` holds; empty where there is none yet."""
        file = self.path / "run.json"
        return dict(read_json(file)) if file.exists() else {}

    def save_rows(self, name: str, rows: pa.Table) -> None:
        """Keep rows as ``<name>.parquet``, atomically."""
        import pyarrow.parquet as pq

        with replacing(self.path / f"{name}.parquet") as temporary:
            pq.write_table(rows, temporary, compression="zstd")

    def load_rows(self, name: str) -> pa.Table:
        """Read what :meth:`save_rows` kept."""
        import pyarrow.parquet as pq

        return pq.read_table(self.path / f"{name}.parquet")

    def count_rows(self, name: str) -> int:
        """How many rows :meth:`save_rows` kept, without reading them."""
        import pyarrow.parquet as pq

        return int(pq.read_metadata(self.path / f"{name}.parquet").num_rows)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock: it tells everyone that the run is alive, and dies with the process.

        Raises:
            BusyError: another process holds it.
        """
        busy = BusyError(f"The run {self.run_id} is being worked on by another process.")
        with _held(self.path / "lock", 0.04, busy):  # someone who only looks whether the run is alive lets go at once
            yield

    @contextlib.contextmanager
    def absorbing(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the right to find out whether the run is dead, and to take in what it finished.

        Whoever takes the lock of a run that another process began holds this as well, at least while it commits the
        receipts. So the lock tells for sure, while one holds this: if it is held, then by a process that does the work.

        Args:
            wait_s: how long to wait for another process that absorbs the run; the wait is announced.

        Raises:
            BusyError: it still did.
        """
        busy = BusyError(
            f"The run {self.run_id} is being taken in by another process, still after {wait_s:.0f} s.",
            hint="wait for it to end, then run the command again",
        )
        with _held(self.path / "absorb.lock", wait_s, busy):
            yield

    def alive(self) -> bool:
        """Whether some process holds the run's lock. It only looks: nothing is written."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


@contextlib.contextmanager
def _held(file: Path, wait_s: float, busy: BusyError) -> Iterator[None]:
    """Hold a lock file; raise ``busy`` where another process still holds it after an announced wait."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    _locks.add(descriptor)
    start, announced = time.monotonic(), False
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - start
                if waited >= wait_s:
                    raise busy from None
                if waited > _ANNOUNCE_AFTER and not announced:
                    log.warning("Another process holds %s: waiting up to %.0f s for it.", file, wait_s)
                    announced = True
                time.sleep(0.02)
        yield
    finally:
        if descriptor in _locks:
            _locks.remove(descriptor)
            os.close(descriptor)


def finished(kind: str, started: datetime, request: Mapping[str, Any], plugins: Plugins) -> dict[str, Any]:
    """The facts of a run that ends now: for ``run.json`` and the catalog alike."""
    return {
        "kind": kind,
        "state": "done",
        "started_at": started.isoformat(),
        "finished_at": utc_now().isoformat(),
        "request": dict(request),
        "provenance": provenance(kind, plugins),
    }


def provenance(kind: str, plugins: Plugins, **facts: Any) -> dict[str, Any]:
    """What a run records beside its counts: who made it, from what code, with what packages."""
    return {
        "argv": sys.argv,
        "git": _git(Path.cwd()),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": versions(),
        "plugins": dict(plugins.versions()),
        "facts": plugins.provenance(kind),
    } | facts


def versions() -> Mapping[str, str]:
    """Name → version of the packages that results may depend on."""
    return {name: version for name in _PACKAGES if (version := _version(name))}


@cache
def _version(package: str) -> str | None:
    """None where it isn't installed. Looked up once: what is imported stays the version that it is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of the code that the user works in, and whether it had uncommitted changes."""

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()

    try:
        return {
            "commit": run("rev-parse", "HEAD"),
            "dirty": bool(run("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None
