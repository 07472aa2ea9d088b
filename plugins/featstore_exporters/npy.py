"""NPY: the vectors as one array, and beside it a CSV that says which row is whose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from featstore import UsageError
from featstore_exporters import csv
from featstore_exporters.columns import as_matrix, is_vector


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write float32 (rows, dim) to ``path``, and the columns that aren't vectors to ``<stem>.index.csv``.

    The array is the column ``fused``, or else the only vector column. A missing vector is a row of NaN.

    Raises:
        UsageError: there is no vector column, or several and none of them is ``fused``.
    """
    del wide  # an array has no column names
    name = _vector_column(schema)
    dim = schema.field(name).type.list_size
    others = [field.name for field in schema if not is_vector(field.type)]
    index = path.with_name(f"{path.stem}.index.csv")
    rows = 0

    def written() -> Iterator[pa.RecordBatch]:
        nonlocal rows
        for batch in batches:
            matrix = as_matrix(batch.column(name))
            file.write(np.ascontiguousarray(matrix, dtype="<f4").data)
            rows += batch.num_rows
            yield batch.select(others)

    with open(path, "wb") as file:
        start = _write_header(file, 0, dim)
        csv.write(index, pa.schema([schema.field(other) for other in others]), written(), wide=False)
        file.seek(0)
        if _write_header(file, rows, dim) != start:  # NumPy leaves room for the first axis to grow to 21 digits
            raise AssertionError("the .npy header changed its length")


def _vector_column(schema: pa.Schema) -> str:
    vectors: list[str] = [field.name for field in schema if is_vector(field.type)]
    if "fused" in vectors:
        return "fused"
    if len(vectors) == 1:
        return vectors[0]
    raise UsageError(
        f"An .npy file holds one array; the table has {len(vectors)} vector columns: {', '.join(vectors)}.",
        hint="fuse them (--fuser concat), or write Parquet",
    )


def _write_header(file: BinaryIO, rows: int, dim: int) -> int:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()
