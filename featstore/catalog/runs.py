"""Rows of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def add_run(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    facts: Mapping[str, Any],
    *,
    done: int = 0,
) -> int:
    """Add a run with the facts of its ``run.json``; returns its surrogate id."""
    started = datetime.fromisoformat(facts["started_at"])
    finished = (
        None if facts["state"] == "running" else datetime.fromisoformat(facts.get("finished_at", facts["started_at"]))
    )
    row = first(connection.execute(
        "INSERT INTO core.run SELECT coalesce((SELECT max(id) FROM core.run), 0) + 1, ?, ?, ?, ?, ?, ?, 0, ?, ? RETURNING id",
        [
            run_id, facts["kind"], facts["state"], started, finished, done,
            json.dumps(facts.get("request")), json.dumps(facts.get("provenance")),
        ],
    ))  # fmt: skip
    assert row
    return int(row[0])


def finish_run(connection: duckdb.DuckDBPyConnection, run: int, state: str, finished_at: datetime) -> None:
    """Say that a run has ended."""
    connection.execute("UPDATE core.run SET state = ?, finished_at = ? WHERE id = ?", [state, finished_at, run])


def open_runs(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Extractions that are not finished, alive or dead: ``id, run_id``, oldest first."""
    return arrow(connection, "SELECT id, run_id FROM core.run WHERE state = 'running' ORDER BY id")
