"""Metrics of models that were trained on a training table."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import first
from featstore.errors import NotFoundError

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured value, as the catalog keeps it.

    Attributes:
        model, parameters: of what was measured, where it is known.
        fold: empty where there are none; ``all`` for the predictions of all folds together.
        low, high: the ends of the 95 % bootstrap interval, where there is one.
    """

    split: str
    metric: str
    value: float
    model: str | None = None
    parameters: Mapping[str, Any] | None = None
    fold: str = ""
    low: float | None = None
    high: float | None = None


def add(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    version: int,
    metrics: Iterable[Metric],
    run: int | None,
    now: datetime,
) -> None:
    """Add what was measured of models that learned from one version of a table.

    Args:
        run: the surrogate id of the run that measured them; None where the user did.

    Raises:
        NotFoundError: the catalog has no such version.
    """
    found = first(
        connection.execute("SELECT id FROM core.training_table WHERE name = ? AND version = ?", [table, version])
    )
    if not found:
        raise NotFoundError(f"The catalog has no training table {table}@v{version}.", hint="featstore ls tables")
    for m in metrics:
        parameters = None if m.parameters is None else json.dumps(m.parameters)
        connection.execute(
            "INSERT INTO core.metric VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [found[0], m.split, m.metric, m.value, now, m.model, parameters, m.fold, m.low, m.high, run],
        )


def scheme_splits(connection: duckdb.DuckDBPyConnection, table: str, version: int) -> list[str]:
    """The splits of the scheme that a version was made with, in order; empty where it has none."""
    rows = connection.execute(
        "SELECT DISTINCT s.split FROM core.split s JOIN core.training_table t ON t.scheme = s.scheme "
        "WHERE t.name = ? AND t.version = ? ORDER BY 1",
        [table, version],
    ).fetchall()
    return [str(row[0]) for row in rows]
