"""What leaks, as far as the catalog can tell: asked of the temporary tables that aligning leaves.

``judged``, ``aligned``, ``used_<n>`` and ``samples_<n>``, see :mod:`featstore.catalog.alignment`, one n an input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.catalog.alignment_inputs import ON, VectorInput
from featstore.catalog.connection import arrow, registered
from featstore.catalog.trained import WEIGHTS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Offending rows that are told one by one; all are counted.
MOST = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """Offending rows: the first :data:`MOST`, and how many there are."""

    rows: list[dict[str, Any]]
    count: int


def split_overlap(connection: duckdb.DuckDBPyConnection) -> Found:
    """Patients whose rows are in several splits: ``patient_id, splits``."""
    return _found(
        connection,
        "SELECT patient_id, list(DISTINCT split ORDER BY split) AS splits FROM aligned "
        "GROUP BY patient, patient_id HAVING count(DISTINCT split) > 1 ORDER BY patient_id",
    )


def same_content(connection: duckdb.DuckDBPyConnection, inputs: int, *, everyone: bool = False) -> Found:
    """Samples whose decoded bytes are those of another patient's sample in another split.

    Masks don't count: another region of the same picture is still the same picture. Samples without a hash, whose
    vectors were imported, aren't looked at.

    Args:
        everyone: other patients of the same split, and rows without a split, count too.

    Returns:
        of n samples with one content, n − 1 pairs, so that each stands in one: ``patient_id, split, sample_key`` and
        the same with ``other_``.
    """
    used = " UNION ALL ".join(f"SELECT position, sample FROM used_{n}" for n in range(inputs))
    apart = "patient_id" if everyone else "split"
    # Numbers first: millions of texts needn't be grouped where hardly any is there twice.
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE shared AS SELECT h "
        "FROM (SELECT id, hash(content_hash) AS h FROM core.sample WHERE content_hash IS NOT NULL) s "
        f"JOIN ({used}) u ON u.sample = s.id JOIN aligned a USING (position) WHERE a.{apart} IS NOT NULL "
        f"GROUP BY h HAVING min(a.{apart}) <> max(a.{apart})"
    )
    found = _found(
        connection,
        "WITH held AS (SELECT DISTINCT s.content_hash, a.patient_id, a.split, s.sample_key "
        f"FROM core.sample s JOIN ({used}) u ON u.sample = s.id JOIN aligned a USING (position) "
        f"WHERE hash(s.content_hash) IN (SELECT h FROM temp.shared) AND a.{apart} IS NOT NULL), "
        "ends AS (SELECT h.*, first_value(h) OVER w AS f, last_value(h) OVER w AS l FROM held h "
        f"WINDOW w AS (PARTITION BY content_hash ORDER BY {apart}, patient_id, sample_key "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)), "
        f"pairs AS (SELECT *, CASE WHEN {apart} = f.{apart} THEN l ELSE f END AS o FROM ends "
        f"WHERE f.{apart} <> l.{apart} AND sample_key <> f.sample_key) "
        "SELECT patient_id, split, sample_key, o.patient_id AS other_patient_id, o.split AS other_split, "
        "o.sample_key AS other_sample_key FROM pairs ORDER BY ALL",
    )
    connection.execute("DROP TABLE temp.shared")
    return found


def fine_tuned(connection: duckdb.DuckDBPyConnection, inputs: Sequence[VectorInput]) -> Found:
    """Patients held out here that an input's weights were trained on, as far as somebody said so.

    Of a scheme of folds every fold is held out once, and none is called train.

    Returns:
        one a patient: ``patient_id, split, inputs, feature_sets, runs``, the last of those that say so.
    """
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    for n, item in enumerate(inputs):
        parts.append(
            f"SELECT $alias_{n} AS input, $name_{n} AS feature_set, a.patient_id, a.split, r.run_id "
            f"FROM core.feature_set f JOIN core.trained_on t ON t.model_version = {WEIGHTS} "
            "JOIN aligned a ON a.patient_id = t.patient_id JOIN core.run r ON r.id = t.run "
            f"WHERE f.id = $id_{n} AND a.split <> 'train' AND a.position IN (SELECT position FROM used_{n})"
        )
        parameters |= {f"alias_{n}": item.alias, f"name_{n}": str(item.feature_set), f"id_{n}": item.feature_set.id}
    each = ", ".join(f"list(DISTINCT {c} ORDER BY {c}) AS {c}s" for c in ("input", "feature_set", "run_id"))
    return _found(
        connection,
        f"SELECT patient_id, split, {each.replace('run_ids', 'runs')} FROM ({' UNION ALL '.join(parts)}) "
        "GROUP BY patient_id, split ORDER BY patient_id",
        parameters,
    )


def older_versions(connection: duckdb.DuckDBPyConnection, inputs: Sequence[VectorInput]) -> Found:
    """Inputs of an older version of a feature set whose newer one has vectors: ``input, feature_set, latest``."""
    rows = []
    for item in inputs:
        latest = connection.execute(
            "SELECT max(version) FROM core.feature_set WHERE name = ? AND version > ? "
            "AND id IN (SELECT feature_set FROM core.coverage WHERE extracted > 0)",
            [item.feature_set.name, item.feature_set.version],
        ).fetchall()[0][0]
        if latest is not None:
            name = item.feature_set.name
            rows.append({"input": item.alias, "feature_set": str(item.feature_set), "latest": f"{name}@v{latest}"})
    return Found(rows, len(rows))


def outdated(connection: duckdb.DuckDBPyConnection, inputs: Sequence[VectorInput]) -> Found:
    """Samples of the table's rows whose content is another one than when their vector was made.

    They have no current vector, so that a row would be made of those that are left; where none is left, there would be
    no row. What failed since is counted in the report, and no extraction would mend it.

    Returns:
        ``input, feature_set, patient_id, split, sample_key``, and ``anew``: there is a vector of the content of now.
    """
    parts: list[str] = []
    parameters: dict[str, Any] = {}
    for n, item in enumerate(inputs):
        parts.append(
            f"SELECT {n} AS n, $alias_{n} AS input, $name_{n} AS feature_set, c.patient_id, c.split, i.sample_key, "
            "i.sample IN (SELECT v.sample FROM core.vector v JOIN core.sample s ON s.id = v.sample "
            f"AND s.content = v.content WHERE v.feature_set = $id_{n}) AS anew "
            f"FROM samples_{n} i JOIN judged c ON {ON[item.per]} WHERE i.chosen AND i.segment IS NULL "
            f"AND NOT i.failed AND i.sample IN (SELECT sample FROM core.vector WHERE feature_set = $id_{n}) "
            f"AND (c.reason IS NULL OR starts_with(c.reason, $lost_{n}) "
            "OR starts_with(c.reason, 'without any of the inputs') OR starts_with(c.reason, 'with fewer than '))"
        )
        parameters |= {f"alias_{n}": item.alias, f"name_{n}": str(item.feature_set), f"id_{n}": item.feature_set.id}
        parameters[f"lost_{n}"] = f"without {item.alias!r}: not extracted"
    query = f"SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)}) ORDER BY n, patient_id, sample_key"
    return _found(connection, f"SELECT * EXCLUDE (n) FROM ({query})", parameters)


def align_rows(connection: duckdb.DuckDBPyConnection, rows: pa.Table, scheme: int | None) -> None:
    """Make ``judged`` and ``aligned`` of rows that are aligned already, those of a table that was made.

    Args:
        rows: in their order: ``patient_id, split, label, label_type``, and ``visit_id, sample_key, time`` if there.
        scheme: take the splits of this one instead.
    """
    names = {"visit_id": "VARCHAR", "sample_key": "VARCHAR", "time": "DOUBLE"}
    columns = [f"r.{n}" if n in rows.column_names else f"NULL::{kind} AS {n}" for n, kind in names.items()]
    split = "r.split" if scheme is None else "x.split"
    with registered(connection, given=_numbered(rows)):
        connection.execute(
            f"CREATE TEMP TABLE aligned AS SELECT r.position, p.id AS patient, r.patient_id, {split}, r.label, "
            f"r.label_type, {', '.join(columns)} FROM given r LEFT JOIN core.patient p USING (patient_id) "
            "LEFT JOIN (FROM core.split WHERE scheme = $scheme) x ON x.patient = p.id",
            {"scheme": scheme},
        )
    connection.execute("CREATE TEMP VIEW judged AS SELECT *, NULL::VARCHAR AS reason FROM aligned")


def use_pointers(connection: duckdb.DuckDBPyConnection, n: int, item: VectorInput, pointers: pa.Table) -> None:
    """Make ``used_<n>`` and ``samples_<n>`` of ``position, sample_key, segment, row``.

    A sample has no vector (``segment``) where the content that it was made of isn't the current one.
    """
    with registered(connection, given=pointers):
        connection.execute(
            f'CREATE TEMP TABLE used_{n} AS SELECT g.position, s.id AS sample, g.sample_key, g.segment, g."row", '
            "0 AS place FROM given g JOIN core.sample s USING (sample_key)"
        )
    connection.execute(
        f"CREATE TEMP TABLE samples_{n} AS SELECT DISTINCT s.id AS sample, s.patient, s.visit_id, s.sample_key, "
        f"v.segment, false AS failed, true AS chosen FROM used_{n} u JOIN core.sample s ON s.id = u.sample "
        "LEFT JOIN (FROM core.vector WHERE feature_set = $id) v ON v.sample = s.id AND v.content = s.content "
        'AND v.segment = u.segment AND v."row" = u."row"',
        {"id": item.feature_set.id},
    )


def use_current(connection: duckdb.DuckDBPyConnection, n: int, item: VectorInput) -> None:
    """Add to ``samples_<n>`` what had a vector of an input and has none of its current content."""
    connection.execute(
        f"INSERT INTO samples_{n} SELECT s.id, s.patient, s.visit_id, s.sample_key, NULL, false, true "
        "FROM core.sample s "
        "WHERE s.id IN (SELECT sample FROM core.vector WHERE feature_set = $id) "
        f"AND s.id NOT IN (SELECT sample FROM used_{n}) AND s.id NOT IN ("
        "SELECT f.sample FROM core.failure f JOIN core.segment g ON g.run = f.run JOIN core.sample o "
        "ON o.id = f.sample AND o.content = f.content WHERE f.resolved_at IS NULL AND g.feature_set = $id)",
        {"id": item.feature_set.id},
    )


def rows(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Whose the rows of ``aligned`` are, in their order: ``patient_id, visit_id, sample_key, split``."""
    return arrow(connection, "SELECT patient_id, visit_id, sample_key, split FROM aligned ORDER BY position")


def _numbered(rows: pa.Table) -> pa.Table:
    import pyarrow as pa

    return rows.append_column("position", pa.array(range(rows.num_rows), pa.int64()))


def _found(connection: duckdb.DuckDBPyConnection, query: str, parameters: dict[str, Any] | None = None) -> Found:
    rows = arrow(connection, f"SELECT *, count(*) OVER () AS count FROM ({query}) LIMIT {MOST}", parameters)
    count = rows.column("count")[0].as_py() if rows.num_rows else 0
    return Found(rows.drop_columns(["count"]).to_pylist(), count)
