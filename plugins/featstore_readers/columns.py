"""CSV and Parquet tables as columns of text, with what the text says: "007" stays "007"."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import BinaryIO

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from featstore import ConflictError, InputError
from featstore.hdf5.limits import check_bytes
from featstore_readers.npy import read_exactly
from featstore_readers.rows import MAX_ROWS

#: What means "no value" in a CSV cell; the same as for clinical tables.
_NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
#: Bytes of CSV that are parsed at a time: a row must fit.
_BLOCK = 1 << 24
#: Tables of texts have a few.
_MAX_COLUMNS = 10_000
_LINE_END = re.compile(rb"[\r\n]")
#: Bytes that a value takes in memory beside its own.
_OVERHEAD = 16
#: A last row for CSV, to see that the one before it has an end. What is after an open quote belongs to the quote.
_END = "end of the table"


class Columns:
    """A table's columns.

    Attributes:
        names: of the columns, without spaces around them.
    """

    def __init__(self, rows: pa.Table, names: Sequence[str]) -> None:
        """``rows`` may lack columns of ``names``: those that can't be text."""
        self.names = [name.strip() for name in names]
        if twice := sorted(name for name, count in Counter(self.names).items() if not name or count > 1):
            raise InputError(f"The table has columns of one name, or without one: {', '.join(map(repr, twice))}.")
        if len(rows) > MAX_ROWS:
            raise InputError(f"The table has {len(rows):,} rows, and at most {MAX_ROWS:,} are taken of one.")
        self._rows = rows.rename_columns([name.strip() for name in rows.column_names])

    def texts(self, name: str, *, identifiers: bool = False) -> Sequence[str | None]:
        """A column's values as text, None where one is missing.

        Args:
            identifiers: decimal numbers are refused: 7.0 was "007", "7" or 7, and nobody knows any more.

        Raises:
            InputError: no such column, or one that isn't text, numbers or times.
            ConflictError: see ``identifiers``.
        """
        if name not in self.names:
            raise InputError(f"The table has no column {name!r} (any more); it has {', '.join(self.names)}.")
        if name not in self._rows.column_names:
            raise InputError(f"The column {name!r} holds lists or the like, and text is needed.")
        column = self._rows.column(name)
        coded = pa.types.is_dictionary(column.type)
        kind = column.type.value_type if coded else column.type
        if identifiers and pa.types.is_floating(kind):
            raise ConflictError(
                f"The column {name!r} holds decimal numbers, which can't be identifiers.",
                hint="save it as text; a missing value among whole numbers makes some programs write decimals",
            )
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            raise InputError(f"The column {name!r} holds {kind}, and text is needed.")
        values: list[str | None] = []
        for chunk in column.chunks:
            if coded:  # each text once, however often it stands there
                words = [*chunk.dictionary.cast(pa.large_string()).to_pylist(), None]
                values += [words[code] for code in chunk.indices.fill_null(len(words) - 1).to_pylist()]
            else:
                values += chunk.cast(pa.large_string()).to_pylist()
        return values


def load_csv(file: BinaryIO) -> Columns:
    """Read a CSV: UTF-8, with a header and commas.

    Raises:
        InputError: it is larger than 1 GiB, has more than 10,000 columns, ends within a quoted value, or has another
            separator. And what pyarrow raises of what it can't parse.
    """
    size = file.seek(0, io.SEEK_END)
    check_bytes(size, "The table")
    file.seek(0)
    data = read_exactly(file, size, "The table")
    if (columns := _columns(data)) > _MAX_COLUMNS:  # each takes kilobytes to parse
        raise InputError(f"The table has {columns:,} columns, and at most {_MAX_COLUMNS:,} are read.")
    parsing = csv.ParseOptions(newlines_in_values=True)
    reading = csv.ReadOptions(block_size=_BLOCK, use_threads=False)
    with csv.open_csv(pa.BufferReader(data), read_options=reading, parse_options=parsing) as opened:
        names = opened.schema.names
    if len(names) == 1 and (other := re.search(r"[;\t|]", names[0])):
        raise InputError(f"The table seems to separate its columns by {other[0]!r}.", hint="save it with commas")
    closed = b"\n".join((data, ",".join([_END] * len(names)).encode()))
    converting = csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=list(_NULLS), strings_can_be_null=True
    )
    options = {"read_options": reading, "parse_options": parsing, "convert_options": converting}
    rows = csv.read_csv(pa.BufferReader(closed), **options)
    if any(column[-1].as_py() != _END for column in rows.columns):
        raise InputError("The table ends within a quoted value: it is truncated, or a quote is open.")
    return Columns(rows.slice(0, len(rows) - 1), names)


def _columns(data: bytes) -> int:
    """How many columns the first row of a CSV has, by its commas: those in quotes count too."""
    quotes = commas = at = 0
    while at < len(data):
        found = _LINE_END.search(data, at)
        end = found.start() if found else len(data)
        quotes += data.count(b'"', at, end)
        commas += data.count(b",", at, end)
        if end > at and quotes % 2 == 0:
            break
        at = end + 1
    return commas + 1


def load_parquet(file: BinaryIO) -> Columns:
    """Read a Parquet file. Texts that repeat are held once: a few bytes can stand for any number of them.

    Raises:
        InputError: it would take more than 1 GiB. And what pyarrow raises of what it can't parse.
    """
    opened = pq.ParquetFile(file)
    flat = [field for field in opened.schema_arrow if not pa.types.is_nested(field.type)]
    texts = [field.name for field in flat if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    described = opened.metadata
    groups = range(described.num_row_groups)
    check_bytes(sum(described.row_group(number).total_byte_size for number in groups), "The table")
    check_bytes(described.num_rows * _OVERHEAD * len(opened.schema_arrow), "The table")
    opened = pq.ParquetFile(file, read_dictionary=texts)
    read, total = [], 0
    for number in groups:
        read.append(opened.read_row_group(number, [field.name for field in flat], use_threads=False))
        total += read[-1].get_total_buffer_size()
        check_bytes(total, "The table")  # again: what its header claims needn't be so
    rows = pa.concat_tables(read) if read else pa.schema(flat).empty_table()
    return Columns(rows, opened.schema_arrow.names)
