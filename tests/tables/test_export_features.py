"""Vectors of feature sets in other tools' files, read back by those tools: bit by bit, with all that is theirs."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anndata
import duckdb
import h5py
import mudata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from featstore import ConflictError, NotFoundError, SetupError, UsageError
from featstore.arrays import SegmentLayout, create_group, create_segment, write_chunk
from featstore.catalog.feature_sets import FeatureSet
from featstore.tables.features import FeatureSetView
from featstore.tables.selection import BATCH_NBYTES, Selection

FORMATS = ("npy", "csv", "h5", "parquet", "zarr", "tree", "h5ad")
#: Text that begins as a formula does gets an apostrophe in CSV.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """Ids as hospitals have them; one patient without a label, one in no split; vectors as such, and as tokens."""
    made = make_cohort(11, extract=False, count=16, slices=3, dim=6)
    made.labels["007"] = None
    made.splits["é 3"] = None
    made.ingest()
    made.extract()
    made.extract("tok", dim="2x3", poolers=("tokens",), dtype="float16")
    made.extract("a16", modalities=("A",), dtype="float16")
    made.samples = made.store.sql("SELECT * FROM samples").to_pandas().set_index("sample_key")
    return made


def plain(text: Any) -> Any:
    """A cell of a CSV without the apostrophe that keeps spreadsheets from running it."""
    return text[1:] if isinstance(text, str) and text[:1] == "'" and text.lstrip("'")[:1] in FORMULA else text


def table_of(path: Path) -> pd.DataFrame:
    """A CSV with its text as text, and no value where a cell is empty."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    return frame.map(plain).replace("", None)


def read(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """What a file says of its rows, and the vectors (rows, …), by the tools that one would use."""
    match path.suffix:
        case ".npy":
            return table_of(path.with_name(f"{path.stem}.index.csv")), np.load(path)
        case ".csv":
            frame = table_of(path)
            wide = [name for name in frame if name.startswith("features_")]
            return frame.drop(columns=wide), frame[wide].to_numpy().astype(np.float64)
        case ".parquet":
            table = pq.read_table(path)
            shape = json.loads(table.schema.field("features").metadata[b"shape"])
            vectors = np.stack(table.column("features").combine_chunks().to_numpy(zero_copy_only=False))
            return table.drop_columns("features").to_pandas(), vectors.reshape(-1, *shape)
        case ".h5":
            with h5py.File(path) as file:
                columns = {name: data for name, data in file.items() if name != "features"}
                text = {n: d.asstr()[:] if d.dtype.kind == "O" else d[:] for n, d in columns.items()}
                return pd.DataFrame(text).rename(columns={"labels": "label"}).replace("", None), file["features"][:]
        case ".zarr":
            group = zarr.open_group(path, mode="r")
            columns = {name: array[:].astype(object) for name, array in group.arrays() if name != "features"}
            return pd.DataFrame(columns).rename(columns={"labels": "label"}).replace("", None), group["features"][:]
        case ".h5ad":
            found = anndata.read_h5ad(path)
            vectors = np.asarray(found.X).reshape(-1, *found.uns["featstore"]["shape"])
            return found.obs.replace("", None).reset_index(), vectors
    frame = table_of(path / "index.csv")
    files = {name: np.load(path / name) for name in frame["file"].unique()}
    assert sum(map(len, files.values())) == len(frame)
    return frame, np.stack([files[name][int(row)] for name, row in zip(frame["file"], frame["row"], strict=True)])


def check(cohort: Any, frame: pd.DataFrame, vectors: np.ndarray, *, dtype: Any, shape: tuple[int, ...]) -> None:
    """Every row is the sample's that it says, bit by bit."""
    assert len(frame) == len(vectors)
    for (_, row), vector in zip(frame.iterrows(), vectors, strict=True):
        sample = cohort.samples.loc[row["sample_key"]]
        assert (row["patient_id"], row["modality"]) == (sample.patient_id, sample.modality)
        assert (None if pd.isna(row["split"]) else row["split"]) == (sample.split or None)
        label = None if pd.isna(row["label"]) else int(float(row["label"]))
        assert label == cohort.labels[sample.patient_id]
        truth = cohort.vectors[sample.patient_id, sample.modality, int(row["slice"])].reshape(shape)
        np.testing.assert_array_equal(vector.astype(dtype), truth.astype(dtype))


# ----------------------------------------------------------------------------------------- every form of the vectors
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("name", "dtype", "shape"), [("v", np.float32, (6,)), ("a16", np.float16, (6,)), ("tok", np.float16, (2, 3))]
)
def test_what_is_read_back_is_what_was_extracted(
    cohort: Any, tmp_path: Path, form: str, name: str, dtype: Any, shape: tuple[int, ...]
) -> None:
    out = tmp_path / f"x.{form}"
    result = cohort.store.export(name, out=out)
    frame, vectors = read(out)
    check(cohort, frame, vectors, dtype=dtype, shape=(6,) if form == "csv" else shape)
    if form != "csv":
        assert vectors.dtype == dtype
    assert result.contents[0].shape == (len(frame), *shape)
    assert result.contents[0].dtype == np.dtype(dtype).name
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert (result.files, result.nbytes) == (len(made), sum(path.stat().st_size for path in made))
    if form != "tree":  # whose rows come file by file
        keys = cohort.store.features(name).arrays()[2]
        assert frame["sample_key"].tolist() == keys.tolist()


