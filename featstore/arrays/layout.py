"""Where a segment's bytes lie, and the making of the Zarr v3 groups that hold them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from pathlib import Path
from typing import Any, Literal

import google_crc32c
import numpy as np

from featstore import files
from featstore.arrays import metadata
from featstore.errors import ConflictError, CorruptError, NotFoundError, UsageError
from featstore.spec import Json

#: The stored dtypes, with their sizes in bytes.
ITEM_SIZES: Mapping[str, int] = {"float16": 2, "float32": 4}
#: Every chunk file ends with the crc32c of what comes before it.
CHECKSUM_NBYTES = 4
#: Sample keys of one chunk: a few MB of text, and few files however long the segment is.
KEYS_PER_CHUNK = 65_536


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """One segment: one array of features that one run wrote for one feature set.

    Attributes:
        path: the segment's folder, ``<store>/features/<name>/v<k>.zarr/<segment>``.
        rows: how many rows it has, done or not; at least 1.
        chunk_rows: rows of one chunk, the unit of work and of commit. The last chunk may have fewer; its file
            is padded.
        item_shape: the shape of one row: (dim,), or (tokens, dim).
        dtype: what is stored.

    Raises:
        UsageError: where these can't describe a segment.
    """

    path: Path
    rows: int
    chunk_rows: int
    item_shape: tuple[int, ...]
    dtype: Literal["float16", "float32"]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZES:
            raise UsageError(f"A segment can't store {self.dtype}; it stores {' or '.join(ITEM_SIZES)}.")
        if len(self.item_shape) not in (1, 2) or min(self.item_shape) < 1:
            raise UsageError(f"{self.item_shape} is no shape of a row: it is (dim,) or (tokens, dim).")
        if self.rows < 1 or self.chunk_rows < 1:
            raise UsageError(
                f"A segment has at least one row and one row a chunk, not {self.rows} and {self.chunk_rows}."
            )

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return ceil(self.rows / self.chunk_rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *item_shape)."""
        return (self.rows, *self.item_shape)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """(chunk_rows, *item_shape), as it is on disk."""
        return (self.chunk_rows, *self.item_shape)

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of one chunk of features, padding included, checksum not."""
        return prod(self.chunk_shape) * ITEM_SIZES[self.dtype]

    @property
    def storage_dtype(self) -> np.dtype[Any]:
        """The stored dtype with its byte order: little-endian on every machine."""
        return np.dtype(self.dtype).newbyteorder("<")

    def rows_in(self, index: int) -> int:
        """How many of the segment's rows chunk ``index`` holds, padding not counted.

        Raises:
            IndexError: there is no such chunk.
        """
        if not 0 <= index < self.chunks:
            raise IndexError(f"chunk {index} of segment {self.path.name}, which has {self.chunks}")
        return min(self.chunk_rows, self.rows - index * self.chunk_rows)

    def chunk_path(self, index: int) -> Path:
        """The file of one chunk of features. It needn't exist: a chunk that wasn't written reads as NaN."""
        return self.path.joinpath("features", "c", str(index), *("0" for _ in self.item_shape))

    def valid_path(self, index: int) -> Path:
        """The file of one chunk of ``valid``. It needn't exist: a chunk that wasn't written is not valid."""
        return self.path / "valid" / "c" / str(index)


def create_group(path: Path, attributes: Mapping[str, Json]) -> None:
    """Make the Zarr group of one version of a feature set, or find it as it should be.

    Args:
        path: the group's folder, ``…/features/<name>/v<k>.zarr``; missing parents are made.
        attributes: the group's attributes, as JSON; they say whose vectors these are.

    Raises:
        ConflictError: the group exists and says otherwise.
        CorruptError: the folder exists and isn't a Zarr group.
    """
    if not path.exists():
        _make_folder(path.parent)
        with _whole_folder(path, beside=path.parent) as folder:
            files.write_json(folder / "zarr.json", metadata.group(attributes))
    found = metadata.read(path / "zarr.json")
    if found.get("node_type") != "group":
        raise CorruptError(
            f"{path} holds a Zarr {found.get('node_type')!r}, where a feature set's group should be.",
            hint="restore the group from a backup, or move the folder away and extract again",
        )
    if found.get("attributes") != json.loads(json.dumps(attributes)):  # a tuple comes back as a list
        raise ConflictError(
            f"{path} belongs to another feature set: its attributes aren't those of the one to be written.",
            hint=f"compare them in {path / 'zarr.json'}; another fingerprint needs a new version",
        )


def group_attributes(name: str, version: int, fingerprint: str, config: Mapping[str, Json]) -> dict[str, Json]:
    """What a version's group says of itself, whoever made its vectors."""
    return {
        "featstore": {
            "encoding-type": "featstore-features", "encoding-version": "1", "name": name, "version": version,
            "fingerprint": fingerprint, "config": dict(config),
        }
    }  # fmt: skip


