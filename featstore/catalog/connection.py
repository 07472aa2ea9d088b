"""The one module that opens the catalog.

DuckDB allows one writing process or many readers, never both, and one process can't hold two configurations of a file.
So every access is open – do – close, under a lock per path within the process, and a lock held by another process is
waited for, for a bounded and announced time.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from featstore.errors import BusyError, CorruptError, NotFoundError, SetupError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

log = logging.getLogger("featstore")

#: On every connection we ever open: nothing in a store, a query or a recipe may reach files or the network.
CONFIG: dict[str, Any] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "allow_unsigned_extensions": "false",
}
#: On every connection that times are read by: else those with a zone would be the machine's own, and elsewhere others.
UTC = "SET TimeZone = 'UTC'"
_ANNOUNCE_AFTER = 0.5
_locks: dict[Path, threading.Lock] = {}
_locks_guard = threading.Lock()
T = TypeVar("T")


@contextmanager
def exclusive(path: Path, wait_s: float = 600.0) -> Iterator[None]:
    """Hold the in-process lock of a catalog file.

    Nothing but DuckDB may open that file while this is held: closing any descriptor of it drops DuckDB's own lock.
    """
    with _locks_guard:
        lock = _locks.setdefault(path.resolve(), threading.Lock())
    if not lock.acquire(timeout=wait_s):
        raise BusyError(f"Another thread of this process holds the catalog, still after {wait_s:.0f} s.")
    try:
        yield
    finally:
        lock.release()


class Catalog:
    """A catalog file, opened for as long as one ``with`` block.

    Args:
        path: ``catalog.duckdb``.
        wait_s: how long to wait for another process, in seconds.
    """

    def __init__(self, path: Path, *, wait_s: float = 60.0) -> None:
        self.path = path
        self.wait_s = wait_s
        self._checked = False

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection: any number of processes at once.

        Raises:
            NotFoundError: the file is missing. CorruptError: it is damaged.
            BusyError: a writer held the catalog for longer than ``wait_s``.
            MigrationError: the catalog and the code don't fit each other.
        """
        with exclusive(self.path), explaining(self.path):
            connection = self._open(read_only=True, wait_s=self.wait_s)
            try:
                self.check(connection)
                yield connection
            finally:
                connection.close()

    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """A writing connection inside one transaction: committed at the end, rolled back on any error.

        Args:
            wait_s: another bound than the catalog's own, for callers that have something better to do.

        Raises:
            as :meth:`read` does; SetupError: the disk is full.
        """
        wait_s = self.wait_s if wait_s is None else wait_s
        with exclusive(self.path, wait_s), explaining(self.path):
            connection = self._open(read_only=False, wait_s=wait_s)
            try:
                self.check(connection)
                connection.execute("BEGIN TRANSACTION")
                yield connection
                connection.execute("COMMIT")
            finally:
                connection.close()  # closing an open transaction rolls it back

    def check(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raise :class:`~featstore.errors.MigrationError` where catalog and code don't fit; looked at once."""
        if not self._checked:
            from featstore.catalog import migrations

            migrations.require_current(connection)
            self._checked = True

    def _open(self, *, read_only: bool, wait_s: float) -> duckdb.DuckDBPyConnection:
        import duckdb

        path = str(self.path)
        connection = retry_busy(lambda: duckdb.connect(path, read_only=read_only, config=CONFIG), self.path, wait_s)
        connection.execute(UTC)
        return connection


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Say what is wrong where a damaged file or a full disk shows only in the middle of the work, and let an interrupt
    be one: DuckDB makes an error of it.
    """
    import duckdb

    try:
        yield
    except RuntimeError as error:
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from error
        raise
    except (duckdb.IOException, duckdb.FatalException) as error:
        raise _explain(error, path) from error


def retry_busy(connect: Callable[[], T], path: Path, wait_s: float) -> T:
    """Call ``connect`` until no other process holds the catalog; announce the wait, and bound it.

    Raises:
        NotFoundError: there is no such file.
        BusyError: it was still held after ``wait_s`` seconds.
        CorruptError: the file isn't a DuckDB database, or is damaged.
    """
    import duckdb

    if not path.is_file():
        raise NotFoundError(f"The catalog {path} is missing.", hint="restore it from a backup")
    start, announced, pause = time.monotonic(), False, 0.02
    while True:
        try:
            return connect()
        except duckdb.Error as error:
            text = str(error)
            if not _is_busy(error, text):
                raise _explain(error, path) from error
            waited = time.monotonic() - start
            holder = match[1] if (match := re.search(r"\(PID (\d+)\)", text)) else ""
            who = f"process {holder}" if holder else "another process"
            if waited >= wait_s:
                raise BusyError(
                    f"The catalog {path} is held by {who}, still after {waited:.0f} s.",
                    hint=f"wait for it to end (ps -p {holder or 'PID'}), then run the command again",
                ) from error
            if not announced and waited > _ANNOUNCE_AFTER:
                log.warning("The catalog is held by %s: waiting up to %.0f s for it.", who, wait_s)
                announced = True
            time.sleep(pause)
            pause = min(pause * 1.5, 0.5)


def _is_busy(error: Exception, text: str) -> bool:
    # A damaged file is an IOException too, so only the text tells the two apart.
    return (
        "Could not set lock" in text
        or type(error).__name__ in {"ConnectionException", "ResourceInUseException"}
        or "different configuration" in text
    )


def _explain(error: Exception, path: Path) -> Exception:
    text = str(error)
    if "ermission denied" in text or "Read-only file system" in text:
        return SetupError(
            f"The catalog {path} can't be opened: {text.splitlines()[0]}", hint="check the folder's owner and mode"
        )
    if "No space left" in text:
        return SetupError(f"The disk that holds {path} is full.", hint="free some space, then run it again")
    return CorruptError(
        f"The catalog {path} can't be read as a DuckDB 2 database: {text.splitlines()[0]}",
        hint="restore it from a backup",
    )


def arrow(connection: duckdb.DuckDBPyConnection, query: str, parameters: Any = None) -> pa.Table:
    """Run a query of ours and take its whole result as an Arrow table."""
    return connection.sql(query, params=parameters).to_arrow_table()


def first(result: duckdb.DuckDBPyConnection) -> tuple[Any, ...] | None:
    """The first row of a result, or None. Fetches all: DuckDB 2 refuses other work while a result is unfinished."""
    rows = result.fetchall()
    return rows[0] if rows else None


def identifier(name: str) -> str:
    """A name, quoted for SQL text: names of columns may hold anything."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, **tables: pa.Table) -> Iterator[None]:
    """Let queries see Arrow tables under the given names, for the block."""
    import duckdb

    for name, table in tables.items():
        connection.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            with suppress(duckdb.TransactionException):  # after an error, which is what the caller must see
                connection.unregister(name)
