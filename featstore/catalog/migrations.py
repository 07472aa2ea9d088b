"""Numbered SQL files, applied in order, one transaction each with its record.

``migrations/NNNN_name.sql`` lies beside the package in a checkout, and inside it in a wheel. ``schema.sql`` is
generated from what they make (``make docs``), and a test holds it true.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.catalog.connection import CONFIG, Catalog, exclusive, first, retry_busy
from featstore.errors import MigrationError
from featstore.files import fsync

if TYPE_CHECKING:
    import duckdb

_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")
_RECORD = """
CREATE SCHEMA IF NOT EXISTS featstore;
CREATE TABLE IF NOT EXISTS featstore.migration (
    version INTEGER PRIMARY KEY, name VARCHAR NOT NULL, checksum VARCHAR NOT NULL, applied_at TIMESTAMP NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, text and SHA-256."""

    version: int
    name: str
    sql: str
    checksum: str


def folder() -> Path:
    """Where the migrations are: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "migrations", package.parent / "migrations"):
        if candidate.is_dir():
            return candidate
    raise MigrationError(
        "This installation of featstore has no migrations.", hint="pip install --force-reinstall featstore"
    )


def load(path: Path | None = None) -> list[Migration]:
    """Every migration of a folder, in order.

    Raises:
        MigrationError: numbers that skip or repeat, or a file that holds BEGIN, COMMIT or ROLLBACK.
    """
    import duckdb

    found = []
    for file in sorted((path or folder()).glob("[0-9]*.sql")):
        match = _FILE.fullmatch(file.name)
        if not match:
            raise MigrationError(f"{file.name} isn't named NNNN_name.sql.")
        sql = file.read_bytes().decode()
        if any(s.type == duckdb.StatementType.TRANSACTION for s in duckdb.extract_statements(sql)):
            raise MigrationError(f"{file.name} holds BEGIN, COMMIT or ROLLBACK: each file is one transaction already.")
        found.append(Migration(int(match[1]), match[2], sql, hashlib.sha256(sql.encode()).hexdigest()))
    if [m.version for m in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"Migrations must be numbered 1, 2, 3 …: found {[m.version for m in found]}.")
    return found


def applied(connection: duckdb.DuckDBPyConnection) -> dict[int, str]:
    """Checksum by version, of what the catalog has."""
    exists = first(
        connection.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'featstore' AND table_name = 'migration' "
            "AND database_name = current_database()"
        )
    )
    if not exists or not exists[0]:
        return {}
    return dict(connection.execute("SELECT version, checksum FROM featstore.migration ORDER BY version").fetchall())


def pending(connection: duckdb.DuckDBPyConnection, known: list[Migration] | None = None) -> list[Migration]:
    """What is still to be applied.

    Raises:
        MigrationError: the catalog has migrations that this code doesn't know, or that were edited since.
    """
    known = load() if known is None else known
    have = applied(connection)
    if newer := [version for version in have if version > len(known)]:
        raise MigrationError(
            f"This catalog was made by a newer featstore: it has migration {max(newer)}, this one knows {len(known)}.",
            hint="pip install --upgrade featstore",
        )
    for migration in known:
        if migration.version in have and have[migration.version] != migration.checksum:
            raise MigrationError(
                f"Migration {migration.version:04} {migration.name} was edited after this catalog applied it.",
                hint="restore the file; changes go into a new migration",
            )
    return [migration for migration in known if migration.version not in have]


def require_current(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise :class:`MigrationError` unless the catalog is exactly what this code expects."""
    if todo := pending(connection):
        raise MigrationError(
            f"This catalog lacks {len(todo)} migration(s), from {todo[0].version:04} {todo[0].name}.",
            hint="featstore migrate   (make a copy of catalog.duckdb first)",
        )


def apply(connection: duckdb.DuckDBPyConnection, known: list[Migration] | None = None) -> list[Migration]:
    """Apply what is pending, each migration and its record in one transaction. Returns what was applied.

    Raises:
        MigrationError: one failed; those before it stay applied.
    """
    import duckdb

    todo = pending(connection, known)
    for migration in todo:
        connection.execute("BEGIN TRANSACTION")
        try:
            connection.execute(_RECORD)
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO featstore.migration VALUES (?, ?, ?, ?)",
                [
                    migration.version,
                    migration.name,
                    migration.checksum,
                    datetime.now(UTC).replace(tzinfo=None),
                ],
            )
            connection.execute("COMMIT")
        except duckdb.Error as error:
            with contextlib.suppress(duckdb.TransactionException):  # a COMMIT that fails has rolled back by itself
                connection.execute("ROLLBACK")
            raise MigrationError(
                f"Migration {migration.version:04} {migration.name} failed, and left the catalog as it was: {error}"
            ) from error
    return todo


def migrate(catalog: Catalog) -> list[str]:
    """Bring a catalog to this code's migrations; returns those applied. A copy of the old one is kept beside it."""
    import duckdb

    path = catalog.path
    with exclusive(path):
        connection = retry_busy(lambda: duckdb.connect(str(path), config=CONFIG), path, catalog.wait_s)
        try:
            todo = pending(connection)
            if todo:
                connection.execute("CHECKPOINT")
                copy = path.with_name(f"catalog-before-{todo[0].version:04}.duckdb")
                # By another process: had this one opened the file beside DuckDB, closing it again would drop
                # DuckDB's lock, as POSIX has it, and let others write in the middle of the migration.
                script = "import shutil, sys; shutil.copy2(sys.argv[1], sys.argv[2])"
                subprocess.run([sys.executable, "-c", script, path, copy], check=True)
                fsync(copy)
                apply(connection)
        finally:
            connection.close()
    return [f"{m.version:04} {m.name}" for m in todo]


def schema_sql() -> str:
    """What all migrations make together, as SQL text: the content of ``schema.sql``."""
    import duckdb

    connection = duckdb.connect(":memory:")
    try:
        apply(connection)
        parts = ["-- Generated by `make docs` from the numbered files beside it. Don't edit."]
        for catalog, kind in (
            ("duckdb_tables", "table"),
            ("duckdb_indexes", "index"),
            ("duckdb_views", "view"),
        ):
            rows = connection.execute(
                f"SELECT sql FROM {catalog}() WHERE database_name = 'memory' AND sql IS NOT NULL "
                + ("" if kind == "index" else "AND NOT internal ")
                + f"ORDER BY schema_name, {kind}_name"
            ).fetchall()
            parts += [row[0].rstrip(";\n ") + ";" for row in rows]
        return "\n\n".join(parts) + "\n"
    finally:
        connection.close()
