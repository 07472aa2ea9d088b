"""Rows of one feature set, gathered from all its segments."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featstore.arrays.maps import SHARED, Chunk, MapCache
from featstore.arrays.segments import SegmentReader
from featstore.errors import ConflictError, NotFoundError, UsageError

#: Runs this long on average are copied one by one, in the order asked for; shorter ones chunk by chunk.
LONG_RUN = 16
#: Up to this many rows, sorting costs more than it gives.
FEW_ROWS = 1_024
#: Bytes gathered at a time where rows go to places of their own: about what stays in a core's own cache.
BLOCK_NBYTES = 1024 * 1024
#: Chunks held by one gather outside the cache's bound.
HELD_CHUNKS = 256


@dataclass(frozen=True, slots=True)
class Location:
    """Where rows lie, in the order they were asked for.

    Attributes:
        chunk: int64 (n,), the number of the row's chunk, counted over all segments of a reader.
        row: int64 (n,), the row within its chunk.
        starts: int64 (runs,), where each run begins: rows that follow one another within one chunk.
    """

    chunk: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, chunk: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> Location:
        """Find the runs."""
        starts = np.ones(len(row), np.bool_)
        starts[1:] = (chunk[1:] != chunk[:-1]) | (row[1:] != row[:-1] + 1)
        return cls(chunk, row, np.flatnonzero(starts))

    def __len__(self) -> int:
        return len(self.row)

    @property
    def stops(self) -> npt.NDArray[np.int64]:
        """int64 (runs,), where each run ends."""
        return np.append(self.starts, len(self))[1:]

    def runs(self, at_least: int = 1) -> Iterator[tuple[int, int, int, int]]:
        """(start, stop, chunk, row in the chunk) of each run of ``at_least`` rows, in the order asked for."""
        long = self.stops - self.starts >= at_least
        starts = self.starts[long]
        columns = (starts, self.stops[long], self.chunk[starts], self.row[starts])
        return zip(*(column.tolist() for column in columns), strict=True)


class FeatureReader:
    """The vectors of one feature set, over all its segments.

    Args:
        segments: segment id → folder; at least one.
        maps: where mapped chunks are kept; the process's own cache unless told otherwise.
        committed: only rows that the catalog knows are asked for, so a chunk that isn't there was lost.

    Attributes:
        item_shape: the shape of one row, (dim,) or (tokens, dim).
        dtype: the widest stored dtype.
        segments: segment id → :class:`SegmentReader`, by ascending id.

    Threads may share a reader. Pickling it pickles the folders' paths.

    Raises:
        UsageError: there are no segments.
        ConflictError: the segments' rows have different shapes. It is a ``ValueError``.
        CorruptError: a folder isn't a segment.
    """

    def __init__(self, segments: Mapping[int, Path], *, maps: MapCache = SHARED, committed: bool = False) -> None:
        if not segments:
            raise UsageError("A feature set without a segment has no vectors to read.", hint="extract it first")
        self.segments = {int(i): SegmentReader(segments[i], maps=maps, committed=committed) for i in sorted(segments)}
        self._committed = committed
        readers = list(self.segments.values())
        layouts = [reader.layout for reader in readers]
        self.item_shape = layouts[0].item_shape
        for layout in layouts:
            if layout.item_shape != self.item_shape:
                raise ConflictError(
                    f"The rows of {layout.path} have the shape {layout.item_shape}, "
                    f"those of {layouts[0].path} {self.item_shape}.",
                    hint="read them as two feature sets, or two versions of one",
                )
        self.dtype: np.dtype[Any] = np.result_type(*(layout.dtype for layout in layouts))
        self._mapped = all(reader.mapped for reader in readers)
        self._same_dtype = len({layout.dtype for layout in layouts}) == 1
        self._readers = readers
        self._ids = np.array(list(self.segments), np.int64)
        self._rows = np.array([layout.rows for layout in layouts], np.int64)
        self._chunk_rows = np.array([layout.chunk_rows for layout in layouts], np.int64)
        self._first = np.cumsum([0, *(layout.chunks for layout in layouts[:-1])], dtype=np.int64)
        self._firsts: list[int] = self._first.tolist()

    def __reduce__(self) -> tuple[Any, ...]:
        paths = {i: reader.path for i, reader in self.segments.items()}
        return (partial(FeatureReader, committed=self._committed), (paths,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the maps. Arrays that were handed out stay good, and the reader can be used again."""
        for reader in self._readers:
            reader.close()

    def gather(
        self,
        segment_ids: npt.NDArray[np.integer[Any]],
        rows: npt.NDArray[np.integer[Any]],
        out: npt.NDArray[Any] | None = None,
        dtype: npt.DTypeLike | None = None,
    ) -> npt.NDArray[Any]:
        """Copy rows together, in the order given; a row may come more than once.

        Args:
            segment_ids: int (n,).
            rows: int (n,), each row's number in its segment.
            out: an array (n, *item_shape) to fill instead of a new one.
            dtype: of the result; ``out``'s, or else :attr:`dtype`, where it isn't given. It must be one that
                holds every stored value: float32 for float16, never the reverse.

        Returns:
            (n, *item_shape), ``out`` where it was given. Rows that are not valid are NaN.

        Raises:
            ValueError: the arguments' shapes or dtypes don't fit.
            NotFoundError: an unknown segment. It is a ``KeyError``.
            IndexError: a row that its segment doesn't have; rows don't count from the end.
            CorruptError: a chunk file has the wrong size.
        """
        where = self.locate(segment_ids, rows)
        target = self._target(len(where), out, dtype)
        scattered = len(where) < LONG_RUN * len(where.starts)
        if scattered and (len(where) > FEW_ROWS or not self._mapped):
            self._copy_by_chunk(where, target)
        elif scattered and self._same_dtype and target.dtype == self.dtype and target.flags.c_contiguous:
            self._copy_bytes(where, target)
        else:
            self._copy_runs(where, target)
        return target

    def locate(self, segment_ids: npt.NDArray[Any], rows: npt.NDArray[Any]) -> Location:
        """Find the chunks of rows. Takes and raises what :meth:`gather` does."""
        ids, rows = np.asarray(segment_ids), np.asarray(rows)
        if ids.ndim != 1 or ids.shape != rows.shape:
            raise ValueError(f"segment ids {ids.shape} and rows {rows.shape} must be two arrays of one length")
        if ids.size and not (ids.dtype.kind in "iu" and rows.dtype.kind in "iu"):
            raise ValueError(f"segment ids and rows must be integers, not {ids.dtype} and {rows.dtype}")
        ids, rows = ids.astype(np.int64, copy=False), rows.astype(np.int64, copy=False)

        position = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        unknown = self._ids[position] != ids
        if unknown.any():
            raise NotFoundError(f"There is no segment {ids[unknown][0]} among the {len(self._ids)} of this reader.")
        outside = (rows < 0) | (rows >= self._rows[position])
        if outside.any():
            at = int(np.flatnonzero(outside)[0])
            raise IndexError(f"row {rows[at]} of segment {ids[at]}, which has {self._rows[position[at]]} rows")
        index, row = np.divmod(rows, self._chunk_rows[position])
        return Location.of(self._first[position] + index, row)

    def load(self, chunk: int) -> Chunk:
        """The chunk of a number that :meth:`locate` gave."""
        segment, index = self.segment_of(chunk)
        return segment.load(index)

    def segment_of(self, chunk: int) -> tuple[SegmentReader, int]:
        """The segment of a chunk's number, and the chunk's index in it."""
        position = bisect_right(self._firsts, chunk) - 1
        return self._readers[position], chunk - self._firsts[position]

    def _target(self, n: int, out: npt.NDArray[Any] | None, dtype: npt.DTypeLike | None) -> npt.NDArray[Any]:
        shape = (n, *self.item_shape)
        wanted = np.dtype(dtype) if dtype is not None else self.dtype if out is None else out.dtype
        if wanted.kind != "f" or not np.can_cast(self.dtype, wanted, "safe"):
            raise ValueError(
                f"vectors stored as {self.dtype} would lose digits as {wanted}: gather them as {self.dtype}, then cast"
            )
        if out is None:
            return np.empty(shape, wanted)
        if out.shape != shape or out.dtype != wanted or not out.flags.writeable:
            raise ValueError(f"out must be writeable, {wanted} and {shape}, not {out.dtype} and {out.shape}")
        return out

    def _copy_bytes(self, where: Location, out: npt.NDArray[Any]) -> None:
        """Few short runs: the cost of a step is what counts, and slices of bytes are the cheapest steps."""
        target = out.reshape(-1).view(np.uint8).data
        size = self.dtype.itemsize * prod(self.item_shape)
        chunk, starts, stops = where.chunk[where.starts], where.starts * size, where.stops * size
        first = where.row[where.starts] * size
        columns = (chunk, starts, stops, first, first + stops - starts)
        held: dict[int, memoryview] = {}
        for number, start, stop, begin, end in zip(*(c.tolist() for c in columns), strict=True):
            source = held.get(number)
            if source is None:
                source = held[number] = self.load(number).raw
            target[start:stop] = source[begin:end]

    def _copy_runs(self, where: Location, out: npt.NDArray[Any]) -> None:
        """Long runs: slices, in the order asked for; NumPy copies them without holding the interpreter."""
        held: dict[int, npt.NDArray[Any]] = {}
        for start, stop, number, row in where.runs():
            source = held.get(number)
            if source is None:
                if len(held) >= (HELD_CHUNKS if self._mapped else 1):
                    held.clear()
                source = held[number] = self.load(number).values
            out[start:stop] = source[row : row + stop - start]

    def _copy_by_chunk(self, where: Location, out: npt.NDArray[Any]) -> None:
        """Many scattered rows: in the order they lie on the disk, so that each chunk is loaded once."""
        key = where.chunk * int(self._chunk_rows.max()) + where.row
        order = None if (key[1:] >= key[:-1]).all() else np.argsort(key, kind="stable")
        chunk, row = (where.chunk, where.row) if order is None else (where.chunk[order], where.row[order])
        bounds = [0, *(np.flatnonzero(chunk[1:] != chunk[:-1]) + 1).tolist(), len(row)]
        block = max(1, BLOCK_NBYTES // (self.dtype.itemsize * prod(self.item_shape)))
        for start, stop in pairwise(bounds):
            source = self.load(int(chunk[start])).values
            for begin in range(start, stop, block):
                end = min(begin + block, stop)
                places = slice(begin, end) if order is None else order[begin:end]
                out[places] = source[row[begin:end]]
