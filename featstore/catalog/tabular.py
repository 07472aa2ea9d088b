"""Tabular data sets: ``tabular."<name>"`` with a view of the same name for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.identity import lookalike
from featstore.catalog.runs import add_run
from featstore.errors import ConflictError, NotFoundError, UsageError, did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def match_patients(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> tuple[int, list[tuple[str, str]]]:
    """How many ids are patients here, and which aren't but look as if they were."""
    with registered(connection, incoming=rows.select(["patient_id"])):
        known = first(connection.execute("SELECT count(*) FROM incoming JOIN core.patient USING (patient_id)"))
        alike = connection.execute(
            "SELECT i.patient_id, p.patient_id FROM "
            "(FROM incoming WHERE patient_id NOT IN (SELECT patient_id FROM core.patient)) i "
            f"JOIN core.patient p ON {lookalike('i.patient_id')} = {lookalike('p.patient_id')} ORDER BY ALL LIMIT 20"
        ).fetchall()
    assert known
    return int(known[0]), [(str(a), str(b)) for a, b in alike]


def same(connection: duckdb.DuckDBPyConnection, name: str, content_hash: str, *, replace: bool) -> bool:
    """Whether the catalog has these very rows under that name.

    Raises:
        ConflictError: it has others, and ``replace`` wasn't given.
        UsageError: the name is that of a view of featstore's own.
    """
    row = first(connection.execute("SELECT content_hash FROM core.tabular WHERE lower(name) = lower(?)", [name]))
    if row is None:
        taken = first(
            connection.execute(
                "SELECT count(*) FROM duckdb_views() WHERE lower(view_name) = lower(?) AND schema_name = 'main' "
                "AND (database_name = current_database() OR internal)",
                [name],
            )
        )
        if taken and taken[0]:
            raise UsageError(f"The name {name!r} is taken by a view of the catalog.", hint="--name another_name")
        return False
    if row[0] == content_hash:
        return True
    if not replace:
        raise ConflictError(f"The catalog has a table {name!r} with other rows.", hint="--replace, or another --name")
    return False


def put(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    rows: pa.Table,
    content_hash: str,
    run_id: str,
    facts: Mapping[str, Any],
) -> None:
    """Create or replace the table, its view and its record. A table keeps the spelling of its name."""
    run = add_run(connection, run_id, facts, done=rows.num_rows)
    old = first(connection.execute("SELECT name FROM core.tabular WHERE lower(name) = lower(?)", [name]))
    with registered(connection, _incoming=rows):  # no table's name begins so
        if old:
            name = str(old[0])
            connection.execute(f'DROP VIEW main."{name}"')
            connection.execute(f'DROP TABLE tabular."{name}"')
        connection.execute(f'CREATE TABLE tabular."{name}" AS SELECT * FROM _incoming')
        connection.execute(f'CREATE VIEW main."{name}" AS SELECT * FROM tabular."{name}"')
    if old:
        connection.execute(
            "UPDATE core.tabular SET row_count = ?, content_hash = ?, run = ? WHERE name = ?",
            [rows.num_rows, content_hash, run, name],
        )
    else:
        connection.execute("INSERT INTO core.tabular VALUES (?, ?, ?, ?)", [name, rows.num_rows, content_hash, run])


def names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of all tabular data sets."""
    return [str(r[0]) for r in connection.execute("SELECT name FROM core.tabular ORDER BY 1").fetchall()]


def run_of(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """The surrogate id of the run that took in the rows of a tabular data set."""
    row = first(connection.execute("SELECT run FROM core.tabular WHERE name = ?", [name]))
    assert row
    return int(row[0])


def fetch(connection: duckdb.DuckDBPyConnection, name: str) -> pa.Table:
    """All rows of a tabular data set, by patient_id.

    Raises:
        NotFoundError: no such table, with a suggestion.
    """
    known = names(connection)
    if name not in known:
        raise NotFoundError(
            f"There is no table {name!r} in the catalog.{did_you_mean(name, known)}",
            hint=f"featstore ingest-table FILE --name {name}",
        )
    return arrow(connection, f'SELECT * FROM tabular."{name}" ORDER BY patient_id')
