"""HDF5, Zarr, AnnData and MuData files, and trees: columns of every kind, as their own libraries read them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pyarrow as pa
import pytest
import zarr
from featstore_exporters import featstore_exporters

from featstore import UsageError

SPECS = {spec.suffix: spec for spec in featstore_exporters()}
#: More than one block of columns.
MANY = 20_000


def vectors(rows: int, dim: int = 2) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * dim, dtype=np.float32)), dim)


def export(path: Path, data: pa.Table, batch: int = 1000, **facts: Any) -> Path:
    metadata = {b"featstore": json.dumps({"rows": len(data)} | facts).encode()}
    SPECS[path.suffix].write(path, data.schema.with_metadata(metadata), data.to_batches(batch), wide=False)
    return path


def columns(path: Path) -> dict[str, np.ndarray]:
    """Every column of one value a row."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return {n: d.asstr()[:] if d.dtype.kind == "O" else d[:] for n, d in file.items() if d.ndim == 1}
    if path.suffix == ".zarr":
        arrays = zarr.open_group(path, mode="r").arrays()
        return {n: np.array(a[:].tolist(), object) if a.dtype.kind == "T" else a[:] for n, a in arrays if a.ndim == 1}
    found = anndata.read_h5ad(path).obs.reset_index()
    return {name: found[name].to_numpy() for name in found}


# -------------------------------------------------------------------------------------------------- columns
@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".h5ad"])
def test_columns_of_every_kind(tmp_path: Path, suffix: str) -> None:
    late = [None] * (MANY - 1)
    data = pa.table(
        {
            "patient_id": [f"{n:05}" for n in range(MANY)],
            "whole": pa.array(range(MANY)),
            "small": pa.array([n % 7 for n in range(MANY)], pa.int8()),
            "holes": pa.array([None if n == MANY - 1 else n for n in range(MANY)]),
            "late": pa.array([*late, 5]),
            "truth": pa.array([n % 3 == 0 for n in range(MANY)]),
            "maybe": pa.array([None, *(n % 3 == 0 for n in range(MANY - 1))]),
            "real": pa.array([None if n % 2 else n / 3 for n in range(MANY)]),
            "text": pa.array([None if n % 2 else f"Größe {n}, =1" for n in range(MANY)]),
            "late_text": pa.array([*late, "end"]),
            "site": pa.array(["JM", None] * (MANY // 2)).dictionary_encode(),
            "time": pa.array([datetime(2024, 1, 2, 3, 4, 5)] * MANY),
            "nothing": pa.nulls(MANY, pa.string()),
            "no_number": pa.nulls(MANY, pa.int64()),
            "fused": vectors(MANY),
        }
    )
    found = columns(export(tmp_path / f"t{suffix}", data))
    frame = data.drop_columns("fused").to_pandas()
    assert set(found) == set(frame) - {"nothing", "no_number"}
    for name in ("patient_id", "whole", "small", "truth"):
        assert found[name].tolist() == frame[name].tolist()
    assert (found["whole"].dtype, found["small"].dtype, found["truth"].dtype) == (np.int64, np.int8, np.bool_)
    for name in ("holes", "late", "maybe", "real"):
        assert found[name].dtype == np.float64
        np.testing.assert_array_equal(found[name], frame[name].astype(float))
    for name in ("text", "late_text", "site"):
        assert found[name].tolist() == frame[name].astype(object).where(frame[name].notna(), "").tolist()
    assert set(found["time"]) == {"2024-01-02 03:04:05"}


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".h5ad", ".h5mu"])
def test_numbers_that_a_float_would_change_are_refused(tmp_path: Path, suffix: str) -> None:
    data = pa.table({"patient_id": ["1", "2"], "n": pa.array([2**53 + 1, None]), "fused": vectors(2)})
    with pytest.raises(UsageError, match="whole numbers above 2⁵³"):
        export(tmp_path / f"t{suffix}", data)
    whole = data.set_column(1, "n", pa.array([2**53 + 1, 1]))
    if suffix != ".h5mu":
        assert columns(export(tmp_path / f"u{suffix}", whole))["n"].tolist() == [2**53 + 1, 1]


