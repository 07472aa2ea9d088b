"""What an import does to a store: samples, versions, refusals, failures; and nothing where something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image

import featstore
from featstore.errors import ConflictError, FeatstoreError, UsageError
from featstore.runs import RunFolder

from .conftest import IDS, read, rows, same

Save = Callable[..., Path]


@pytest.fixture
def known(store: featstore.Store, tmp_path: Path) -> list[str]:
    """A store with six samples of files; their keys."""
    lines = []
    for n, patient in enumerate(IDS):
        file = tmp_path / "data" / patient / f"{n}.png"
        file.parent.mkdir(parents=True)
        Image.fromarray(np.full((8, 8), n * 20, np.uint8)).save(file)
        lines.append(f"{patient}/{n}.png,{patient},A,{n % 2},{'train' if n < 4 else 'val'}\n")
    (tmp_path / "m.csv").write_text("path,patient_id,modality,label,split\n" + "".join(lines))
    store.ingest_manifest(tmp_path / "m.csv", root=tmp_path / "data", dataset="mri")
    return [f"mri/{patient}/{n}.png" for n, patient in enumerate(IDS)]


@pytest.fixture
def index(known: list[str], saved: Save) -> Path:
    return saved(pd.DataFrame({"sample_key": known, "row": range(6)}))


def files(store: featstore.Store) -> set[str]:
    """Every file and folder of the store, but the catalog's own."""
    return {str(p.relative_to(store.path)) for p in store.path.rglob("*") if not p.name.startswith("catalog")}


