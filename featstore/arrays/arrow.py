"""Vectors and numbers between NumPy and Arrow, where they lie.

The ways that pyarrow itself offers, ``to_numpy`` and ``pa.array``, import pandas: a third of a second of a command.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays.reading import FeatureReader

if TYPE_CHECKING:
    import pyarrow as pa

#: A run at least this long becomes a piece of its own, without a copy; shorter ones are gathered together.
#: A piece costs its reader some tens of microseconds, so tiny ones would cost more than the copy they save.
MAPPED_RUN = 64
#: Bytes of one gathered piece.
PIECE_NBYTES = 64 * 1024 * 1024


def arrow_vectors(reader: FeatureReader, segment_ids: npt.NDArray[Any], rows: npt.NDArray[Any]) -> pa.ChunkedArray:
    """Vectors as ``fixed_size_list<float32>[width]``, in the order given; width is dim, or tokens × dim.

    Runs of rows that lie together in a mapped chunk of float32 are taken as they lie, without a copy, so a
    scan of a whole feature set needs no memory of its own. What is scattered, float16, or not mapped is
    gathered into pieces of 64 MB. The array keeps its maps alive, whatever becomes of the reader.

    Args:
        reader: of the feature set.
        segment_ids: int (n,).
        rows: int (n,), each row's number in its segment.

    Raises:
        ValueError, NotFoundError, IndexError, CorruptError: as :meth:`FeatureReader.gather`.
        SetupError: the array would need more maps than the kernel allows a process.
    """
    import pyarrow as pa

    segment_ids, rows = np.asarray(segment_ids), np.asarray(rows)
    where = reader.locate(segment_ids, rows)
    width = prod(reader.item_shape)
    nbytes = 4 * width
    piece_rows = max(1, PIECE_NBYTES // nbytes)
    pieces: list[pa.Array] = []

    def add(buffer: pa.Buffer, length: int) -> None:
        pieces.append(_lists(buffer, length, width))

    def gather(start: int, stop: int) -> None:
        for begin in range(start, stop, piece_rows):
            part = slice(begin, min(begin + piece_rows, stop))
            copied = reader.gather(segment_ids[part], rows[part], dtype=np.float32)
            add(pa.py_buffer(copied), len(copied))

    gathered = 0  # rows before this one are in pieces
    for start, stop, chunk, row in where.runs(at_least=MAPPED_RUN):
        segment, index = reader.segment_of(chunk)
        if segment.mapped and segment.layout.dtype == "float32":
            gather(gathered, start)
            raw = segment.load(index).raw
            add(pa.py_buffer(raw[row * nbytes : (row + stop - start) * nbytes]), stop - start)
            gathered = stop
    gather(gathered, len(where))
    return pa.chunked_array(pieces, pa.list_(pa.float32(), width))


def arrow_block(block: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Rows (n, width) as ``fixed_size_list<float32>[width]``, without a copy where they are float32 and lie in rows."""
    import pyarrow as pa

    return _lists(pa.py_buffer(np.ascontiguousarray(block, np.float32)), *block.shape)


def _lists(buffer: pa.Buffer, length: int, width: int) -> pa.FixedSizeListArray:
    import pyarrow as pa

    values = pa.Array.from_buffers(pa.float32(), length * width, [None, buffer])
    return pa.FixedSizeListArray.from_arrays(values, width)


def numbers(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Integers or floats without gaps, (n,), read-only; without a copy where they lie in one piece."""
    return np.from_dlpack(_whole(column))


def codes(column: pa.Array | pa.ChunkedArray) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """The different values in order of their first rows, null among them, and int32 (n,), which each row has."""
    whole = _whole(column)
    plain = whole.dictionary_decode() if hasattr(whole, "dictionary_decode") else whole
    encoded = plain.dictionary_encode(null_encoding="encode")
    return encoded.dictionary, numbers(encoded.indices)


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if hasattr(column, "combine_chunks") else column
