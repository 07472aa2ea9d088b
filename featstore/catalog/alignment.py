"""Aligning inputs by patient, visit or sample, in SQL: never by position. Whoever is lost is counted, with the reason.

Within one connection, :func:`align` leaves temporary tables that the checks for leakage look at:

- ``aligned(position, patient, patient_id, visit_id, sample_key, split, label, label_type, …)``: a table's rows
- ``used_<n>(position, sample, sample_key, segment, row, place)``: the stored vectors that go into each row from input
  n, and in which order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featstore.catalog import alignment_inputs as inputs_sql
from featstore.catalog import alignment_rows as rows_sql
from featstore.catalog import alignment_tables as tables_sql
from featstore.catalog.alignment_inputs import VectorInput
from featstore.catalog.alignment_labels import Labels
from featstore.catalog.alignment_tables import DatedTable
from featstore.catalog.connection import arrow
from featstore.catalog.identity import lookalikes
from featstore.catalog.tabular import run_of
from featstore.errors import NotFoundError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: What names a row of each entity.
KEYS = {
    "patient": ("patient_id",),
    "visit": ("patient_id", "visit_id"),
    "sample": ("patient_id", "visit_id", "sample_key"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be aligned.

    Attributes:
        tables: the tabular data sets; those that are dated with what dates them.
        scheme: its id and name; None for rows without splits.
        chosen: a table of ``sample_key`` to keep to, or None for all.
        as_of: the time of a row: ``acquired_at``, or ``(table, column)``.
        without: rows that aren't wanted, by their keys (:data:`KEYS`).
    """

    entity: str
    inputs: Sequence[VectorInput]
    tables: Sequence[DatedTable]
    labels: Labels
    scheme: tuple[int, str] | None = None
    join: str = "inner"
    min_modalities: int | None = None
    chosen: pa.Table | None = None
    as_of: str | tuple[str, str] | None = None
    without: pa.Table | None = None


@dataclass(slots=True)
class Alignment:
    """What a table is made of.

    Attributes:
        rows: the table's rows, in their order: the keys (:data:`KEYS`), ``split, label, label_type``; of survival also
            ``time, event``.
        pointers: alias → ``position, alias, segment, row, sample_key, content``, by position and the order that was
            asked for; position is the row's; content is equal where the bytes of two samples are, and null where
            nobody knows.
        table_rows: tabular data set → int64 (rows,), which of its rows goes into each row, in order of
            ``patient_id`` and time; null where none does.
        runs: alias → the surrogate ids of the runs that made those vectors.
        table_runs: tabular data set, the label's among them → the run that took in these very rows.
        lost: the keys of what was left out, and the ``reason``.
        report: what each input had, who was lost and why.
    """

    rows: pa.Table
    pointers: dict[str, pa.Table] = field(default_factory=dict)
    table_rows: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    runs: dict[str, list[int]] = field(default_factory=dict)
    table_runs: dict[str, int] = field(default_factory=dict)
    lost: pa.Table | None = None
    report: dict[str, Any] = field(default_factory=dict)


def align(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> Alignment:
    """Line up the inputs' vectors and the tables' rows.

    Raises:
        ConflictError: an input mixes modalities, or has several rows of a patient and no aggregation; labels that
            aren't what they are said to be.
        NotFoundError: an input is empty, or nobody is left.
    """
    report: dict[str, Any] = {"entity": wanted.entity, "inputs": {}, "tables": {}, "lost": []}
    for n, item in enumerate(wanted.inputs):
        report["inputs"][item.alias] = inputs_sql.gather(connection, n, item, wanted.chosen)
    for table in wanted.tables:
        report["tables"][table.name] = tables_sql.look_at(connection, table.name)
    rows_sql.candidates(connection, wanted)
    tables_sql.date(connection, wanted, report)
    # One patient under "007" in one input and "7" in another would be lost to an inner join without a word.
    report["lookalikes"] = [list(pair) for pair in lookalikes(connection, inputs_sql.patients(len(wanted.inputs)))]
    before = rows_sql.judge(connection, wanted, report)
    keys = KEYS[wanted.entity]
    survival = ", time, event" if wanted.labels.event else ""
    rows = arrow(
        connection, f"SELECT {', '.join(keys)}, split, label, label_type{survival} FROM aligned ORDER BY position"
    )
    if not rows.num_rows:
        lost = "; ".join(f"{item['rows']} {item['reason']}" for item in report["lost"])
        raise NotFoundError(
            f"No {wanted.entity} is left for this table: {lost or 'no input has any'}.",
            hint=_way_out(wanted, report),
        )
    report["rows"] = rows.num_rows
    report["by_split"] = rows_sql.by_split(connection, classes=wanted.labels.kind == "classes")
    report["coverage"] = rows_sql.coverage(connection, [i.alias for i in wanted.inputs], before)
    result = Alignment(rows, report=report, lost=rows_sql.lost(connection, keys))
    for n, item in enumerate(wanted.inputs):
        report["inputs"][item.alias]["dropped_samples"] = inputs_sql.use(connection, n, item)
        result.pointers[item.alias], result.runs[item.alias] = inputs_sql.pointers(connection, n, item.alias)
    for m, table in enumerate(wanted.tables):
        result.table_rows[table.name] = rows_sql.table_rows(connection, m)
    for name in (*(t.name for t in wanted.tables), *wanted.labels.tables):
        result.table_runs[name] = run_of(connection, name)
    return result


def _way_out(wanted: Wanted, report: dict[str, Any]) -> str:
    unlabelled = any(item["reason"] == rows_sql.unlabelled(wanted) for item in report["lost"])
    ways = ["--label none, where there are no labels"] if unlabelled else []
    if any(facts.get("untimed") == report["candidates"] for facts in report["tables"].values()):
        ways.append(f"--as-of TABLE.COLUMN: no {wanted.entity} has a time of its own")
    if wanted.entity != "patient":
        ways.append(f"per: patient in a recipe, for inputs that no {wanted.entity} has of its own")
    return "; or ".join([*ways, "featstore ls samples"])
