"""Chunks: the bytes that zarr would write, all or nothing, and nothing that isn't finite."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from featstore.arrays import (
    SegmentLayout,
    SegmentReader,
    check_chunk,
    create_group,
    create_segment,
    storable,
    write_chunk,
)


@pytest.fixture
def layout(group: Path) -> SegmentLayout:
    """10 rows of 3 values in chunks of 4: the last chunk has 2."""
    create_group(group, {})
    layout = SegmentLayout(group / "s1", 10, 4, (3,), "float32")
    create_segment(layout, [str(row) for row in range(10)])
    return layout


def chunk_files(segment: Path) -> dict[str, bytes]:
    found = [*(segment / "features" / "c").rglob("*"), *(segment / "valid" / "c").rglob("*")]
    return {str(path.relative_to(segment)): path.read_bytes() for path in found if path.is_file()}


class TestBytes:
    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    @pytest.mark.parametrize("item_shape", [(6,), (3, 2)], ids=str)
    @pytest.mark.parametrize("chunk_rows", [4, 5, 16], ids="{} rows a chunk".format)
    def test_equal_zarr(
        self,
        group: Path,
        random: Callable[..., np.ndarray],
        write_segment: Callable[..., SegmentLayout],
        dtype: str,
        item_shape: tuple[int, ...],
        chunk_rows: int,
    ) -> None:
        values, valid = random(10, *item_shape), np.array([1, 1, 0, 1, 1, 0, 1, 1, 0, 1], np.bool_)
        ours = write_segment(group / "s1", values, chunk_rows=chunk_rows, dtype=dtype, valid=valid)

        theirs = write_segment(group.with_name("v2.zarr") / "s1", values, chunk_rows=chunk_rows, dtype=dtype)
        for index in range(theirs.chunks):
            theirs.chunk_path(index).unlink()
            theirs.valid_path(index).unlink()
        twin = zarr.open_group(theirs.path, mode="r+")
        twin["features"][:] = np.where(valid.reshape(-1, *(1 for _ in item_shape)), values, np.nan)
        twin["valid"][:] = valid

        assert len(chunk_files(ours.path)) == 2 * ours.chunks
        assert chunk_files(ours.path) == chunk_files(theirs.path)

    def test_zarr_reads_them(self, layout: SegmentLayout, random: Callable[..., np.ndarray]) -> None:
        values, valid = random(10, 3), np.arange(10) % 3 > 0
        for index in (2, 0):  # in any order, and not all of them
            part = slice(index * 4, index * 4 + 4)
            write_chunk(layout, index, values[part], valid[part])
        valid[4:8] = False
        segment = zarr.open_group(layout.path.parent, mode="r")["s1"]
        assert np.array_equal(segment["valid"][:], valid)
        assert np.array_equal(segment["features"][:], np.where(valid[:, None], values, np.nan), equal_nan=True)

    def test_a_chunk_of_failures_is_written_too(self, layout: SegmentLayout) -> None:
        write_chunk(layout, 1, np.zeros((4, 3), np.float32), np.zeros(4, np.bool_))
        assert check_chunk(layout, 1)
        assert np.isnan(SegmentReader(layout.path).chunk(1)).all()

    def test_written_again(self, layout: SegmentLayout) -> None:
        for value in (1.0, 2.0):
            write_chunk(layout, 0, np.full((4, 3), value), np.ones(4, np.bool_))
        assert (zarr.open_array(layout.path / "features", mode="r")[:4] == 2).all()
        assert [path.name for path in layout.chunk_path(0).parent.iterdir()] == ["0"]

    def test_what_failed_rows_hold_is_not_stored(self, layout: SegmentLayout) -> None:
        values = np.array([[np.inf] * 3, [1, 2, 3], [7, np.nan, 7], [9, 9, 9]], np.float64)
        write_chunk(layout, 0, values, np.array([False, True, False, False]))
        stored = SegmentReader(layout.path).chunk(0)
        assert np.isnan(stored[[0, 2, 3]]).all()
        assert stored[1].tolist() == [1, 2, 3]


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
    def test_a_valid_row_must_be_finite(self, layout: SegmentLayout, bad: float) -> None:
        values = np.ones((4, 3), np.float64)
        values[2, 1] = bad
        with pytest.raises(ValueError, match=r"1 valid rows of chunk 0 .* the first is row 2"):
            write_chunk(layout, 0, values, np.ones(4, np.bool_))
        assert chunk_files(layout.path) == {}

    def test_float16_overflow(self, group: Path) -> None:
        create_group(group, {})
        layout = SegmentLayout(group / "s1", 2, 2, (2,), "float16")
        create_segment(layout, ["a", "b"])
        values = np.array([[1, 2], [3, 70_000]], np.float32)
        with pytest.raises(ValueError, match="not finite as float16"):
            write_chunk(layout, 0, values, np.ones(2, np.bool_))
        write_chunk(layout, 0, values, storable(values, layout.dtype))
        assert SegmentReader(layout.path).valid().tolist() == [True, False]

    @pytest.mark.parametrize(
        ("index", "values", "valid"),
        [
            (0, np.zeros((3, 3)), np.ones(3, np.bool_)),
            (2, np.zeros((4, 3)), np.ones(4, np.bool_)),
            (0, np.zeros((4, 2)), np.ones(4, np.bool_)),
            (0, np.zeros((4, 3), np.int64), np.ones(4, np.bool_)),
            (0, np.zeros((4, 3)), np.ones(3, np.bool_)),
            (0, np.zeros((4, 3)), np.ones(4, np.int64)),
        ],
        ids=["few rows", "edge chunk", "other dim", "integers", "few flags", "flags that are numbers"],
    )
    def test_shapes_and_dtypes(self, layout: SegmentLayout, index: int, values: np.ndarray, valid: np.ndarray) -> None:
        with pytest.raises(ValueError, match=f"chunk {index} takes"):
            write_chunk(layout, index, values, valid)
        assert chunk_files(layout.path) == {}

    def test_no_such_chunk(self, layout: SegmentLayout) -> None:
        with pytest.raises(IndexError):
            write_chunk(layout, 3, np.zeros((4, 3)), np.ones(4, np.bool_))


class TestStorable:
    @given(
        arrays_of.arrays(np.float64, st.tuples(st.integers(0, 5), st.integers(1, 4)), elements=st.floats(width=64)),
        st.sampled_from(["float16", "float32"]),
    )
    @settings(derandomize=True, deadline=None)
    def test_says_what_survives(self, values: np.ndarray, dtype: str) -> None:
        with np.errstate(over="ignore", invalid="ignore"):
            expected = [all(np.isfinite(np.dtype(dtype).type(x)) for x in row) for row in values]
        assert storable(values, dtype).tolist() == expected

    def test_tokens(self) -> None:
        values = np.zeros((2, 3, 4), np.float32)
        values[1, 2, 3] = 65_520  # the first that float16 rounds to infinity
        assert storable(values, "float16").tolist() == [True, False]
        assert storable(values, "float32").tolist() == [True, True]


WRITER = """
import sys
from pathlib import Path
import numpy as np
from featstore.arrays import SegmentLayout, write_chunk
layout = SegmentLayout(Path(sys.argv[1]), 32_000, 8, (32,), "float32")
print("ready", flush=True)
for index in range(layout.chunks):
    write_chunk(layout, index, np.full((8, 32), index, np.float32), np.ones(8, bool))
