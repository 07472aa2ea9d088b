"""CSV: one column a feature, floats in the shortest form that reads back to the same float32 or float16."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import CSVWriter, WriteOptions

from featstore_exporters.columns import as_matrix, in_blocks, is_text, is_vector, row_nbytes, shortest, wide_schema

# A spreadsheet runs a cell that begins so as a formula (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = r"^'*[=+\-@\t\r]"
_WHOLE = r"^-?[0-9]+$"
#: Bytes of vectors that are widened at a time.
_NBYTES = 4 * 1024 * 1024
_ROWS = 4096


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write UTF-8 CSV with a header; always wide. Null is an empty cell, NaN is ``nan``, a float keeps its point.

    Text that begins with ``= + - @``, tab or carriage return, in a cell or in a column's name, gets an apostrophe in
    front, and so does text that begins with apostrophes before one of these: taking one away where it stands before
    such a character, or before apostrophes and then one, gives the text back. Numbers are left as they are.

    Raises:
        UsageError: two columns would have one name, or there would be too many.
    """
    del wide  # CSV has no vectors
    target = _target(schema)
    rows = max(1, min(_ROWS, _NBYTES // row_nbytes(schema)))
    with CSVWriter(path, target, write_options=WriteOptions(quoting_style="needed")) as writer:
        for batch in in_blocks(schema, batches, rows):
            columns: list[pa.Array] = []
            for column in batch.columns:
                if is_vector(column.type):
                    columns += map(pa.array, np.ascontiguousarray(shortest(as_matrix(column)).T))
                else:
                    columns.append(_cells(column))
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=target))


def _target(schema: pa.Schema) -> pa.Schema:
    """The names and types that are written: numbers beside the vectors as text, so that 1.0 stays a float."""
    wide_schema(schema)  # raises
    fields: list[tuple[str, pa.DataType]] = []
    for field in schema:
        if is_vector(field.type):
            type_ = pa.float64() if pa.types.is_float16(field.type.value_type) else pa.float32()
            fields += ((f"{field.name}_{i}", type_) for i in range(field.type.list_size))
        else:
            as_text = is_text(field.type) or pa.types.is_floating(field.type)
            fields.append((field.name, pa.string() if as_text else field.type))
    return pa.schema([(_safe(name), type_) for name, type_ in fields])


def _safe(name: str) -> str:
    return f"'{name}" if name.lstrip("'")[:1] in tuple("=+-@\t\r") else name


def _cells(column: pa.Array) -> pa.Array:
    if is_text(column.type):
        text = column.cast(pa.string())
        return pc.if_else(pc.match_substring_regex(text, _FORMULA), pc.binary_join_element_wise("'", text, ""), text)
    if pa.types.is_floating(column.type):
        text = column.cast(pa.string())
        return pc.if_else(pc.match_substring_regex(text, _WHOLE), pc.binary_join_element_wise(text, ".0", ""), text)
    return column
