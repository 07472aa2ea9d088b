"""Rows of training tables, their inputs and metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import first
from featstore.catalog.runs import add_run
from featstore.errors import ConflictError, CorruptError, NotFoundError, did_you_mean
from featstore.keys import Ref

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class Row:
    """One version of a training table, as the catalog keeps it."""

    name: str
    version: int
    label: str
    scheme: int | None
    rows: int
    path: str
    data_hash: str
    recipe: Mapping[str, Any]
    report: Mapping[str, Any]
    entity: str = "patient"
    folds: int | None = None


@dataclass(frozen=True, slots=True)
class Input:
    """What a version is made of: the vectors of a feature set, or the rows of a tabular data set.

    Attributes:
        alias: its name in the table; a tabular data set's is its own.
        runs: surrogate ids of the runs that made those vectors or rows.
    """

    alias: str
    runs: list[int]
    feature_set: int | None = None
    tabular: str | None = None
    modality: str | None = None
    aggregation: str | None = None


@dataclass(frozen=True, slots=True)
class Fit:
    """What one fitted object learned from; ``fold`` is empty where there are no folds."""

    fold: str
    train_rows: int
    train_hash: str


@dataclass(frozen=True, slots=True)
class Latest:
    """What tells a version from the one that would be made next.

    Attributes:
        report: versions of an older featstore don't say there whether anything was ``fitted``.
        run: surrogate id of the one that made it.
        inputs: alias and surrogate id of the feature set, of every vector input, in order.
        runs: of every input, the tables among them, in order.
    """

    id: int
    version: int
    path: str
    recipe: dict[str, Any]
    report: dict[str, Any]
    scheme: int | None
    data_hash: str
    run: int
    inputs: list[tuple[str, int]]
    runs: list[list[int]]


def next_version(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """The number of the next version.

    Raises:
        ConflictError: the name is taken by one that differs in case only.
    """
    row = first(
        connection.execute(
            "SELECT max(version), any_value(name) FROM core.training_table WHERE lower(name) = lower(?)",
            [name],
        )
    )
    if row and row[1] and row[1] != name:
        raise ConflictError(
            f"There is a table {row[1]!r}; {name!r} differs from it in case only.", hint="take another --name"
        )
    return int(row[0]) + 1 if row and row[0] else 1


def latest(connection: duckdb.DuckDBPyConnection, name: str) -> Latest | None:
    """The latest version of a table, if there is one."""
    row = first(
        connection.execute(
            "SELECT id, version, path, recipe, report, scheme, data_hash, run FROM core.training_table WHERE name = ? "
            "ORDER BY version DESC LIMIT 1",
            [name],
        )
    )
    if not row:
        return None
    found = connection.execute(
        "SELECT alias, feature_set, runs FROM core.table_input WHERE training_table = ? ORDER BY position", [row[0]]
    ).fetchall()
    id, version, path, recipe, report, scheme, data_hash, run = row
    return Latest(
        id, version, path, _object(recipe, f"The recipe of {name}@v{version}"),
        _object(report, f"The report of {name}@v{version}"), scheme, data_hash, run,
        [(alias, feature_set) for alias, feature_set, _ in found if feature_set is not None],
        [runs for _, _, runs in found],
    )  # fmt: skip


def _object(text: str, what: str) -> dict[str, Any]:
    """A JSON object of the catalog.

    Raises:
        CorruptError: it is none: a store may be a stranger's.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CorruptError(f"{what} is no JSON object.", hint="restore the catalog from a backup")
    return value


def put(
    connection: duckdb.DuckDBPyConnection,
    row: Row,
    inputs: Sequence[Input],
    fits: Sequence[Fit],
    run_id: str,
    facts: Mapping[str, Any],
) -> None:
    """Add a version with its inputs, in their order, what it was fitted on, and what its report says was allowed."""
    run = add_run(connection, run_id, facts, done=row.rows)
    found = first(connection.execute(
        "INSERT INTO core.training_table SELECT coalesce((SELECT max(id) FROM core.training_table), 0) + 1, "
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? RETURNING id",
        [
            row.name, row.version, row.label, row.scheme, row.rows, row.path, row.data_hash, json.dumps(row.recipe),
            json.dumps(row.report), datetime.fromisoformat(facts["started_at"]), run,
            row.entity, row.folds,
        ],
    ))  # fmt: skip
    assert found
    for position, item in enumerate(inputs):
        connection.execute(
            "INSERT INTO core.table_input VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                found[0], position, item.alias, item.feature_set, item.tabular, item.modality, item.aggregation,
                item.runs,
            ],
        )  # fmt: skip
    _add_fits(connection, found[0], fits)
    for item in row.report.get("allowed", ()):
        connection.execute(
            "INSERT INTO core.allowed VALUES (?, ?, ?, ?)", [found[0], item["kind"], item["reason"], item["found"]]
        )


