"""One segment read back: mapped, filled, damaged, and written by other tools."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import zarr
from zarr.codecs import BytesCodec, Crc32cCodec, ZstdCodec

from featstore.arrays import (
    SegmentLayout,
    SegmentReader,
    check_chunk,
    create_group,
    create_segment,
    write_chunk,
)
from featstore.errors import CorruptError

Random = Callable[..., np.ndarray]
WriteSegment = Callable[..., SegmentLayout]


@pytest.fixture
def values(random: Random) -> np.ndarray:
    return random(10, 6)


@pytest.fixture
def layout(group: Path, values: np.ndarray, write_segment: WriteSegment) -> SegmentLayout:
    return write_segment(group / "s1", values, chunk_rows=4, valid=np.arange(10) != 3)


class TestChunk:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("item_shape", [(6,), (3, 2)], ids=str)
    def test_values(
        self,
        group: Path,
        random: Random,
        write_segment: WriteSegment,
        dtype: str,
        item_shape: tuple[int, ...],
    ) -> None:
        values = random(10, *item_shape)
        reader = SegmentReader(write_segment(group / "s1", values, chunk_rows=4, dtype=dtype).path)
        assert reader.mapped
        chunks = [reader.chunk(index) for index in range(3)]
        assert [chunk.shape for chunk in chunks] == [(4, *item_shape), (4, *item_shape), (2, *item_shape)]
        assert all(chunk.dtype == dtype for chunk in chunks)
        assert np.array_equal(np.concatenate(chunks), values.astype(dtype))

    def test_is_the_file_itself(self, layout: SegmentLayout) -> None:
        chunk = SegmentReader(layout.path).chunk(0)
        with open(layout.chunk_path(0), "r+b") as file:
            file.write(np.float32(42).tobytes())
        assert chunk[0, 0] == 42
        assert not chunk.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            chunk[0, 0] = 1

    def test_outlives_its_reader(self, layout: SegmentLayout, values: np.ndarray) -> None:
        with SegmentReader(layout.path) as reader:
            chunk = reader.chunk(1)
        shutil.rmtree(layout.path)
        assert np.array_equal(chunk, values[4:8])

    def test_never_written(self, layout: SegmentLayout, values: np.ndarray) -> None:
        content = layout.chunk_path(1).read_bytes()
        layout.chunk_path(1).unlink()
        reader = SegmentReader(layout.path)
        assert np.isnan(reader.chunk(1)).all()
        assert reader.chunk(1).shape == (4, 6)
        layout.chunk_path(1).write_bytes(content)  # a worker was a moment behind
        assert np.array_equal(reader.chunk(1), values[4:8])

    def test_a_store_made_anew_in_the_same_place(self, layout: SegmentLayout, values: np.ndarray) -> None:
        assert np.array_equal(SegmentReader(layout.path).chunk(2), values[8:])
        shutil.rmtree(layout.path)
        create_segment(layout, [str(row) for row in range(10)])
        write_chunk(layout, 2, np.ones((2, 6)), np.ones(2, np.bool_))
        assert (SegmentReader(layout.path).chunk(2) == 1).all()

    @pytest.mark.parametrize("index", [-1, 3])
    def test_no_such_chunk(self, layout: SegmentLayout, index: int) -> None:
        with pytest.raises(IndexError):
            SegmentReader(layout.path).chunk(index)

    def test_keeps_no_descriptor(self, group: Path, random: Random, write_segment: WriteSegment) -> None:
        layout = write_segment(group / "s1", random(40, 2), chunk_rows=1)
        reader, process = SegmentReader(layout.path), psutil.Process()
        reader.chunk(0)
        before = process.num_fds()
        chunks = [reader.chunk(index) for index in range(layout.chunks)]
        assert process.num_fds() == before
        assert len(chunks) == 40

    def test_needs_no_zarr(self, layout: SegmentLayout, run_python: Callable[..., str]) -> None:
        script = """
