"""NPZ files, read back by NumPy alone."""

from __future__ import annotations

import datetime
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from featstore_exporters import featstore_exporters
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import UsageError

(SPEC,) = (spec for spec in featstore_exporters() if spec.name == "npz")


def vectors(matrix: np.ndarray, missing: list[bool] | None = None) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(matrix).ravel())
    mask = None if missing is None else pa.array(missing)
    return pa.FixedSizeListArray.from_arrays(flat, matrix.shape[1], mask=mask)


def export(path: Path, data: pa.Table, batch: int = 3, **facts: Any) -> Path:
    schema = data.schema.with_metadata({b"featstore": json.dumps(facts | {"rows": len(data)}).encode()})
    SPEC.write(path, schema, data.to_batches(max_chunksize=batch), wide=False)
    return path


def load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


def table(rows: int = 10) -> pa.Table:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(rows, 4)).astype(np.float32)
    return pa.table(
        {
            "patient_id": [f"{n:03}" for n in range(rows)],
            "split": ["train", "val"] * (rows // 2),
            "label": pa.array(rng.integers(0, 3, rows)),
            "a": vectors(a, [n == 3 for n in range(rows)]),
            "age": pa.array([None if n == 4 else n * 10 for n in range(rows)]),
            "weight": pa.array([None if n == 5 else n / 3 for n in range(rows)]),
            "smoker": pa.array([None if n == 6 else n % 2 == 0 for n in range(rows)]),
            "note": pa.array([None if n == 7 else "" if n == 8 else f"Größe {n} 🙂" for n in range(rows)]),
            "site": pa.array(["JM", "K"] * (rows // 2)).dictionary_encode(),
            "drawn": pa.array([datetime.date(2024, 1, 2)] * rows),
            "fused": vectors(rng.normal(size=(rows, 6)).astype(np.float32)),
            "has_a": pa.array([n != 3 for n in range(rows)]),
        }
    )


def test_every_column_is_an_array_and_says_where_it_is_missing(tmp_path: Path) -> None:
    data = table()
    found = load(export(tmp_path / "t.npz", data))
    gaps = {"a": 3, "age": 4, "weight": 5, "smoker": 6, "note": 7}
    assert list(found) == [n for c in data.column_names for n in ([c, f"{c}_missing"] if c in gaps else [c])]
    for column, row in gaps.items():
        assert found[f"{column}_missing"].dtype == np.bool_
        assert np.flatnonzero(found[f"{column}_missing"]).tolist() == [row]
    for column in ("a", "fused"):
        expected = np.array([[np.nan] * 4 if v is None else v for v in data[column].to_pylist()], np.float32)
        assert found[column].dtype == np.float32
        np.testing.assert_array_equal(found[column], expected)
    for column in ("patient_id", "split", "site"):
        assert found[column].dtype.kind == "U"
        assert found[column].tolist() == data[column].to_pylist()
    assert found["note"].tolist() == [v or "" for v in data["note"].to_pylist()]
    assert found["drawn"].tolist() == ["2024-01-02"] * 10
    assert (found["label"].dtype, found["has_a"].dtype) == (np.int64, np.bool_)
    assert found["label"].tolist() == data["label"].to_pylist()
    for column in ("age", "weight", "smoker"):
        expected = np.array([np.nan if v is None else v for v in data[column].to_pylist()], float)
        assert found[column].dtype == np.float64
        np.testing.assert_array_equal(found[column], expected)


def test_tokens_keep_shape_and_dtype(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float16).reshape(4, 6)
    field = pa.field("features", pa.list_(pa.float16(), 6), metadata={b"shape": b"[2, 3]"})
    data = pa.Table.from_arrays(
        [pa.array(list("abcd")), vectors(values)], schema=pa.schema([pa.field("sample_key", pa.string()), field])
    )
    found = load(export(tmp_path / "t.npz", data))
    assert found["features"].dtype == np.float16
    np.testing.assert_array_equal(found["features"], values.reshape(4, 2, 3))


def test_bytes_depend_on_the_rows_alone(tmp_path: Path) -> None:
    data = table(400)
    files = [export(tmp_path / f"{batch}.npz", data, batch).read_bytes() for batch in (1, 7, 1000)]
    assert files[0] == files[1] == files[2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1.npz", "1000.npz", "7.npz"]


def test_no_rows_keep_types_and_widths(tmp_path: Path) -> None:
    found = load(export(tmp_path / "t.npz", table().slice(0, 0)))
    assert found["fused"].shape == (0, 6)
    assert (found["label"].dtype, found["patient_id"].dtype.kind) == (np.int64, "U")
    assert not [name for name in found if name.endswith("_missing")]


def test_a_column_without_any_value(tmp_path: Path) -> None:
    data = pa.table({"patient_id": ["1", "2"], "n": pa.nulls(2, pa.int64()), "t": pa.nulls(2, pa.string())})
    found = load(export(tmp_path / "t.npz", data.append_column("v", vectors(np.ones((2, 1), np.float32)))))
    assert np.isnan(found["n"]).all()
    assert found["t"].tolist() == ["", ""]
    assert found["n_missing"].all()
    assert found["t_missing"].all()


def test_the_comment_says_what_it_is_and_members_have_no_time(tmp_path: Path) -> None:
    path = export(tmp_path / "t.npz", table(), name="größe", version=2, groups=[])
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.comment) == {"name": "größe", "version": 2}
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.testzip() is None
        stored = {info.filename: info.compress_type == zipfile.ZIP_STORED for info in archive.infolist()}
    assert stored["fused.npy"]
    assert not stored["note.npy"]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"a/b": ["x"], "a_b": ["y"]}, "arrays of one name"),
        ({"a": ["x"], "a.npy": ["y"]}, "under another name"),
        ({"a\0b": ["x"]}, "under another name"),
        ({"age": pa.array([None], pa.int64()), "age_missing": [1]}, "is a column, and would say where age is missing"),
        ({"note": ["x\0"]}, "ends with a NUL"),
    ],
)
def test_what_numpy_would_read_as_something_else_is_refused(tmp_path: Path, columns: dict[str, Any], text: str) -> None:
    data = pa.table({"patient_id": ["1"], **columns, "v": vectors(np.ones((1, 1), np.float32))})
    with pytest.raises(UsageError, match=text):
        export(tmp_path / "t.npz", data)


