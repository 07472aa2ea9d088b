"""NPY: the vectors as one array, and beside it a CSV that says which row is whose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from featstore_exporters import csv
from featstore_exporters.columns import as_array, dtype_of, is_vector, shape_of, vector_column


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write (rows, *shape) to ``path``, float32 or float16, and the other columns to ``<stem>.index.csv``.

    The array is the column ``features`` or ``fused``, or else the only vector column. A missing vector is a row of NaN.
    The index's first column, ``row``, is the row's number in the array.

    Raises:
        UsageError: there is no vector column, or several and none of them has these names; or a column is called
            ``row``.
    """
    del wide  # an array has no column names
    field = schema.field(vector_column(schema))
    others = [other for other in schema if not is_vector(other.type)]
    index = pa.schema([pa.field("row", pa.int64()), *others])
    rows = 0

    def written() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in batches:
            file.write(as_array(batch, field).data)
            numbers = pa.array(np.arange(rows, rows + batch.num_rows))
            rows += batch.num_rows
            yield pa.RecordBatch.from_arrays([numbers, *(batch.column(o.name) for o in others)], schema=index)

    with open(path, "wb") as file:
        start = write_header(file, 0, field)
        csv.write(path.with_name(f"{path.stem}.index.csv"), index, written(), wide=False)
        file.seek(0)
        if write_header(file, rows, field) != start:  # NumPy leaves room for the first axis to grow to 21 digits
            raise AssertionError("the .npy header changed its length")


def write_header(file: BinaryIO, rows: int, field: pa.Field) -> int:
    """Write the header of an array of ``rows`` vectors; returns where the values begin."""
    header: dict[str, Any] = {
        "descr": dtype_of(field).str, "fortran_order": False, "shape": (rows, *shape_of(field)),
    }  # fmt: skip
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()