import sys
import featstore.arrays as arrays
assert not {"zarr", "pyarrow"} & sys.modules.keys()
reader = arrays.SegmentReader(sys.argv[1])
print(reader.chunk(0).shape, reader.valid().sum(), arrays.check_chunk(reader, 0), "zarr" in sys.modules)
"""
        assert run_python(script, layout.path) == "(4, 6) 9 True False\n"


class TestTheRest:
    def test_layout(self, layout: SegmentLayout) -> None:
        assert SegmentReader(layout.path).layout == layout

    def test_valid(self, layout: SegmentLayout) -> None:
        layout.valid_path(2).unlink()
        assert SegmentReader(layout.path).valid().tolist() == [1, 1, 1, 0, 1, 1, 1, 1, 0, 0]

    def test_sample_keys(self, group: Path) -> None:
        keys = ["ct/007", "ct/7", "ct/ä b#c"]
        layout = SegmentLayout(group / "s1", 3, 2, (1,), "float32")
        create_group(group, {})
        create_segment(layout, keys)
        assert SegmentReader(layout.path).sample_keys() == keys

    def test_pickles(self, layout: SegmentLayout, values: np.ndarray) -> None:
        reader = pickle.loads(pickle.dumps(SegmentReader(layout.path)))
        assert np.array_equal(reader.chunk(1), values[4:8])
        assert repr(reader) == f"SegmentReader('{layout.path}')"


class TestDamage:
    @pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: b"", lambda data: data + b"x"])
    def test_wrong_size(self, layout: SegmentLayout, change: Callable[[bytes], bytes]) -> None:
        path = layout.chunk_path(1)
        content = change(path.read_bytes())
        path.write_bytes(content)
        message = rf"{path} has {len(content)} bytes, where its chunk has 100\.\n  next: restore"
        for read in (SegmentReader(layout.path).chunk, lambda index: check_chunk(layout, index)):
            with pytest.raises(CorruptError, match=message):
                read(1)

    @pytest.mark.parametrize("which", ["chunk_path", "valid_path"])
    @pytest.mark.parametrize("position", [0, 2, -1])
    def test_a_flipped_bit(self, layout: SegmentLayout, which: str, position: int) -> None:
        path: Path = getattr(layout, which)(1)
        content = bytearray(path.read_bytes())
        content[position] ^= 0b100
        path.write_bytes(content)
        assert check_chunk(layout, 0)
        for source in (layout, SegmentReader(layout.path)):
            with pytest.raises(CorruptError, match=f"bytes of {path} have changed"):
                check_chunk(source, 1)

    def test_a_lost_chunk(self, layout: SegmentLayout) -> None:
        layout.chunk_path(1).unlink()
        with pytest.raises(CorruptError, match="is gone, and rows of it are valid"):
            check_chunk(layout, 1)
        layout.valid_path(1).unlink()
        assert check_chunk(layout, 1) is False

    def test_valid_is_checked_when_it_is_read(self, layout: SegmentLayout) -> None:
        layout.valid_path(0).write_bytes(b"\1\1\1\1abcd")
        with pytest.raises(CorruptError, match="valid/c/0 have changed"):
            SegmentReader(layout.path).valid()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"node_type": "array"', '"node_type": "group"'),
            ('"zarr_format": 3', '"zarr_format": 2'),
            ('"data_type": "float32"', '"data_type": "int32"'),
            ('"shape"', '"form"'),
            ('"node_type"', '"node'),
        ],
    )
    def test_metadata(self, layout: SegmentLayout, old: str, new: str) -> None:
        path = layout.path / "features" / "zarr.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(CorruptError, match="next: restore"):
            SegmentReader(layout.path)

    def test_no_segment(self, group: Path) -> None:
        with pytest.raises(CorruptError, match=r"s9/features/zarr\.json can't be read"):
            SegmentReader(group / "s9")

    def test_codec_that_zarr_does_not_know(self, layout: SegmentLayout) -> None:
        path = layout.path / "features" / "zarr.json"
        path.write_text(path.read_text().replace("crc32c", "crc-of-tomorrow"))
        with pytest.raises(CorruptError, match="zarr can't open"):
            SegmentReader(layout.path)


LITTLE = BytesCodec(endian="little")
#: What other tools may have made of a segment: settings for zarr, and whether it can still be mapped.
FOREIGN: dict[str, tuple[dict[str, Any], bool]] = {
    "zstd": ({"chunks": (4, 6), "compressors": [ZstdCodec(level=3)]}, False),
    "cut across": ({"chunks": (4, 3), "compressors": None}, False),
    "sharded": ({"chunks": (2, 6), "shards": (4, 6), "compressors": None}, False),
    "big-endian": ({"chunks": (4, 6), "compressors": None, "serializer": BytesCodec(endian="big")}, False),
    "names with dots": (
        {"chunks": (4, 6), "compressors": None, "chunk_key_encoding": {"name": "default", "separator": "."}},
        False,
    ),
    "names of format 2": (
        {"chunks": (4, 6), "compressors": None, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        False,
    ),
    "no checksum": ({"chunks": (4, 6), "compressors": None, "serializer": LITTLE}, True),
    "one large chunk": ({"chunks": (64, 6), "compressors": [Crc32cCodec()], "serializer": LITTLE}, True),
}


class TestForeign:
    @pytest.fixture(params=FOREIGN)
    def rewritten(self, request: pytest.FixtureRequest, layout: SegmentLayout, values: np.ndarray) -> bool:
        """The segment's features, written anew with zarr; gives whether they should be mapped."""
        zarr_settings, mapped = FOREIGN[request.param]
        group = zarr.open_group(layout.path, mode="r+")
        del group["features"]
        array = group.create_array(
            "features", shape=values.shape, dtype="float32", fill_value=float("nan"), **zarr_settings
        )
        array[:] = values
        return mapped

    def test_reads_the_same(self, rewritten: bool, layout: SegmentLayout, values: np.ndarray) -> None:
        reader = SegmentReader(layout.path)
        assert reader.mapped == rewritten
        chunks = [reader.chunk(index) for index in range(reader.layout.chunks)]
        assert all(chunk.dtype == "<f4" and not chunk.flags.writeable for chunk in chunks)
        assert np.array_equal(np.concatenate(chunks), values)
        assert all(check_chunk(reader, index) for index in range(reader.layout.chunks))
        assert reader.valid().sum() == 9

    def test_other_fill(self, layout: SegmentLayout) -> None:
        group = zarr.open_group(layout.path, mode="r+")
        del group["features"]
        group.create_array(
            "features", shape=(10, 6), chunks=(4, 6), dtype="float32", fill_value=0.5,
            serializer=LITTLE, compressors=[Crc32cCodec()],
        )  # fmt: skip
        reader = SegmentReader(layout.path)
        assert reader.mapped
        assert (reader.chunk(2) == 0.5).all()
        assert reader.chunk(2).shape == (2, 6)

    def test_valid_compressed(self, layout: SegmentLayout) -> None:
        group = zarr.open_group(layout.path, mode="r+")
        flags = group["valid"][:]
        del group["valid"]
        group.create_array("valid", shape=(10,), chunks=(10,), dtype="bool", compressors=[ZstdCodec()])
        group["valid"][:] = flags
        reader = SegmentReader(layout.path)
        assert np.array_equal(reader.valid(), flags)
        assert check_chunk(reader, 0)

    def test_damage_inside_a_compressed_chunk(self, layout: SegmentLayout, values: np.ndarray) -> None:
        group = zarr.open_group(layout.path, mode="r+")
        del group["features"]
        compressors = [ZstdCodec(), Crc32cCodec()]
        group.create_array("features", shape=(10, 6), chunks=(4, 6), dtype="float32", compressors=compressors)
        group["features"][:] = values
        path = layout.chunk_path(1)
        path.write_bytes(path.read_bytes()[:-9] + b"unfitting")
        reader = SegmentReader(layout.path)
        assert np.array_equal(reader.chunk(0), values[:4])
        for read in (reader.chunk, lambda index: check_chunk(reader, index)):
            with pytest.raises(CorruptError, match="zarr can't decode rows 4 to 8"):
                read(1)
