"""Which row of a tabular data set goes into which row of a table; of a dated one, never one from its future."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.catalog.alignment_inputs import ON
from featstore.catalog.connection import first, identifier
from featstore.catalog.identity import unmatched
from featstore.errors import ConflictError

if TYPE_CHECKING:
    import duckdb

    from featstore.catalog.alignment import Wanted


@dataclass(frozen=True, slots=True)
class DatedTable:
    """A tabular data set; where ``time`` is given, a patient's latest row at or before the row's own time counts."""

    name: str
    time: str | None = None
    within_s: int | None = None


def look_at(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    """How many of a tabular data set's rows are of patients here, and which ids look as if they were."""
    rows, known = first(
        connection.execute(
            f'SELECT count(*), count(DISTINCT p.id) FROM tabular."{name}" t LEFT JOIN core.patient p USING (patient_id)'
        )
    ) or (0, 0)
    alike = unmatched(connection, f'SELECT patient_id FROM tabular."{name}"')
    return {"rows": rows, "patients": known, "lookalikes": [list(pair) for pair in alike]}


def date(connection: duckdb.DuckDBPyConnection, wanted: Wanted, report: dict[str, Any]) -> None:
    """Make ``table_<m>(candidate, place, gap)`` for every tabular data set: which of its rows goes into which row, or
    why none does: ``no_row``; of a dated table also ``untimed``, ``future`` and ``too_old``.

    Of a dated table it is the latest at or before the row's own time: nothing from its future.
    """
    if wanted.as_of is not None:
        _times(connection, wanted)
    for m, table in enumerate(wanted.tables):
        _placed(connection, m, table)
        if table.time is None:
            connection.execute(
                f"CREATE TEMP TABLE table_{m} AS SELECT c.candidate, t.place, "
                "CASE WHEN t.place IS NULL THEN 'no_row' END AS gap "
                f"FROM candidates c LEFT JOIN placed_{m} t USING (patient_id)"
            )
            continue
        old = f"epoch(c.as_of - t.time) > {table.within_s}" if table.within_s is not None else "false"
        connection.execute(
            f"CREATE TEMP TABLE table_{m} AS SELECT c.candidate, c.rowless, "
            f"CASE WHEN NOT {old} THEN t.place END AS place, "
            f"CASE WHEN t.place IS NOT NULL AND NOT {old} THEN NULL WHEN t.place IS NOT NULL THEN 'too_old' "
            "WHEN c.as_of IS NULL THEN 'untimed' "
            f"WHEN c.patient_id IN (SELECT patient_id FROM placed_{m} WHERE time IS NOT NULL) THEN 'future' "
            "ELSE 'no_row' END AS gap "
            f"FROM candidates c ASOF LEFT JOIN placed_{m} t ON c.patient_id = t.patient_id AND c.as_of >= t.time"
        )
        query = f"SELECT gap, count(*) FROM table_{m} WHERE NOT rowless GROUP BY gap"
        counts = dict(connection.execute(query).fetchall())
        gaps = ("no_row", "too_old", "future", "untimed")
        report["tables"][table.name] |= {gap: int(counts.get(gap, 0)) for gap in gaps}


def _placed(connection: duckdb.DuckDBPyConnection, m: int, table: DatedTable) -> None:
    """Make ``placed_<m>``: the rows of a tabular data set with their place in the order in which it is fetched."""
    time = identifier(table.time) if table.time else "NULL"
    order = "patient_id" + (f", {time}" if table.time else "")
    connection.execute(
        f"CREATE TEMP TABLE placed_{m} AS SELECT patient_id, {time}::TIMESTAMP AS time, "
        f'row_number() OVER (ORDER BY {order}) - 1 AS place FROM tabular."{table.name}"'
    )
    if table.time is None:
        twice = first(connection.execute(f"SELECT patient_id FROM placed_{m} GROUP BY ALL HAVING count(*) > 1 LIMIT 1"))
        if twice:
            raise ConflictError(
                f"The table {table.name!r} is dated, with several rows of patient {twice[0]!r}: which is meant?",
                hint=f"--as-of acquired_at --table {table.name} --time {_time_column(connection, table.name)}",
            )
    else:
        twice = first(
            connection.execute(f"SELECT patient_id, time FROM placed_{m} GROUP BY ALL HAVING count(*) > 1 LIMIT 1")
        )
        if twice:
            raise ConflictError(
                f"{table.name!r} has two rows of patient {twice[0]!r} with the same {table.time}, {twice[1]}.",
                hint="keep one row a patient and time, and take the table in with --replace",
            )


def _time_column(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """What dates a tabular data set, as far as somebody said so."""
    known = first(connection.execute("SELECT time_column FROM core.tabular WHERE name = $name", {"name": name}))
    return str(known[0]) if known and known[0] else "COLUMN"


def _times(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> None:
    """Set ``as_of``: the earliest of the vectors that may go into a row. If one of them has no time, neither has it."""
    if isinstance(wanted.as_of, tuple):
        table, column = wanted.as_of
        connection.execute(
            f"UPDATE candidates SET as_of = t.{identifier(column)}::TIMESTAMP "
            f'FROM tabular."{table}" t WHERE t.patient_id = candidates.patient_id'
        )
        return
    every = " UNION ALL ".join(
        f"SELECT c.candidate, i.acquired_at FROM candidates c JOIN samples_{n} i ON {ON[item.per]} "
        "WHERE i.chosen AND i.segment IS NOT NULL"
        for n, item in enumerate(wanted.inputs)
    )
    connection.execute(
        "UPDATE candidates SET as_of = t.earliest FROM (SELECT candidate, min(acquired_at) AS earliest "
        f"FROM ({every}) GROUP BY candidate HAVING bool_and(acquired_at IS NOT NULL)) t "
        "WHERE t.candidate = candidates.candidate"
    )
