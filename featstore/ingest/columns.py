"""Reading tables of text without losing what the text says: "007" stays "007"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import ConflictError, InputError, NotFoundError, UsageError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

#: What means "no value" in a CSV cell.
NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
#: Bytes of a CSV that are parsed at once: a row must fit in, and one of vectors may be long.
READ_BLOCK = 32 << 20


def read_rows(
    path: Path,
    *,
    text: Sequence[str] = (),
    typed: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    nulls: Sequence[str] = NULLS,
) -> pa.Table:
    """Read a CSV or Parquet file.

    Args:
        path: ``.csv`` (UTF-8, with a header) or ``.parquet``.
        text: columns that are text whatever their values look like, such as ``patient_id``.
        typed: columns of text that are typed by what they look like, by :func:`infer`; all others if not given.
        only: read these columns, at least one; all if not given.
        nulls: what means "no value" in a CSV.

    Returns:
        the rows, a missing value as null.

    Raises:
        NotFoundError: no such file. InputError: it can't be read as such a file.
        UsageError: another ending, a separator other than the comma, two columns of one name, or one without a name.
    """
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    try:
        if suffix == ".csv":
            rows = _read_csv(path, only, nulls)
        elif suffix == ".parquet":
            rows = pa.parquet.read_table(path, columns=only)
        else:
            raise UsageError(f"{path.name} ends with neither .csv nor .parquet.")
        names = [name.strip() for name in rows.column_names]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} can't be read as {suffix[1:]}: {str(error).splitlines()[0]}",
            hint="a CSV must be UTF-8, with a header and commas",
        ) from error
    if len(names) == 1 and (other := re.search(r"[;\t|]", names[0])):
        raise UsageError(
            f"{path.name} seems to separate its columns by {other[0]!r}.",
            hint="save it with commas, and decimal points",
        )
    if "" in names:
        raise UsageError(
            f"Column {names.index('') + 1} of {path.name} has no name.",
            hint="name it, or leave it out; in pandas: to_csv(…, index=False)",
        )
    if twice := sorted({n for n in names if [m.lower() for m in names].count(n.lower()) > 1}):
        raise UsageError(f"{path.name} has two columns of one name (ignoring case): {', '.join(twice)}.")
    rows = rows.rename_columns(names)
    for position, name in enumerate(names):
        column = rows.column(position)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if name in text:
            column = as_text(column, name)
        elif typed is None or name in typed:
            column = infer(column)
        rows = rows.set_column(position, name, column)
    return rows


def _read_csv(path: Path, only: Sequence[str] | None, nulls: Sequence[str]) -> pa.Table:
    import pyarrow.csv as csv

    parsing, reading = csv.ParseOptions(newlines_in_values=True), csv.ReadOptions(block_size=READ_BLOCK)
    with csv.open_csv(path, parse_options=parsing, read_options=reading) as reader:
        names = reader.schema.names
    options = csv.ConvertOptions(
        column_types=dict.fromkeys(names, "string"), null_values=list(nulls), strings_can_be_null=True,
        include_columns=only,
    )  # fmt: skip
    return csv.read_csv(path, convert_options=options, parse_options=parsing, read_options=reading)


def as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column of identifiers as text. Floats are refused: 7.0 was "007", "7" or 7, and nobody knows any more."""
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        raise ConflictError(
            f"The column {name!r} holds decimal numbers, which can't be identifiers.",
            hint="save it as text; a missing value among whole numbers makes some programs write decimals",
        )
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConflictError(
            f"The column {name!r} holds {column.type}, which can't be kept as text.",
            hint="save it as text, or leave it out",
        ) from error


def infer(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Type a column of text: int64, float64, bool or a time where every value says so exactly, else text.

    "007" is no number: turning it into 7 would lose what it says. Nor is a whole number too long for int64.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return column
    column = column.cast(pa.string())
    if column.null_count == len(column):
        return column
    for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us")):
        if kind == pa.bool_():
            known = pc.is_in(column.drop_null(), pa.array(["true", "false", "True", "False", "TRUE", "FALSE"]))
            if not pc.all(known).as_py():
                continue
        try:
            typed = column.cast(kind)
        except pa.ArrowInvalid:
            continue
        if kind == pa.int64() and not pc.all(pc.equal(typed.cast(pa.string()), column)).as_py():
            return column
        if kind == pa.float64() and pc.any(pc.match_substring_regex(column, r"^[+-]?(0\d|\d{16,}$)")).as_py():
            return column
        return typed
    return column


def require(rows: pa.Table, names: Sequence[str], what: str) -> None:
    """Raise :class:`NotFoundError` unless the columns are there."""
    for name in names:
        if name not in rows.column_names:
            raise NotFoundError(
                f"{what} has no column {name!r}.{did_you_mean(name, rows.column_names)}",
                hint=f"its columns: {', '.join(rows.column_names)}",
            )


def check_ids(column: pa.ChunkedArray, name: str, first_line: int = 1) -> None:
    """Raise :class:`ConflictError` for identifiers that are missing, or that hide spaces."""
    import pyarrow.compute as pc

    bad = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(column), column), True)
    bad = pc.or_(bad, pc.fill_null(pc.equal(column, ""), True))
    lines = [i + first_line for i, flag in enumerate(bad.to_pylist()) if flag]
    if lines:
        shown = ", ".join(map(str, lines[:5])) + (", …" if len(lines) > 5 else "")
        raise ConflictError(
            f"{len(lines)} row(s) have no {name}, or one with spaces around it (row {shown}).",
            hint=f"give each row its {name}, without spaces around it",
        )
