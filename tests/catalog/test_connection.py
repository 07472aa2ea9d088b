"""Open, do, close: whole or not at all, waiting for others, and plain words for what is broken."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import featstore
from featstore.catalog.connection import Catalog, arrow, first, identifier, registered
from featstore.errors import BusyError, CorruptError, NotFoundError

HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
connection.execute("BEGIN; SELECT count(*) FROM core.run")
print("held", flush=True)
sys.stdin.readline()
"""
INSERT = "INSERT INTO core.run VALUES (1, 'r1', 'test', 'done', now()::TIMESTAMP, NULL, 0, 0, NULL, NULL)"


@contextmanager
def another_process(path: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the catalog open until the block ends, or until it is told to end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()


def runs(catalog: Catalog) -> int:
    with catalog.read() as connection:
        row = first(connection.execute("SELECT count(*) FROM core.run"))
    assert row
    return int(row[0])


class TestWrite:
    def test_is_one_transaction(self, store: featstore.Store) -> None:
        with store.catalog.write() as connection:
            connection.execute(INSERT)
        assert runs(store.catalog) == 1

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_leaves_nothing(self, store: featstore.Store, error: type[BaseException]) -> None:
        def fail() -> None:
            with store.catalog.write() as connection:
                connection.execute(INSERT)
                connection.execute("CREATE TABLE main.extra (x INTEGER)")
                raise error

        with pytest.raises(error):
            fail()
        assert runs(store.catalog) == 0
        assert "extra" not in store.sql("SHOW TABLES").column("name").to_pylist()

    def test_a_killed_writer_leaves_nothing(self, store: featstore.Store) -> None:
        code = (
            "import os, sys, pathlib; from featstore.catalog.connection import Catalog\n"
            "with Catalog(pathlib.Path(sys.argv[1])).write() as c:\n"
            f"    c.execute({INSERT!r})\n    os.kill(os.getpid(), 9)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(store.catalog.path)], check=False)
        assert done.returncode == -9
        assert runs(store.catalog) == 0

    def test_reading_connections_write_nothing(self, store: featstore.Store) -> None:
        with pytest.raises(duckdb.InvalidInputException, match="read-only"), store.catalog.read() as connection:
            connection.execute(INSERT)


class TestBusy:
    def test_a_held_lock_is_waited_for_announced_and_then_reported(
        self, store: featstore.Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        catalog = Catalog(store.catalog.path, wait_s=0.9)
        with another_process(catalog.path, "write") as holder, caplog.at_level(logging.WARNING, "featstore"):
            for use in (catalog.read, catalog.write):
                caplog.clear()
                start = time.monotonic()
                with pytest.raises(BusyError, match=rf"held by process {holder.pid}, still after"), use():
                    pass
                assert time.monotonic() - start >= 0.9
                assert caplog.messages == [f"The catalog is held by process {holder.pid}: waiting up to 1 s for it."]
            with pytest.raises(BusyError, match=rf"process {holder.pid}"):
                featstore.Store(store.path).catalog.write(wait_s=0).__enter__()

    def test_sql_waits_too(self, store: featstore.Store) -> None:
        store.catalog.wait_s = 0.2
        with another_process(store.catalog.path, "write") as holder, pytest.raises(BusyError, match=str(holder.pid)):
            store.sql("SELECT 1")
        assert store.sql("SELECT 1").num_rows == 1

    def test_goes_on_when_the_other_has_ended(self, store: featstore.Store, caplog: pytest.LogCaptureFixture) -> None:
        with another_process(store.catalog.path, "write") as holder, caplog.at_level(logging.WARNING, "featstore"):
            assert holder.stdin
            timer = threading.Timer(0.8, holder.stdin.close)
            timer.start()
            try:
                with store.catalog.write() as connection:
                    connection.execute(INSERT)
            finally:
                timer.join()
            assert len(caplog.messages) == 1
        assert runs(store.catalog) == 1

    def test_readers_of_several_processes_coexist(self, store: featstore.Store) -> None:
        store.catalog.wait_s = 0.2
        with another_process(store.catalog.path, "read"), another_process(store.catalog.path, "read"):
            assert runs(store.catalog) == 0
            assert store.sql("SELECT count(*) AS n FROM runs").to_pylist() == [{"n": 0}]
            with pytest.raises(BusyError), store.catalog.write():
                pass

    def test_threads_take_turns(self, store: featstore.Store) -> None:
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                own = store if number % 2 else featstore.open(store.path)
                for _ in range(3):
                    with own.catalog.write() as connection:
                        row = first(connection.execute("SELECT coalesce(max(id), 0) + 1 FROM core.run"))
                        assert row
                        connection.execute(INSERT.replace("(1, 'r1'", f"({row[0]}, 'r{row[0]}'"))
                    own.sql("SELECT count(*) FROM runs")
                    runs(own.catalog)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert runs(store.catalog) == 12


class TestDamage:
    @pytest.fixture
    def uses(self, store: featstore.Store) -> list[object]:
        def read() -> None:
            with Catalog(store.catalog.path).read() as connection:
                connection.execute("FROM samples")

        def write() -> None:
            with Catalog(store.catalog.path).write() as connection:
                connection.execute("FROM samples")

        return [read, write, lambda: featstore.open(store.path).sql("FROM samples")]

    @pytest.mark.parametrize("keep", [0, 1, 4096, 5000, 0.5])
    def test_truncated(self, store: featstore.Store, uses: list[object], keep: float) -> None:
        data = store.catalog.path.read_bytes()
        store.catalog.path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
        for use in uses:
            with pytest.raises(CorruptError, match="restore it from a backup"):
                use()  # type: ignore[operator]

    @pytest.mark.parametrize("data", [b"garbage" * 1000, b"\0" * 20000, b"SQLite format 3\0" * 500])
    def test_garbage(self, store: featstore.Store, uses: list[object], data: bytes) -> None:
        store.catalog.path.write_bytes(data)
        for use in uses:
            with pytest.raises(CorruptError, match="can't be read as a DuckDB 2 database"):
                use()  # type: ignore[operator]

    def test_a_flipped_bit(self, store: featstore.Store, uses: list[object]) -> None:
        data = bytearray(store.catalog.path.read_bytes())
        data[4096 * 3 + 100] ^= 1  # inside the first block
        store.catalog.path.write_bytes(bytes(data))
        for use in uses:
            with pytest.raises(CorruptError):
                use()  # type: ignore[operator]

    def test_missing(self, store: featstore.Store, uses: list[object]) -> None:
        store.catalog.path.unlink()
        for use in uses:
            with pytest.raises(NotFoundError, match=r"catalog\.duckdb is missing"):
                use()  # type: ignore[operator]
        assert not store.catalog.path.exists()


class TestHelpers:
    def test_identifier(self) -> None:
        assert identifier('a "b"') == '"a ""b"""'

    def test_an_error_among_registered_tables_is_the_one_that_is_seen(self, store: featstore.Store) -> None:
        rows = pa.table({"x": [1, 1]})
        insert = "INSERT INTO core.chunk SELECT x, x FROM incoming"
        with (
            pytest.raises(duckdb.ConstraintException),
            store.catalog.write() as connection,
            registered(connection, incoming=rows),
        ):
            connection.execute(insert)

    def test_registered_tables_are_gone_afterwards(self) -> None:
        rows = pa.table({"x": [1, 2]})
        with duckdb.connect() as connection:
            with registered(connection, incoming=rows):
                assert arrow(connection, "SELECT sum(x)::INT AS n FROM incoming").to_pylist() == [{"n": 3}]
            with pytest.raises(duckdb.CatalogException):
                connection.execute("FROM incoming")


def test_every_connection_reads_times_in_utc(tmp_path: Path) -> None:
    """Wherever the machine stands: else a time with a zone would be another one on another machine."""
    script = (
        "import sys, featstore; from featstore.catalog import sandbox; store = featstore.init(sys.argv[1])\n"
        "query = \"SELECT current_setting('TimeZone') z, TIMESTAMPTZ '2024-01-01 00:00:00+00'::TIMESTAMP::VARCHAR t\"\n"
        "for way in (store.catalog.read, store.catalog.write):\n"
        "    with way() as connection: print(connection.execute(query).fetchall())\n"
        "print([tuple(row.values()) for row in store.sql(query).to_pylist()])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "store"],
        env=os.environ | {"TZ": "America/New_York"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[('UTC', '2024-01-01 00:00:00')]"] * 3
