"""What the writers share: what a schema says, vector columns as arrays, as wide columns, and rows in blocks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import takewhile
from threading import Event
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featstore import UsageError

#: More columns than this are no table any more: readers of CSV and Parquet take minutes, or fail.
MOST_WIDE = 100_000


def facts(schema: pa.Schema) -> dict[str, Any]:
    """What featstore says of the rows: ``rows, name, version``, …; see :class:`featstore.spec.ExportFunction`."""
    found: dict[str, Any] = json.loads((schema.metadata or {}).get(b"featstore", b"{}"))
    return found


def provenance(schema: pa.Schema) -> dict[str, Any]:
    """Those of the facts that say what was exported, not how."""
    return {name: value for name, value in facts(schema).items() if name not in ("rows", "groups")}


def row_count(schema: pa.Schema) -> int:
    """How many rows come: formats whose arrays can't grow must know.

    Raises:
        UsageError: nothing says so.
    """
    rows = facts(schema).get("rows")
    if rows is None:
        raise UsageError(
            "The number of rows isn't known before they come, and this format needs it.",
            hint='schema.with_metadata({b"featstore": json.dumps({"rows": …}).encode()})',
        )
    return int(rows)


def is_vector(type_: pa.DataType) -> bool:
    """Whether a column holds one fixed-size vector of floats a row."""
    return bool(pa.types.is_fixed_size_list(type_) and pa.types.is_floating(type_.value_type))


def is_text(type_: pa.DataType) -> bool:
    """Whether a column holds text."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(type_) for test in tests)


def vector_column(schema: pa.Schema) -> str:
    """The vector of formats that hold one: ``features``, ``fused``, or the only one there is.

    Raises:
        UsageError: there is none, or several and none of these.
    """
    vectors: list[str] = [field.name for field in schema if is_vector(field.type)]
    for name in ("features", "fused"):
        if name in vectors:
            return name
    if len(vectors) == 1:
        return vectors[0]
    raise UsageError(
        f"This format holds one array; the table has {len(vectors)} vector columns: {', '.join(vectors)}.",
        hint="fuse them (--fuser concat), or write Parquet",
    )


def shape_of(field: pa.Field) -> tuple[int, ...]:
    """The shape of one row of a vector column."""
    shape = (field.metadata or {}).get(b"shape")
    return tuple(json.loads(shape)) if shape else (field.type.list_size,)


def dtype_of(field: pa.Field) -> np.dtype[Any]:
    """float16 where a vector column is, else float32; little-endian."""
    return np.dtype("<f2" if pa.types.is_float16(field.type.value_type) else "<f4")


def as_array(batch: pa.RecordBatch, field: pa.Field) -> npt.NDArray[Any]:
    """A vector column as (rows, *shape), C-contiguous, float16 or float32. A null vector is NaN, never zeros."""
    matrix = as_matrix(batch.column(field.name))
    return np.ascontiguousarray(matrix, dtype_of(field)).reshape(len(matrix), *shape_of(field))


def as_matrix(array: pa.FixedSizeListArray) -> npt.NDArray[Any]:
    """A vector column as (rows, width). A null vector becomes NaN, never zeros."""
    rows, width = len(array), array.type.list_size
    # .flatten() would skip the null rows, and .values forgets the offset of a slice
    values = array.values.slice(array.offset * width, rows * width)
    if not pa.types.is_float16(values.type):
        values = values.cast(pa.float32())
    matrix: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(rows, width)
    if array.null_count:
        missing = array.is_null().to_numpy(zero_copy_only=False)[:, None]
        matrix = np.where(missing, matrix.dtype.type("nan"), matrix)
    return matrix


def shortest(matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Numbers whose text is the shortest that reads back to the same float16 or float32."""
    return _halves()[matrix.view(np.uint16)] if matrix.dtype == np.float16 else matrix


@cache
def _halves() -> npt.NDArray[np.float64]:
    """Every float16 in its fewest digits, as the float64 that is written with the same ones: 0.1, not 0.099975586."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    return np.array([float(str(value)) for value in every], np.float64)


def wide_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with every vector column replaced by ``<column>_0``, ``<column>_1``, …, of the vector's own type.

    Raises:
        UsageError: two columns would have one name, or there would be too many.
    """
    wide: list[pa.Field] = []
    for field in schema:
        if is_vector(field.type):
            width, type_ = field.type.list_size, pa.from_numpy_dtype(dtype_of(field))
            if len(wide) + width > MOST_WIDE:
                raise UsageError(
                    f"One column a feature gives {len(wide) + width:,} columns, and at most {MOST_WIDE:,} are written.",
                    hint="write npy, h5, zarr or a tree, which keep tokens in their shape",
                )
            wide += (pa.field(f"{field.name}_{i}", type_) for i in range(width))
        else:
            wide.append(field)
    twice = [name for name, count in Counter(field.name for field in wide).items() if count > 1]
    if twice:
        raise UsageError(
            f"One column a feature gives {', '.join(twice[:5])} twice.",
            hint="rename the column or the input, or write Parquet with vector columns",
        )
    return pa.schema(wide, metadata=schema.metadata)


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

    What is written then depends on the rows alone. The next block is made in a thread while the last one is written:
    two blocks and one incoming batch are in memory.
    """
    stop = Event()  # or an interrupt would wait for a whole block
    blocks = _in_blocks(schema, takewhile(lambda _: not stop.is_set(), batches), rows)
    with ThreadPoolExecutor(1) as pool:
        try:
            coming = pool.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = pool.submit(next, blocks, None)
                yield block
        finally:
            stop.set()


def _in_blocks(schema: pa.Schema, batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
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


def row_nbytes(schema: pa.Schema) -> int:
    """Bytes of a row's vectors; at least one."""
    return sum(field.type.list_size * dtype_of(field).itemsize for field in schema if is_vector(field.type)) or 1


def by_group(
    schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> Iterator[tuple[str, int, Iterator[pa.RecordBatch]]]:
    """Each group's name, how many rows it has, and these; take all of them before the next group.

    Raises:
        UsageError: the rows aren't grouped.
    """
    groups = facts(schema).get("groups")
    if groups is None:
        raise UsageError(
            "This format puts each group of rows into a file of its own, and these rows aren't grouped.",
            hint="export a feature set; for a training table: parquet, csv, npy, h5, zarr",
        )
    stream = iter(batches)
    rest: pa.RecordBatch | None = None

    def part(rows: int) -> Iterator[pa.RecordBatch]:
        nonlocal rest
        while rows:
            batch = rest if rest is not None and rest.num_rows else next(stream, None)
            if batch is None:
                raise ValueError(f"{rows} rows less came than the schema says")
            taken = batch.slice(0, rows)
            rest, rows = batch.slice(taken.num_rows), rows - taken.num_rows
            yield taken

    for name, rows in groups:
        yield name, rows, part(rows)
    if (rest is not None and rest.num_rows) or any(batch.num_rows for batch in stream):
        raise ValueError("more rows came than the schema says")


def _joined(schema: pa.Schema, batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.Table.from_batches(batches, schema=schema).combine_chunks().to_batches()[0]
