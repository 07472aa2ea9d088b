"""What tables say of rows: columns of text, as the catalog takes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import ConflictError, UsageError
from featstore.imports.request import KEYS, PLACES
from featstore.ingest.columns import NULLS, READ_BLOCK, as_text, infer, read_rows
from featstore.ingest.layout import FIELDS, LabelType
from featstore.ingest.manifest import label_type_of, texts_of
from featstore.keys import attribute_name

if TYPE_CHECKING:
    import pyarrow as pa

#: What no number can be: identifiers and names.
_TEXT = (*KEYS, *PLACES, *(name for name in FIELDS if name not in {"label", "acquired_at"}))


@dataclass(slots=True)
class Columns:
    """Columns of text, one value a row; None is no value.

    Attributes:
        values: name → values.
        rows: how many.
        label_type: how labels look, where there are any.
    """

    rows: int
    values: dict[str, list[str | None]] = field(default_factory=dict)
    label_type: LabelType | None = None

    @classmethod
    def of(cls, table: pa.Table, key: str | None = None) -> Columns:
        """Take a table's columns as text. Columns that hold no single values (lists, maps) are refused.

        Raises:
            ConflictError: decimal numbers for identifiers; what can't be kept as text.
        """
        import pyarrow as pa

        found = cls(table.num_rows)
        for name in table.column_names:
            column = table.column(name)
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if name in _TEXT or name == key:
                column = as_text(column, name)
            if name == "label" and len(column):
                told = infer(column)
                found.label_type = label_type_of(told) if told.null_count < len(told) else None
            found.values[name] = [text or None for text in texts_of(column, name)]
        return found

    def without(self, *names: str) -> Columns:
        """All columns but some."""
        kept = {name: texts for name, texts in self.values.items() if name not in names}
        return Columns(self.rows, kept, self.label_type)

    def renamed(self) -> Columns:
        """The columns of an export; attributes that it had to call otherwise have their own names again."""
        values = {attribute_name(name): texts for name, texts in self.values.items()}
        return Columns(self.rows, values, self.label_type)

    def fields(self, row: int) -> dict[str, str]:
        """What is said of one row."""
        return {name: value for name, values in self.values.items() if (value := values[row]) is not None}

    def take(self, rows: Sequence[int]) -> Columns:
        """Some rows, in the order given; one may come more than once."""
        return Columns(
            len(rows), {name: [values[r] for r in rows] for name, values in self.values.items()}, self.label_type
        )

    def whole_numbers(self, name: str) -> list[int]:
        """A column of places in a file.

        Raises:
            ConflictError: a value that is missing, or no whole number from 0 on.
        """
        numbers = []
        for row, text in enumerate(self.values[name]):
            if text is None or not text.isdecimal():
                raise ConflictError(
                    f"{name} is {text!r} in row {row + 1} of the index, where a whole number from 0 on should be."
                )
            numbers.append(int(text))
        return numbers

    def joined(self, other: Columns, names: Sequence[str]) -> Columns:
        """These columns and another's. Where both have one, they must agree.

        Args:
            names: of the rows, for messages.

        Raises:
            ConflictError: two values of one column differ.
        """
        found = Columns(self.rows, dict(self.values), self.label_type or other.label_type)
        for column, theirs in other.values.items():
            if column not in found.values:
                found.values[column] = theirs
                continue
            pairs = list(zip(found.values[column], theirs, strict=True))
            odd = [row for row, (a, b) in enumerate(pairs) if a is not None and b is not None and a != b]
            if odd:
                raise ConflictError(
                    f"{column} is {pairs[odd[0]][0]!r} by the source and {pairs[odd[0]][1]!r} by the index for "
                    f"{names[odd[0]]!r}, and differs for {len(odd)} rows.",
                    hint=f"correct one of them, or leave {column} out of the index",
                )
            found.values[column] = [b if a is None else a for a, b in pairs]
        return found


def read_table(path: Path, *, only: Sequence[str] | None = None, names: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a CSV or Parquet; a CSV's as the text that it holds.

    Args:
        only: these; all if not given.
        names: all columns of the file, to tell whether featstore wrote it.
    """
    ours = path.suffix.lower() == ".csv" and is_ours(names if names is not None else column_names(path))
    rows = read_rows(path, typed=[], only=only, nulls=("",) if ours else NULLS)
    return without_apostrophes(rows) if ours else rows


def column_names(path: Path) -> list[str]:
    """The names of a table's columns, without its rows; none where it can't be read, which reading it will say."""
    import pyarrow as pa
    import pyarrow.csv as csv

    parsing, reading = csv.ParseOptions(newlines_in_values=True), csv.ReadOptions(block_size=READ_BLOCK)
    try:
        with csv.open_csv(path, parse_options=parsing, read_options=reading) as reader:
            return list(reader.schema.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return []


def is_ours(names: Sequence[str]) -> bool:
    """Whether a CSV with these columns is featstore's own: an export, or the index beside one.

    >>> is_ours(["sample_key", "site", "features_0"]), is_ours(["row", "sample_key"]), is_ours(["path", "label"])
    (True, True, False)
    """
    first = list(names[:3])
    return "sample_key" in names and (first[:1] == ["row"] or first[:2] == ["file", "row"] or "features_0" in names)


def without_apostrophes(rows: pa.Table) -> pa.Table:
    """Take off the apostrophe that an export puts before what a spreadsheet would run as a formula."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [re.sub(r"^'('*[=+\-@\t\r])", r"\1", name) for name in rows.column_names]
    columns = [
        pc.replace_substring_regex(column, r"^'('*[=+\-@\t\r])", r"\1") if pa.types.is_string(column.type) else column
        for column in rows.columns
    ]
    return pa.table(columns, names=names)


def find_key(wanted: str | None, columns: Mapping[str, object], what: str) -> str | None:
    """The column that names the rows: the one asked for, else the first of :data:`KEYS`.

    Raises:
        UsageError: there is no such column.
    """
    if wanted is None:
        return next((key for key in KEYS if key in columns), None)
    if wanted not in columns:
        raise UsageError(
            f"{what} has no column {wanted!r} for --key.", hint=f"its columns: {', '.join(columns) or 'none'}"
        )
    return wanted
