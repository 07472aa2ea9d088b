"""Where things are from: the runs, encoders, samples and splits behind a table or a feature set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.order import natural
from featstore.catalog.trained import WEIGHTS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_CURRENT = (
    "FROM core.vector v JOIN core.sample s ON s.id = v.sample AND s.content = v.content "
    "JOIN core.dataset d ON d.id = s.dataset JOIN core.segment g ON g.id = v.segment "
    "WHERE v.feature_set = $set AND ($modality IS NULL OR s.modality = $modality)"
)


def runs(connection: duckdb.DuckDBPyConnection, ids: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Surrogate id → the facts of a run, as its ``run.json`` has them."""
    rows = arrow(
        connection,
        "SELECT id, run_id, kind, state, started_at, finished_at, done, failed, request, provenance FROM core.run "
        "WHERE id IN (SELECT unnest($ids::INTEGER[])) ORDER BY id",
        {"ids": sorted(set(ids))},
    ).to_pylist()
    return {row.pop("id"): row | {key: _parsed(row[key]) for key in ("request", "provenance")} for row in rows}


def encoder(connection: duckdb.DuckDBPyConnection, feature_set: int) -> dict[str, Any]:
    """Everything about one version of a feature set.

    ``trained_on`` counts the patients that its weights were trained on, as far as somebody said so; ``run`` is the
    surrogate id of the run that made it.
    """
    row: dict[str, Any] = arrow(
        connection,
        "SELECT f.name, f.version, f.fingerprint, f.backbone, f.model_version AS weights, f.layer, f.facet, f.pooler, "
        "f.shape, f.dtype, f.created_at, f.config, f.run, "
        f"(SELECT count(*) FROM core.trained_on t WHERE t.model_version = {WEIGHTS}) AS trained_on "
        "FROM core.feature_set f WHERE f.id = $set",
        {"set": feature_set},
    ).to_pylist()[0]
    return row | {"config": _parsed(row["config"])}


def scheme(connection: duckdb.DuckDBPyConnection, id: int) -> dict[str, Any]:
    """One version of a split scheme: how it was made, its splits' patients, the latest version there is, its run."""
    row: dict[str, Any] = arrow(
        connection,
        "SELECT c.name, c.version, (SELECT max(o.version) FROM core.scheme o WHERE lower(o.name) = lower(c.name)) "
        "AS latest, c.recipe, c.run FROM core.scheme c WHERE c.id = $id",
        {"id": id},
    ).to_pylist()[0]
    splits = connection.execute(
        "SELECT split, count(*) FROM core.split WHERE scheme = ? GROUP BY 1 ORDER BY 1", [id]
    ).fetchall()
    return row | {"recipe": _parsed(row["recipe"]), "splits": dict(splits)}


def tabular_run(connection: duckdb.DuckDBPyConnection, name: str) -> int | None:
    """The run that took in a tabular data set's rows as they are now; None where there is no such data set any more."""
    row = first(connection.execute("SELECT run FROM core.tabular WHERE name = ?", [name]))
    return int(row[0]) if row else None


def version(connection: duckdb.DuckDBPyConnection, name: str, number: int) -> dict[str, Any]:
    """What only the catalog knows of a version of a table: ``scheme, run`` (surrogate ids), ``fits``, ``allowed``."""
    row = first(
        connection.execute(
            "SELECT id, scheme, run FROM core.training_table WHERE name = ? AND version = ?", [name, number]
        )
    )
    assert row
    id = {"id": row[0]}
    return {
        "scheme": row[1],
        "run": row[2],
        "fits": arrow(
            connection,
            "SELECT fold, train_rows, train_hash FROM core.fit WHERE training_table = $id "
            "ORDER BY length(fold), fold",  # fold2 before fold10
            id,
        ).to_pylist(),
        "allowed": arrow(
            connection, "SELECT kind, reason, found FROM core.allowed WHERE training_table = $id ORDER BY kind", id
        ).to_pylist(),
    }


def samples_of(
    connection: duckdb.DuckDBPyConnection, pointers: pa.Table
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, dict[int, int]]]:
    """What the vectors of a version were made of.

    Args:
        pointers: ``alias, segment, row, sample_key``.

    Returns:
        alias → by data set and modality: samples, patients, and how many ``changed`` since: their files have other
        bytes, or another time; and alias → run → samples.
    """
    with registered(connection, pointers=pointers):
        used = "(SELECT DISTINCT alias, segment, row, sample_key FROM pointers) p"
        counts = arrow(
            connection,
            "SELECT p.alias, d.name AS dataset, s.modality, count(*) AS samples, "
            "count(DISTINCT s.patient) AS patients, "
            "count(*) FILTER (v.content IS DISTINCT FROM s.content) AS changed "
            f"FROM {used} JOIN core.sample s USING (sample_key) "
            "JOIN core.dataset d ON d.id = s.dataset "
            'LEFT JOIN core.vector v ON v.segment = p.segment AND v."row" = p.row AND v.sample = s.id '
            "GROUP BY ALL ORDER BY ALL",
        ).to_pylist()
        by_run = connection.execute(
            f"SELECT p.alias, g.run, count(*) FROM {used} JOIN core.segment g ON g.id = p.segment GROUP BY ALL "
            "ORDER BY ALL"
        ).fetchall()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in counts:
        found.setdefault(row.pop("alias"), []).append(row)
    made: dict[str, dict[int, int]] = {}
    for alias, run, samples in by_run:
        made.setdefault(alias, {})[run] = samples
    return found, made


def current_samples(
    connection: duckdb.DuckDBPyConnection, feature_set: int, modality: str | None = None
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The current vectors of a feature set: by data set and modality, and run → samples."""
    values = {"set": feature_set, "modality": modality}
    counts = arrow(
        connection,
        "SELECT d.name AS dataset, s.modality, count(*) AS samples, "
        "count(DISTINCT s.patient) AS patients, 0 AS changed "
        f"{_CURRENT} GROUP BY ALL ORDER BY ALL",
        values,
    ).to_pylist()
    by_run = connection.execute(f"SELECT g.run, count(*) {_CURRENT} GROUP BY ALL ORDER BY ALL", values).fetchall()
    return counts, dict(by_run)


def sample_keys(connection: duckdb.DuckDBPyConnection, feature_set: int) -> list[str]:
    """The samples of which a feature set has a current vector, in their natural order."""
    rows = connection.execute(
        f"SELECT s.sample_key {_CURRENT} ORDER BY {natural('s.sample_key')}", {"set": feature_set, "modality": None}
    ).fetchall()
    return [str(row[0]) for row in rows]


def tables_with(connection: duckdb.DuckDBPyConnection, feature_set: int) -> list[str]:
    """The training tables that a feature set is an input of, as ``NAME@vK``."""
    rows = connection.execute(
        "SELECT DISTINCT t.name, t.version FROM core.table_input i JOIN core.training_table t "
        "ON t.id = i.training_table WHERE i.feature_set = ? ORDER BY 1, 2",
        [feature_set],
    ).fetchall()
    return [f"{name}@v{version}" for name, version in rows]


def _parsed(text: str | None) -> Any:
    value: Mapping[str, Any] | None = json.loads(text) if text else None
    return value or {}
