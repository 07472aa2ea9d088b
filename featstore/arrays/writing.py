"""Chunks on their way to the disk: raw little-endian bytes and their crc32c, byte for byte as zarr does."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featstore import files
from featstore.arrays.layout import SegmentLayout, checksum


def storable(values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[np.bool_]:
    """Say which rows are still finite once they are stored as ``dtype``: 70,000 is infinite in float16.

    Args:
        values: float (n, …).
        dtype: what they would be stored as.

    Returns:
        bool (n,): False where any value of the row is NaN or infinite, before or after the cast.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is the question here, not an accident
        return _finite_rows(np.asarray(values).astype(dtype, copy=False))


def write_chunk(layout: SegmentLayout, index: int, values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
    """Write one chunk of features, then its part of ``valid``; each file is whole or absent.

    Args:
        layout: of the segment, which must exist.
        index: which chunk.
        values: float (n, *item_shape), n = ``layout.rows_in(index)``; cast to the stored dtype.
        valid: bool (n,). Rows that are not valid are stored as NaN, whatever ``values`` holds there.

    Raises:
        IndexError: there is no such chunk.
        ValueError: the shapes don't fit, or a valid row is not finite as stored; :func:`storable` tells
            which. Nothing is written then.
    """
    rows = layout.rows_in(index)
    values, valid = np.asarray(values), np.asarray(valid)
    if values.shape != (rows, *layout.item_shape) or values.dtype.kind != "f":
        raise ValueError(
            f"chunk {index} takes floats of shape {(rows, *layout.item_shape)}, not {values.dtype} {values.shape}"
        )
    if valid.shape != (rows,) or valid.dtype != np.bool_:
        raise ValueError(f"chunk {index} takes {rows} booleans of validity, not {valid.dtype} {valid.shape}")

    features = np.full(layout.chunk_shape, np.nan, layout.storage_dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is found below, by row
        features[:rows] = values
    features[:rows][~valid] = np.nan
    broken = np.flatnonzero(valid & ~_finite_rows(features[:rows]))
    if broken.size:
        raise ValueError(
            f"{broken.size} valid rows of chunk {index} are not finite as {layout.dtype}, "
            f"the first is row {broken[0]} of the chunk; mark what storable() says as not valid"
        )
    flags = np.zeros(layout.chunk_rows, np.bool_)
    flags[:rows] = valid

    # Features first: a reader who sees a row as valid must find its values.
    _write(layout, index, features)
    files.write_atomic(layout.valid_path(index), flags.data, checksum(flags))


def _write(layout: SegmentLayout, index: int, features: npt.NDArray[Any]) -> None:
    path = layout.chunk_path(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, features.data, checksum(features))
    # The folders above the file, up to `c`, which the segment was made with. Always, and not only where they
    # were made just now: a worker that was killed may have made them without waiting for the disk.
    for folder in list(path.parents)[1 : len(layout.item_shape) + 1]:
        files.fsync(folder)


def _finite_rows(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    finite: npt.NDArray[np.bool_] = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    return finite