@pytest.mark.parametrize("suffix", [".h5", ".h5ad", ".h5mu"])
def test_text_that_hdf5_cant_hold_is_refused(tmp_path: Path, suffix: str) -> None:
    data = pa.table({"patient_id": ["1"], "note": ["a\0b"], "fused": vectors(1)})
    with pytest.raises(UsageError, match="NUL character"):
        export(tmp_path / f"t{suffix}", data)


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".h5ad"])
def test_names_that_become_one_are_refused(tmp_path: Path, suffix: str) -> None:
    data = pa.table({"patient_id": ["1"], "a/b": ["x"], "a_b": ["y"], "fused": vectors(1)})
    with pytest.raises(UsageError, match="'a/b', 'a_b' would be arrays of one name"):
        export(tmp_path / f"t{suffix}", data)


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".h5ad", ".h5mu"])
def test_the_number_of_rows_must_be_known_and_true(tmp_path: Path, suffix: str) -> None:
    data = pa.table({"patient_id": ["1", "2"], "fused": vectors(2)})
    with pytest.raises(UsageError, match="number of rows isn't known"):
        SPECS[suffix].write(tmp_path / f"t{suffix}", data.schema, data.to_batches(), wide=False)
    with pytest.raises(ValueError, match="2 rows came, and the schema says 3"):
        export(tmp_path / f"u{suffix}", data, rows=3)


def test_anndata_needs_names_of_rows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither sample_key nor patient_id"):
        export(tmp_path / "t.h5ad", pa.table({"n": [1], "fused": vectors(1)}))


# --------------------------------------------------------------------------------------------------- groups
def groups_of(data: pa.Table, *sizes: int, ending: str = "") -> dict[str, Any]:
    return {"groups": [[f"g{n}{ending}", size] for n, size in enumerate(sizes)]}


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".tree"])
@pytest.mark.parametrize("batch", [1, 7, 100_000])
def test_groups_have_their_rows_whatever_the_batches(tmp_path: Path, suffix: str, batch: int) -> None:
    data = pa.table({"patient_id": [f"{n}" for n in range(60)], "truth": [True, None] * 30, "fused": vectors(60)})
    ending = ".npy" if suffix == ".tree" else ""
    path = export(tmp_path / f"t{suffix}", data, batch, **groups_of(data, 9, 50, 1, ending=ending))
    start = 0
    for number, size in enumerate((9, 50, 1)):
        name = f"g{number}{ending}"
        if suffix == ".tree":
            found: Any = np.load(path / name)
        elif suffix == ".zarr":
            group = zarr.open_group(path, mode="r")
            found, meta = group[name][:], group[f"{name}_metadata"][:].tolist()
        else:
            with h5py.File(path) as file:
                found, meta = file[name][:], file[f"{name}_metadata"].asstr()[:].tolist()
        np.testing.assert_array_equal(found, np.arange(2 * start, 2 * (start + size)).reshape(-1, 2))
        if suffix != ".tree":
            assert meta == [[str(n), "true" if n % 2 == 0 else ""] for n in range(start, start + size)]
        start += size


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_groups_that_take_the_name_of_metadata_are_refused(tmp_path: Path, suffix: str) -> None:
    data = pa.table({"patient_id": ["1", "2"], "fused": vectors(2)})
    with pytest.raises(UsageError, match="'a_metadata' has the name"):
        export(tmp_path / f"t{suffix}", data, groups=[["a", 1], ["a_metadata", 1]])


@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".tree"])
def test_groups_of_too_few_and_too_many_rows(tmp_path: Path, suffix: str) -> None:
    data = pa.table({"patient_id": ["1", "2", "3"], "fused": vectors(3)})
    for name, rows, text in (("few", 2, "more rows came"), ("many", 4, "1 rows less came")):
        with pytest.raises(ValueError, match=text):
            export(tmp_path / f"{name}{suffix}", data, groups=[["g.npy", rows]])


