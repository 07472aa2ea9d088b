"""A patient's many rows → one row: ragged groups pooled as dense blocks, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader, numbers
from featstore.errors import PluginError
from featstore.spec import PoolFunction

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of mapped vectors that are read before their maps are let go: pages that were read count as memory.
MAPPED = 16 << 20
#: Bytes of float64 that are pooled at once. The result doesn't depend on it, to the bit.
BUDGET = 64 << 20


@dataclass(slots=True)
class PooledInput:
    """One input of a table: pointers sorted by position, read and pooled on demand.

    Attributes:
        offsets: int64 (rows + 1,): the pointers of table row i are ``offsets[i]:offsets[i + 1]``.
        pool: None where every patient has one row at most.
        width: of the pooled row.
    """

    reader: FeatureReader
    segments: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    pool: PoolFunction | None
    width: int = 0
    _mapped: int = 0

    @classmethod
    def of(
        cls, reader: FeatureReader, pointers: pa.Table, table_rows: int, dim: int, pool: PoolFunction | None
    ) -> PooledInput:
        """From a table of ``position, segment, row`` that is sorted by position."""
        positions, segments, rows = (numbers(pointers.column(c)) for c in ("position", "segment", "row"))
        offsets = np.searchsorted(positions, np.arange(table_rows + 1))
        made = cls(reader, segments, rows, offsets.astype(np.int64, copy=False), pool)
        made.width = dim if pool is None else _pooled(pool, np.zeros((1, 1, dim))).shape[1]
        return made

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """bool (rows,): which table rows have this input."""
        return np.diff(self.offsets) > 0

    def block(self, start: int, stop: int) -> npt.NDArray[np.float64]:
        """Table rows ``start:stop``, float64 (stop − start, width); NaN where the input is missing."""
        self._let_go(int(self.offsets[stop] - self.offsets[start]))
        lengths = np.diff(self.offsets[start : stop + 1])
        if self.pool is None and (lengths == 1).all():  # nothing to pool, nothing missing: one copy is enough
            span = slice(self.offsets[start], self.offsets[stop])
            return self.reader.gather(self.segments[span], self.rows[span], dtype=np.float64)
        out = np.full((stop - start, self.width), np.nan)
        for length in np.unique(lengths[lengths > 0]):
            members = np.flatnonzero(lengths == length)
            for part in _parts(members, int(length), self.width):
                index = self.offsets[start + part][:, None] + np.arange(length)
                values = self.reader.gather(self.segments[index.ravel()], self.rows[index.ravel()], dtype=np.float64)
                dense = values.reshape(len(part), int(length), -1)
                out[part] = dense[:, 0] if self.pool is None else _pooled(self.pool, dense, self.width)
        return out

    def _let_go(self, rows: int) -> None:
        self._mapped += rows * self.reader.dtype.itemsize * prod(self.reader.item_shape)
        if self._mapped > MAPPED:
            self.reader.close()
            self._mapped = 0


def _parts(members: npt.NDArray[np.int64], length: int, width: int) -> Iterator[npt.NDArray[np.int64]]:
    most = max(BUDGET // (8 * length * max(width, 1)), 1)
    for first in range(0, len(members), most):
        yield members[first : first + most]


def _pooled(pool: PoolFunction, groups: npt.NDArray[np.float64], width: int | None = None) -> npt.NDArray[Any]:
    """(G, n, D) → (G, D′), checked."""
    result = np.asarray(pool(groups, prefix=0, grid=None))
    if result.ndim != 2 or len(result) != len(groups):
        raise PluginError(f"The pooler gave an array of shape {result.shape} for {len(groups)} groups.")
    if width is not None and result.shape[1] != width:  # NumPy would repeat a single number, unseen
        raise PluginError(f"The pooler gives {result.shape[1]} features of {groups.shape[1]} rows, {width} of one.")
    return result