def test_mudata_holds_several_feature_sets(cohort: Any, tmp_path: Path) -> None:
    mudata.set_options(pull_on_update=False)
    result = cohort.store.export("v", "a16", "tok", out=tmp_path / "x.h5mu")
    found = mudata.read_h5mu(tmp_path / "x.h5mu")
    assert [item.name for item in result.contents] == list(found.mod) == ["v", "a16", "tok"]
    assert set(found.obs_names) == set(cohort.samples.index)
    for name, dtype, shape in (("v", np.float32, (6,)), ("a16", np.float16, (6,)), ("tok", np.float16, (2, 3))):
        part = found[name]
        assert part.X.dtype == dtype
        assert tuple(part.uns["featstore"]["shape"]) == shape
        frame = part.obs.replace("", None).reset_index()
        check(cohort, frame, part.X.reshape(-1, *shape), dtype=dtype, shape=shape)
        places = found.obsmap[name]
        assert part.obs_names[places[places > 0] - 1].tolist() == found.obs_names[places > 0].tolist()
    assert found.n_vars == 18
    assert found.var_names.is_unique
    cohort.store.export("v", out=tmp_path / "one.h5mu")
    assert list(mudata.read_h5mu(tmp_path / "one.h5mu").mod) == ["v"]


def test_versions_of_one_name_are_told_apart(cohort: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="named twice"):
        cohort.store.export("v", "v@v1", out=tmp_path / "x.h5mu")


def test_duckdb_reads_the_parquet(cohort: Any, tmp_path: Path) -> None:
    cohort.store.export("a16", out=tmp_path / "x.parquet")
    found = duckdb.sql(f"SELECT sample_key, features::FLOAT[6] FROM '{tmp_path}/x.parquet'").fetchall()
    keys = cohort.store.features("a16").arrays()
    np.testing.assert_array_equal(np.array([row[1] for row in found], np.float16), keys[0])
    assert [row[0] for row in found] == keys[2].tolist()


def test_what_was_exported_is_said(cohort: Any, tmp_path: Path) -> None:
    fingerprint = cohort.store.sql("SELECT fingerprint FROM feature_sets WHERE name = 'tok'").column(0)[0].as_py()
    for form in ("h5", "zarr", "parquet", "h5ad"):
        cohort.store.export("tok", out=tmp_path / f"x.{form}")
    facts: dict[str, Any] = {"parquet": json.loads(pq.read_schema(tmp_path / "x.parquet").metadata[b"featstore"])}
    with h5py.File(tmp_path / "x.h5") as file:
        facts["h5"] = dict(file.attrs)
    facts["zarr"] = zarr.open_group(tmp_path / "x.zarr", mode="r").attrs.asdict()
    facts["h5ad"] = anndata.read_h5ad(tmp_path / "x.h5ad").uns["featstore"]
    for found in facts.values():
        assert (found["name"], found["version"], found["fingerprint"]) == ("tok", 1, fingerprint)
        assert (found["backbone"], found["layer"], found["pooler"]) == ("numbers:2x3", "last", "tokens")
        assert found["label_type"] == "int"


