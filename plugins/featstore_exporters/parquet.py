"""Parquet, with everything pinned that its bytes depend on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from featstore_exporters.columns import in_blocks, row_nbytes, wide_schema, widen

#: Rows of a row group, where they aren't large (tokens); and bytes of its vectors, since a group is made in memory.
#: Pinned: with the same rows and the same pyarrow, the file is the same to the byte.
ROW_GROUP, GROUP_NBYTES = 4096, 64 * 1024 * 1024


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write vectors as fixed-size lists, or with ``wide`` as ``<column>_<i>``, float32 or float16 as they are.

    The schema's and the fields' metadata are kept: what was exported, and the shape of its rows.

    Raises:
        UsageError: with ``wide``, two columns would have one name, or there would be too many.
    """
    target = wide_schema(schema) if wide else schema
    # A power of two, as blocks of a training table are: they go in as they come.
    rows = 1 << (max(1, min(ROW_GROUP, GROUP_NBYTES // row_nbytes(schema))).bit_length() - 1)
    with pq.ParquetWriter(
        path,
        target,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=[field.name for field in target if _repeats(field.type)],
        write_statistics=True,
    ) as writer:
        for block in in_blocks(schema, batches, rows):
            writer.write_batch(widen(block, target) if wide else block, row_group_size=rows)


def _repeats(type_: pa.DataType) -> bool:
    """Text repeats (sites, labels, splits); features don't, and a dictionary of them only costs time."""
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
    return any(test(type_) for test in tests)