"""


def test_killed_while_writing(group: Path) -> None:
    """Whatever moment it is killed at, every chunk is whole or absent, and what it leaves disturbs nobody."""
    create_group(group, {})
    layout = SegmentLayout(group / "s1", 32_000, 8, (32,), "float32")
    create_segment(layout, [str(row) for row in range(32_000)])
    for pause in (0.03, 0.07, 0.11, 0.2):
        with subprocess.Popen([sys.executable, "-c", WRITER, layout.path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            while not layout.valid_path(0).exists():  # the first one writes something, however slow the disk
                time.sleep(0.001)
            time.sleep(pause)
            writer.send_signal(signal.SIGKILL)
        reader = SegmentReader(layout.path)
        written = [check_chunk(reader, index) for index in range(layout.chunks)]
        valid = reader.valid().reshape(-1, 8)
        for index, done in enumerate(written):
            assert done or not valid[index].any()  # features come first
            expected = index if done else np.nan
            assert np.array_equal(reader.chunk(index), np.full((8, 32), expected, "f4"), equal_nan=True)
        reader.close()
    assert any(written)
    assert not all(written)

    # Names that a kill leaves behind, in each place where one can be.
    (layout.chunk_path(0).with_name(".tmp-0123abcd-0")).write_bytes(b"part")
    (layout.valid_path(0).with_name(".tmp-0123abcd-0")).write_bytes(b"part")
    (group.parent / ".tmp-0123abcd-s2" / "features").mkdir(parents=True)
    opened = zarr.open_group(group, mode="r")
    assert [name for name, _ in opened.members()] == ["s1"]
    assert (opened["s1/features"][:8] == 0).all()
    assert SegmentReader(layout.path).valid()[:8].all()
