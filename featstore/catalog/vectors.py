"""Pointers to vectors: what is pending, and how receipts become rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.order import natural
from featstore.catalog.samples import IMPORTED, recount

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


#: What is known of the bytes of a sample, and of those of its mask: hash, size and time.
_IMAGE = ("content_hash", "size", "mtime_ns")
_MASK = ("mask_hash", "mask_size", "mask_mtime_ns")


def modalities(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The modalities that there are samples of."""
    return [str(r[0]) for r in connection.execute("SELECT DISTINCT modality FROM core.sample ORDER BY 1").fetchall()]


def select(connection: duckdb.DuckDBPyConnection, modalities: Sequence[str], chosen: pa.Table | None) -> int:
    """Make the temporary table ``temp.selected`` of the samples that an extraction is about; returns how many.

    Those that an import made have no bytes to extract from.

    Args:
        chosen: a table of ``sample_key`` that a user's condition gave, or None for all.
    """
    condition = "true"
    if modalities:
        condition = "s.modality IN (SELECT unnest($modalities))"
    query = (
        "CREATE OR REPLACE TEMP TABLE selected AS SELECT s.id, s.content, s.sample_key, s.uri, s.mask_uri "
        f"FROM core.sample s WHERE {condition} AND NOT starts_with(s.uri, '{IMPORTED}')"
    )
    parameters = {"modalities": list(modalities)} if modalities else {}
    if chosen is None:
        connection.execute(query, parameters)
    else:
        with registered(connection, chosen=chosen):
            connection.execute(f"{query} AND s.sample_key IN (SELECT sample_key FROM chosen)", parameters)
    row = first(connection.execute("SELECT count(*) FROM temp.selected"))
    assert row
    return int(row[0])


def pending(connection: duckdb.DuckDBPyConnection, feature_sets: Sequence[int | None]) -> pa.Table:
    """The selected samples that lack a current vector of some of the given feature sets.

    Args:
        feature_sets: ids; None for one that doesn't exist yet, which lacks them all.

    Returns:
        ``sample, content, sample_key, uri, mask_uri``, and ``lacks``: a list of bool, one a feature set. By lacks, then
        in natural order of sample_key, so that equal ones stand together in a fixed order.
    """
    lacks = ", ".join(
        "true" if feature_set is None else
        f"NOT EXISTS (FROM core.vector v WHERE v.feature_set = {int(feature_set)} AND v.sample = s.id "
        "AND v.content = s.content)"
        for feature_set in feature_sets
    )  # fmt: skip
    return arrow(
        connection,
        "SELECT id AS sample, content, sample_key, uri, mask_uri, lacks "
        f"FROM (SELECT *, [{lacks}] AS lacks FROM temp.selected s) "
        f"WHERE list_contains(lacks, true) ORDER BY lacks DESC, {natural('sample_key')}",
    )


def known_failures(
    connection: duckdb.DuckDBPyConnection, feature_sets: Sequence[int]
) -> list[tuple[int, str, str | None, str]]:
    """Samples whose current content failed for these feature sets: id, uri, mask_uri, state of the file as it failed
    last.
    """
    if not feature_sets:
        return []
    return connection.execute(
        "SELECT s.id, s.uri, s.mask_uri, arg_max(f.file_state, f.failed_at) FROM core.failure f "
        "JOIN core.segment g ON g.run = f.run JOIN core.sample s ON s.id = f.sample AND s.content = f.content "
        "WHERE f.resolved_at IS NULL AND g.feature_set IN (SELECT unnest(?)) "
        "GROUP BY s.id, s.uri, s.mask_uri HAVING count(DISTINCT g.feature_set) = ?",
        [list(feature_sets), len(feature_sets)],
    ).fetchall()


