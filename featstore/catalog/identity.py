"""Who may be whom: what is worth a person's look, and no reason to refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.catalog.connection import first, registered

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def lookalike(column: str) -> str:
    """SQL that maps ids that look alike ("007", "7 ", "P1"/"p1", "P-1") to one text."""
    return f"ltrim(regexp_replace(lower({column}), '[^\\p{{L}}\\p{{N}}]', '', 'g'), '0')"


def lookalikes(connection: duckdb.DuckDBPyConnection, patients: str) -> list[tuple[str, str]]:
    """The first 20 pairs of patients whose ids look alike, where one or both are of those that a query of ours gives.

    Args:
        patients: gives ``patient_id``; those need not be in the catalog yet.
    """
    rows = connection.execute(
        f"WITH mine AS ({patients}), keyed AS MATERIALIZED (SELECT patient_id, {lookalike('patient_id')} AS key, "
        "patient_id IN (FROM mine) AS mine FROM (SELECT patient_id FROM core.patient UNION FROM mine)) "
        "SELECT a.patient_id, b.patient_id FROM keyed a JOIN keyed b USING (key) "
        "WHERE a.patient_id < b.patient_id AND (a.mine OR b.mine) ORDER BY ALL LIMIT 20"
    ).fetchall()
    return [(str(one), str(other)) for one, other in rows]


def match_patients(connection: duckdb.DuckDBPyConnection, rows: pa.Table) -> tuple[int, list[tuple[str, str]]]:
    """How many patients of the rows' are here, and which ids aren't any's but look as if they were."""
    with registered(connection, incoming=rows.select(["patient_id"])):
        known = first(
            connection.execute("SELECT count(DISTINCT patient_id) FROM incoming JOIN core.patient USING (patient_id)")
        )
        alike = unmatched(connection, "SELECT patient_id FROM incoming")
    return int(known[0]) if known else 0, alike


def unmatched(connection: duckdb.DuckDBPyConnection, patients: str) -> list[tuple[str, str]]:
    """The first 20 ids of a query of ours that are no patient's, but look as if they were: (theirs, ours)."""
    rows = connection.execute(
        f"WITH strange AS (SELECT patient_id FROM ({patients}) EXCEPT SELECT patient_id FROM core.patient) "
        "SELECT i.patient_id, p.patient_id FROM strange i JOIN core.patient p "
        f"ON {lookalike('i.patient_id')} = {lookalike('p.patient_id')} ORDER BY ALL LIMIT 20"
    ).fetchall()
    return [(str(theirs), str(ours)) for theirs, ours in rows]


def known_elsewhere(connection: duckdb.DuckDBPyConnection, patients: str, dataset: str) -> tuple[int, list[str]]:
    """How many of the patients that a query of ours gives are new to a data set and have samples in others.

    Returns:
        their number, and the first five ids.
    """
    count, such_as = first(
        connection.execute(
            f"SELECT count(*), list(patient_id ORDER BY patient_id)[:5] FROM (SELECT p.patient_id FROM core.patient p "
            "JOIN core.sample s ON s.patient = p.id JOIN core.dataset d ON d.id = s.dataset "
            f"WHERE p.patient_id IN ({patients}) "
            "GROUP BY p.patient_id HAVING bool_and(lower(d.name) <> lower($dataset)))",
            {"dataset": dataset},
        )
    ) or (0, None)
    return int(count), [str(patient) for patient in such_as or []]
