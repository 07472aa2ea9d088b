"""Staging: an import's segment, built aside, and put in place in the very transaction that makes it visible.

Killed before that transaction commits, an import leaves a run's folder with ``unfinished.json``, which says what it
began. Nothing points there; the next writing command takes it away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.arrays import create_group
from featstore.catalog import imports as catalog
from featstore.catalog import runs
from featstore.catalog.connection import Catalog
from featstore.errors import BusyError, CorruptError
from featstore.files import fsync, inside, read_json, write_json
from featstore.runs import RunFolder
from featstore.spec import Json

if TYPE_CHECKING:
    import duckdb

log = logging.getLogger("featstore")

_MARKER = "unfinished.json"


@dataclass(slots=True)
class Staging:
    """What an import has begun.

    Attributes:
        store: its folder.
        run: whose folder holds the marker.
        name: of the feature set.
        version: where the segment was put, or None before that.
    """

    store: Path
    run: RunFolder
    name: str
    version: int | None = None

    @property
    def folder(self) -> Path:
        """Where things are built, beside the versions of the feature set: on the same disk."""
        return inside(self.store, f"features/{self.name}/.{self.run.run_id}")

    @property
    def group(self) -> Path:
        """A Zarr group of its own, for the segment."""
        return self.folder / "staged.zarr"

    def begin(self) -> None:
        """Say what is begun, then make the folder."""
        self._mark()
        self.folder.mkdir(parents=True)
        for folder in (self.folder.parent, self.folder.parent.parent):
            fsync(folder)
        create_group(self.group, {})

    def path(self, version: int) -> str:
        """Where the segment goes, below the store."""
        return f"features/{self.name}/v{version}.zarr/{self.run.run_id}"

    def place(self, version: int, attributes: dict[str, Json]) -> None:
        """Put the segment into its version's group; the caller holds the catalog."""
        self.version = version
        self._mark()
        target = inside(self.store, self.path(version))
        if target.parent.exists():
            create_group(target.parent, attributes)  # raises where it is another's
            os.rename(self.group / self.run.run_id, target)
            fsync(target.parent)
        else:
            group = self.folder / target.parent.name
            create_group(group, attributes)
            os.rename(self.group / self.run.run_id, group / target.name)
            fsync(group)
            os.rename(group, target.parent)
        fsync(target.parent.parent)

    def end(self) -> None:
        """The import is in the catalog: only what was needed to build it goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.run.path / _MARKER).unlink(missing_ok=True)

    def discard(self, connection: duckdb.DuckDBPyConnection) -> None:
        """The import didn't happen: all of it goes. The caller holds the catalog: no version comes meanwhile."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.version is not None:
            segment = inside(self.store, self.path(self.version))
            shutil.rmtree(segment, ignore_errors=True)
            group = segment.parent
            # Of a version that came to nothing, if no other segment is there: its number is free again.
            members = {path.name for path in group.iterdir()} if group.is_dir() else set()
            if members == {"zarr.json"} and not catalog.exists(connection, self.name, self.version):
                shutil.rmtree(group)
        with contextlib.suppress(OSError):  # another version is there
            self.folder.parent.rmdir()
        shutil.rmtree(self.run.path, ignore_errors=True)

    def _mark(self) -> None:
        write_json(self.run.path / _MARKER, {"name": self.name, "version": self.version})


def sweep(store: Path, file: Catalog) -> None:
    """Take away what killed imports have begun; every writing command begins with it, or with one of its kind."""
    for marker in sorted((store / "runs").glob(f"*-import-*/{_MARKER}")):
        with contextlib.ExitStack() as lock:
            try:
                run = RunFolder.of(store, marker.parent.name)
                lock.enter_context(run.locked())
                told: dict[str, Any] = read_json(marker)
                staging = Staging(store, run, str(told["name"]), told["version"])
            except (BusyError, FileNotFoundError):
                continue  # it is alive, or has just ended
            except (CorruptError, ValueError, KeyError, TypeError) as error:
                log.warning("%s can't be read, so what that import began stays there: %s", marker, error)
                continue
            with file.write() as connection:
                if runs.exists(connection, run.run_id):
                    staging.end()
                else:
                    staging.discard(connection)
