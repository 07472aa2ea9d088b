"""What people ask of a store by name: lists, everything about one thing, counts, failures. Each is a query or two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import Catalog, arrow
from featstore.catalog.order import natural
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.keys import Ref

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Noun → the query that lists it.
LISTS: Mapping[str, str] = {
    "features": "SELECT name, version, backbone, layer, facet, pooler, dim, dtype, vectors, patients, created_at "
    "FROM feature_sets ORDER BY name, version",
    "runs": "SELECT run_id, kind, state, done, failed, seconds, started_at FROM runs ORDER BY started_at, run_id",
    "schemes": 'SELECT scheme, version, "current", patients, splits, tables FROM schemes ORDER BY scheme, version',
    "tables": 'SELECT name, version, "rows", label, scheme, created_at, stale, path FROM tables ORDER BY name, version',
    "samples": "SELECT sample_key, patient_id, modality, split, site, label FROM samples ORDER BY "
    + natural("sample_key"),
}
_COUNTS = """
SELECT
    (SELECT count(*) FROM patients) AS patients,
    (SELECT count(*) FROM samples) AS samples,
    (SELECT count(*) FROM feature_sets) AS feature_sets,
    (SELECT coalesce(sum(vectors), 0)::BIGINT FROM feature_sets) AS vectors,
    (SELECT count(*) FROM tables) AS tables,
    (SELECT count(*) FROM runs) AS runs,
    (SELECT count(DISTINCT sample_key) FROM failures WHERE NOT resolved) AS failed_inputs
"""
_MODALITIES = (
    "SELECT modality, count(DISTINCT patient_id) AS patients, count(*) AS samples FROM samples GROUP BY 1 ORDER BY 1"
)
_SPLITS = "SELECT scheme, split, count(*) AS patients FROM splits GROUP BY ALL ORDER BY ALL"
_FAILURES = f"""
SELECT sample_key, stage, error, message, count(*) OVER same AS attempts, failed_at, run_id, resolved, uri
FROM failures WHERE ($run IS NULL OR run_id = $run) AND ($resolved OR NOT resolved)
WINDOW same AS (PARTITION BY sample_key)
QUALIFY row_number() OVER (PARTITION BY sample_key ORDER BY failed_at DESC) = 1 ORDER BY {natural("sample_key")}
"""
_OF_VERSION = "WHERE name = $base AND ($version IS NULL OR version = $version) ORDER BY version DESC LIMIT 1"
#: What a name may be the name of → the query that shows it.
_KINDS: Mapping[str, str] = {
    "feature set": f"SELECT * FROM feature_sets {_OF_VERSION}",
    "training table": f"SELECT * FROM tables {_OF_VERSION}",
    "run": "SELECT * FROM runs WHERE run_id = $name",
    "table": 'SELECT t.name, t.row_count AS "rows", r.run_id FROM core.tabular t JOIN core.run r ON r.id = t.run '
    "WHERE t.name = $name",
    "split scheme": "SELECT * FROM schemes WHERE lower(scheme) = lower($base) "
    'AND (version = $version OR ($version IS NULL AND "current"))',
    "sample": "SELECT * FROM samples WHERE sample_key = $name",
}
_VERSIONS = (
    "SELECT version FROM feature_sets WHERE name = $base UNION SELECT version FROM tables WHERE name = $base ORDER BY 1"
)
_NAMES = (
    "SELECT name FROM feature_sets UNION SELECT name FROM tables UNION SELECT run_id FROM runs "
    "UNION SELECT name FROM core.tabular UNION SELECT scheme FROM splits ORDER BY 1"
)
_RUNNING = "SELECT run_id, done, failed FROM runs WHERE state = 'running' ORDER BY run_id"


def ls(catalog: Catalog, noun: str) -> pa.Table:
    """The list of one noun.

    Raises:
        UsageError: there is no such list.
    """
    if noun not in LISTS:
        raise UsageError(
            f"There is no list of {noun!r}.{did_you_mean(noun, [*LISTS, 'plugins'])}",
            hint=f"featstore ls {'|'.join(LISTS)}|plugins",
        )
    with catalog.read() as connection:
        return arrow(connection, LISTS[noun])


def show(catalog: Catalog, name: str) -> dict[str, Any]:
    """What is called ``name`` or ``NAME@vK``: kind → its facts, or a list of them.

    Raises:
        NotFoundError: nothing is called so, with a suggestion.
    """
    try:
        ref = Ref.parse(name)
    except UsageError:  # a sample key may hold anything
        ref = Ref(name)
    with catalog.read() as connection:
        found = {kind: rows for kind, query in _KINDS.items() if (rows := _rows(connection, query, name, ref))}
        if not found:
            raise _unknown(connection, name, ref)
    return {kind: rows[0] if len(rows) == 1 else rows for kind, rows in found.items()}


def _rows(connection: duckdb.DuckDBPyConnection, query: str, name: str, ref: Ref) -> list[dict[str, Any]]:
    values = {"name": name, "base": ref.name, "version": ref.version}
    used = {key: value for key, value in values.items() if f"${key}" in query}
    return list(arrow(connection, query, used).to_pylist())


def _unknown(connection: duckdb.DuckDBPyConnection, name: str, ref: Ref) -> NotFoundError:
    versions = _rows(connection, _VERSIONS, name, ref)
    if versions:
        known = ", ".join(f"v{row['version']}" for row in versions)
        return NotFoundError(
            f"{ref.name!r} has no version {ref.version}; there is {known}.", hint=f"featstore show {ref.name}"
        )
    names = [row["name"] for row in _rows(connection, _NAMES, name, ref)]
    return NotFoundError(
        f"Nothing here is called {name!r}.{did_you_mean(ref.name, names)}", hint="featstore ls features"
    )


def status(catalog: Catalog) -> dict[str, Any]:
    """Counts of everything, ``modalities``, ``splits`` and ``unfinished`` runs."""
    with catalog.read() as connection:
        return {
            **arrow(connection, _COUNTS).to_pylist()[0],
            "modalities": arrow(connection, _MODALITIES).to_pylist(),
            "splits": arrow(connection, _SPLITS).to_pylist(),
            "unfinished": arrow(connection, _RUNNING).to_pylist(),
        }


def errors(catalog: Catalog, run_id: str | None, *, resolved: bool) -> pa.Table:
    """Failed inputs, each as it failed last; see :meth:`featstore.Store.errors`.

    Raises:
        NotFoundError: no such run.
    """
    with catalog.read() as connection:
        if run_id is not None:
            runs = arrow(connection, "SELECT run_id FROM runs ORDER BY 1").column(0).to_pylist()
            if run_id not in runs:
                raise NotFoundError(
                    f"There is no run {run_id!r}.{did_you_mean(run_id, runs)}", hint="featstore ls runs"
                )
        return arrow(connection, _FAILURES, {"run": run_id, "resolved": resolved})
