"""Where a user's SQL runs: ``featstore sql``, ``--where``, ``--holdout``, recipes.

The catalog is attached read-only to a fresh in-memory database; one statement, SELECT or EXPLAIN only; no files, no
network, no extensions, no Python variables; memory is bounded; and the configuration is locked before the query runs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from featstore.catalog.connection import CONFIG, UTC, Catalog, exclusive, explaining, identifier, retry_busy
from featstore.errors import SqlError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

MEMORY_LIMIT = "4GB"


def query(
    catalog: Catalog,
    sql: str,
    *,
    vectors: Callable[[duckdb.DuckDBPyConnection, str], dict[str, pa.Table]] | None = None,
) -> pa.Table:
    """Run one statement of the user's and give its result.

    Args:
        sql: one SELECT or EXPLAIN.
        vectors: gives the Arrow tables to show as ``vectors."<name>"``, from the names that occur in the text.

    Raises:
        SqlError: more than one statement, another kind of statement, or whatever DuckDB has against it.
    """
    import duckdb

    statement = _one_statement(sql)
    with (
        exclusive(catalog.path),
        explaining(catalog.path),
        tempfile.TemporaryDirectory(prefix="featstore-") as spill,
    ):
        connection = duckdb.connect(
            ":memory:", config={k: v for k, v in CONFIG.items() if k != "enable_external_access"}
        )
        try:
            attach = f"ATTACH {_literal(str(catalog.path))} AS store (READ_ONLY)"
            retry_busy(lambda: connection.execute(attach), catalog.path, catalog.wait_s)
            connection.execute(UTC)
            connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            connection.execute(f"SET temp_directory = {_literal(spill)}")
            # Before anything of the catalog is looked at: a stranger's may hold views that read files.
            connection.execute("SET enable_external_access = false")
            connection.execute("USE store")
            catalog.check(connection)
            tables = vectors(connection, sql) if vectors else {}
            connection.execute("USE memory")
            _forward(connection)
            for position, (name, table) in enumerate(tables.items()):
                connection.register(f"__vectors_{position}", table)
                view = f"vectors.{identifier(name)}"
                connection.execute(f"CREATE VIEW {view} AS SELECT * FROM memory.main.__vectors_{position}")
            connection.execute("SET lock_configuration = true")
            return _interruptible(connection, statement)
        except (duckdb.IOException, duckdb.FatalException):
            raise  # the file's fault, not the query's
        except duckdb.Error as error:
            raise _refusal(error) from error
        finally:
            connection.close()


def _interruptible(connection: duckdb.DuckDBPyConnection, statement: str) -> pa.Table:
    """The result of a query, of which DuckDB doesn't see by itself that somebody wants to end it."""
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(lambda: connection.sql(statement).to_arrow_table())
        try:
            return result.result()
        except KeyboardInterrupt:
            connection.interrupt()
            raise


def _one_statement(sql: str) -> str:
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise _refusal(error) from error
    allowed = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
    if len(statements) != 1:
        raise SqlError(f"One statement at a time, please: this text holds {len(statements) or 'none'}.")
    if statements[0].type == duckdb.StatementType.MULTI:
        raise SqlError(
            "A PIVOT runs as several statements unless it names its values.",
            hint="PIVOT … ON modality IN ('A', 'P'), or count(*) FILTER (modality = 'A')",
        )
    if statements[0].type not in allowed:
        kind = str(statements[0].type).removeprefix("StatementType.")
        raise SqlError(
            f"Only SELECT and EXPLAIN run here, not {kind}: the catalog is written by featstore's own commands.",
            hint="open catalog.duckdb with DuckDB itself, read-only, for anything else",
        )
    return statements[0].query


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _forward(connection: duckdb.DuckDBPyConnection) -> None:
    """Show the store's schemas as those of the session, where the vectors live too."""
    connection.execute("CREATE SCHEMA vectors")
    found = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'store' UNION ALL "
        "SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = 'store' AND NOT internal"
    ).fetchall()
    for schema in sorted({schema for schema, _ in found} - {"main"}):
        connection.execute(f"CREATE SCHEMA {identifier(schema)}")
    for schema, name in found:
        view = f"{identifier(schema)}.{identifier(name)}"
        connection.execute(f"CREATE VIEW {view} AS SELECT * FROM store.{view}")


def _refusal(error: Exception) -> SqlError:
    text = re.sub(r"^\w+(?: \w+)? Error: ", "", str(error).strip())
    text = text.replace("store.main.", "").strip()
    hint = (
        "featstore sql \"select table_name, column_name from information_schema.columns where table_schema = 'main'\""
    )
    return SqlError(f"The query was refused. {text}", hint=hint)


def mentioned(sql: str, names: Iterable[str]) -> list[str]:
    """Those names that a query's text takes from ``vectors``, ignoring case.

    >>> mentioned('select * from vectors.A join vectors."b@v1" using (sample_key)', ["a", "b", "b@v1", "ab"])
    ['a', 'b@v1']
    """
    found = re.findall(r'\bvectors"?\s*\.\s*(?:"([^"]+)"|(\w+))', sql, re.IGNORECASE)
    wanted = {(quoted or plain).lower() for quoted, plain in found}
    return [name for name in names if name.lower() in wanted]


def predicate(catalog: Catalog, view: str, column: str, condition: str, flag: str) -> pa.Table:
    """The rows of a public view that meet a user's condition, as the one column that identifies them.

    Args:
        view, column: ours, such as ``samples`` and ``sample_key``.
        condition: the user's; NULL counts as not met.
        flag: what to call it in an error: ``--where``.
    """
    try:
        # Where no bracket is open, a condition that closes one, `1=1) OR (1=1`, doesn't parse: what passes here stays
        # inside the brackets below. The line breaks keep a trailing comment from hiding what follows.
        _one_statement(f"SELECT CASE WHEN\n{condition}\nTHEN 1 END")
        return query(catalog, f"SELECT {column} FROM {view} WHERE (\n{condition}\n) ORDER BY 1")
    except SqlError as error:
        raise SqlError(
            f"{flag} {condition!r} can't be used as a condition on the view {view!r}. {error.message}",
            hint=error.hint,
        ) from error