def test_names_that_lead_elsewhere_stay_in_the_archive(tmp_path: Path) -> None:
    data = pa.table({"patient_id": ["1"], "../../x": [5], "v": vectors(np.ones((1, 1), np.float32))})
    assert load(export(tmp_path / "t.npz", data))[".._.._x"].tolist() == [5]


def test_whole_numbers_that_a_float_would_change_are_refused(tmp_path: Path) -> None:
    data = pa.table({"n": pa.array([2**53 + 1, None]), "v": vectors(np.ones((2, 1), np.float32))})
    with pytest.raises(UsageError, match="2⁵³"):
        export(tmp_path / "t.npz", data)
    whole = data.slice(0, 1)
    assert load(export(tmp_path / "u.npz", whole))["n"].tolist() == [2**53 + 1]


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda t: not t.endswith("\0"))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.none() | texts, st.none() | st.integers(-(2**53), 2**53), st.none() | st.floats(width=32)),
        max_size=20,
    ),
    st.integers(1, 7),
)
def test_any_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]], batch: int) -> None:
    text, whole, real = (list(c) for c in zip(*rows, strict=True)) if rows else ([], [], [])
    data = pa.table(
        {
            "text": pa.array(text, pa.string()), "whole": pa.array(whole, pa.int64()),
            "real": pa.array(real, pa.float32()), "v": vectors(np.zeros((len(rows), 2), np.float32)),
        }
    )  # fmt: skip
    found = load(export(tmp_path_factory.mktemp("npz") / "t.npz", data, batch))
    for name, values in (("text", text), ("whole", whole), ("real", real)):
        missing = found.get(f"{name}_missing", np.zeros(len(rows), bool))
        assert missing.tolist() == [v is None for v in values]
        kept = [v for v in values if v is not None]
        np.testing.assert_array_equal(found[name][~missing], np.array(kept, found[name].dtype))


def test_memory_is_that_of_a_few_batches(tmp_path: Path) -> None:
    wide = np.zeros((500, 2048), np.float32)
    batch = pa.table({"patient_id": [f"{n}" for n in range(500)], "fused": vectors(wide)}).to_batches()[0]
    peak = 0

    def batches(count: int) -> Iterator[pa.RecordBatch]:
        nonlocal peak
        for _ in range(count):  # 4 MB each
            peak = max(peak, psutil.Process().memory_info().rss)
            yield batch

    def write(name: str, count: int) -> None:
        schema = batch.schema.with_metadata({b"featstore": json.dumps({"rows": 500 * count}).encode()})
        SPEC.write(tmp_path / name, schema, batches(count), wide=False)
        nonlocal peak
        peak = max(peak, psutil.Process().memory_info().rss)

    write("warm.npz", 2)
    before, peak = psutil.Process().memory_info().rss, 0
    write("t.npz", 40)
    assert peak - before < 40e6
