"""Labels of a table's rows: the patients' own, a column's, or a time and an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from featstore.catalog.connection import first, identifier
from featstore.errors import ConflictError

if TYPE_CHECKING:
    import duckdb

_SMALL = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
_BIG = {"UBIGINT", "HUGEINT", "UHUGEINT"}
_FLOATS = {"FLOAT", "DOUBLE"}
#: Text that is a number, and nothing else: DuckDB also takes ' 5 ', 1_000 and inf.
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a tabular data set."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(frozen=True, slots=True)
class Labels:
    """Where labels come from.

    Attributes:
        own: the patients' own.
        value: a column instead. time, event: of survival, two.
        kind: ``classes`` or ``number``, where the user said so.
    """

    own: bool = False
    value: Column | None = None
    time: Column | None = None
    event: Column | None = None
    kind: str | None = None

    def __bool__(self) -> bool:
        return self.own or self.value is not None or self.event is not None

    def __str__(self) -> str:
        return ", ".join(str(c) for c in (self.value, self.time, self.event) if c) or "label"

    @property
    def tables(self) -> list[str]:
        return list(dict.fromkeys(c.table for c in (self.value, self.time, self.event) if c))


def columns(connection: duckdb.DuckDBPyConnection, labels: Labels) -> tuple[str, str]:
    """SQL: the columns ``label, label_type, time, event`` of a patient ``p``, and the joins that they need."""
    tables = {name: f"t{n}" for n, name in enumerate(labels.tables)}
    joins = " ".join(
        f'LEFT JOIN tabular."{name}" {alias} ON {alias}.patient_id = p.patient_id' for name, alias in tables.items()
    )
    if labels.event and labels.time:
        time, event = (f"{tables[c.table]}.{identifier(c.column)}" for c in (labels.time, labels.event))
        _check_survival(connection, labels.time, labels.event)
        known = f"isfinite({time}::DOUBLE) AND {event} IS NOT NULL"
        return (
            f"CASE WHEN {known} THEN {event}::INTEGER::VARCHAR END AS label, 'int' AS label_type, "
            f"CASE WHEN {known} THEN {time}::DOUBLE END AS time, CASE WHEN {known} THEN {event}::BOOLEAN END AS event",
            joins,
        )
    value, kind = "NULL::VARCHAR", "NULL::VARCHAR"
    if labels.own:
        value, kind = "p.label", "p.label_type"
    elif labels.value:
        value, kind = _typed(connection, labels.value, tables[labels.value.table])
        if _type(connection, labels.value) in _BIG:
            _none_is(
                connection, labels, value, joins, f"TRY_CAST({value} AS BIGINT) IS NULL",
                "is beyond the whole numbers of 64 bits", "kind: classes of text, or take the table in as decimals",
            )  # fmt: skip
    if labels.kind == "number":
        finite = f"regexp_full_match({value}, '{_NUMBER}') AND isfinite(TRY_CAST({value} AS DOUBLE))"
        _none_is(connection, labels, value, joins, f"NOT coalesce({finite}, false)", "is no number", "kind: classes")
        value, kind = f"TRY_CAST({value} AS DOUBLE)::VARCHAR", "'float'"
    elif value != "NULL::VARCHAR":
        endless = f"{kind} = 'float' AND coalesce(isinf(TRY_CAST({value} AS DOUBLE)), false)"
        _none_is(connection, labels, value, joins, endless, "is not finite", "leave it empty where nobody knows it")
    return (
        f"{value} AS label, CASE WHEN {value} IS NULL THEN NULL ELSE {kind} END AS label_type, "
        "NULL::DOUBLE AS time, NULL::BOOLEAN AS event",
        joins,
    )


def _typed(connection: duckdb.DuckDBPyConnection, label: Column, alias: str) -> tuple[str, str]:
    """A label's column as text, and its type."""
    column = f"{alias}.{identifier(label.column)}"
    type_ = _type(connection, label)
    if type_ == "BOOLEAN":
        return f"{column}::INTEGER::VARCHAR", "'int'"
    if type_ in _FLOATS:  # NaN is no value either
        return f"CASE WHEN isnan({column}) THEN NULL ELSE {column}::VARCHAR END", "'float'"
    if type_.startswith("DECIMAL"):
        return f"{column}::DOUBLE::VARCHAR", "'float'"
    return f"{column}::VARCHAR", "'int'" if type_ in _SMALL | _BIG else "'str'"


def _type(connection: duckdb.DuckDBPyConnection, c: Column) -> str:
    row = first(connection.execute(f'SELECT typeof(any_value({identifier(c.column)})) FROM tabular."{c.table}"'))
    return str(row[0]) if row else "VARCHAR"


def _none_is(
    connection: duckdb.DuckDBPyConnection, labels: Labels, value: str, joins: str, odd: str, what: str, hint: str
) -> None:
    """Raise :class:`ConflictError` where a condition holds of a label."""
    rows, such = first(
        connection.execute(
            f"SELECT count(*), min({value}) FROM core.patient p {joins} WHERE {value} IS NOT NULL AND {odd}"
        )
    ) or (0, None)
    if rows:
        raise ConflictError(
            f"The label {labels} {what}: {such!r} is among its values, of {rows} patient(s) in all.", hint=hint
        )


def _is_number(type_: str) -> bool:
    return type_ in _SMALL | _BIG | _FLOATS or type_.startswith("DECIMAL")


def _check_survival(connection: duckdb.DuckDBPyConnection, time: Column, event: Column) -> None:
    if not _is_number(_type(connection, time)):
        raise ConflictError(
            f"{time} holds {_type(connection, time)}, not numbers: a time of survival is how long, in days or months.",
            hint="subtract the dates, and take the table in with --replace",
        )
    column = identifier(event.column)
    if _type(connection, event) != "BOOLEAN" and not _is_number(_type(connection, event)):
        raise ConflictError(f"{event} holds {_type(connection, event)}, not 1 for it happened and 0 for censored.")
    other = first(
        connection.execute(
            f'SELECT min({column})::VARCHAR FROM tabular."{event.table}" WHERE {column}::DOUBLE NOT IN (0, 1)'
        )
    )
    if other and other[0] is not None:
        raise ConflictError(f"{event} must be 1 for it happened or 0 for censored, and holds {other[0]}.")
    below = first(
        connection.execute(
            f'SELECT min({identifier(time.column)})::VARCHAR FROM tabular."{time.table}" '
            f"WHERE {identifier(time.column)} < 0"
        )
    )
    if below and below[0] is not None:
        raise ConflictError(f"{time} holds a time below zero: {below[0]}.")
    endless = first(
        connection.execute(
            f'SELECT count(*) FROM tabular."{time.table}" WHERE isinf({identifier(time.column)}::DOUBLE)'
        )
    )
    if endless and endless[0]:
        raise ConflictError(
            f"{time} holds {endless[0]} time(s) without end: inf.", hint="leave it empty where nobody knows it"
        )
