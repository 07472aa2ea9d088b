"""What an import asks of the catalog, and puts into it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog import vectors
from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.feature_sets import FeatureSet, get
from featstore.keys import Ref

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: What counts imports of one origin whose vectors differ: the first has none.
COUNTER = "version_of_origin"


def known(connection: duckdb.DuckDBPyConnection, sample_keys: pa.Table) -> pa.Table:
    """The samples of some keys that are there.

    Args:
        sample_keys: a table of ``sample_key``.

    Returns:
        ``sample_key, sample, content, uri, size, mtime_ns, patient_id, modality, attributes, dataset, root``.
    """
    with registered(connection, wanted=sample_keys):
        return arrow(
            connection,
            "SELECT s.sample_key, s.id AS sample, s.content, s.uri, s.size, s.mtime_ns, p.patient_id, s.modality, "
            "s.attributes, d.name AS dataset, d.root FROM core.sample s JOIN core.patient p ON p.id = s.patient "
            "JOIN core.dataset d ON d.id = s.dataset WHERE s.sample_key IN (SELECT sample_key FROM wanted) "
            "ORDER BY s.sample_key",
        )


def of_files(connection: duckdb.DuckDBPyConnection, uris: pa.Table) -> Sequence[tuple[str, str, str]]:
    """The samples of some files: uri, sample_key, data set. A table of ``uri``."""
    with registered(connection, wanted=uris):
        return connection.execute(
            "SELECT s.uri, s.sample_key, d.name FROM core.sample s JOIN core.dataset d ON d.id = s.dataset "
            "WHERE s.uri IN (SELECT uri FROM wanted) ORDER BY ALL"
        ).fetchall()


def below(connection: duckdb.DuckDBPyConnection, names: pa.Table) -> Sequence[tuple[str, int]]:
    """The data sets that have samples of these names after their own, and how many; most first."""
    with registered(connection, wanted=names):
        return connection.execute(
            "SELECT d.name, count(*) FROM core.sample s JOIN core.dataset d ON d.id = s.dataset WHERE "
            "substr(s.sample_key, length(d.name) + 2) IN (SELECT below FROM wanted) GROUP BY ALL ORDER BY 2 DESC, 1"
        ).fetchall()


def label_types(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The types that labels have."""
    query = "SELECT DISTINCT label_type FROM core.patient WHERE label_type IS NOT NULL ORDER BY 1"
    return [str(row[0]) for row in connection.execute(query).fetchall()]


def dataset_root(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Where a data set was ingested from; None where there is none of that name."""
    row = first(connection.execute("SELECT root FROM core.dataset WHERE lower(name) = lower(?)", [name]))
    return str(row[0]) if row else None


def of_origin(
    connection: duckdb.DuckDBPyConnection, name: str, config: Mapping[str, Any]
) -> tuple[FeatureSet | None, int, list[int]]:
    """The version of a feature set that was imported with this configuration.

    Returns:
        the latest such version, or None; its counter; and the versions of that name that were made otherwise.
    """
    rows = connection.execute(
        "SELECT version, config FROM core.feature_set WHERE name = ? ORDER BY version", [name]
    ).fetchall()
    latest, counter, others = None, 0, []
    for version, text in rows:
        theirs = json.loads(text)
        number = theirs.pop(COUNTER, 1)
        if theirs == dict(config):
            latest, counter = version, number
        else:
            others.append(version)
    return None if latest is None else get(connection, Ref(name, latest)), counter, others


def exists(connection: duckdb.DuckDBPyConnection, name: str, version: int) -> bool:
    """Whether there is this version of a feature set."""
    query = "SELECT 1 FROM core.feature_set WHERE name = ? AND version = ?"
    return first(connection.execute(query, [name, version])) is not None


def next_version(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """The version that a new feature set of this name gets."""
    row = first(connection.execute("SELECT coalesce(max(version), 0) + 1 FROM core.feature_set WHERE name = ?", [name]))
    assert row
    return int(row[0])


def held(connection: duckdb.DuckDBPyConnection, feature_set: int, samples: pa.Table) -> pa.Table:
    """The last vector that a feature set has of each of some samples.

    Args:
        samples: a table of ``sample``.

    Returns:
        ``sample, segment, row, current``: not current where the sample's bytes have changed since.
    """
    with registered(connection, wanted=samples):
        return arrow(
            connection,
            'SELECT v.sample, v.segment, v."row", v.content = s.content AS current FROM core.vector v '
            "JOIN core.sample s ON s.id = v.sample WHERE v.feature_set = $feature_set "
            "AND v.sample IN (SELECT sample FROM wanted) "
            "QUALIFY row_number() OVER (PARTITION BY v.sample ORDER BY v.content DESC) = 1 ORDER BY v.sample",
            {"feature_set": feature_set},
        )


def failed(connection: duckdb.DuckDBPyConnection, feature_set: int) -> set[int]:
    """Samples whose current content has an unresolved failure of this feature set."""
    rows = connection.execute(
        "SELECT DISTINCT f.sample FROM core.failure f JOIN core.segment g ON g.run = f.run "
        "JOIN core.sample s ON s.id = f.sample AND s.content = f.content "
        "WHERE g.feature_set = ? AND f.resolved_at IS NULL",
        [feature_set],
    ).fetchall()
    return {int(row[0]) for row in rows}


def add_vectors(
    connection: duckdb.DuckDBPyConnection, run: int, feature_set: int, segment: int, rows: pa.Table, now: datetime
) -> None:
    """Point to a segment's rows, and record its failures.

    Args:
        rows: ``sample_key, row, error, message, file_state`` of each row of the segment; ``error`` is null where it
            holds a vector.
    """
    with registered(connection, rows_in=rows):
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE added AS SELECT s.id AS sample, $feature_set::INTEGER AS feature_set, "
            '$segment::INTEGER AS segment, i."row", s.content FROM rows_in i JOIN core.sample s USING (sample_key) '
            'WHERE i.error IS NULL ORDER BY i."row"',
            {"feature_set": feature_set, "segment": segment},
        )
        connection.execute(
            "INSERT INTO core.failure SELECT ?, s.id, s.content, i.file_state, 'import', i.error, i.message, ?, NULL "
            "FROM rows_in i JOIN core.sample s USING (sample_key) WHERE i.error IS NOT NULL ORDER BY s.id",
            [run, now],
        )
    done = rows.column("error").null_count
    vectors.add_pointers(connection, now)
    vectors.resolve_failures(connection, run, now)
    connection.execute(
        "UPDATE core.run SET done = $done, failed = $failed WHERE id = $run",
        {"done": done, "failed": rows.num_rows - done, "run": run},
    )
    connection.execute("DROP TABLE temp.added")


def contradicted(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> Sequence[tuple[str, str, str, str]]:
    """Attributes that rows say otherwise than the catalog does: sample_key, attribute, the catalog's value, theirs."""
    with registered(connection, incoming=rows):
        return connection.execute(
            "SELECT i.sample_key, i.entry.key, s.attributes[i.entry.key], i.entry.value FROM "
            "(SELECT sample_key, unnest(map_entries(attributes)) AS entry FROM incoming) i "
            "JOIN core.sample s USING (sample_key) WHERE s.attributes[i.entry.key] <> i.entry.value ORDER BY ALL"
        ).fetchall()