@pytest.mark.parametrize(
    ("kind", "values"), [("int", [3, -1, None]), ("float", [1.0, 0.1, None]), ("str", ["1", "a", None])]
)
def test_labels_keep_their_type(make_cohort: Callable[..., Any], tmp_path: Path, kind: str, values: list[Any]) -> None:
    made = make_cohort(3, extract=False, ids=["p1", "p2", "p3"], slices=1, modalities=("A",))
    made.labels = dict(zip(["p1", "p2", "p3"], values, strict=True))
    made.ingest(label_type=kind)
    made.extract()
    for form in FORMATS:
        made.store.export("v", out=tmp_path / f"x.{form}")
        made.store.export("v", out=tmp_path / f"y.{form}", where="label is not null")
        made.store.export("v", out=tmp_path / f"z.{form}", where="patient_id = 'p3'")
    numbers = {"int": (pa.int64(), np.int64), "float": (pa.float64(), np.float64), "str": (pa.string(), None)}[kind]
    assert pq.read_schema(tmp_path / "x.parquet").field("label").type == numbers[0]
    for name, there in (("x", 3), ("y", 2)):
        for form in ("h5", "zarr", "h5ad"):
            frame, _ = read(tmp_path / f"{name}.{form}")
            assert len(frame) == there
            for patient, label in zip(frame.patient_id, frame.label, strict=True):
                assert made.labels[patient] == (None if pd.isna(label) else label)
            if name == "y" and numbers[1]:
                assert frame.label.dtype == numbers[1] or form == "zarr"
        texts = table_of(tmp_path / f"{name}.csv").label.tolist()
        assert texts == [
            None if made.labels[p] is None else str(made.labels[p])
            for p in table_of(tmp_path / f"{name}.csv").patient_id
        ]
    with h5py.File(tmp_path / "z.h5") as file:
        assert "labels" not in file
    assert "labels" not in zarr.open_group(tmp_path / "z.zarr", mode="r")
    assert "label" not in anndata.read_h5ad(tmp_path / "z.h5ad").obs


def test_attributes_that_would_take_a_name_are_called_so(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    made = make_cohort(4, extract=False, ids=["p1", "p2"], slices=1)
    with open(made.root / "m.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "modality", "features", "row", "attribute_row", "a/b", "empty"])
        for number, key in enumerate(made.vectors):
            words = [made.file(key).name, *key[:2], f"f{number}", f"r{number}", "x", "7", ""]
            writer.writerow(words)
    made.store.ingest_manifest(made.root / "m.csv", dataset="cohort")
    made.extract()
    for form in FORMATS:
        made.store.export("v", out=tmp_path / f"x.{form}")
        frame, vectors = read(tmp_path / f"x.{form}")
        assert len(vectors) == len(made.vectors)
        if form in ("parquet", "csv", "npy"):
            assert set(frame) - {"row"} == {
                "sample_key", "patient_id", "visit_id", "modality", "split", "site", "label", "a/b",
                "attribute_features", "attribute_row", "attribute_attribute_row",
            }  # fmt: skip
            assert set(frame.attribute_features) == {f"f{n}" for n in range(len(made.vectors))}
            assert set(frame["a/b"]) == {"7"}
        elif form != "tree":  # the name of an array would be that of a folder
            assert set(frame["a_b"]) == {"7"}


# ------------------------------------------------------------------------------------------------------- choosing
def test_splits_modalities_and_conditions_choose_rows(cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "x.parquet"

    def keys(**options: Any) -> list[str]:
        cohort.store.export("v", out=out, **options)
        return pq.read_table(out).column("sample_key").to_pylist()

    samples = cohort.samples
    assert set(keys(split="train")) == set(samples[samples.split == "train"].index)
    assert set(keys(modality="P", split="val")) == set(
        samples[(samples.split == "val") & (samples.modality == "P")].index
    )
    assert set(keys(where="patient_id = '=x' or attributes['slice'] = '1'")) == {
        key for key, row in samples.iterrows() if row.patient_id == "=x" or dict(row.attributes)["slice"] == "1"
    }
    cohort.store.split(scheme="other", ratios={"a": 0.5, "b": 0.5}, seed=1)
    splits = cohort.store.sql("SELECT patient_id FROM splits WHERE scheme = 'other' AND split = 'b'").to_pandas()
    found = keys(scheme="other", split="b")
    assert set(found) == set(samples[samples.patient_id.isin(splits.patient_id)].index)
    assert set(pq.read_table(out).column("split").to_pylist()) == {"b"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"split": "trian"}, r"has no split 'trian'.*Did you mean 'train'"),
        ({"modality": "T1"}, r"has no modality 'T1'.*\n.*it has: A, P"),
        ({"scheme": "nope"}, "no split scheme 'nope'"),
        ({"where": "false"}, "v@v1 has no vector of --where 'false'"),
        ({"split": "train", "modality": "A", "where": "patient_id = 'é 3'"}, "--split 'train' --modality 'A' --where"),
    ],
)
def test_nothing_to_export_is_said(cohort: Any, tmp_path: Path, options: dict[str, str], text: str) -> None:
    with pytest.raises(NotFoundError, match=text):
        cohort.store.export("v", out=tmp_path / "x.npy", **options)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- grouping