def test_a_tree_lists_files_of_one_patient_and_modality(tmp_path: Path) -> None:
    data = pa.table(
        {
            "patient_id": ["=1", "=1", "2"], "modality": ["A", "A", "A"], "label": pa.array([0.5, 0.5, None]),
            "fused": vectors(3),
        }
    )  # fmt: skip
    export(tmp_path / "a.tree", data, **groups_of(data, 2, 1, ending=".npy"))
    text = (tmp_path / "a.tree" / "features_A.csv").read_text()
    assert text.splitlines() == [
        '"patient_id","feature_path","label","num_slices"', '"\'=1","g0.npy","0.5",2', '"2","g1.npy",,1',
    ]  # fmt: skip
    export(tmp_path / "b.tree", data, **groups_of(data, 1, 2, ending=".npy"))
    assert [path.name for path in (tmp_path / "b.tree").glob("*.csv")] == ["index.csv"]


# ------------------------------------------------------------------------------------------- several at once
def test_mudata_matches_rows_by_name(tmp_path: Path) -> None:
    """Written by hand to the format's own words: its library must read it as it reads what it writes itself."""
    mudata.set_options(pull_on_update=False)
    one = pa.table({"sample_key": ["a", "b", "c"], "x": [1, 2, 3], "features": vectors(3)})
    two = pa.table({"sample_key": ["d", "c"], "y": ["q", "r"], "features": vectors(2, 3)})
    parts = {
        name: (t.schema.with_metadata({b"featstore": json.dumps({"rows": len(t)}).encode()}), t.to_batches())
        for name, t in {"one": one, "two": two}.items()
    }
    write = SPECS[".h5mu"].write_several
    assert write is not None
    write(tmp_path / "t.h5mu", parts)
    found = mudata.read_h5mu(tmp_path / "t.h5mu")
    theirs = mudata.MuData({name: found[name].copy() for name in ("one", "two")})
    for mine, other in ((found, theirs),):
        assert mine.obs_names.tolist() == other.obs_names.tolist() == ["a", "b", "c", "d"]
        assert mine.var_names.tolist() == other.var_names.tolist() == ["one_0", "one_1", "two_0", "two_1", "two_2"]
        for name in ("one", "two"):
            assert mine.obsmap[name].tolist() == other.obsmap[name].tolist()
            assert mine.varmap[name].tolist() == other.varmap[name].tolist()
    assert found["two"]["c"].X.tolist() == [[3, 4, 5]]
    theirs.write_h5mu(tmp_path / "theirs.h5mu")
    with h5py.File(tmp_path / "t.h5mu") as a, h5py.File(tmp_path / "theirs.h5mu") as b:
        assert shapes(a) == shapes(b)


def shapes(file: h5py.File) -> dict[str, Any]:
    """Every array of a file with its shape, dtype and encoding."""
    found = {}

    def visit(name: str, item: Any) -> None:
        shape = (item.shape, item.dtype.str) if isinstance(item, h5py.Dataset) else None
        found[name.replace("/sample_key", "/_index")] = (shape, item.attrs.get("encoding-type"))

    file.visititems(visit)
    return found


# ---------------------------------------------------------------------------------------------------- memory
@pytest.mark.parametrize("suffix", [".h5", ".zarr", ".h5ad"])
def test_what_is_written_is_let_go(tmp_path: Path, suffix: str) -> None:
    import psutil

    batch = pa.table({"patient_id": [f"{n}" for n in range(500)], "fused": vectors(500, 2048)}).to_batches()[0]

    def batches(count: int) -> Iterator[pa.RecordBatch]:
        nonlocal peak
        for _ in range(count):  # 4 MB each
            peak = max(peak, psutil.Process().memory_info().rss)
            yield batch

    def write(name: str, count: int, source: Iterable[pa.RecordBatch]) -> None:
        facts = {b"featstore": json.dumps({"rows": 500 * count}).encode()}
        SPECS[suffix].write(tmp_path / f"{name}{suffix}", batch.schema.with_metadata(facts), source, wide=False)

    peak = 0
    write("warm", 2, batches(2))
    peak = 0
    before = psutil.Process().memory_info().rss
    write("t", 40, batches(40))
    assert peak - before < 60e6
