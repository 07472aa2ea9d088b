"""CSV: one column a feature, floats in the shortest form that reads back to the same float32."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.csv import CSVWriter, WriteOptions

from featstore_exporters.columns import wide_schema, widen

# A spreadsheet runs a cell that begins so as a formula (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = r"^[=+\-@\t\r]"


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write UTF-8 CSV with a header; always wide. Null is an empty cell, NaN is ``nan``.

    Text that begins with ``= + - @``, tab or carriage return, in a cell or in a column's name, gets an
    apostrophe in front; numbers are left as they are.

    Raises:
        UsageError: two columns would have one name.
    """
    del wide  # CSV has no vectors
    target = wide_schema(schema)
    written = pa.schema([_text_field(field) for field in target])
    with CSVWriter(path, written, write_options=WriteOptions(quoting_style="needed")) as writer:
        for batch in batches:
            columns = [_neutral(column) for column in widen(batch, target).columns]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=written))


def _text_field(field: pa.Field) -> pa.Field:
    name = f"'{field.name}" if field.name[:1] in tuple("=+-@\t\r") else field.name
    return pa.field(name, pa.string() if _is_text(field.type) else field.type)


def _neutral(column: pa.Array) -> pa.Array:
    if not _is_text(column.type):
        return column
    text = column.cast(pa.string())
    return pc.if_else(pc.match_substring_regex(text, _FORMULA), pc.binary_join_element_wise("'", text, ""), text)


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(type_) for test in tests)
