"""Vectors in Arrow: the same rows, not copied where they lie together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.arrays import FeatureReader, SegmentLayout, arrow_block, arrow_vectors, codes, numbers

Random = Callable[..., np.ndarray]
WriteSegment = Callable[..., SegmentLayout]


@pytest.fixture(scope="module")
def values(random: Random) -> np.ndarray:
    return random(1_000, 6)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, write_segment: WriteSegment) -> FeatureReader:
    path = tmp_path_factory.mktemp("store") / "v1.zarr" / "s1"
    return FeatureReader({1: write_segment(path, values, chunk_rows=128).path})


def take(reader: FeatureReader, rows: np.ndarray) -> pa.ChunkedArray:
    return arrow_vectors(reader, np.ones(len(rows), np.int64), rows)


def matrix(vectors: pa.ChunkedArray) -> np.ndarray:
    vectors.validate(full=True)
    return vectors.combine_chunks().flatten().to_numpy().reshape(len(vectors), vectors.type.list_size)


def is_mapped(reader: FeatureReader, piece: pa.FixedSizeListArray) -> bool:
    """Whether a piece lies within the reader's maps."""
    address = piece.values.buffers()[1].address
    segment = reader.segments[1]
    for chunk in map(segment.chunk, range(segment.layout.chunks)):
        if chunk.ctypes.data <= address < chunk.ctypes.data + chunk.nbytes:
            return True
    return False


def test_whole_scan_is_not_copied(reader: FeatureReader, values: np.ndarray) -> None:
    vectors = take(reader, np.arange(1_000))
    assert vectors.type == pa.list_(pa.float32(), 6)
    assert [len(piece) for piece in vectors.chunks] == [128] * 7 + [104]
    assert all(is_mapped(reader, piece) for piece in vectors.chunks)
    assert np.array_equal(matrix(vectors), values)


def test_runs_within_chunks_are_not_copied(reader: FeatureReader, values: np.ndarray) -> None:
    rows = np.r_[500:600, 10:110, 3, 900:1_000]
    vectors = take(reader, rows)
    assert np.array_equal(matrix(vectors), values[rows])
    found = [(len(piece), is_mapped(reader, piece)) for piece in vectors.chunks]
    assert found == [(12, False), (88, True), (100, True), (1, False), (100, True)]


def test_scattered_rows_are_one_copy(reader: FeatureReader, values: np.ndarray) -> None:
    rows = np.random.default_rng(0).integers(0, 1_000, 3_000)
    vectors = take(reader, rows)
    assert vectors.num_chunks == 1
    assert np.array_equal(matrix(vectors), values[rows])


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(1, 300)), max_size=8))
@settings(derandomize=True, deadline=None)
def test_any_runs(reader: FeatureReader, values: np.ndarray, runs: list[tuple[int, int]]) -> None:
    rows = np.concatenate([np.arange(0), *(np.arange(a, min(a + n, 1_000)) for a, n in runs)])
    vectors = take(reader, rows)
    assert len(vectors) == len(rows)
    assert np.array_equal(matrix(vectors), values[rows])
    assert vectors.num_chunks <= 1 + 2 * (len(rows) // 64)  # no crowds of small pieces


def test_outlives_the_reader(group: Path, random: Random, write_segment: WriteSegment) -> None:
    values = random(256, 3)
    reader = FeatureReader({1: write_segment(group / "s1", values, chunk_rows=128).path})
    vectors = take(reader, np.arange(256))
    reader.close()
    del reader
    assert np.array_equal(matrix(vectors), values)


@pytest.mark.parametrize("rows", [np.arange(300), np.arange(300)[::-1]], ids=["in order", "backwards"])
def test_half_precision_and_tokens(group: Path, random: Random, write_segment: WriteSegment, rows: np.ndarray) -> None:
    half, full = random(300, 4, 2).astype(np.float16), random(300, 4, 2, seed=1)
    folders = {
        1: write_segment(group / "s1", half, chunk_rows=128, dtype="float16").path,
        2: write_segment(group / "s2", full, chunk_rows=128).path,
    }
    for segments, values in (({1}, half), ({2}, full), ({1, 2}, np.concatenate([half[rows], full[rows]]))):
        reader = FeatureReader({i: folders[i] for i in segments})
        vectors = arrow_vectors(reader, np.repeat(sorted(segments), 300), np.tile(rows, len(segments)))
        assert vectors.type == pa.list_(pa.float32(), 8)
        expected = values if len(segments) == 2 else values[rows]
        assert np.array_equal(matrix(vectors), expected.astype(np.float32).reshape(-1, 8))


def test_no_rows(reader: FeatureReader) -> None:
    vectors = take(reader, np.arange(0))
    assert len(vectors) == 0
    assert vectors.type == pa.list_(pa.float32(), 6)


def test_unknown_row(reader: FeatureReader) -> None:
    with pytest.raises(IndexError):
        take(reader, np.array([1_000]))


def test_duckdb_scans_them(reader: FeatureReader, values: np.ndarray) -> None:
    rows = np.r_[7:900, 3:5, 990:1_000]  # mapped at odd addresses, and copied
    table = pa.table({"row": rows, "vector": take(reader, rows)})
    with duckdb.connect() as connection:
        connection.register("vectors", table)
        found = connection.sql('select "row", list_sum(vector::FLOAT[]) from vectors order by all').fetchall()
    expected = sorted(zip(rows.tolist(), values[rows].sum(axis=1).tolist(), strict=True))
    assert [row for row, _ in found] == [row for row, _ in expected]
    assert np.allclose([total for _, total in found], [total for _, total in expected], atol=1e-5)


@given(st.lists(st.sampled_from(["b", "a", "", None, "ä"]), max_size=12), st.integers(0, 12), st.booleans())
def test_codes_are_numbered_as_the_values_come(values: list[str | None], cut: int, encoded: bool) -> None:
    pieces = [pa.array(part, pa.string()) for part in (values[:cut], values[cut:])]
    column = pa.chunked_array([p.dictionary_encode() if encoded else p for p in pieces])
    for whole in (column, column.combine_chunks()):
        different, each = codes(whole)
        assert different.to_pylist() == list(dict.fromkeys(values))
        assert different.take(pa.array(each)).to_pylist() == values


def test_numbers_are_those_of_arrow_and_lie_where_they_lay(random: Random) -> None:
    whole = pa.array([3, -1, 2**62])
    assert numbers(whole).tolist() == whole.to_pylist()
    assert numbers(whole).ctypes.data == whole.buffers()[1].address
    assert numbers(pa.chunked_array([whole, whole.slice(1)])).tolist() == [3, -1, 2**62, -1, 2**62]
    assert numbers(pa.chunked_array([], pa.float64())).shape == (0,)
    block = random(5, 3)
    there = arrow_block(block)
    assert (matrix(pa.chunked_array([there])) == block).all()
    assert there.flatten().buffers()[1].address == block.ctypes.data
    for other in (np.asfortranarray(block), block.astype(np.float64), block[::1, :]):
        assert (matrix(pa.chunked_array([arrow_block(other)])) == block).all()
