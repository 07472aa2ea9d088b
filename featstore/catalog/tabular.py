"""Tabular data sets: ``tabular."<name>"`` with a view of the same name for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, identifier, registered
from featstore.catalog.runs import add_run
from featstore.errors import ConflictError, NotFoundError, UsageError, did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


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
    *,
    time: str | None = None,
) -> None:
    """Create or replace the table, its view and its record. A table keeps the spelling of its name.

    Args:
        time: the column that dates its rows; None where there is one a patient.
    """
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
            "UPDATE core.tabular SET row_count = ?, content_hash = ?, run = ?, time_column = ? WHERE name = ?",
            [rows.num_rows, content_hash, run, time, name],
        )
    else:
        connection.execute(
            "INSERT INTO core.tabular VALUES (?, ?, ?, ?, ?)", [name, rows.num_rows, content_hash, run, time]
        )


def names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of all tabular data sets."""
    return [str(r[0]) for r in connection.execute("SELECT name FROM core.tabular ORDER BY 1").fetchall()]


def run_of(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """The surrogate id of the run that took in the rows of a tabular data set."""
    row = first(connection.execute("SELECT run FROM core.tabular WHERE name = ?", [name]))
    assert row
    return int(row[0])


def fetch(connection: duckdb.DuckDBPyConnection, name: str, time: str | None = None) -> pa.Table:
    """All rows of a tabular data set, by patient_id; of a dated one by time, too.

    Raises:
        NotFoundError: no such table or column of time, with a suggestion. UsageError: that column holds no times.
    """
    known = names(connection)
    if name not in known:
        raise NotFoundError(
            f"There is no table {name!r} in the catalog.{did_you_mean(name, known)}",
            hint=f"featstore ingest-table FILE --name {name}",
        )
    if time is None:
        return arrow(connection, f'SELECT * FROM tabular."{name}" ORDER BY patient_id')
    kinds = {
        str(column): str(kind)
        for column, kind in connection.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE schema_name = 'tabular' AND table_name = ? "
            "AND database_name = current_database()",
            [name],
        ).fetchall()
    }
    if time not in kinds:
        raise NotFoundError(
            f"The table {name!r} has no column {time!r}.{did_you_mean(time, kinds)}",
            hint=f"its columns: {', '.join(kinds)}",
        )
    if not kinds[time].startswith(("TIMESTAMP", "DATE")):
        dated = [column for column, kind in kinds.items() if kind.startswith(("TIMESTAMP", "DATE"))]
        raise UsageError(
            f"The column {time!r} of {name!r} holds {kinds[time]}, not times.",
            hint=f"columns with times: {', '.join(dated) or 'none; write them as 2024-05-31 or 2024-05-31T12:00:00'}",
        )
    return arrow(connection, f'SELECT * FROM tabular."{name}" ORDER BY patient_id, {identifier(time)}')
