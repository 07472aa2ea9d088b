"""What a split keeps the shares of: columns of patients, attributes of their samples, columns of tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from featstore.catalog import splits as catalog
from featstore.catalog import tabular
from featstore.errors import ConflictError, UsageError, did_you_mean

if TYPE_CHECKING:
    import duckdb

#: A patient's value of each of the columns, as text; None where there is none.
Stratum = tuple[str | None, ...]
_NONE = "(none)"


def strata_of(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[Mapping[str, Any]], stratify: str | None
) -> dict[str, Stratum]:
    """Patient → stratum.

    Args:
        rows: patients, as :func:`featstore.catalog.splits.candidates` gives them.
        stratify: a column, an attribute or TABLE.COLUMN, or several joined by ``+``; None: one stratum, ``()``.

    Raises:
        UsageError: there is no such column, or no patient has a value.
        ConflictError: a patient has several values.
    """
    if stratify is None or not rows:
        return {row["patient_id"]: () for row in rows}
    columns = [name for name in rows[0] if name not in {"patient_id", "sites"}]
    known = {"columns": columns, "attributes": catalog.attributes(connection), "tables": tabular.names(connection)}
    whole = _values(connection, rows, stratify, known)
    parts = {stratify: whole}
    if whole is None:
        parts = {name: _values(connection, rows, name, known) for name in stratify.split("+")}
    found: list[dict[str, str]] = []
    for name, values in parts.items():
        if values is None:
            table = name.partition(".")[0]
            inside = tabular.fetch(connection, table).column_names if table in known["tables"] else []
            choices = [*columns, *known["attributes"], *(f"{table}.{column}" for column in inside)]
            raise UsageError(
                f"--stratify {name!r} is neither a column of the patients, nor an attribute of their samples, nor "
                f"TABLE.COLUMN.{did_you_mean(name, choices)}",
                hint=f"columns: {', '.join(columns)}; attributes: {', '.join(known['attributes'][:20]) or 'none'}; "
                f"tables: {', '.join(known['tables']) or 'none'}",
            )
        if not any(row["patient_id"] in values for row in rows):
            raise UsageError(
                f"No patient has a {name}, so there is nothing to stratify by.", hint="leave out --stratify"
            )
        found.append(values)
    return {p: tuple(values.get(p) for values in found) for p in (row["patient_id"] for row in rows)}


def shown(stratum: Stratum) -> str:
    """A stratum as people read it.

    >>> shown(("1", None)), shown(())
    ('1 + (none)', '')
    """
    return " + ".join(_NONE if value is None else value for value in stratum)


def in_order(strata: Mapping[str, Stratum]) -> list[list[str]]:
    """The patients of each stratum, strata in the order of their values."""
    members: dict[Stratum, list[str]] = {}
    for patient, stratum in strata.items():
        members.setdefault(stratum, []).append(patient)
    return [members[s] for s in sorted(members, key=lambda s: [(value is not None, value or "") for value in s])]


def _values(
    connection: duckdb.DuckDBPyConnection,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    known: Mapping[str, Sequence[str]],
) -> dict[str, str] | None:
    """Patient → value, for those who have one; None where the name means nothing."""
    table, dot, column = name.partition(".")
    if name in known["columns"]:
        several = {row["patient_id"]: [row[name]] for row in rows}
    elif name in known["attributes"]:
        several = dict(catalog.attribute_values(connection, name))
    elif dot and table in known["tables"]:
        data = tabular.fetch(connection, table)
        if column not in data.column_names or column == "patient_id":
            return None
        several = {}
        for patient, value in zip(data["patient_id"].to_pylist(), data[column].to_pylist(), strict=True):
            several.setdefault(patient, []).append(value)
    else:
        return None
    patients = {row["patient_id"] for row in rows}
    texts = {
        patient: {text for value in values if (text := _text(value)) is not None}
        for patient, values in several.items()
        if patient in patients
    }
    wrong = sorted(patient for patient, values in texts.items() if len(values) > 1)
    if wrong:
        lines = "".join(f"\n    {p}: {' and '.join(sorted(texts[p]))}" for p in wrong[:5])
        more = f"\n    … and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ConflictError(
            f"{len(wrong)} patient(s) have more than one {name}, and are in one stratum:{lines}{more}",
            hint="stratify by what belongs to the patient",
        )
    return {patient: value for patient, values in texts.items() for value in values}


def _text(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
