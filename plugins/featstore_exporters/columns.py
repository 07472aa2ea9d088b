"""What the writers share: vector columns as matrices, as wide columns, and rows in blocks of a fixed size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featstore import UsageError


def is_vector(type_: pa.DataType) -> bool:
    """Whether a column holds one fixed-size vector of floats a row."""
    return bool(pa.types.is_fixed_size_list(type_) and pa.types.is_floating(type_.value_type))


def as_matrix(array: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    """A vector column as float32 (rows, dim). A null vector becomes NaN, never zeros."""
    rows, dim = len(array), array.type.list_size
    # .flatten() would skip the null rows, and .values forgets the offset of a slice
    values = array.values.slice(array.offset * dim, rows * dim).cast(pa.float32())
    matrix: npt.NDArray[np.float32] = values.to_numpy(zero_copy_only=False).reshape(rows, dim)
    if array.null_count:
        matrix = np.where(array.is_null().to_numpy(zero_copy_only=False)[:, None], np.float32("nan"), matrix)
    return matrix


def wide_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with every vector column replaced by ``<column>_0``, ``<column>_1``, …

    Raises:
        UsageError: two columns would have one name.
    """
    wide: list[pa.Field] = []
    for field in schema:
        if is_vector(field.type):
            wide += (pa.field(f"{field.name}_{i}", pa.float32()) for i in range(field.type.list_size))
        else:
            wide.append(field)
    twice = [name for name, count in Counter(field.name for field in wide).items() if count > 1]
    if twice:
        raise UsageError(
            f"One column a feature gives {', '.join(twice[:5])} twice.",
            hint="rename the column or the input, or write Parquet with vector columns",
        )
    return pa.schema(wide)


def widen(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the columns of ``schema``, which :func:`wide_schema` made of the batch's own."""
    columns: list[pa.Array] = []
    for column in batch.columns:
        if is_vector(column.type):
            columns += map(pa.array, np.ascontiguousarray(as_matrix(column).T))
        else:
            columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def in_blocks(schema: pa.Schema, batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly ``rows``, the last one shorter, whatever sizes they came in.

    What is written then depends on the rows alone. Holds one block and one incoming batch.
    """
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, rows - count)
            held.append(part)
            count += part.num_rows
            batch = batch.slice(part.num_rows)
            if count == rows:
                yield _joined(schema, held)
                held, count = [], 0
    if held:
        yield _joined(schema, held)


def _joined(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches, schema=schema).combine_chunks().to_batches()[0]