class TestSamplesThatAreThere:
    def test_vectors_for_them(
        self, store: featstore.Store, known: list[str], index: Path, vectors: np.ndarray, array: Save
    ) -> None:
        before = rows(store, "SELECT * FROM samples ORDER BY ALL")
        result = store.import_features(
            array(vectors), name="f", index=index, backbone="uni", model_version="2024-01", layer="11", pooler="cls"
        )
        assert (result.added, result.samples_added, result.patients_added, result.key) == (6, 0, 0, "sample_key")
        assert same(read(store), known, vectors)
        assert rows(store, "SELECT * FROM samples ORDER BY ALL") == before
        (row,) = rows(store, "SELECT * FROM feature_sets")
        assert (row["backbone"], row["model_version"], row["layer"], row["pooler"]) == ("uni", "2024-01", "11", "cls")
        assert row["vectors"] == 6
        (run,) = rows(store, "SELECT * FROM runs WHERE kind = 'import'")
        assert (run["state"], run["done"], run["failed"]) == ("done", 6, 0)

    def test_by_another_key(
        self, store: featstore.Store, known: list[str], vectors: np.ndarray, array: Save, saved: Save
    ) -> None:
        paths = [key.removeprefix("mri/") for key in known]
        index = saved(pd.DataFrame({"image_path": paths}))
        result = store.import_features(array(vectors), name="f", index=index, in_order=True, dataset="mri")
        assert (result.key, result.in_order, result.samples_added) == ("image_path", True, 0)
        assert same(read(store), known, vectors)

    def test_part_of_them(
        self, store: featstore.Store, known: list[str], vectors: np.ndarray, array: Save, saved: Save
    ) -> None:
        index = saved(pd.DataFrame({"sample_key": known[:2], "row": [1, 0]}))
        store.import_features(array(vectors[:2]), name="f", index=index)
        assert same(read(store), known[:2], vectors[[1, 0]])

    def test_some_that_are_not(
        self, store: featstore.Store, known: list[str], vectors: np.ndarray, array: Save, saved: Save
    ) -> None:
        frame = pd.DataFrame({"sample_key": [*known[:4], "mri/new/1.png", "mri/new/0.png"], "row": range(6)})
        frame[["patient_id", "modality"]] = [*([p, "A"] for p in IDS[:4]), ["new", "A"], ["new", "A"]]
        file = array(vectors)
        with pytest.raises(ConflictError, match=r"2 rows are of no sample.*'mri/new/1.png', 'mri/new/0.png'") as caught:
            store.import_features(file, name="f", index=saved(frame))
        assert "--new-samples" in caught.value.hint
        result = store.import_features(file, name="f", index=saved(frame), new_samples=True)
        assert (result.samples_added, result.patients_added) == (2, 1)
        assert same(read(store), frame["sample_key"].tolist(), vectors)

    @pytest.mark.parametrize(
        ("column", "value", "words"),
        [
            ("patient_id", "somebody", "another patient_id"),
            ("modality", "P", "another modality"),
            ("label", 7, "more than one label"),
            ("split", "val", "more than one split"),
        ],
    )
    def test_an_index_that_contradicts(
        self, store: featstore.Store, known: list[str], vectors: np.ndarray, array: Save, saved: Save,
        column: str, value: Any, words: str,
    ) -> None:  # fmt: skip
        frame = pd.DataFrame({"sample_key": known, "row": range(6), "patient_id": IDS, "modality": "A"})
        frame["label"] = [0, 1] * 3
        frame["split"] = ["train"] * 4 + ["val"] * 2
        file, before = array(vectors), files(store)
        bad = frame.copy()
        bad[column] = bad[column].astype(object)
        bad.loc[1, column] = value
        with pytest.raises(ConflictError, match=words):
            store.import_features(file, name="f", index=saved(bad))
        assert files(store) == before
        store.import_features(file, name="f", index=saved(frame))

    def test_attributes_that_contradict(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        file = array(vectors)
        store.import_features(file, name="f", index=saved(meta), in_order=True)
        with pytest.raises(ConflictError, match=r"f/007/x 0.png, fold: 1 → 9"):
            store.import_features(file, name="f", index=saved(meta.assign(fold="9")), in_order=True)
        store.import_features(file, name="f", index=saved(meta.assign(other="9")), in_order=True)

    def test_extraction_beside_it(
        self, store: featstore.Store, known: list[str], index: Path, vectors: np.ndarray, array: Save, saved: Save
    ) -> None:
        """Made samples have no pixels: an extraction leaves them out. A name of both has versions of both."""
        store.import_features(array(vectors), name="f", index=index)
        new = pd.DataFrame({"id": ["x"], "row": [0], "patient_id": ["new"], "modality": ["A"]})
        store.import_features(array(vectors[:1]), name="g", index=saved(new, "new.csv"))
        fields = {"backbone": "timm:test_vit", "pretrained": False, "batch_size": 4, "device": "cpu"}
        result = store.extract(name="f", **fields)
        assert (result.pending, result.done, result.failed) == (6, 6, 0)
        assert result.feature_sets == {"f": 2}
        again = store.import_features(array(vectors), name="f", index=index)
        assert (again.version, again.other_versions, again.unchanged) == (1, [2], 6)
        store.extract(name="h", **fields)
        result = store.import_features(array(vectors), name="h", index=index)
        assert (result.version, result.other_versions) == (2, [1])


class TestSamplesThatAreMade:
    def test_checks_of_an_ingest(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        file = array(vectors)
        for frame, words in (
            (meta.assign(patient_id="one", site=["a", "b"] * 3), "more than one site"),
            (meta.assign(patient_id="one"), "more than one label"),
            (meta.assign(patient_id="one", label=1, split=["train", "val"] * 3), "more than one split"),
            (meta.assign(patient_id=["p ", *IDS[1:]]), "spaces around"),
            (meta.drop(columns="patient_id"), "Nothing says which patient"),
            (meta.drop(columns="modality"), "Nothing says which modality"),
            (meta.assign(acquired_at="yesterday"), "no ISO 8601 time"),
        ):
            with pytest.raises(FeatstoreError, match=words):
                store.import_features(file, name="f", index=saved(frame), in_order=True)
        assert not rows(store, "SELECT * FROM patients")
        assert not rows(store, "SELECT * FROM runs")
        assert not list((store.path / "runs").iterdir())
        assert not list((store.path / "features").iterdir())

    def test_lookalikes_and_templates(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        result = store.import_features(array(vectors), name="f", index=saved(meta), in_order=True)
        assert ("007", "7") in result.lookalikes
        result = store.import_features(
            array(vectors),
            name="f",
            index=saved(meta),
            in_order=True,
            dataset="other",
            patient_id="{site}-{patient_id}",
        )
        assert {row["patient_id"] for row in rows(store, "SELECT * FROM samples")} == {*IDS, *(f"JM-{i}" for i in IDS)}
        assert result.version == 1  # of one origin: the feature set has grown
        assert len(read(store)) == 12

    def test_their_files_may_come_later(
        self, store: featstore.Store, vectors: np.ndarray, array: Save, tmp_path: Path
    ) -> None:
        """Features first, images later: one sample, whose imported vector stays."""
        tree = tmp_path / "data"
        for n in range(6):
            (tree / f"p{n}" / "A").mkdir(parents=True)
            Image.fromarray(np.full((8, 8), n, np.uint8)).save(tree / f"p{n}" / "A" / "x.png")
        index = pd.DataFrame({"path": [f"p{n}/A/x.png" for n in range(6)], "patient_id": [f"p{n}" for n in range(6)]})
        index.assign(modality="A").to_csv(tmp_path / "i.csv", index=False)
        file = array(vectors)
        store.import_features(file, name="f", index=tmp_path / "i.csv", in_order=True, dataset="data")
        store.ingest(tree, layouts=["{patient_id}/{modality}/x.png"])
        keys = [f"data/p{n}/A/x.png" for n in range(6)]
        assert same(read(store), keys, vectors)
        assert len(rows(store, "SELECT * FROM samples WHERE size > 0 AND NOT starts_with(uri, 'imported:')")) == 6
        assert store.ingest(tree, layouts=["{patient_id}/{modality}/x.png"]).unchanged == 6
        result = store.extract(name="r", backbone="timm:test_vit", pretrained=False, device="cpu")
        assert result.done == 6
        # From here on a changed file is a changed sample, and its imported vector is old.
        Image.fromarray(np.full((8, 8), 99, np.uint8)).save(tree / "p0" / "A" / "x.png")
        store.ingest(tree, layouts=["{patient_id}/{modality}/x.png"])
        assert same(read(store), keys[1:], vectors[1:])
        with pytest.raises(ConflictError, match="the old vectors of 1 sample"):
            store.import_features(file, name="f", index=tmp_path / "i.csv", in_order=True, dataset="data")
        newer = vectors.copy()
        newer[0] += 1
        store.import_features(array(newer, "y.npy"), name="f", index=tmp_path / "i.csv", in_order=True, dataset="data")
        assert same(read(store), keys, newer)
        covered = rows(store, "SELECT sum(extracted) AS n FROM coverage WHERE feature_set = 'f'")
        assert covered == [{"n": 6}]


class TestAgain:
    def test_nothing_new_does_nothing(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        options = {"name": "f", "index": saved(meta), "in_order": True}
        store.import_features(array(vectors), **options)
        before = files(store), rows(store, "SELECT * FROM features ORDER BY ALL")
        result = store.import_features(array(vectors), **options)
        assert (result.added, result.unchanged, result.run_id, result.version) == (0, 6, None, 1)
        assert (files(store), rows(store, "SELECT * FROM features ORDER BY ALL")) == before

    def test_more_of_the_same(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        store.import_features(array(vectors[:4]), name="f", index=saved(meta[:4]), in_order=True)
        result = store.import_features(array(vectors), name="f", index=saved(meta), in_order=True, new_samples=True)
        assert (result.added, result.unchanged, result.samples_added, result.version) == (2, 4, 2, 1)
        assert same(read(store), [f"f/{key}" for key in meta["key"]], vectors)

    def test_other_vectors_are_refused_or_a_new_version(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        options = {"name": "f", "index": saved(meta), "in_order": True}
        keys = [f"f/{key}" for key in meta["key"]]
        store.import_features(array(vectors), **options)
        other = vectors.copy()
        other[2] = np.nextafter(other[2], 9)
        before = files(store)
        with pytest.raises(ConflictError, match=r"1 vector of the source .* differ: 'f/Ünï 3/x 2.png'") as caught:
            store.import_features(array(other), **options)
        assert "--new-version" in caught.value.hint
        assert files(store) == before
        result = store.import_features(array(other), new_version=True, **options)
        assert (result.version, result.added, result.other_versions) == (2, 6, [1])
        assert same(read(store, "f@v1"), keys, vectors)
        assert same(read(store, "f"), keys, other)
        # The later one is the one that goes on.
        assert store.import_features(array(other), **options).unchanged == 6
        with pytest.raises(ConflictError, match="1 vector of the source"):
            store.import_features(array(vectors), **options)
        assert store.import_features(array(vectors), new_version=True, **options).version == 3

    def test_what_makes_another_version(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        options = {"name": "f", "index": saved(meta), "in_order": True}
        versions = [
            store.import_features(array(vectors), **options).version,
            store.import_features(array(vectors), backbone="uni", **options).version,
            store.import_features(array(vectors), dtype="float16", **options).version,
            store.import_features(array(vectors[:, :3]), **options).version,
            store.import_features(array(vectors), backbone="uni", **options).version,
        ]
        assert versions == [1, 2, 3, 4, 2]
        with pytest.raises(ConflictError, match="differs from it in case only"):
            store.import_features(array(vectors), **{**options, "name": "F"})


class TestFailures:
    def test_rows_that_are_no_vectors(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        values = vectors.astype(np.float64)
        values[1, 3], values[4], values[5, 0] = np.nan, np.inf, 1e300
        options = {"name": "f", "index": saved(meta), "in_order": True}
        keys = [f"f/{key}" for key in meta["key"]]
        result = store.import_features(array(values), **options)
        assert (result.added, result.failed, result.samples_added) == (3, 3, 6)
        assert same(read(store), [keys[n] for n in (0, 2, 3)], vectors[[0, 2, 3]])
        found = {row["sample_key"]: row for row in store.errors().to_pylist()}
        assert {found[keys[n]]["error"] for n in (1, 4)} == {"NonFinite"}
        assert found[keys[5]]["error"] == "Overflow"
        assert {row["stage"] for row in found.values()} == {"import"}
        segment = rows(store, "SELECT DISTINCT segment FROM features")[0]["segment"]
        group = zarr.open_group(store.path / segment, mode="r")
        assert np.isnan(group["features"][:][~group["valid"][:]]).all()
        assert group["valid"][:].sum() == 3
        assert store.retry() == []

        again = store.import_features(array(values), **options)
        assert (again.added, again.unchanged, again.failed, again.failed_before, again.run_id) == (0, 3, 0, 3, None)
        values[1, 3], values[5, 0] = 1.5, 2.5
        mended = store.import_features(array(values), **options)
        assert (mended.added, mended.unchanged, mended.failed_before) == (2, 3, 1)
        assert {row["sample_key"] for row in store.errors().to_pylist()} == {keys[4]}
        assert len(read(store)) == 5

    def test_too_large_for_float16(
        self, store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
    ) -> None:
        vectors[3, 2] = 70_000
        result = store.import_features(array(vectors), name="f", index=saved(meta), in_order=True, dtype="float16")
        assert (result.added, result.failed) == (5, 1)
        (row,) = store.errors().to_pylist()
        assert row["message"] == "70000 is too large for float16"


def test_what_is_kept_of_an_import(
    store: featstore.Store, vectors: np.ndarray, meta: pd.DataFrame, array: Save, saved: Save
) -> None:
    """The run says what came from where, and its rows would be enough to make the catalog anew."""
    import hashlib

    file, index = array(vectors), saved(meta)
    result = store.import_features(file, name="f", index=index, in_order=True)
    run = RunFolder(store.path / "runs" / str(result.run_id))
    facts = run.facts()
    assert facts["kind"] == "import"
    assert facts["request"]["source"] == str(file)
    assert facts["request"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts["request"]["index_sha256"] == {str(index): hashlib.sha256(index.read_bytes()).hexdigest()}
    kept = run.load_rows("vectors").to_pylist()
    group = zarr.open_group(store.path / facts["segment"]["path"], mode="r")
    assert [row["sample_key"] for row in kept] == group["sample_key"][:].tolist()
    assert [vectors[row["source_row"]].tobytes() for row in kept] == [v.tobytes() for v in group["features"][:]]
    assert run.load_rows("samples").num_rows == 6
    config = zarr.open_group(store.path / "features/f/v1.zarr", mode="r").attrs["featstore"]["config"]
    assert config["imported"] is True
    left = {p.name for p in run.path.iterdir()}
    assert left == {"run.json", "lock", "samples.parquet", "vectors.parquet"}
    assert {p.name for p in (store.path / "features/f").iterdir()} == {"v1.zarr"}


def test_materialize_over_imports(
    store: featstore.Store, known: list[str], index: Path, vectors: np.ndarray, array: Save
) -> None:
    store.import_features(array(vectors), name="f", index=index)
    store.materialize(name="t", inputs=["f/A:mean"], scheme="default")
    values, labels, patients = store.table("t").arrays()
    order = [IDS.index(patient) for patient in patients]
    np.testing.assert_array_equal(values, vectors[order])
    assert labels.tolist() == [n % 2 for n in order]
    found = store.sql('SELECT sample_key, vector[1] AS x FROM vectors."f"').to_pylist()
    assert {row["sample_key"]: np.float32(row["x"]) for row in found} == dict(zip(known, vectors[:, 0], strict=True))


def test_large_rows_come_in_parts(
    store: featstore.Store, array: Save, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several chunks and blocks, in an order that isn't the file's."""
    from featstore.imports import vectors as module
    from featstore.imports import writing

    monkeypatch.setattr(module, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(writing, "BLOCK_BYTES", 1000)
    values = rng.normal(size=(103, 2, 5)).astype(np.float32)
    keys = [f"k{n}" for n in rng.permutation(103)]
    index = pd.DataFrame({"id": keys, "row": range(103), "patient_id": keys, "modality": "A"})
    index.sample(frac=1, random_state=1).to_csv(tmp_path / "i.csv", index=False)
    store.import_features(array(values), name="f", index=tmp_path / "i.csv")
    assert same(read(store), [f"f/{key}" for key in keys], values)
    store.import_features(array(values), name="f", index=tmp_path / "i.csv")
    group = next((store.path / "features/f/v1.zarr").glob("*-import-*"))
    assert len(list((group / "features/c").iterdir())) == 5
    assert zarr.open_group(group, mode="r")["sample_key"][:].tolist() == [f"f/k{n}" for n in range(103)]


def test_options_that_say_nothing(store: featstore.Store, array: Save, vectors: np.ndarray, saved: Save) -> None:
    file = array(vectors)
    for options, words in (
        ({"name": "a/b"}, "can't be the name"),
        ({"name": "f", "dtype": "int8"}, "float16, float32"),
        ({"name": "f", "layout": "{patient_id}.npy", "in_order": True}, "--layout goes with"),
        ({"name": "f", "vectors": "x", "in_order": True}, "--vectors names"),
        ({"name": "f", "key": "k"}, "no column 'k'"),
        ({"name": "f", "key": "k", "in_order": True, "index": saved(pd.DataFrame({"a": range(6)}))}, "no column 'k'"),
    ):
        with pytest.raises(UsageError, match=words):
            store.import_features(file, **options)