def _add_fits(connection: duckdb.DuckDBPyConnection, table: int, fits: Sequence[Fit]) -> None:
    for fit in fits:
        connection.execute(
            "INSERT INTO core.fit VALUES (?, ?, ?, ?)", [table, fit.fold, fit.train_rows, fit.train_hash]
        )


def renew_runs(connection: duckdb.DuckDBPyConnection, table: int, runs: Sequence[Sequence[int]]) -> None:
    """Say that the inputs of a version, in their order, were made by these runs: they give the very same bytes."""
    for position, ids in enumerate(runs):
        connection.execute(
            "UPDATE core.table_input SET runs = ? WHERE training_table = ? AND position = ?",
            [list(ids), table, position],
        )


def complete(connection: duckdb.DuckDBPyConnection, table: int, report: Mapping[str, Any], fits: Sequence[Fit]) -> None:
    """Give a version of an older featstore the report of today, and what its steps were fitted on."""
    connection.execute("UPDATE core.training_table SET report = ? WHERE id = ?", [json.dumps(report), table])
    connection.execute("DELETE FROM core.fit WHERE training_table = ?", [table])
    _add_fits(connection, table, fits)


def fits(connection: duckdb.DuckDBPyConnection, name: str, version: int) -> dict[str, str]:
    """Fold → the hash of the rows that its fitted objects learned from; none for versions of before."""
    rows = connection.execute(
        "SELECT f.fold, f.train_hash FROM core.fit f JOIN core.training_table t ON t.id = f.training_table "
        "WHERE t.name = ? AND t.version = ? ORDER BY 1",
        [name, version],
    ).fetchall()
    return {str(fold): str(digest) for fold, digest in rows}


def inputs(connection: duckdb.DuckDBPyConnection, name: str, version: int) -> list[Input]:
    """What a version is made of, in order."""
    rows = connection.execute(
        "SELECT i.alias, i.runs, i.feature_set, i.tabular, i.modality, i.aggregation FROM core.table_input i "
        "JOIN core.training_table t ON t.id = i.training_table WHERE t.name = ? AND t.version = ? ORDER BY i.position",
        [name, version],
    ).fetchall()
    return [Input(*row) for row in rows]


def versions(connection: duckdb.DuckDBPyConnection, name: str, version: int) -> dict[str, int]:
    """Alias → the version of the feature set, of every vector input."""
    rows = connection.execute(
        "SELECT i.alias, f.version FROM core.table_input i JOIN core.training_table t ON t.id = i.training_table "
        "JOIN core.feature_set f ON f.id = i.feature_set WHERE t.name = ? AND t.version = ?",
        [name, version],
    ).fetchall()
    return {str(alias): int(v) for alias, v in rows}


def run_name(connection: duckdb.DuckDBPyConnection, run: int) -> str:
    """The run of a surrogate id."""
    row = first(connection.execute("SELECT run_id FROM core.run WHERE id = ?", [run]))
    assert row
    return str(row[0])


def packages(connection: duckdb.DuckDBPyConnection, name: str, version: int) -> dict[str, str]:
    """Packages and their versions, of the run that made a table."""
    row = first(
        connection.execute(
            "SELECT r.provenance->'packages' FROM core.training_table t JOIN core.run r ON r.id = t.run "
            "WHERE t.name = ? AND t.version = ?",
            [name, version],
        )
    )
    return dict(json.loads(row[0])) if row and row[0] else {}


def get(connection: duckdb.DuckDBPyConnection, ref: Ref) -> dict[str, Any]:
    """One row of the view ``tables``: the version asked for, else the latest.

    Raises:
        NotFoundError: no such table or version, with a suggestion. CorruptError: its recipe or report is no object.
    """
    cursor = connection.execute("SELECT * FROM tables WHERE name = ? ORDER BY version DESC", [ref.name])
    names = [d[0] for d in cursor.description]
    rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    if not rows:
        known = [str(r[0]) for r in connection.execute("SELECT DISTINCT name FROM core.training_table").fetchall()]
        raise NotFoundError(
            f"There is no training table {ref.name!r}.{did_you_mean(ref.name, known)}",
            hint="featstore ls tables",
        )
    for row in rows:
        if ref.version in {None, row["version"]}:
            what = f"{row['name']}@v{row['version']}"
            return row | {key: _object(row[key], f"The {key} of {what}") for key in ("recipe", "report")}
    raise NotFoundError(
        f"The table {ref.name!r} has no version {ref.version}; its latest is v{rows[0]['version']}.",
        hint=f"featstore show {ref.name}",
    )
