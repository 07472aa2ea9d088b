"""Rows of runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import first

if TYPE_CHECKING:
    import duckdb


def add_run(
    connection: duckdb.DuckDBPyConnection,
    run_id: str,
    facts: Mapping[str, Any],
    *,
    done: int = 0,
) -> int:
    """Add a run with the facts of its ``run.json``; returns its surrogate id."""
    started = datetime.fromisoformat(facts["started_at"])
    finished = datetime.fromisoformat(facts["finished_at"]) if "finished_at" in facts else None
    row = first(connection.execute(
        "INSERT INTO core.run SELECT coalesce((SELECT max(id) FROM core.run), 0) + 1, ?, ?, ?, ?, ?, ?, 0, ?, ? "
        "RETURNING id",
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


def exists(connection: duckdb.DuckDBPyConnection, run_id: str) -> bool:
    """Whether there is such a run."""
    return first(connection.execute("SELECT 1 FROM core.run WHERE run_id = ?", [run_id])) is not None


def open_runs(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, str]]:
    """Extractions that are not finished, alive or dead: id and run_id, oldest first."""
    return connection.execute("SELECT id, run_id FROM core.run WHERE state = 'running' ORDER BY id").fetchall()


def failed_inputs(connection: duckdb.DuckDBPyConnection, run_id: str | None) -> dict[str, list[str]]:
    """The unresolved failures of extractions, of one run or of all: run_id → sample keys.

    An input that failed in several runs of the same feature sets is listed under the last of them.
    """
    rows = connection.execute(
        "WITH made AS (SELECT run, list_sort(list(feature_set)) AS sets FROM core.segment GROUP BY run) "
        "SELECT arg_max(r.run_id, r.id) AS run_id, s.sample_key FROM core.failure f "
        "JOIN core.run r ON r.id = f.run JOIN core.sample s ON s.id = f.sample JOIN made m ON m.run = f.run "
        "WHERE f.resolved_at IS NULL AND r.kind = 'extract' AND ($run_id IS NULL OR r.run_id = $run_id) "
        "GROUP BY s.sample_key, m.sets ORDER BY ALL",
        {"run_id": run_id},
    ).fetchall()
    by_run: dict[str, list[str]] = {}
    for run, key in rows:
        by_run.setdefault(run, []).append(key)
    return by_run