def dataset_roots(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The folders that samples were ingested from."""
    return [str(row[0]) for row in connection.execute("SELECT DISTINCT root FROM core.dataset ORDER BY 1").fetchall()]


def absorbed(connection: duckdb.DuckDBPyConnection, run: int) -> set[int]:
    """The chunks of a run that the catalog has."""
    return {int(row[0]) for row in connection.execute("SELECT chunk FROM core.chunk WHERE run = ?", [run]).fetchall()}


def contradicted(
    connection: duckdb.DuckDBPyConnection, reads: pa.Table, *, masks: bool = False
) -> list[tuple[int, str, int, int]]:
    """Reads of other bytes than the catalog's, from a file that was older: sample, uri, size and mtime_ns as read.

    Either the file was read before the catalog's bytes were, or an older file was put in its place since.

    Args:
        masks: of the samples' masks, and not of their own files.
    """
    (hash, size, mtime_ns), uri, same = _IMAGE, "uri", ""
    if masks:
        (hash, size, mtime_ns), uri, same = _MASK, "mask_uri", " AND s.mask_uri = r.mask_uri"
    with registered(connection, reads=reads):
        return connection.execute(
            f"SELECT r.sample, s.{uri}, r.{size}, r.{mtime_ns} FROM reads r JOIN core.sample s ON s.id = r.sample "
            f"WHERE s.content = r.content{same} AND s.{hash} <> r.{hash} AND r.{mtime_ns} < s.{mtime_ns}"
        ).fetchall()


def masks_differ(connection: duckdb.DuckDBPyConnection, planned: pa.Table) -> bool:
    """Whether samples have other masks by now than a plan's rows say: ``sample, mask_uri``."""
    with registered(connection, planned=planned.select(["sample", "mask_uri"])):
        return bool(
            first(
                connection.execute(
                    "SELECT 1 FROM planned p JOIN core.sample s ON s.id = p.sample "
                    "WHERE s.mask_uri IS DISTINCT FROM p.mask_uri LIMIT 1"
                )
            )
        )


def absorb(
    connection: duckdb.DuckDBPyConnection,
    run: int,
    chunks: Sequence[int],
    reads: pa.Table,
    vectors: pa.Table,
    failures: pa.Table,
    now: datetime,
    *,
    put_back: Sequence[int] = (),
    masks_put_back: Sequence[int] = (),
) -> int:
    """Put the receipts of some chunks into the catalog, inside the caller's transaction.

    Args:
        reads: ``sample, content, content_hash, size, mtime_ns, mask_uri, mask_hash, mask_size, mask_mtime_ns`` of every
            input whose bytes were read and decoded; ``content`` and ``mask_uri`` are the plan's, the last three NULL
            where no mask was read.
        vectors: ``sample, feature_set, segment, row, regions`` of every valid vector; ``regions`` if it is of a mask.
        failures: ``sample, content, file_state, stage, error, message, failed_at``, one a failed input.
        put_back, masks_put_back: samples whose older-looking bytes are those that the file has now; see
            :func:`contradicted`.

    Returns:
        how many samples' contents turned out to have changed, so that older vectors of theirs are stale.
    """
    connection.execute("CREATE OR REPLACE TEMP TABLE fresh (sample BIGINT, content INTEGER, mask BOOLEAN)")
    with registered(connection, reads=reads, incoming=vectors, failures=failures):
        changed = _settle_contents(connection, put_back, masks_put_back)
        connection.execute(
            "CREATE OR REPLACE TEMP TABLE added AS SELECT i.sample, i.feature_set, i.segment, i.row, f.content "
            "FROM incoming i JOIN temp.fresh f ON f.sample = i.sample AND (f.mask OR NOT i.regions) "
            "WHERE NOT EXISTS (FROM core.vector v WHERE v.feature_set = i.feature_set AND v.sample = i.sample "
            "AND v.content = f.content "
            "AND v.feature_set IN (SELECT DISTINCT feature_set FROM incoming)) ORDER BY i.segment, i.row"
        )
        add_pointers(connection, now)
        if changed:
            recount(connection, "SELECT s.patient FROM core.sample s JOIN temp.fresh f ON f.sample = s.id")
        connection.execute(
            "INSERT INTO core.failure SELECT ?, sample, content, file_state, stage, error, message, failed_at, NULL "
            "FROM failures ORDER BY sample",
            [run],
        )
        resolve_failures(connection, run, now)
        connection.executemany("INSERT INTO core.chunk VALUES (?, ?)", [[run, chunk] for chunk in chunks])
        connection.execute(
            "UPDATE core.run SET done = done + $done, failed = failed + $failed WHERE id = $run",
            {"done": _ok(reads, failures), "failed": failures.num_rows, "run": run},
        )
    connection.execute("DROP TABLE temp.fresh")
    connection.execute("DROP TABLE temp.added")
    return changed


def _ok(reads: pa.Table, failures: pa.Table) -> int:
    failed = set(failures.column("sample").to_pylist())
    return sum(sample not in failed for sample in reads.column("sample").to_pylist())


def _settle_contents(
    connection: duckdb.DuckDBPyConnection, put_back: Sequence[int], masks_put_back: Sequence[int]
) -> int:
    """Fill ``temp.fresh`` with the samples whose read bytes are current, with their content's number.

    - Unknown hash: the bytes read are what the sample is, unless it was ingested anew since the plan and the file read
      wasn't that newer one.
    - Same hash: current.
    - Another hash: the file changed since somebody read it. What was read last counts; older vectors are stale. The
      later time of the file tells what was read last, unless an older file was put back.

    A mask is told in the same way, and by its name as well; ``mask`` of ``temp.fresh`` says whether it is current.

    Returns how many samples' contents changed.
    """
    mask = "CASE WHEN r.mask_hash IS NULL OR s.mask_uri IS DISTINCT FROM r.mask_uri THEN 'stale' " + _verdict(
        "mask_hash", "mask_size", "mask_mtime_ns", "$masks_put_back"
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE settled AS SELECT r.*, "
        f"CASE {_verdict(*_IMAGE, '$put_back')} AS what, {mask} AS of_mask "
        "FROM reads r JOIN core.sample s ON s.id = r.sample",
        {"put_back": list(put_back), "masks_put_back": list(masks_put_back)},
    )
    connection.execute("DELETE FROM temp.settled WHERE what = 'stale'")
    changed = "(t.what = 'changed' OR t.of_mask = 'changed')"
    taken = [  # in one statement: each looks through all samples
        f"{column} = CASE WHEN t.{verdict} IN ('first', 'changed') THEN t.{column} ELSE s.{column} END"
        for verdict, columns in (("what", _IMAGE), ("of_mask", _MASK))
        for column in columns
    ]
    connection.execute(
        f"UPDATE core.sample s SET {', '.join(taken)}, content = s.content + {changed}::INTEGER FROM temp.settled t "
        "WHERE t.sample = s.id AND (t.what <> 'same' OR t.of_mask IN ('first', 'changed'))"
    )
    connection.execute(
        "INSERT INTO temp.fresh SELECT s.id, s.content, t.of_mask <> 'stale' FROM core.sample s "
        "JOIN temp.settled t ON t.sample = s.id"
    )
    row = first(connection.execute(f"SELECT count(*) FROM temp.settled t WHERE {changed}"))
    connection.execute("DROP TABLE temp.settled")
    assert row
    return int(row[0])


def _verdict(hash: str, size: str, mtime_ns: str, put_back: str) -> str:
    """The end of a CASE: what the bytes read are to the sample, ``same``, ``first``, ``changed`` or ``stale``."""
    return (
        f"WHEN s.{hash} = r.{hash} THEN 'same' "
        f"WHEN s.{hash} IS NULL "
        f"AND (s.content = r.content OR (s.{size} = r.{size} AND s.{mtime_ns} = r.{mtime_ns})) THEN 'first' "
        f"WHEN s.{hash} IS NOT NULL AND s.content = r.content "
        f"AND (r.{mtime_ns} >= s.{mtime_ns} OR list_contains({put_back}, r.sample)) THEN 'changed' "
        "ELSE 'stale' END"
    )


def add_pointers(connection: duckdb.DuckDBPyConnection, now: datetime) -> None:
    """Put the rows of ``temp.added`` among the vectors, and count them."""
    connection.execute(
        "INSERT INTO core.vector SELECT sample, feature_set, segment, row, content, ? FROM temp.added "
        "ORDER BY segment, row",
        [now],
    )
    connection.execute(
        "INSERT INTO core.coverage SELECT a.feature_set, s.patient, s.modality, count(*) FROM temp.added a "
        "JOIN core.sample s ON s.id = a.sample GROUP BY ALL "
        "ON CONFLICT DO UPDATE SET extracted = extracted + excluded.extracted"
    )


def resolve_failures(connection: duckdb.DuckDBPyConnection, run: int, now: datetime) -> None:
    """A failure is resolved once every feature set of its run, or a later version of it, has a current vector of that
    sample: another window or crop may have been what the input wanted.
    """
    if not first(
        connection.execute(
            "SELECT 1 FROM core.failure WHERE resolved_at IS NULL AND sample IN (SELECT sample FROM temp.added) LIMIT 1"
        )
    ):
        return  # nearly always; what follows looks through the vectors
    connection.execute(
        "UPDATE core.failure f SET resolved_at = ? WHERE f.resolved_at IS NULL AND f.run <> ? "
        "AND f.sample IN (SELECT sample FROM temp.added) AND NOT EXISTS ("
        "SELECT 1 FROM core.segment g JOIN core.feature_set o ON o.id = g.feature_set WHERE g.run = f.run "
        "AND NOT EXISTS ("
        "SELECT 1 FROM core.vector v JOIN core.sample s ON s.id = v.sample AND s.content = v.content "
        "JOIN core.feature_set n ON n.id = v.feature_set AND n.name = o.name AND n.version >= o.version "
        "WHERE v.sample = f.sample))",
        [now, run],
    )
