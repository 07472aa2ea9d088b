"""Rows gathered from segments: what NumPy's fancy indexing gives, in whatever order and from wherever."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec

from featstore.arrays import (
    FeatureReader,
    SegmentLayout,
    arrow_vectors,
    create_group,
    create_segment,
    write_chunk,
)
from featstore.errors import ConflictError, CorruptError, NotFoundError, UsageError

Random = Callable[..., np.ndarray]
WriteSegment = Callable[..., SegmentLayout]


@dataclass(frozen=True)
class Known:
    """A feature set, and the same rows in memory: segment id → (rows, *item_shape)."""

    reader: FeatureReader
    values: dict[int, np.ndarray] = field(repr=False)

    def every_row(self) -> tuple[np.ndarray, np.ndarray]:
        ids = np.concatenate([np.full(len(part), i) for i, part in self.values.items()])
        return ids, np.concatenate([np.arange(len(part)) for part in self.values.values()])

    def pick(self, ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if not len(rows):
            return np.empty((0, *self.reader.item_shape), self.reader.dtype)
        return np.stack([self.values[i][row] for i, row in zip(ids.tolist(), rows.tolist(), strict=True)])


#: Feature sets of each kind: segment id → rows, rows a chunk, dtype; and the shape of a row.
KINDS = {
    "one segment": ({7: (200, 32, "float32")}, (5,)),
    "several segments": ({12: (50, 8, "float32"), 3: (81, 20, "float32"), 900: (1, 1, "float32")}, (5,)),
    "tokens": ({0: (60, 16, "float32"), 1: (30, 16, "float32")}, (4, 3)),
    "half precision": ({0: (60, 16, "float16"), 1: (30, 7, "float16")}, (5,)),
    "mixed dtypes": ({0: (60, 16, "float16"), 1: (60, 16, "float32")}, (5,)),
    "compressed by others": ({0: (60, 16, "zstd"), 1: (60, 16, "float32")}, (5,)),
}


@pytest.fixture(scope="module", params=KINDS)
def known(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    random: Random,
    write_segment: WriteSegment,
) -> Known:
    segments, item_shape = KINDS[request.param]
    group = tmp_path_factory.mktemp("store") / "v1.zarr"
    values, folders = {}, {}
    for segment_id, (rows, chunk_rows, dtype) in segments.items():
        stored = "float32" if dtype == "zstd" else dtype
        part = random(rows, *item_shape, seed=segment_id).astype(stored)
        layout = write_segment(group / f"s{segment_id}", part, chunk_rows=chunk_rows, dtype=stored)
        if dtype == "zstd":
            opened = zarr.open_group(layout.path, mode="r+")
            del opened["features"]
            opened.create_array("features", data=part, chunks=(chunk_rows, 5), compressors=[ZstdCodec()])
        values[segment_id], folders[segment_id] = part, layout.path
    return Known(FeatureReader(folders), values)


class TestGather:
    @given(data=st.data())
    @settings(derandomize=True, deadline=None, max_examples=60)
    def test_any_rows_in_any_order(self, known: Known, data: st.DataObject) -> None:
        sizes = {segment: len(part) for segment, part in known.values.items()}
        row = st.sampled_from(sorted(sizes)).flatmap(
            lambda segment: st.tuples(st.just(segment), st.integers(0, sizes[segment] - 1))
        )
        picked = np.array(data.draw(st.lists(row, max_size=40)), np.int64).reshape(-1, 2)
        found = known.reader.gather(picked[:, 0], picked[:, 1])
        expected = known.pick(picked[:, 0], picked[:, 1])
        assert found.dtype == known.reader.dtype
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)

    @given(data=st.data())
    @settings(derandomize=True, deadline=None, max_examples=40)
    def test_runs(self, known: Known, data: st.DataObject) -> None:
        """Stretches of rows, forward, overlapping, across chunks: the shape of real queries."""
        ids, rows = known.every_row()
        bound = st.integers(0, len(rows))
        stretches = data.draw(st.lists(st.tuples(bound, bound), max_size=6))
        index = np.concatenate([np.arange(0), *(np.arange(*stretch) for stretch in stretches)])
        found = known.reader.gather(ids[index], rows[index])
        assert np.array_equal(found, known.pick(ids[index], rows[index]))

    @pytest.mark.parametrize("n", [1, 16, 256, 1_024, 1_025, 5_000])
    def test_however_many(self, known: Known, n: int) -> None:
        """Every way of copying gives the same, whichever the reader chooses."""
        ids, rows = known.every_row()
        in_order = np.arange(n) % len(rows)
        random = np.random.default_rng(n).integers(0, len(rows), n)
        for index in (in_order, in_order[::-1], random, np.sort(random)):
            expected = known.pick(ids[index], rows[index])
            for dtype in (None, np.float32, np.float64):
                found = known.reader.gather(ids[index], rows[index], dtype=dtype)
                assert found.dtype == (dtype or known.reader.dtype)
                assert np.array_equal(found, expected)

    def test_into_given_arrays(self, known: Known) -> None:
        ids, rows = known.every_row()
        for index in (np.arange(len(rows)), np.arange(len(rows))[::-1], np.arange(3)):
            expected = known.pick(ids[index], rows[index])
            whole = np.empty(expected.shape, known.reader.dtype)
            strided = np.empty((2 * len(index), *known.reader.item_shape), np.float64)[::2]
            for out in (whole, strided):
                assert known.reader.gather(ids[index], rows[index], out=out) is out
                assert np.array_equal(out, expected)

    def test_many_threads(self, known: Known) -> None:
        ids, rows = known.every_row()

        def work(seed: int) -> bool:
            index = np.random.default_rng(seed).integers(0, len(rows), (1, 30, 300, 3_000)[seed % 4])
            found = known.reader.gather(ids[index], rows[index])
            return np.array_equal(found, known.pick(ids[index], rows[index]))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(80)))

    def test_keeps_no_descriptor(self, known: Known) -> None:
        ids, rows = known.every_row()
        known.reader.gather(ids, rows)
        before = psutil.Process().num_fds()
        for _ in range(3):
            known.reader.close()
            known.reader.gather(ids, rows)
            known.reader.gather(ids[::-7], rows[::-7])
        assert psutil.Process().num_fds() == before

    def test_other_integers(self, known: Known) -> None:
        ids, rows = known.every_row()
        found = known.reader.gather(ids.astype(np.int32), rows.astype(np.uint64))
        assert np.array_equal(found, known.reader.gather(ids, rows))

    def test_no_rows(self, known: Known) -> None:
        assert known.reader.gather(np.array([]), np.array([])).shape == (0, *known.reader.item_shape)

    def test_pickles(self, known: Known) -> None:
        ids, rows = known.every_row()
        again = pickle.loads(pickle.dumps(known.reader))
        assert np.array_equal(again.gather(ids, rows), known.reader.gather(ids, rows))

    def test_rows_that_are_not_valid(self, group: Path, random: Random, write_segment: WriteSegment) -> None:
        values, valid = random(10, 3), np.arange(10) % 2 == 0
        layout = write_segment(group / "s1", values, chunk_rows=4, valid=valid)
        layout.chunk_path(1).unlink()
        expected = np.where(valid[:, None], values, np.nan)
        expected[4:8] = np.nan
        with FeatureReader({1: layout.path}) as reader:
            for order in (
                np.arange(10),
                np.arange(10)[::-1],
                np.arange(2_000) % 10,
                np.arange(2_000)[::-1] % 10,
            ):
                found = reader.gather(np.ones(len(order), np.int64), order)
                assert np.array_equal(found, expected[order], equal_nan=True)


class TestRefusals:
    @pytest.fixture
    def reader(self, group: Path, random: Random, write_segment: WriteSegment) -> FeatureReader:
        return FeatureReader({i: write_segment(group / f"s{i}", random(10, 3), chunk_rows=4).path for i in (4, 6)})

    @pytest.mark.parametrize("segment", [-1, 0, 5, 7])
    def test_unknown_segment(self, reader: FeatureReader, segment: int) -> None:
        with pytest.raises(NotFoundError, match=f"no segment {segment} among"):
            reader.gather(np.array([4, segment]), np.array([0, 0]))
        with pytest.raises(KeyError):
            reader.gather(np.array([segment]), np.array([0]))

    @pytest.mark.parametrize("row", [-1, 10, 2**62])
    def test_unknown_row(self, reader: FeatureReader, row: int) -> None:
        with pytest.raises(IndexError, match=f"row {row} of segment 6, which has 10 rows"):
            reader.gather(np.array([4, 6]), np.array([9, row]))

    @pytest.mark.parametrize(
        ("ids", "rows"),
        [
            (np.array([4]), np.array([1, 2])),
            (np.array([[4]]), np.array([[1]])),
            (np.array(4), np.array(1)),
            (np.array([4.0]), np.array([1])),
            (np.array([4]), np.array([True])),
        ],
        ids=["lengths", "two axes", "no axis", "floats", "booleans"],
    )
    def test_not_rows(self, reader: FeatureReader, ids: np.ndarray, rows: np.ndarray) -> None:
        with pytest.raises(ValueError, match="segment ids"):
            reader.gather(ids, rows)

    @pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex128])
    def test_dtypes_that_lose_values(self, reader: FeatureReader, dtype: type) -> None:
        with pytest.raises(ValueError, match="would lose digits"):
            reader.gather(np.array([4]), np.array([1]), dtype=dtype)

    def test_unfit_out(self, reader: FeatureReader) -> None:
        frozen = np.empty((1, 3), np.float32)
        frozen.flags.writeable = False
        for out in (np.empty((2, 3), np.float32), np.empty((1, 4), np.float32), frozen):
            with pytest.raises(ValueError, match="out must be"):
                reader.gather(np.array([4]), np.array([1]), out=out)
        with pytest.raises(ValueError, match="out must be"):
            reader.gather(np.array([4]), np.array([1]), out=np.empty((1, 3), np.float32), dtype=np.float64)

    def test_truncated_chunk(self, reader: FeatureReader) -> None:
        path = reader.segments[6].layout.chunk_path(2)
        path.write_bytes(path.read_bytes()[:20])
        assert reader.gather(np.array([4, 6]), np.array([9, 7])).shape == (2, 3)
        with pytest.raises(CorruptError, match=f"{path} has 20 bytes, where its chunk has 52"):
            reader.gather(np.array([4, 6]), np.array([9, 8]))

    def test_shapes_that_differ(self, group: Path, random: Random, write_segment: WriteSegment) -> None:
        folders = {dim: write_segment(group / f"s{dim}", random(4, dim), chunk_rows=4).path for dim in (2, 3)}
        with pytest.raises(ConflictError, match=r"shape \(3,\).* \(2,\)"):
            FeatureReader(folders)

    def test_no_segments(self) -> None:
        with pytest.raises(UsageError, match="without a segment"):
            FeatureReader({})


def test_a_lost_chunk_of_committed_rows_is_an_error_and_not_nan(tmp_path: Path) -> None:
    layout = SegmentLayout(tmp_path / "x" / "v1.zarr" / "s", 6, 2, (3,), "float32")
    create_group(layout.path.parent, {})
    create_segment(layout, [f"k{i}" for i in range(6)])
    for index in range(3):
        write_chunk(layout, index, np.ones((2, 3), np.float32), np.ones(2, bool))
    layout.chunk_path(1).unlink()
    ids, rows = np.zeros(6, np.int64), np.arange(6)
    assert np.isnan(FeatureReader({0: layout.path}).gather(ids, rows)).sum() == 6
    for reader in (
        FeatureReader({0: layout.path}, committed=True),
        pickle.loads(pickle.dumps(FeatureReader({0: layout.path}, committed=True))),
    ):
        assert np.isfinite(reader.gather(ids[:2], rows[:2])).all()
        for some in (slice(None), slice(2, 3)):
            with pytest.raises(CorruptError, match="are lost"):
                reader.gather(ids[some], rows[some])
        with pytest.raises(CorruptError, match="are lost"):
            arrow_vectors(reader, ids, rows)
