"""Files that keep an import busy, fill its memory or lead it elsewhere; and several sets of vectors in one."""

from __future__ import annotations

import json
import resource
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr

import featstore
from featstore.errors import InputError

from .conftest import read

VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)


def taken(store: featstore.Store, path: Path) -> featstore.imports.ImportResult:
    return store.import_features(path, name="x", modality="T", patient_id="{sample_key}")


@pytest.mark.timeout(30)
def test_a_heap_whose_text_has_no_length(store: featstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["features"] = VALUES
        file.create_dataset("id", data=[letter * 50 for letter in "abcdef"], dtype=h5py.string_dtype())
    data = bytearray(path.read_bytes())
    struct.pack_into("<HH4xQ", data, data.find(b"GCOL") + 16, 0, 0, 0)
    path.write_bytes(data)
    with pytest.raises(InputError, match="has no length"):
        taken(store, path)


@pytest.mark.parametrize("name", ["features", "id"])
def test_a_decompression_bomb(store: featstore.Store, tmp_path: Path, name: str) -> None:
    path, rows = tmp_path / "v.h5", 100_000
    squeeze = zlib.compressobj(9)
    bomb = b"".join([*(squeeze.compress(bytes(1 << 24)) for _ in range(20)), squeeze.flush()])  # 320 MiB
    with h5py.File(path, "w") as file:
        file["features" if name == "id" else "id"] = (
            np.zeros((rows, 4), np.float32) if name == "id" else np.arange(rows)
        )
        shape, dtype = ((rows, 4), "f4") if name == "features" else ((rows,), "i8")
        file.create_dataset(name, shape, dtype, chunks=shape, compression="gzip").id.write_direct_chunk(
            (0,) * len(shape), bomb
        )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match="decompression bomb"):
        taken(store, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10  # KiB


def test_a_filter_that_trusts_its_data(store: featstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["features"] = VALUES
        file.create_dataset("id", data=np.arange(6), chunks=(6,), scaleoffset=0)
    with pytest.raises(InputError, match="scaleoffset"):
        taken(store, path)


def _annotated(path: Path, columns: list[str]) -> h5py.File:
    file = h5py.File(path, "w")
    file["X"] = VALUES
    obs = file.create_group("obs")
    obs.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"})
    obs.attrs["column-order"] = columns
    index = obs.create_dataset("_index", data=[f"r{n}" for n in range(6)], dtype=h5py.string_dtype())
    index.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return file


def test_links_are_found_however_deep(store: featstore.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(6)
    below = "/a/b/c/d/e/f/g/h"
    with _annotated(tmp_path / "v.h5ad", [f"{below}/link"]) as file:
        file.create_group(below)["link"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/x")
    with pytest.raises(InputError, match="is a link"):
        taken(store, tmp_path / "v.h5ad")


def test_columns_elsewhere_in_the_file(store: featstore.Store, tmp_path: Path) -> None:
    with _annotated(tmp_path / "v.h5ad", ["/other/x"]) as file:
        file["other/x"] = np.arange(6)
    with pytest.raises(InputError, match="'/other/x', which is none of its own"):
        taken(store, tmp_path / "v.h5ad")


def test_groups_in_a_circle(store: featstore.Store, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file["features"], file["id"] = VALUES, np.arange(6)
        file["group/itself"] = file.create_group("group2")
        file["group2/back"] = file["group"]
    assert taken(store, tmp_path / "v.h5").added == 6


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_vectors_beside_the_features(store: featstore.Store, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"v.{kind}"
    arrays = {"features": VALUES, "id": np.arange(6), "features_test": VALUES, "valid": VALUES[:2]}
    if kind == "h5":
        with h5py.File(path, "w") as file:
            for name, values in arrays.items():
                file[name] = values
    else:
        group = zarr.open_group(path, mode="w")
        for name, values in arrays.items():
            group.create_array(name, data=values)
    with pytest.raises(InputError, match="features, and in features_test, valid too") as caught:
        taken(store, path)
    assert "one file a partition" in (caught.value.hint or "")


@pytest.mark.parametrize("kind", ["h5", "zarr"])
def test_partitions_called_features(store: featstore.Store, tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame({"sample_key": [f"d/{n}" for n in range(6)], "patient_id": [f"p{n}" for n in range(6)]})
    frame.assign(modality=["features", "feats", "T1"] * 2).to_csv(tmp_path / "i.csv", index=False)
    np.save(tmp_path / "v.npy", VALUES)
    store.import_features(tmp_path / "v.npy", name="x", index=tmp_path / "i.csv", in_order=True)
    store.export("x", out=tmp_path / f"x.{kind}", layout="{modality}")
    other = featstore.init(tmp_path / "other")
    assert other.import_features(tmp_path / f"x.{kind}", name="x").added == 6
    mine, theirs = read(store, "x"), read(other, "x")
    assert {key: value.tobytes() for key, value in mine.items()} == {k: v.tobytes() for k, v in theirs.items()}


def test_zarr_that_cannot_be_listed(store: featstore.Store, tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "v.zarr", mode="w").create_array("features", data=VALUES)
    (tmp_path / "v.zarr" / "features" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    with pytest.raises(InputError, match="can't be read as a Zarr group"):
        taken(store, tmp_path / "v.zarr")


def test_objects_of_zarr_2(store: featstore.Store, tmp_path: Path) -> None:
    path = tmp_path / "v.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("features", data=VALUES)
    group.create_array("id", data=np.arange(6))
    assert taken(store, path).added == 6
    facts = {"zarr_format": 2, "shape": [6], "chunks": [6], "dtype": "|O", "order": "C", "fill_value": ""}
    (path / "name").mkdir()
    (path / "name" / ".zarray").write_text(
        json.dumps({**facts, "compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}]})
    )
    with pytest.raises(InputError, match="format 2 with objects or filters"):
        taken(store, path)
