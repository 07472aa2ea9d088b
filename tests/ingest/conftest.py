"""What the tests of ingest share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

import featstore
from featstore.ingest import IngestResult


def everything(store: featstore.Store) -> dict[str, Any]:
    """Every row of every table of the catalog, and every name in the store's folder."""
    with duckdb.connect(str(store.path / "catalog.duckdb"), read_only=True) as connection:
        tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
        rows: dict[str, Any] = {
            f"{schema}.{table}": connection.execute(f'SELECT * FROM "{schema}"."{table}" ORDER BY ALL').fetchall()
            for schema, table in tables
        }
        rows["views"] = connection.execute("SELECT sql FROM duckdb_views() ORDER BY 1").fetchall()
    return rows | {"files": sorted(str(path) for path in store.path.rglob("*"))}


@pytest.fixture
def unchanged(store: featstore.Store) -> Callable[[], bool]:
    """A function that says whether the store is as it was when the function was first called."""
    seen: list[dict[str, Any]] = []

    def check() -> bool:
        seen.append(everything(store))
        return seen[-1] == seen[0]

    return check


@pytest.fixture
def take(store: featstore.Store, tmp_path: Path) -> Callable[..., IngestResult]:
    """A function that ingests a manifest from its text. Files are made: their content is their path."""

    def ingest(text: str, *, name: str = "m", **arguments: Any) -> IngestResult:
        header, *lines = text.strip().splitlines()
        position = header.split(",").index("path")
        for line in lines:
            file = tmp_path / "data" / line.split(",")[position]
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(file.name)
        manifest = tmp_path / f"{name}.csv"
        manifest.write_text(text)
        return store.ingest_manifest(manifest, root=tmp_path / "data", **arguments)

    return ingest
