"""Exporters, read back with other libraries than the ones that write."""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from featstore_exporters import featstore_exporters
from featstore_exporters.columns import in_blocks
from hypothesis import given
from hypothesis import strategies as st

from featstore import UsageError

WRITE = {spec.suffix: spec.write for spec in featstore_exporters()}


def vectors(matrix: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1])


def table(rows: int = 10, dim: int = 3, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "patient_id": [f"{i:03}" for i in range(rows)],
            "age": pa.array(random.integers(20, 90, rows)),
            "fused": vectors(random.normal(size=(rows, dim))),
            "has_t1": pa.array(random.random(rows) < 0.5),
        }
    )


def export(path: Path, data: pa.Table, batch: int = 4, wide: bool = False) -> Path:
    WRITE[path.suffix](path, data.schema, data.to_batches(max_chunksize=batch), wide=wide)
    return path


def cells(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


# -------------------------------------------------------------------------------------------------- parquet
def test_parquet_keeps_vectors_and_types(tmp_path: Path) -> None:
    data = table(9000)
    path = export(tmp_path / "t.parquet", data)
    assert pq.read_table(path).equals(data)
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [4096, 4096, 808]
    assert duckdb.sql(f"select count(*), len(any_value(fused)) from '{path}'").fetchall() == [(9000, 3)]


def test_parquet_groups_of_large_rows_are_small(tmp_path: Path) -> None:
    """A group is made in memory: 64 MiB of vectors at most."""
    rows = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(40 * 2**20, np.float16)), 2**20)})
    file = pq.ParquetFile(export(tmp_path / "t.parquet", rows, batch=1))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [32, 8]


@pytest.mark.parametrize("wide", [False, True])
def test_parquet_bytes_depend_on_the_rows_alone(tmp_path: Path, wide: bool) -> None:
    data = table(5000)
    files = [export(tmp_path / f"{batch}.parquet", data, batch, wide).read_bytes() for batch in (7, 4096, 100_000)]
    assert files[0] == files[1] == files[2]


def test_wide_parquet_has_one_column_a_feature(tmp_path: Path) -> None:
    data = table()
    frame = pd.read_parquet(export(tmp_path / "t.parquet", data, wide=True))
    assert list(frame) == ["patient_id", "age", "fused_0", "fused_1", "fused_2", "has_t1"]
    np.testing.assert_array_equal(
        frame[["fused_0", "fused_1", "fused_2"]].to_numpy(), np.stack(data["fused"].to_pylist())
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_wide_names_that_collide_are_refused(tmp_path: Path, suffix: str) -> None:
    data = table().append_column("fused_1", pa.array(range(10)))
    with pytest.raises(UsageError, match="fused_1 twice"):
        export(tmp_path / f"t{suffix}", data, wide=True)
    export(tmp_path / "vectors.parquet", data)


# ------------------------------------------------------------------------------------------------------ csv
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_csv_floats_come_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    matrix = np.array(values, np.float32)[:, None]
    export(path, pa.table({"v": vectors(matrix)}))
    back = np.array([np.float32(row[0]) for row in cells(path)[1:]])
    np.testing.assert_array_equal(back.view(np.uint32), matrix[:, 0].view(np.uint32))


def test_csv_writes_the_shortest_float32(tmp_path: Path) -> None:
    path = export(tmp_path / "t.csv", pa.table({"v": vectors(np.array([[0.1, 1 / 3, np.nan]]))}))
    assert cells(path) == [["v_0", "v_1", "v_2"], ["0.1", "0.33333334", "nan"]]
    assert pd.read_csv(path)["v_2"].isna().all()


@pytest.mark.parametrize("as_", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_csv_neutralizes_formulas_in_text_alone(tmp_path: Path, as_: pa.DataType) -> None:
    texts = [
        "=1+1",
        "+1",
        "-1",
        "@sum",
        "\tx",
        "\rx",
        "a=b",
        "",
        'say "hi", you',
        "zwei\nZeilen",
        None,
        "'=1",
        "''-",
        "'a",
    ]
    numbers = [-1.5] * len(texts)
    data = pa.table({"=note": pa.array(texts, pa.string()).cast(as_), "x": numbers, "i": [-3] * len(texts)})
    path = export(tmp_path / "t.csv", data)
    rows = cells(path)
    assert rows[0] == ["'=note", "x", "i"]
    assert [row[0] for row in rows[1:]] == [
        "'=1+1",
        "'+1",
        "'-1",
        "'@sum",
        "'\tx",
        "'\rx",
        "a=b",
        "",
        'say "hi", you',
        "zwei\nZeilen",
        "",
        "''=1",
        "'''-",
        "'a",
    ]
    assert {tuple(row[1:]) for row in rows[1:]} == {("-1.5", "-3")}


@given(st.lists(st.text(st.sampled_from("'=+-@\t\ra1Ω,\n\"")) | st.text(st.characters(codec="utf-8")), min_size=1))
def test_csv_text_comes_back_without_the_apostrophe(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    texts = [text.replace("\0", "") for text in texts]
    path = export(tmp_path_factory.mktemp("csv") / "t.csv", pa.table({"a": texts, "b": texts}))
    found = cells(path)[1:]
    assert not any(text[:1] in tuple("=+-@\t\r") for row in found for text in row)
    back = [[re.sub(r"\A'(?='*[=+\-@\t\r])", "", text) for text in row] for row in found]
    assert back == [[text, text] for text in texts]


def test_csv_names_and_whole_floats_come_back(tmp_path: Path) -> None:
    data = pa.table({"'-x": [1.0, -2.0, 0.5, None, float("nan"), 1e20], "n": [1, 2, 3, 4, 5, None]})
    assert cells(export(tmp_path / "t.csv", data)) == [
        ["''-x", "n"], ["1.0", "1"], ["-2.0", "2"], ["0.5", "3"], ["", "4"], ["nan", "5"], ["1e+20", ""],
    ]  # fmt: skip


def test_csv_writes_every_float16_in_its_shortest_form(tmp_path: Path) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 64)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(every.ravel()), 64)
    rows = cells(export(tmp_path / "t.csv", pa.table({"v": flat}), batch=100))[1:]
    found = [cell for row in rows for cell in row]
    np.testing.assert_array_equal(np.array(found, np.float16).view(np.uint16), every.ravel().view(np.uint16))
    numbers = [float(np.format_float_positional(value, unique=True)) for value in every.ravel()]
    assert [float(cell) for cell in found] == numbers
    assert max(map(len, found)) <= len("-0.00012398")


def test_too_many_columns_are_refused_before_a_file_is_there(tmp_path: Path) -> None:
    wide = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(962 * 768, np.float16)), 962 * 768)})
    for suffix in (".csv", ".parquet"):
        with pytest.raises(UsageError, match=r"738,816 columns.*\n.*npy, h5, zarr"):
            export(tmp_path / f"t{suffix}", wide, wide=True)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------ npy
