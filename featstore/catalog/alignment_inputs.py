"""The inputs of vectors: which samples there are, which have a vector, and why the others don't."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.order import natural
from featstore.errors import ConflictError, CorruptError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featstore.catalog.feature_sets import FeatureSet

#: How the samples ``i`` of an input find their rows ``c``.
ON = {
    "patient": "i.patient = c.patient",
    "visit": "i.patient = c.patient AND i.visit_id = c.visit_id",
    "sample": "i.sample = c.sample",
}


@dataclass(frozen=True, slots=True)
class VectorInput:
    """One input that is made of vectors.

    Attributes:
        aggregated: several rows may become one.
        per: whose rows are pooled: ``patient``, ``visit`` or ``sample``.
        max_samples: of one row of the table at most, spread evenly over their order.
        order_by: ``acquired_at``, or an attribute; None: the natural order of sample keys.
    """

    alias: str
    feature_set: FeatureSet
    modality: str | None
    aggregated: bool
    per: str = "patient"
    max_samples: int | None = None
    order_by: str | None = None

    @property
    def order(self) -> str:
        """The ORDER BY of its samples ``i``."""
        key = natural("i.sample_key")
        if self.order_by is None:
            return key
        if self.order_by == "acquired_at":
            return f"i.acquired_at, {key}"
        return f"TRY_CAST(i.attribute AS DOUBLE), i.attribute, {key}"  # slice 2 before slice 10


def gather(connection: duckdb.DuckDBPyConnection, n: int, item: VectorInput, chosen: pa.Table | None) -> dict[str, Any]:
    """Make ``samples_<n>``: every sample of an input's modality, with its current vector where it has one.

    Returns:
        the input's part of the report, as far as it is known here.

    Raises:
        NotFoundError: it has no vectors. ConflictError: it would mix modalities, or its order isn't known.
        CorruptError: a sample has two current vectors.
    """
    modality = _modality(connection, item, chosen)
    attribute = "NULL" if item.order_by in {None, "acquired_at"} else "s.attributes[$order_by]"
    # What was imported as vectors alone has no pixels: other encoders never saw it, and are not behind with it.
    query = (
        f"CREATE TEMP TABLE samples_{n} AS SELECT s.id AS sample, s.patient, s.visit_id, s.sample_key, s.acquired_at, "
        f'{attribute} AS attribute, v.segment, v."row", f.sample IS NOT NULL AS failed, '
        f"{'true' if chosen is None else 's.sample_key IN (SELECT sample_key FROM chosen)'} AS chosen "
        "FROM core.sample s LEFT JOIN (FROM core.vector WHERE feature_set = $feature_set) v "
        "ON v.sample = s.id AND v.content = s.content LEFT JOIN ("
        "SELECT DISTINCT f.sample FROM core.failure f JOIN core.segment g ON g.run = f.run JOIN core.sample o "
        "ON o.id = f.sample AND o.content = f.content WHERE f.resolved_at IS NULL AND g.feature_set = $feature_set"
        ") f ON f.sample = s.id "
        "WHERE s.modality = $modality AND (v.segment IS NOT NULL OR NOT starts_with(s.uri, 'imported:'))"
    )
    parameters: dict[str, Any] = {"feature_set": item.feature_set.id, "modality": modality}
    if attribute != "NULL":
        parameters["order_by"] = item.order_by
    if chosen is None:
        connection.execute(query, parameters)
    else:
        with registered(connection, chosen=chosen):
            connection.execute(query, parameters)
    samples, patients, unordered, twice = first(
        connection.execute(
            "SELECT count(*) FILTER (segment IS NOT NULL), count(DISTINCT patient) FILTER (segment IS NOT NULL), "
            f"count(*) FILTER (segment IS NOT NULL AND {_unordered(item)}), count(*) - count(DISTINCT sample) "
            f"FROM samples_{n} WHERE chosen"
        )
    ) or (0, 0, 0, 0)
    if twice:  # it would weigh more than others in a mean
        raise CorruptError(
            f"The catalog has {twice} vector(s) of {item.feature_set} more than once.", hint="restore it from a backup"
        )
    if not samples:
        raise NotFoundError(
            f"The input {item.alias!r} is empty: {item.feature_set} has no current vectors of modality {modality!r} "
            "that meet the --where.",
            hint="featstore ls samples",
        )
    if unordered:
        raise _no_order(connection, n, item, unordered)
    facts = {"feature_set": str(item.feature_set), "modality": modality}
    return facts | {"samples": samples, "patients": patients}


def patients(inputs: int) -> str:
    """A query for the ``patient_id`` of all whose samples the inputs take."""
    each = " UNION ".join(f"SELECT patient FROM samples_{n} WHERE chosen" for n in range(inputs))
    return f"SELECT patient_id FROM core.patient WHERE id IN ({each})"


def _modality(connection: duckdb.DuckDBPyConnection, item: VectorInput, chosen: pa.Table | None) -> str:
    """The one modality of an input."""
    query = (
        "SELECT DISTINCT s.modality FROM core.vector v JOIN core.sample s ON s.id = v.sample AND s.content = v.content "
        "WHERE v.feature_set = ?"
    )
    every = [str(r[0]) for r in connection.execute(f"{query} ORDER BY 1", [item.feature_set.id]).fetchall()]
    if item.modality in every:
        return str(item.modality)
    if item.modality is not None or not every:
        of = f" of modality {item.modality!r}" if item.modality else ""
        raise NotFoundError(
            f"The input {item.alias!r} is empty: {item.feature_set} has no current vectors{of}."
            f"{did_you_mean(item.modality or '', every)}",
            hint=f"modalities that it has: {', '.join(every) or 'none yet; run featstore extract'}",
        )
    found = every
    if chosen is not None and len(every) > 1:
        with registered(connection, chosen=chosen):
            narrowed = f"{query} AND s.sample_key IN (SELECT sample_key FROM chosen) ORDER BY 1"
            found = [str(r[0]) for r in connection.execute(narrowed, [item.feature_set.id]).fetchall()] or every[:1]
    if len(found) > 1:
        raise ConflictError(
            f"The input {item.alias!r} would mix modalities: {item.feature_set} has {', '.join(found)}.",
            hint=f"name one: --input {item.alias}={item.feature_set}/{found[0]}:mean",
        )
    return found[0]


def _unordered(item: VectorInput) -> str:
    column = {None: None, "acquired_at": "acquired_at"}.get(item.order_by, "attribute")
    return f"{column} IS NULL" if column else "false"


def _no_order(connection: duckdb.DuckDBPyConnection, n: int, item: VectorInput, count: int) -> ConflictError:
    such = first(connection.execute(f"SELECT min(sample_key) FROM samples_{n} WHERE {_unordered(item)}")) or ("",)
    known = connection.execute(
        f"SELECT DISTINCT unnest(map_keys(attributes)) FROM core.sample WHERE id IN (SELECT sample FROM samples_{n}) "
        "ORDER BY 1"
    ).fetchall()
    names = [name for name in ("acquired_at", *(str(r[0]) for r in known)) if name != item.order_by]
    return ConflictError(
        f"{count} sample(s) of the input {item.alias!r} have no {item.order_by!r} to be in order of, such as "
        f"{such[0]!r}.{did_you_mean(str(item.order_by), names)}",
        hint=f"--order-by one of: {', '.join(names)}",
    )


def use(connection: duckdb.DuckDBPyConnection, n: int, item: VectorInput) -> int:
    """Make ``used_<n>``: the samples that go into each row of ``aligned``; returns how many ``max_samples`` left out.

    Raises:
        ConflictError: a row would have several vectors, and nothing says how they become one.
    """
    source = f"aligned c JOIN samples_{n} i ON {ON[item.per]} WHERE i.chosen AND i.segment IS NOT NULL"
    # Of one vector a row there is no order; to find one costs more than the rest.
    place = f"row_number() OVER (PARTITION BY c.position ORDER BY {item.order}) - 1" if item.aggregated else "0"
    total = "count(*) OVER (PARTITION BY c.position)" if item.aggregated else "1"
    connection.execute(
        f'CREATE TEMP TABLE used_{n} AS SELECT c.position, i.sample, i.sample_key, i.segment, i."row", '
        f"{place} AS place, {total} AS total FROM {source}"
    )
    if not item.aggregated:
        samples, rows = first(connection.execute(f"SELECT count(*), count(DISTINCT position) FROM used_{n}")) or (0, 0)
        if samples > rows:
            modality = f"/{item.modality}" if item.modality else ""
            raise ConflictError(
                f"The input {item.alias!r} has several rows of a {item.per}: {samples} of {rows} {item.per}s.",
                hint=f"say how they become one: --input {item.alias}={item.feature_set}{modality}:mean",
            )
    if item.max_samples is None or not item.aggregated:
        return 0
    # Of n samples, those at (j + 1/2) n / most, rounded down, for j below most: spread evenly, the middle one of all.
    before, after = (
        f"(2 * {item.max_samples} * {place} + total - 1) // (2 * total)" for place in ("place", "(place + 1)")
    )
    row = first(
        connection.execute(
            f"DELETE FROM used_{n} WHERE total > {item.max_samples} AND {before} = {after}",
        )
    )
    return int(row[0]) if row else 0


def pointers(connection: duckdb.DuckDBPyConnection, n: int, alias: str) -> tuple[pa.Table, list[int]]:
    """``position, alias, segment, row, sample_key, content`` in order, and the surrogate ids of the runs that made
    those vectors; content is a number, equal where samples have the same bytes, and null where nobody knows them.
    """
    rows = arrow(
        connection,
        'SELECT position, $alias AS alias, segment, "row", u.sample_key, '
        "CASE WHEN s.content_hash IS NOT NULL THEN hash(s.content_hash) END AS content "
        f"FROM used_{n} u JOIN core.sample s ON s.id = u.sample ORDER BY position, place, u.sample_key",
        {"alias": alias},
    )
    runs = connection.execute(
        f"SELECT DISTINCT g.run FROM used_{n} u JOIN core.segment g ON g.id = u.segment ORDER BY 1"
    ).fetchall()
    return rows.combine_chunks(), [int(row[0]) for row in runs]  # numbers in one piece needn't be copied again
