"""What would let a model see what it is tested on: gathered, and refused unless it is known and wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.catalog import leakage as catalog
from featstore.catalog.connection import arrow
from featstore.catalog.leakage import Found
from featstore.errors import LeakageError, one_line
from featstore.tables.recipe import LEAKS
from featstore.tables.same_column import same_columns

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featstore.catalog.alignment_inputs import VectorInput

#: Rows that a refusal names.
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Leak:
    """One way in which a table leaks.

    Attributes:
        kind: one of :data:`featstore.tables.recipe.LEAKS`, or ``split-overlap``, which is never allowed; of a table
            that was made also ``stale``, where something else that it was made of has changed.
        message: what it is, in one sentence.
        rows: the offending rows, as far as they are told one by one (1,000 at most).
        found: how many there are.
        hint: how to mend it.
    """

    kind: str
    message: str
    rows: list[dict[str, Any]]
    found: int
    hint: str


def check(
    connection: duckdb.DuckDBPyConnection,
    inputs: Sequence[VectorInput],
    *,
    label: str = "label",
    columns: pa.Table | None = None,
    everyone: bool = False,
) -> list[Leak]:
    """What the catalog knows to leak, of a table that is aligned in this connection.

    Args:
        inputs: of vectors, in the order of ``used_<n>``.
        label: what the label is called in messages.
        columns: the clinical columns among the inputs, one row a row of the table, in their order.
        everyone: equal contents of any two patients count, whatever their splits.
    """
    leaks = [
        *_split_overlap(catalog.split_overlap(connection)),
        *_same_content(catalog.same_content(connection, len(inputs), everyone=everyone), everyone),
        *_fine_tuned(catalog.fine_tuned(connection, inputs)),
        *_older_versions(catalog.older_versions(connection, inputs)),
        *_outdated(catalog.outdated(connection, inputs)),
    ]
    if columns is not None and columns.num_columns:
        rows = arrow(connection, "SELECT label, label_type, time FROM aligned ORDER BY position")
        leaks += label_inputs(columns, rows, label)
    return leaks


def label_inputs(columns: pa.Table, labels: pa.Table, label: str) -> list[Leak]:
    """Clinical columns that are the label under another name; see :func:`featstore.tables.same_column.same_columns`.

    Args:
        labels: ``label, label_type, time``, as aligned.
    """
    rows = same_columns(columns, labels)
    if not rows:
        return []
    names = ", ".join(repr(row["column"]) for row in rows)
    return [
        Leak(
            "label-input",
            f"{_columns(len(rows))} among the inputs tell the label {label!r} under another name."
            if len(rows) > 1
            else f"The column {names} among the inputs tells the label {label!r} under another name.",
            rows, len(rows), f"take {names} out of --numeric and --categorical",
        )
    ]  # fmt: skip


def _columns(count: int) -> str:
    return f"{count:,} columns"


def _split_overlap(found: Found) -> list[Leak]:
    message = f"{found.count:,} patient(s) stand in more than one split."
    hint = "restore the catalog from a backup: its own key makes this impossible"
    return [Leak("split-overlap", message, found.rows, found.count, hint)] if found.count else []


def _same_content(found: Found, everyone: bool) -> list[Leak]:
    across = "" if everyone else " in different splits"
    message = f"The same content stands under different patients{across}, {found.count:,} time(s)."
    hint = (
        "if they are one person, give them one patient_id and split anew; else keep one of them: --where; blank slices "
        "are alike too"
    )
    return [Leak("same-content", message, found.rows, found.count, hint)] if found.count else []


def _fine_tuned(found: Found) -> list[Leak]:
    names = ", ".join(sorted({name for row in found.rows for name in row["feature_sets"]}))
    message = f"The weights of {names} were trained on {found.count:,} patient(s) that this table holds out."
    hint = "take a scheme whose train split holds all of them, weights that never saw them, or leave them out: --where"
    return [Leak("fine-tuned", message, found.rows, found.count, hint)] if found.count else []


def _older_versions(found: Found) -> list[Leak]:
    names = ", ".join(f"{row['input']}={row['feature_set']} (there is {row['latest']})" for row in found.rows)
    latest = ", ".join(sorted({row["latest"] for row in found.rows}))
    message = f"{found.count} input(s) are of an older version of their feature set: {names}."
    return [Leak("older-version", message, found.rows, found.count, f"take {latest}")] if found.count else []


def _outdated(found: Found) -> list[Leak]:
    names = ", ".join(sorted({row["feature_set"] for row in found.rows}))
    message = (
        f"{found.count:,} sample(s) have other contents by now than {names} was made of: rows would be made of what is "
        "left, or of what they were."
    )
    anew = bool(found.rows) and all(row["anew"] for row in found.rows)
    hint = (
        "materialize it again, which takes their new vectors"
        if anew
        else "run the same featstore extract or import again, which makes their vectors anew"
    )
    rows = [{name: value for name, value in row.items() if name != "anew"} for row in found.rows]
    return [Leak("outdated", message, rows, found.count, hint)] if found.count else []


def refuse(leaks: Sequence[Leak], allow: Mapping[str, str]) -> list[dict[str, Any]]:
    """Raise for the first leak that isn't allowed.

    Args:
        allow: a kind of :data:`featstore.tables.recipe.LEAKS` → why.

    Returns:
        what is allowed, for the report: ``kind, reason, found``, by kind; 0 where nothing of it was found.

    Raises:
        LeakageError: what, how many, the first ten rows, and how to mend it; all of them are its ``rows``.
    """
    refused = [leak for leak in leaks if leak.kind not in allow or leak.kind not in LEAKS]
    if refused:
        raise _error(refused[0], sorted({leak.kind for leak in refused[1:]} - {refused[0].kind}))
    found = {kind: sum(leak.found for leak in leaks if leak.kind == kind) for kind in allow}
    return [{"kind": kind, "reason": allow[kind], "found": found[kind]} for kind in sorted(allow)]


def _error(leak: Leak, others: list[str]) -> LeakageError:
    lines = [f"{leak.message} [{leak.kind}]", *(f"  {line(row)}" for row in leak.rows[:SHOWN])]
    if leak.found > SHOWN:
        lines.append(f"  … and {leak.found - min(SHOWN, len(leak.rows)):,} more")
    if others:
        lines.append(f"  Found as well: {', '.join(others)}.")
    hint = leak.hint
    if leak.kind in LEAKS:
        hint += f"; or, where it is known and wanted: --allow {leak.kind}='why'"
    return LeakageError("\n".join(lines), hint=hint, rows=leak.rows)


def line(row: Mapping[str, Any]) -> str:
    """An offending row in words.

    >>> line({"patient_id": "7", "split": "test", "other_patient_id": "007", "other_split": "train", "cosine": 0.9995})
    "'7' (test) = '007' (train), cosine 0.9995"
    >>> line({"patient_id": "7", "split": "test", "inputs": ["a", "p"]})
    "'7' (test), inputs a and p"
    """
    rest = {k: v for k, v in row.items() if v is not None and k.removeprefix("other_") not in _WHO}
    who = [_who(row, prefix) for prefix in ("", "other_") if f"{prefix}patient_id" in row]
    words = [" = ".join(who)] if who else []
    for name, value in rest.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        text = " and ".join(map(str, value)) if isinstance(value, list) else text
        words.append(f"{name.replace('_', ' ')} {text}")
    return one_line(", ".join(words))


_WHO = ("patient_id", "visit_id", "sample_key", "split")


def _who(row: Mapping[str, Any], prefix: str) -> str:
    split = row.get(f"{prefix}split")
    words = [repr(row[f"{prefix}patient_id"]) + (f" ({split})" if split is not None else "")]
    words += [str(row[f"{prefix}{k}"]) for k in ("visit_id", "sample_key") if row.get(f"{prefix}{k}") is not None]
    return " ".join(words)
