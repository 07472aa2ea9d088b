"""Training tables in other tools' files, by materialize and by export: the same numbers in each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import mudata
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import zarr

from featstore import ConflictError, NotFoundError, UsageError

RECIPE: dict[str, Any] = {
    "name": "t", "inputs": ["a=v/A:mean", "p=v/P:max"], "tables": ["clinical"], "numeric": ["age"],
    "categorical": ["sex"], "scheme": "default", "join": "left",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(41, count=14, missing=0.3, slices=2, dim=4)
    made.clinical({p: {"age": 20 + n, "sex": "MF"[n % 2]} for n, p in enumerate(made.patients) if n % 5})
    made.result = made.store.materialize(**RECIPE)
    made.frame = made.store.table("t").to_pandas()
    return made


@pytest.mark.parametrize("by", ["materialize", "export"])
def test_hdf5_and_zarr_have_every_column(cohort: Any, tmp_path: Path, by: str) -> None:
    frame = cohort.frame
    for form in ("h5", "zarr"):
        out = tmp_path / f"t.{form}"
        if by == "materialize":
            assert cohort.store.materialize(**RECIPE, out=out).out == [out]
        else:
            cohort.store.export("t", out=out)
        file: Any = h5py.File(out) if form == "h5" else zarr.open_group(out, mode="r")
        for vector in ("a", "p", "fused"):
            np.testing.assert_array_equal(file[vector][:], np.stack(frame[vector]))
        label = file["labels"]
        assert label.dtype == np.int64
        assert label[:].tolist() == frame.label.tolist()
        ids = file["patient_id"].asstr()[:] if form == "h5" else file["patient_id"][:]
        assert ids.tolist() == frame.patient_id.tolist()
        assert file["has_p"][:].tolist() == frame.has_p.tolist()
        np.testing.assert_array_equal(file["age"][:].astype(float), frame.age.astype(float))
        if form == "h5":
            file.close()


def test_anndata_and_mudata_have_the_fused_vectors(cohort: Any, tmp_path: Path) -> None:
    mudata.set_options(pull_on_update=False)
    cohort.store.export("t", out=tmp_path / "t.h5ad")
    cohort.store.export("t", out=tmp_path / "t.h5mu")
    for found in (anndata.read_h5ad(tmp_path / "t.h5ad"), mudata.read_h5mu(tmp_path / "t.h5mu")["t"]):
        np.testing.assert_array_equal(found.X, np.stack(cohort.frame.fused))
        np.testing.assert_array_equal(found.obsm["p"], np.stack(cohort.frame.p))
        assert found.obs_names.tolist() == cohort.frame.patient_id.tolist()
        assert found.obs.label.tolist() == cohort.frame.label.tolist()
        assert found.var_names[0] == "t_0"


def test_exported_as_it_is_and_as_materialize_does(cohort: Any, tmp_path: Path) -> None:
    result = cohort.store.export("t", out=tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").read_bytes() == (cohort.result.path / "data.parquet").read_bytes()
    (contents,) = result.contents
    assert (contents.name, contents.version, contents.shape) == ("t", 1, (len(cohort.frame), 11))
    for form in ("csv", "npy"):
        cohort.store.export("t", out=tmp_path / f"one.{form}")
        cohort.store.materialize(**RECIPE, out=tmp_path / f"other.{form}")
        assert (tmp_path / f"one.{form}").read_bytes() == (tmp_path / f"other.{form}").read_bytes()
    cohort.store.export("t", out=tmp_path / "wide.parquet", wide=True)
    assert "fused_10" in pq.read_schema(tmp_path / "wide.parquet").names


@pytest.mark.parametrize("form", ["parquet", "npy", "h5"])
def test_one_split_of_a_table(cohort: Any, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"t.{form}"
    cohort.store.export("t", out=out, split="val")
    expected = cohort.store.table("t").arrays(split="val")[0]
    if form == "parquet":
        found = np.stack(pq.read_table(out).column("fused").to_pylist())
    elif form == "npy":
        found = np.load(out)
        assert set(pd.read_csv(tmp_path / "t.index.csv").split) == {"val"}
    else:
        with h5py.File(out) as file:
            found = file["fused"][:]
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    with pytest.raises(NotFoundError, match=r"has no split 'vla'.*Did you mean 'val'"):
        cohort.store.export("t", out=out, split="vla")


@pytest.mark.parametrize(
    ("names", "options", "text"),
    [
        (["t"], {"out": "t.tree"}, "these rows aren't grouped"),
        (["t"], {"out": "t.h5", "layout": "{split}"}, "of one, --split and --fold alone choose rows"),
        (["t"], {"out": "t.h5", "where": "true"}, "of one, --split and --fold alone choose rows"),
        (["t", "v"], {"out": "t.h5mu"}, "t is a training table, and one file takes one table"),
    ],
)
def test_what_a_table_cant_do(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], options: dict[str, str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=text):
        cohort.store.export(*names, **options)
    assert list(tmp_path.iterdir()) == []


def test_materialize_writes_over_no_folder(cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "t.zarr"
    cohort.store.materialize(**RECIPE, out=out)
    with pytest.raises(ConflictError, match="never written over"):
        cohort.store.materialize(**RECIPE, out=out)


def test_a_name_of_both_kinds_must_say_which(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    made = make_cohort(42, count=8, slices=2, dim=3)
    made.store.materialize(name="v", inputs=["v/A:mean"], scheme="default")
    with pytest.raises(UsageError, match=r"a feature set and a training table.*\n.*features/v@v1 or tables/v@v1"):
        made.store.export("v@v1", out=tmp_path / "x.npy")
    made.store.export("features/v", out=tmp_path / "x.npy")
    assert len(np.load(tmp_path / "x.npy")) == len(made.vectors)
    made.store.export("tables/v", out=tmp_path / "x.npy")
    assert len(np.load(tmp_path / "x.npy")) == len(made.store.table("v").to_pandas())