@pytest.mark.parametrize("batch", [3, 1000])
def test_npy_and_its_index(tmp_path: Path, batch: int) -> None:
    data = table(100).append_column("other", vectors(np.ones((100, 2))))
    path = export(tmp_path / "t.npy", data, batch)
    array = np.load(path, mmap_mode="r")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, np.stack(data["fused"].to_pylist()))
    index = pd.read_csv(tmp_path / "t.index.csv", dtype={"patient_id": str})
    assert list(index) == ["row", "patient_id", "age", "has_t1"]
    assert index["row"].tolist() == list(range(100))
    assert index["patient_id"].tolist() == data["patient_id"].to_pylist()


def test_npy_takes_the_only_vector_column_whatever_its_name(tmp_path: Path) -> None:
    data = table(5).rename_columns(["patient_id", "age", "r18", "has_t1"])
    assert np.load(export(tmp_path / "t.npy", data)).shape == (5, 3)


def test_npy_without_other_columns_has_an_empty_index(tmp_path: Path) -> None:
    assert np.load(export(tmp_path / "t.npy", table(5).select(["fused"]))).shape == (5, 3)
    assert (tmp_path / "t.index.csv").exists()


def test_npy_needs_one_vector_column(tmp_path: Path) -> None:
    two = pa.table({"a": vectors(np.ones((2, 2))), "b": vectors(np.ones((2, 2)))})
    with pytest.raises(UsageError, match=r"2 vector columns: a, b.*\n.*--fuser concat"):
        export(tmp_path / "t.npy", two)
    with pytest.raises(UsageError, match="0 vector columns"):
        export(tmp_path / "t.npy", pa.table({"a": [1]}))
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- shared
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy"])
@pytest.mark.parametrize("batches", [0, 1])
def test_no_rows_make_a_file_that_says_so(tmp_path: Path, suffix: str, batches: int) -> None:
    empty = table().slice(0, 0)
    path = tmp_path / f"t{suffix}"
    WRITE[suffix](path, empty.schema, [pa.RecordBatch.from_pylist([], empty.schema)] * batches, wide=False)
    if suffix == ".parquet":
        assert pq.read_table(path).equals(empty)
    elif suffix == ".csv":
        assert cells(path) == [["patient_id", "age", "fused_0", "fused_1", "fused_2", "has_t1"]]
    else:
        assert np.load(path).shape == (0, 3)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy"])
def test_missing_vectors_are_never_zeros(tmp_path: Path, suffix: str) -> None:
    rows = [[1.0, 2.0], None, [3.0, 4.0], None]
    data = pa.table({"fused": pa.array(rows, pa.list_(pa.float32(), 2))}).slice(1)  # a slice has an offset
    path = export(tmp_path / f"t{suffix}", data, wide=True)
    if suffix == ".npy":
        out: Any = np.load(path)
    else:
        out = (pd.read_parquet if suffix == ".parquet" else pd.read_csv)(path).to_numpy()
    np.testing.assert_array_equal(out, np.array([[np.nan] * 2, [3, 4], [np.nan] * 2]))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".npy"])
def test_memory_is_bounded(tmp_path: Path, suffix: str) -> None:
    batch = table(2000, 256).to_batches()[0]
    peak = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal peak
        for _ in range(50):  # 100 MB of features in all
            peak = max(peak, psutil.Process().memory_info().rss)
            yield batch

    before = psutil.Process().memory_info().rss
    WRITE[suffix](tmp_path / f"t{suffix}", batch.schema, batches(), wide=False)
    assert peak - before < 60e6


def test_an_interrupt_does_not_wait_for_a_whole_block() -> None:
    """The next block is made in a thread: where nobody wants it any more, it takes one batch in at most."""
    asked, schema = [], pa.schema([("x", pa.int64())])

    def coming() -> Iterator[pa.RecordBatch]:
        for n in range(1_000):
            asked.append(n)
            yield pa.record_batch([pa.array([n])], schema=schema)
            time.sleep(0.01)

    blocks = in_blocks(schema, coming(), 10)
    assert next(blocks).num_rows == 10
    blocks.close()
    assert len(asked) <= 12


def test_an_error_of_what_is_made_ahead_is_raised_where_it_is_due() -> None:
    def coming() -> Iterator[pa.RecordBatch]:
        yield pa.record_batch([pa.array([1, 2])], names=["x"])
        raise ZeroDivisionError

    blocks = in_blocks(pa.schema([("x", pa.int64())]), coming(), 2)
    assert next(blocks).num_rows == 2
    with pytest.raises(ZeroDivisionError):
        next(blocks)
