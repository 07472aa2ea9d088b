"""One segment, read: mapped where its chunks are raw bytes, through zarr where they aren't."""

from __future__ import annotations

from functools import partial
from math import prod
from pathlib import Path
from typing import Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from featstore.arrays.layout import CHECKSUM_NBYTES, ITEM_SIZES, SegmentLayout, checksum
from featstore.arrays.maps import SHARED, Chunk, MapCache, check_size, map_file
from featstore.arrays.metadata import RESTORE, ArrayMetadata
from featstore.errors import CorruptError


class SegmentReader:
    """The chunks of one segment.

    Opening reads one small JSON file. Raw chunks, as featstore writes them, are mapped; whatever else a
    segment may hold (another tool compressed it, sharded it, cut it along other axes) is read through zarr.

    Args:
        path: the segment's folder.
        maps: where mapped chunks are kept; the process's own cache unless told otherwise.
        committed: only rows that the catalog knows are asked for, so a chunk that isn't there was lost.

    Attributes:
        path: as given.
        layout: rows, chunks, shape and dtype.
        mapped: whether chunks are mapped, or else decoded by zarr.

    Raises:
        CorruptError: the folder isn't a segment.
    """

    def __init__(self, path: Path, *, maps: MapCache = SHARED, committed: bool = False) -> None:
        self.path = Path(path)
        self._maps, self._committed = maps, committed
        folder = self.path / "features"
        found = ArrayMetadata.of(folder)
        if found.data_type not in ITEM_SIZES or len(found.shape) not in (2, 3) or not all(found.shape):
            raise CorruptError(
                f"{folder} holds {found.data_type} {found.shape}, where a segment holds "
                f"{' or '.join(ITEM_SIZES)} of shape (rows, dim) or (rows, tokens, dim).",
                hint=RESTORE,
            )
        self._metadata = found
        self.mapped = found.raw
        self._foreign: Any = None
        if found.chunk_shape:
            chunk_rows = found.chunk_shape[0]
        else:
            self._foreign = _open_with_zarr(folder)
            chunk_rows = int(self._foreign.chunks[0])
        dtype = cast(Literal["float16", "float32"], found.data_type)
        self.layout = SegmentLayout(self.path, found.shape[0], chunk_rows, found.shape[1:], dtype)
        # A store may be deleted and made anew under the same path while this process lives.
        stat = (folder / "zarr.json").stat()
        self._identity = (str(self.path.absolute()), stat.st_dev, stat.st_ino, stat.st_mtime_ns)
        self._unwritten: Chunk | None = None

    def __repr__(self) -> str:
        return f"SegmentReader({str(self.path)!r})"

    def __reduce__(self) -> tuple[Any, ...]:  # loaders' workers open and map for themselves
        return (partial(SegmentReader, committed=self._committed), (self.path,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of this segment's maps. Arrays that were handed out stay good."""
        self._maps.discard((self._identity, index) for index in range(self.layout.chunks))

    def chunk(self, index: int) -> npt.NDArray[Any]:
        """The rows of one chunk: (rows_in_chunk, *item_shape) in the stored dtype, read-only.

        Mapped, not copied. A chunk that was never written is the fill value, NaN, as in any Zarr array.

        Raises:
            IndexError: there is no such chunk.
            CorruptError: its file has the wrong size, or zarr can't decode it, or it is lost.
        """
        return self.load(index).values

    def load(self, index: int) -> Chunk:
        """As :meth:`chunk`, with the bytes beside the values.

        A mapped chunk isn't looked at again: one that is committed is never written again, but replaced by a
        segment of another name.
        """
        key = (self._identity, index)
        found = self._maps.get(key)
        if found is not None:
            return found
        rows = self.layout.rows_in(index)
        if self._foreign is not None:  # decoded, so it takes memory: the cache counts maps only
            start = index * self.layout.chunk_rows
            values = _decode(self._foreign, start, start + rows)
            return Chunk.of(np.ascontiguousarray(values, self.layout.storage_dtype))
        raw = map_file(self.layout.chunk_path(index), self._file_nbytes)
        if raw is None and self._committed:  # NaN would pass for a missing input, and be imputed
            raise CorruptError(
                f"{self.layout.chunk_path(index)} is missing: vectors that the catalog knows are lost.", hint=RESTORE
            )
        if raw is None:  # not kept: it may be written a moment later
            return self._fill(rows)
        shape = (rows, *self.layout.item_shape)
        chunk = Chunk.of(np.frombuffer(raw, self.layout.storage_dtype, prod(shape)).reshape(shape))
        self._maps.add(key, chunk)
        return chunk

    def valid(self) -> npt.NDArray[np.bool_]:
        """bool (rows,): which rows hold a vector.

        Raises:
            CorruptError: a file has the wrong size or checksum.
        """
        layout, found = self.layout, ArrayMetadata.of(self.path / "valid")
        if not found.raw or found.chunk_shape != (layout.chunk_rows,):
            return np.asarray(_decode(_open_with_zarr(self.path / "valid"), 0, layout.rows), np.bool_)
        valid = np.full(layout.rows, found.fill, np.bool_)
        for index in range(layout.chunks):
            data = _read_checked(layout.valid_path(index), layout.chunk_rows, found.checksum)
            if data is not None:
                start, rows = index * layout.chunk_rows, layout.rows_in(index)
                valid[start : start + rows] = np.frombuffer(data, np.bool_, rows)
        return valid

    def sample_keys(self) -> list[str]:
        """The sample key of every row. Imports zarr: it is for rebuilding a catalog, not for queries."""
        keys: list[str] = _decode(_open_with_zarr(self.path / "sample_key"), 0, self.layout.rows).tolist()
        return keys

    def check(self, index: int) -> bool:
        """Compare one chunk with its checksums; see :func:`check_chunk`."""
        layout, rows = self.layout, self.layout.rows_in(index)
        if self._foreign is not None:
            start = index * layout.chunk_rows
            _decode(self._foreign, start, start + rows)  # zarr compares what checksums its codecs have
            return True
        path = layout.chunk_path(index)
        features = _read_checked(path, layout.chunk_nbytes, self._metadata.checksum)
        found = ArrayMetadata.of(self.path / "valid")
        if found.raw and found.chunk_shape == (layout.chunk_rows,):
            valid = _read_checked(layout.valid_path(index), layout.chunk_rows, found.checksum)
            if features is None and valid is not None and any(valid):
                raise CorruptError(f"{path} is gone, and rows of it are valid.", hint=RESTORE)
        return features is not None

    @property
    def _file_nbytes(self) -> int:
        return self.layout.chunk_nbytes + (CHECKSUM_NBYTES if self._metadata.checksum else 0)

    def _fill(self, rows: int) -> Chunk:
        if self._unwritten is None:
            self._unwritten = Chunk.of(np.full(self.layout.chunk_shape, self._metadata.fill, self.layout.storage_dtype))
        return Chunk.of(self._unwritten.values[:rows])


def check_chunk(source: SegmentLayout | SegmentReader, index: int) -> bool:
    """Read one chunk's files again, features and ``valid``, and compare their checksums.

    Returns:
        False where the chunk was never written.

    Raises:
        IndexError: there is no such chunk.
        CorruptError: a file has the wrong size or checksum, or valid rows without features.
    """
    reader = source if isinstance(source, SegmentReader) else SegmentReader(source.path)
    return reader.check(index)


def _open_with_zarr(folder: Path) -> Any:
    import zarr  # 0.4 to 0.7 s, and only for what another tool wrote

    try:
        return zarr.open_array(folder, mode="r", zarr_format=3)  # version 2 has codecs that run code
    except Exception as error:  # zarr has its own errors for each part of the metadata
        raise CorruptError(f"zarr can't open {folder}: {error!r}", hint=RESTORE) from error


def _decode(array: Any, start: int, stop: int) -> Any:
    try:
        return array[start:stop]
    except Exception as error:  # each codec and store has its own way to say that bytes are broken
        raise CorruptError(
            f"zarr can't decode rows {start} to {stop} of {array.store_path}: {error!r}", hint=RESTORE
        ) from error


def _read_checked(path: Path, nbytes: int, has_checksum: bool) -> bytes | None:
    """The data of a raw chunk file, compared with its checksum, or None where there is no file."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    check_size(path, nbytes + (CHECKSUM_NBYTES if has_checksum else 0), len(found))
    if not has_checksum:
        return found
    data, expected = found[:nbytes], found[nbytes:]
    if checksum(data) != expected:
        raise CorruptError(
            f"The bytes of {path} have changed since they were written: their crc32c is "
            f"{checksum(data)[::-1].hex()}, the file says {expected[::-1].hex()}.",
            hint=RESTORE,
        )
    return data