def test_a_tree_of_patients_with_its_lists(cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "features"
    layout = "{split}/{modality}/grade{label}/{patient_id}.npy"
    whole = "split is not null and label is not null"
    cohort.store.export("v", out=out, format="tree", layout=layout, where=whole)
    samples = cohort.samples[cohort.samples.split.notna() & cohort.samples.label.notna()]
    for modality, of_it in samples.groupby("modality"):
        found = table_of(out / f"features_{modality}.csv")
        assert list(found) == ["patient_id", "feature_path", "label", "num_slices"]
        assert sorted(found.patient_id) == sorted(of_it.patient_id.unique())
        for row in found.itertuples():
            patient = of_it[of_it.patient_id == row.patient_id]
            split, label = patient.split.iloc[0], patient.label.iloc[0]
            assert row.feature_path == f"{split}/{modality}/grade{label}/{row.patient_id}.npy"
            array = np.load(out / row.feature_path)
            assert (len(array), row.label) == (int(row.num_slices), label)
            numbers = sorted(key[2] for key in cohort.vectors if key[:2] == (row.patient_id, modality))
            expected = {cohort.vectors[row.patient_id, modality, number].tobytes() for number in numbers}
            assert {vector.tobytes() for vector in array} == expected
    frame, vectors = read(out) if out.suffix else read(out.rename(tmp_path / "features.tree"))
    check(cohort, frame, vectors, dtype=np.float32, shape=(6,))


def test_a_tree_by_subject_and_partition(cohort: Any, tmp_path: Path) -> None:
    """Files of several modalities get no lists of one."""
    cohort.store.export(
        "tok", out=tmp_path / "x.tree", layout="{name}_v{version}/{patient_id}/{slice}.npy", split="train"
    )
    files = sorted(path.relative_to(tmp_path / "x.tree").as_posix() for path in (tmp_path / "x.tree").rglob("*.npy"))
    train = cohort.samples[cohort.samples.split == "train"]
    assert files == sorted({f"tok_v1/{r.patient_id}/{dict(r.attributes)['slice']}.npy" for r in train.itertuples()})
    assert [path.name for path in (tmp_path / "x.tree").glob("*.csv")] == ["index.csv"]
    check(cohort, *read(tmp_path / "x.tree"), dtype=np.float16, shape=(2, 3))


@pytest.mark.parametrize("form", ["h5", "zarr"])
def test_a_data_set_a_partition(cohort: Any, tmp_path: Path, form: str) -> None:
    out = tmp_path / f"x_latents.{form}"
    cohort.store.export("a16", out=out, layout="{split}", where="split is not null")
    file: Any = h5py.File(out) if form == "h5" else zarr.open_group(out, mode="r")
    splits = ["test", "train", "val"]
    assert sorted(file) == sorted([*splits, *(f"{split}_metadata" for split in splits)])
    for split in splits:
        meta = file[f"{split}_metadata"]
        names = [str(name) for name in meta.attrs["columns"]]
        rows = (meta.asstr()[:] if form == "h5" else meta[:]).tolist()
        frame = pd.DataFrame(rows, columns=names).replace("", None)
        assert set(frame.split) == {split}
        check(cohort, frame, file[split][:], dtype=np.float16, shape=(6,))
        assert file[split].dtype == np.float16
    if form == "h5":
        offset = file["train"].id.get_offset()
        mapped = np.memmap(out, "<f2", "r", offset, file["train"].shape)
        np.testing.assert_array_equal(mapped, file["train"][:])
        file.close()


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("{split}/{patient_id}.npy", r"asks for \{split\}, which \d of the \d+ rows don't have.\n.*--split"),
        ("{label}.npy", r"asks for \{label\}.*\n.*--where 'label is not null'"),
        ("{patient}.npy", r"asks for \{patient\}, which isn't there. Did you mean 'patient_id'"),
        ("{site}.npy", r"asks for \{site\}, which \d+ of the \d+ rows"),
        ("all.npy", "has no field"),
        ("{patient_id.npy", "brace without its partner"),
        ("../{patient_id}.npy", r"gives the name '\.\.'"),
        ("/{patient_id}.npy", "gives an empty name"),
        ("a//{patient_id}.npy", "gives an empty name"),
        (".{patient_id}.npy", r"gives the name '\..*begins with no dot"),
        ("{patient_id}" + "x" * 250 + ".npy", "at most 255 bytes"),
        ("{patient_id}", r"\.npy files, and the layout gives"),
    ],
)
def test_layouts_that_make_no_tree(cohort: Any, tmp_path: Path, layout: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        cohort.store.export("v", out=tmp_path / "x.tree", layout=layout)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_are_no_names_of_files(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    bad = ["..", "a/b", "../../etc/x", ".hidden", "a\\b", "a\nb"]
    made = make_cohort(5, ids=["p1", *bad], slices=1, modalities=("A",))
    for patient in bad:
        quoted = patient.replace("'", "''")
        with pytest.raises(UsageError, match="--layout"):
            made.store.export("v", out=tmp_path / "x.tree", where=f"patient_id in ('p1', '{quoted}')")
        assert list(tmp_path.iterdir()) == []
    made.store.export("v", out=tmp_path / "x.tree", layout="{modality}.npy")
    assert set(table_of(tmp_path / "x.tree" / "index.csv").patient_id) == {"p1", *bad}


# ------------------------------------------------------------------------------------------------------ refusals
@pytest.mark.parametrize(
    ("names", "options", "kind", "text"),
    [
        ([], {"out": "x.npy"}, UsageError, "needs the name"),
        (["nope"], {"out": "x.npy"}, NotFoundError, "no feature set or training table 'nope'"),
        (["to"], {"out": "x.npy"}, NotFoundError, "Did you mean 'tok'"),
        (["v@v9"], {"out": "x.npy"}, NotFoundError, "no version 9"),
        (["models/v"], {"out": "x.npy"}, UsageError, "isn't NAME, NAME@vK, features/NAME"),
        (["v"], {"out": "x.what"}, NotFoundError, "No exporter writes"),
        (["v"], {"out": "x", "format": "np"}, NotFoundError, "Did you mean 'npz' or 'npy'"),
        (["v"], {"out": "x.parquet", "format": "csv"}, UsageError, r"ends as parquet does.*\n.*x\.csv"),
        (["v", "tok"], {"out": "x.npy"}, UsageError, "holds one feature set, and 2 are named.\n.*h5mu"),
        (["v"], {"out": "x.csv", "layout": "{split}"}, UsageError, "takes no --layout.\n.*h5 or tree or zarr"),
        (["v"], {"out": "s3://bucket/x.csv"}, UsageError, "is a URL.*\n.*then upload"),
        (["v"], {"out": "no/x.csv"}, NotFoundError, "There is no folder"),
        (["v"], {"out": "folder.h5"}, UsageError, "is a folder, not a file"),
        (["v"], {"out": "folder.zarr"}, ConflictError, "never written over"),
        (["v"], {"out": "folder.h5", "format": "tree"}, UsageError, "ends as h5 does"),
        (["v"], {"out": "/proc/x.csv"}, SetupError, "can't be written"),
    ],
)
def test_what_doesnt_go_together_is_refused(
    cohort: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: list[str],
    options: dict[str, str],
    kind: type[Exception],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder.h5", "folder.zarr"):
        Path(name).mkdir()
    with pytest.raises(kind, match=text):
        cohort.store.export(*names, **options)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.h5", "folder.zarr"]


@pytest.mark.parametrize("inside", ["features", "features/v", "runs", "tables"])
def test_the_stores_own_folders_are_left_alone(cohort: Any, inside: str) -> None:
    before = sorted(cohort.store.path.rglob("*"))
    with pytest.raises(UsageError, match="is the store's own"):
        cohort.store.export("v", out=cohort.store.path / inside / "x.zarr")
    assert sorted(cohort.store.path.rglob("*")) == before


def test_any_ending_may_be_used_where_the_format_is_named(cohort: Any, tmp_path: Path) -> None:
    for name in ("latents.hdf5", "latents"):
        assert cohort.store.export("v", out=tmp_path / name, format="h5").format == "h5"
        with h5py.File(tmp_path / name) as file:
            assert "features" in file


def test_a_missing_library_is_said(cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    for form in ("h5", "h5ad", "h5mu"):
        with pytest.raises(SetupError, match=r"pip install 'featstore\[hdf5\]'"):
            cohort.store.export("v", out=tmp_path / f"x.{form}")
    assert list(tmp_path.iterdir()) == []


# ----------------------------------------------------------------------------------------------- whole or not at all
@pytest.mark.parametrize("form", [*FORMATS, "h5mu"])
def test_an_interrupted_export_leaves_what_was_there(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    out = tmp_path / f"x.{form}"
    folder = form in ("zarr", "tree")
    if not folder:
        cohort.store.export("v", out=out, split="val")
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*")}
    batches = Selection.batches

    def interrupted(self: Selection) -> Iterable[Any]:
        yield next(iter(batches(self))).slice(0, 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Selection, "batches", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cohort.store.export("v", out=out)
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*")} == before
    result = cohort.store.export("v", out=out)
    assert result.contents[0].shape[0] == len(cohort.vectors)
    assert all(not path.name.startswith(".tmp") for path in tmp_path.iterdir())


def test_a_killed_export_leaves_what_was_there(cohort: Any, tmp_path: Path) -> None:
    """What dies at once can't tidy up: a hidden folder stays beside the old file and index until the next export."""
    out = tmp_path / "x.npy"
    cohort.store.export("v", out=out, split="val")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code = """
import os, sys, featstore
from featstore.tables.selection import Selection
batches = Selection.batches
def dying(self):
    yield next(iter(batches(self))).slice(0, 3)
    os._exit(9)
Selection.batches = dying
featstore.open(sys.argv[1]).export("v", out=sys.argv[2])
"""
    done = subprocess.run([sys.executable, "-c", code, cohort.store.path, out], timeout=120, check=False)
    assert done.returncode == 9
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert [path.name[:5] for path in tmp_path.iterdir() if path.is_dir()] == [".tmp-"]
    (other,) = (path for path in tmp_path.iterdir() if path.is_dir())
    kept = other.rename(other.with_name(f"{other.name[:14]}y-x.npy"))  # of an export to y-x.npy
    cohort.store.export("v", out=tmp_path / "z.npy")
    with open(shutil.copytree(kept, other) / "lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as an export does that still runs
        cohort.store.export("v", out=out)
        assert (other / "made" / "x.npy").exists()
    cohort.store.export("v", out=out)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [kept]
    assert len(np.load(out)) == len(cohort.vectors)


@pytest.mark.parametrize("name", ["x.npy", "notes"])
@pytest.mark.parametrize("again", [False, True])
def test_a_users_own_index_is_left_alone(cohort: Any, tmp_path: Path, again: bool, name: str) -> None:
    out, notes = tmp_path / name, tmp_path / f"{Path(name).stem}.index.csv"
    cohort.store.export("v", out=out, format="npy")
    made = notes.read_bytes()
    if again:
        notes.write_text("my own notes,sample_key\n", encoding="utf-8")
    else:
        out.unlink()  # then the index may be of anything
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConflictError, match=r"index\.csv is there already, and isn't.*\n.*move it away"):
        cohort.store.export("v", out=out, format="npy")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    cohort.store.export("v", out=tmp_path / f"{Path(name).stem}.csv")  # makes no index
    notes.unlink()
    for _ in range(2):
        cohort.store.export("v", out=out, format="npy")
    assert notes.read_bytes() == made


def test_an_index_that_shows_up_meanwhile_is_left_alone(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = Selection.batches

    def slow(self: Selection) -> Iterable[Any]:
        yield from batches(self)
        (tmp_path / "x.index.csv").write_text("precious")

    monkeypatch.setattr(Selection, "batches", slow)
    with pytest.raises(ConflictError, match="move it away"):
        cohort.store.export("v", out=tmp_path / "x.npy")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.index.csv", "precious")]


@pytest.mark.parametrize("form", ["zarr", "tree"])
def test_a_folder_that_shows_up_meanwhile_is_left_alone(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    out = tmp_path / f"x.{form}"
    batches = Selection.batches

    def slow(self: Selection) -> Iterable[Any]:
        yield from batches(self)
        out.mkdir()
        (out / "theirs").write_text("precious")

    monkeypatch.setattr(Selection, "batches", slow)
    with pytest.raises(ConflictError, match="never written over"):
        cohort.store.export("v", out=out)
    assert [path.name for path in tmp_path.rglob("*")] == [out.name, "theirs"]


# ------------------------------------------------------------------------------------------------------- memory
def test_memory_depends_on_a_batch_not_on_the_rows(tmp_path: Path) -> None:
    """64 MiB of tokens, rows of half a megabyte."""
    rows, shape = 128, (256, 1024)
    create_group(tmp_path / "g", {})
    layout = SegmentLayout(tmp_path / "g" / "s", rows, 16, shape, "float16")
    create_segment(layout, [f"d/{n}" for n in range(rows)])
    block = np.zeros((16, *shape), np.float16)
    for chunk in range(rows // 16):
        block[:, 0, 0] = np.arange(16 * chunk, 16 * chunk + 16)
        write_chunk(layout, chunk, block, np.ones(16, bool))
    selection = selected(tmp_path / "g" / "s", rows, shape)
    tracemalloc.start()
    try:
        count = 0
        for batch in selection.batches():
            assert batch.column("features").nbytes <= BATCH_NBYTES
            count += len(batch)
        assert tracemalloc.get_traced_memory()[1] < 3 * BATCH_NBYTES
    finally:
        tracemalloc.stop()
    assert count == rows


def selected(segment: Path, rows: int, shape: tuple[int, ...]) -> Selection:
    columns = {name: pa.nulls(rows, pa.string()) for name in ("patient_id", "modality", "split", "site", "label")}
    table = pa.table(
        {
            "sample_key": [f"d/{n}" for n in range(rows)], **columns, "label_type": pa.nulls(rows, pa.string()),
            "segment": np.ones(rows, np.int64), "row": np.arange(rows),
        }
    )  # fmt: skip
    view = FeatureSetView(FeatureSet(1, "v", 1, "f", shape, "float16"), table, {1: segment})
    kept = table.select(["sample_key", *columns])
    return Selection(
        view.feature_set, kept, pa.string(), view.reader(table), table["segment"].to_numpy(), table["row"].to_numpy()
    )
