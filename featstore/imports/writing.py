"""Vectors on their way in: compared with those that the store has, and written as a segment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader, SegmentLayout, create_segment, storable, write_chunk
from featstore.arrays.layout import ITEM_SIZES
from featstore.errors import ConflictError
from featstore.imports.matching import counted, shown
from featstore.imports.vectors import BLOCK_BYTES, Vectors

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows of a chunk: a gather of random rows opens few files even among millions.
MOST_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a row is no vector."""

    error: str
    message: str


def layout_of(group: Path, run_id: str, rows: int, shape: tuple[int, ...], dtype: str) -> SegmentLayout:
    """The layout of an import's segment."""
    bounded = max(1, BLOCK_BYTES // (prod(shape) * ITEM_SIZES[dtype]))
    return SegmentLayout(group / run_id, rows, min(MOST_CHUNK_ROWS, bounded, rows), shape, dtype)  # type: ignore[arg-type]


def write_segment(
    layout: SegmentLayout, sample_keys: Sequence[str], vectors: Vectors, places: npt.NDArray[np.int64]
) -> dict[int, Failed]:
    """Write a segment, chunk by chunk; rows that can't be stored are NaN in it, and not valid.

    Args:
        places: the source's row of each row of the segment.

    Returns:
        row → why it is no vector.
    """
    create_segment(layout, sample_keys)
    failed: dict[int, Failed] = {}
    for chunk in range(layout.chunks):
        start = chunk * layout.chunk_rows
        values = vectors.take(places[start : start + layout.rows_in(chunk)])
        valid = storable(values, layout.dtype)
        for row in np.flatnonzero(~valid).tolist():
            failed[start + row] = _why(values[row], layout.dtype)
        write_chunk(layout, chunk, values, valid)
    return failed


def _why(values: npt.NDArray[Any], dtype: str) -> Failed:
    odd = values.size - int(np.isfinite(values).sum())
    if odd:
        return Failed("NonFinite", f"{odd:,} of {values.size:,} values are NaN, infinite or missing")
    return Failed("Overflow", f"{np.abs(values).max():g} is too large for {dtype}")


def unchanged(
    vectors: Vectors,
    places: Mapping[int, int],
    keys: Mapping[int, str],
    held: pa.Table,
    segments: Mapping[int, Path],
    dtype: str,
) -> set[int]:
    """The samples whose vectors are those that the store has, to the bit.

    Args:
        places, keys: sample → the source's row, and its sample key.
        held: as :func:`featstore.catalog.imports.held` gives it.
        segments: id → folder.

    Raises:
        ConflictError: vectors differ from those in the store; or are those of bytes that a sample hasn't any more.
    """
    same: set[int] = set()
    differ: list[str] = []
    stale: list[str] = []
    if not held.num_rows:
        return same
    used = held.column("segment").unique().to_pylist()
    with FeatureReader({id: segments[id] for id in used}, committed=True) as reader:
        for part in _parts(held, max(1, BLOCK_BYTES // (prod(vectors.shape) * vectors.dtype.itemsize))):
            samples = part.column("sample").to_pylist()
            theirs = reader.gather(*(part.column(name).to_numpy() for name in ("segment", "row")))
            rows = np.array([places[sample] for sample in samples], np.int64)
            with np.errstate(over="ignore", invalid="ignore"):
                ours = vectors.take(rows).astype(dtype)
            equal = _bits(ours) == _bits(theirs.astype(dtype, copy=False))
            for sample, is_same, current in zip(
                samples, equal.all(axis=1).tolist(), part.column("current").to_pylist(), strict=True
            ):
                if current and is_same:
                    same.add(sample)
                elif current:
                    differ.append(keys[sample])
                elif is_same:
                    stale.append(keys[sample])
    if differ:
        raise ConflictError(
            f"{counted(len(differ), 'vector')} of the source and of the store differ: {shown(differ)}.",
            hint="--new-version keeps both",
        )
    if stale:
        raise ConflictError(
            f"The source still has the old vectors of {counted(len(stale), 'sample')} whose bytes have changed since: "
            f"{shown(stale)}.",
            hint="import vectors of the files as they are now, or leave these rows out",
        )
    return same


def still_failing(vectors: Vectors, places: Mapping[int, int], dtype: str) -> set[int]:
    """The samples, sample → the source's row, that still can't be stored."""
    samples = list(places)
    found: set[int] = set()
    size = max(1, BLOCK_BYTES // (prod(vectors.shape) * vectors.dtype.itemsize))
    for start in range(0, len(samples), size):
        part = samples[start : start + size]
        bad = ~storable(vectors.take(np.array([places[sample] for sample in part], np.int64)), dtype)
        found.update(sample for sample, is_bad in zip(part, bad.tolist(), strict=True) if is_bad)
    return found


def _parts(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, rows):
        yield table.slice(start, rows)


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    return flat.view(np.uint16 if values.dtype.itemsize == 2 else np.uint32)
