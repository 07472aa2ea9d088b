"""Zarr v3: a group of plain arrays, as zarr itself writes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from featstore_exporters.arrays import ROWS, Create, array_names, write_columns, write_groups
from featstore_exporters.columns import facts, in_blocks, is_vector, provenance, row_nbytes, vector_column

#: Bytes of a chunk of vectors. They aren't compressed: it would save a tenth of floats, and cost mapping them.
CHUNK_NBYTES = 4 * 1024 * 1024


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write a group with an array a column: each vector column (rows, *shape) in its own dtype, text as ``string``,
    ``label`` as ``labels``.

    "" and NaN stand for what is missing; a column without any value isn't there. Grouped, each group is one array under
    its name, and ``<group>_metadata`` holds the other columns as text (rows, columns), which its attribute ``columns``
    names. The group's attributes say what was exported.
    """
    import zarr

    del wide  # an array has its shape
    group = zarr.create_group(store=path, zarr_format=3, attributes=provenance(schema))
    rows = max(1, CHUNK_NBYTES // row_nbytes(schema))
    create = _creating(group, rows)
    if "groups" in facts(schema):
        write_groups(create, schema, batches, vector_column(schema))
        return
    vectors = {field.name: field.name for field in schema if is_vector(field.type)}
    columns = array_names(schema, label="labels")
    # Whole chunks at a time: part of one would be read and written again.
    write_columns(group, create, schema, in_blocks(schema, batches, rows), vectors=vectors, columns=columns)


def _creating(group: Any, rows: int) -> Create:
    def create(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        vectors = dtype is not str and dtype.kind == "f" and len(shape) > 1
        chunks = (max(1, min(shape[0], rows if vectors else ROWS)), *(max(1, length) for length in shape[1:]))
        fill: Any = "" if dtype is str else float("nan") if dtype.kind == "f" else dtype.type(0)
        compressors = None if vectors else "auto"
        return group.create_array(
            name, shape=shape, dtype=dtype, chunks=chunks, fill_value=fill, compressors=compressors
        )

    return create