def create_segment(layout: SegmentLayout, sample_keys: Sequence[str]) -> None:
    """Make a segment without any chunk of features: all NaN, nothing valid. Or find it as it should be.

    The folder is built aside and renamed, so it is whole or absent; a resumed run may call this again, and
    several workers may call it at once.

    Args:
        layout: what to make. Its group (:func:`create_group`) must exist.
        sample_keys: one key a row, in row order.

    Raises:
        UsageError: there aren't as many keys as rows.
        NotFoundError: the group isn't there.
        ConflictError: another segment is there: other rows, chunks, shape, dtype or sample keys.
        CorruptError: the segment that is there is damaged.
    """
    if len(sample_keys) != layout.rows:
        raise UsageError(f"{len(sample_keys)} sample keys for the {layout.rows} rows of a segment.")
    group = layout.path.parent
    if not (group / "zarr.json").exists():
        raise NotFoundError(f"{group} isn't a Zarr group.", hint="make it with create_group first")
    if not layout.path.exists():
        # Beside the group, not in it: what a killed process leaves behind must not look like a member of it.
        with _whole_folder(layout.path, beside=group.parent) as folder:
            _build_segment(folder, layout, sample_keys)
    _check_same(layout, sample_keys)


def _build_segment(folder: Path, layout: SegmentLayout, sample_keys: Sequence[str]) -> None:
    # Each folder's metadata comes last: writing it also waits until the folder's other names are on the disk.
    for name, expected in _arrays(layout).items():
        (folder / name / "c").mkdir(parents=True)
        if name == "sample_key":
            for index, data in enumerate(_key_chunks(sample_keys)):
                files.write_atomic(folder / name / "c" / str(index), data, checksum(data))
        files.write_json(folder / name / "zarr.json", expected)
    files.write_json(folder / "zarr.json", metadata.group({}))


def _check_same(layout: SegmentLayout, sample_keys: Sequence[str]) -> None:
    for name, expected in _arrays(layout).items():
        found = metadata.read(layout.path / name / "zarr.json")
        if {**found, "attributes": {}} != expected:  # anyone may have added attributes; they change no value
            raise ConflictError(
                f"{layout.path / name} is there already, with another shape, chunk, dtype or codec than "
                f"{layout.shape} of {layout.dtype} in chunks of {layout.chunk_rows} rows.",
                hint="resume with the plan that made the segment, or write a new segment",
            )
    for index, data in enumerate(_key_chunks(sample_keys)):
        path = layout.path / "sample_key" / "c" / str(index)
        if not path.exists() or path.read_bytes() != data + checksum(data):
            raise ConflictError(
                f"{layout.path} is there already, with other samples in its rows.",
                hint="resume with the plan that made the segment, or write a new segment",
            )


def _arrays(layout: SegmentLayout) -> dict[str, dict[str, Json]]:
    rows, keys = (layout.rows,), (min(layout.rows, KEYS_PER_CHUNK),)
    little, one_byte, text, crc32c = metadata.LITTLE, metadata.ONE_BYTE, metadata.TEXT, metadata.CRC32C
    return {
        "features": metadata.array(layout.shape, layout.chunk_shape, layout.dtype, "NaN", [little, crc32c]),
        "valid": metadata.array(rows, (layout.chunk_rows,), "bool", False, [one_byte, crc32c]),
        "sample_key": metadata.array(rows, keys, "string", "", [text, crc32c]),
    }


def _key_chunks(sample_keys: Sequence[str]) -> Iterator[bytes]:
    """Chunks in zarr's vlen-utf8: a count, then for each text its length and UTF-8; counts are uint32."""
    length = min(len(sample_keys), KEYS_PER_CHUNK)
    for start in range(0, len(sample_keys), length):
        texts = [key.encode() for key in sample_keys[start : start + length]]
        texts += [b""] * (length - len(texts))  # the last chunk is as long as the others, as Zarr wants it
        yield struct.pack("<I", length) + b"".join(struct.pack("<I", len(text)) + text for text in texts)


# ---------------------------------------------------------------------------------------------- bytes on disk
def checksum(data: bytes | np.ndarray[Any, Any]) -> bytes:
    """The crc32c of ``data`` (bytes, or a C-contiguous array), as the 4 bytes that end a chunk file."""
    return struct.pack("<I", google_crc32c.value(data))


def _make_folder(path: Path) -> None:
    """Make a folder and its missing parents, and wait until their names are on the disk."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)  # another worker may be making it too
        files.fsync(folder.parent)


@contextlib.contextmanager
def _whole_folder(path: Path, *, beside: Path) -> Iterator[Path]:
    """Give a new folder in ``beside`` that becomes ``path`` when the block ends without an error.

    Where another process was quicker, its folder stays.
    """
    temporary = beside / f".tmp-{secrets.token_hex(4)}-{path.name}"
    temporary.mkdir()
    try:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.exists():
                raise
        files.fsync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
