"""Out of one store and into another: every form gives the same vectors back, bit by bit, and all that is theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featstore

FORMS = ("npy", "csv", "h5", "parquet", "zarr", "tree", "h5ad", "h5mu")
KEPT = ["sample_key", "patient_id", "modality", "split", "site", "visit_id", "label", "attributes"]
LABELLED = "label is not null and split is not null"


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """Ids as hospitals have them; whole labels, one of them missing; one patient in no split; tokens as float16."""
    made = make_cohort(21, extract=False, count=12, slices=3, dim=6)
    made.labels["007"] = None
    made.splits["é 3"] = None
    made.ingest()
    made.extract()
    made.extract("tok", dim="2x3", poolers=("tokens",), dtype="float16")
    return made


def contents(store: featstore.Store, name: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """All that a store says of the samples of a feature set, the labels in their type, and the vectors."""
    vectors, labels, keys = store.features(name).arrays()
    samples = store.sql(f"SELECT {', '.join(KEPT)} FROM samples").to_pandas().set_index("sample_key")
    samples["attributes"] = [tuple(sorted(dict(found).items())) for found in samples.attributes]
    return samples.loc[keys].astype(object).where(samples.loc[keys].notna(), None), labels, vectors


def same(one: featstore.Store, other: featstore.Store, name: str) -> None:
    (samples, labels, vectors), (samples_, labels_, vectors_) = contents(one, name), contents(other, name)
    assert vectors.dtype == vectors_.dtype
    np.testing.assert_array_equal(vectors, vectors_)
    assert labels.dtype == labels_.dtype
    np.testing.assert_array_equal(labels, labels_)
    pd.testing.assert_frame_equal(samples, samples_)


def passed_on(
    store: featstore.Store, name: str, folder: Path, form: str, *, export: Any = (), **options: Any
) -> featstore.Store:
    """A new store with what is exported from another and imported there."""
    out = folder / f"{name}.{form}"
    store.export(name, out=out, **dict(export))
    if form == "npy":
        options["index"] = folder / f"{name}.index.csv"
    made = featstore.init(folder / "store")
    result = made.import_features(out, name=name, **options)
    assert (result.failed, result.in_order, result.unmatched) == (0, False, [])
    return made


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "times"), [("v", 1), ("tok", 2)])
def test_there_and_there_again(cohort: Any, tmp_path: Path, form: str, name: str, times: int) -> None:
    """The second export is of an imported feature set: what an export says must be what an import understands."""
    options: dict[str, Any] = {}
    if form == "csv" and name == "tok":  # numbers as text have no type, and no shape
        options = {"dtype": "float16", "shape": (2, 3)}
    before = cohort.store
    for number in range(times):
        folder = tmp_path / str(number)
        folder.mkdir()
        after = passed_on(before, name, folder, form, **options)
        same(cohort.store, after, name)
        before = after
    if times == 2 and form in ("npy", "csv", "tree"):  # these say nothing of where the vectors come from
        files = [
            path.relative_to(tmp_path / "0") for path in (tmp_path / "0").rglob("*") if path.suffix in (".npy", ".csv")
        ]
        assert files
        for file in files:
            assert (tmp_path / "0" / file).read_bytes() == (tmp_path / "1" / file).read_bytes()


@pytest.mark.parametrize(
    ("form", "layout"),
    [
        ("tree", "{split}/{modality}/grade{label}/{patient_id}.npy"),
        ("tree", "{name}_v{version}/{patient_id}/{slice}.npy"),
        ("h5", "{split}"),
        ("zarr", "{split}"),
        ("h5", "{modality}"),
    ],
)
def test_rows_in_groups_come_back(
    cohort: Any, make_cohort: Callable[..., Any], tmp_path: Path, form: str, layout: str
) -> None:
    made = passed_on(cohort.store, "tok", tmp_path, form, export={"layout": layout, "where": LABELLED})
    vectors, _, keys = made.features("tok").arrays()
    all_vectors, _, all_keys = cohort.store.features("tok").arrays()
    place = {key: row for row, key in enumerate(all_keys)}
    rows = [place[key] for key in keys]
    wanted = cohort.store.sql(f"SELECT sample_key FROM samples WHERE {LABELLED}").column(0).to_pylist()
    assert set(keys) == set(wanted)
    np.testing.assert_array_equal(vectors, all_vectors[rows])
    samples, _, _ = contents(made, "tok")
    expected, _, _ = contents(cohort.store, "tok")
    pd.testing.assert_frame_equal(samples, expected.loc[list(keys)])


@pytest.fixture(scope="module", params=[("float", [1.0, 2.0, None]), ("str", ["1", "01", "1.0"])])
def labelled(make_cohort: Callable[..., Any], request: pytest.FixtureRequest) -> featstore.Store:
    """Labels that look like others: whole floats, text that looks like numbers."""
    kind, values = request.param
    made = make_cohort(3, extract=False, ids=["p1", "p2", "p3"], slices=1, modalities=("A",), dim=2)
    made.labels = dict(zip(["p1", "p2", "p3"], values, strict=True))
    made.ingest(label_type=kind)
    made.extract()
    return made.store


@pytest.mark.parametrize("form", ["csv", "h5", "zarr", "tree", "h5ad"])
def test_labels_come_back_in_their_type(labelled: featstore.Store, tmp_path: Path, form: str) -> None:
    same(labelled, passed_on(labelled, "v", tmp_path, form), "v")


def test_a_second_import_finds_nothing_new(cohort: Any, tmp_path: Path) -> None:
    """Vectors that come back to their own store are matched by key, and change no sample."""
    cohort.store.export("v", out=tmp_path / "v.parquet")
    result = cohort.store.import_features(tmp_path / "v.parquet", name="back")
    assert (result.samples_added, result.patients_added, result.added) == (0, 0, len(cohort.vectors))
    result = cohort.store.import_features(tmp_path / "v.parquet", name="back")
    assert (result.added, result.unchanged) == (0, len(cohort.vectors))
    one, other = cohort.store.features("v").arrays(), cohort.store.features("back").arrays()
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_attributes_come_back_whatever_they_are_called(
    make_cohort: Callable[..., Any], tmp_path: Path, form: str
) -> None:
    """A manifest may call its columns as an export calls its own, or as it calls those that had to give way."""
    made = make_cohort(8, extract=False, ids=["p1", "p2"], slices=2, dim=2)
    names = [
        "sample_key", "features", "labels", "row", "file", "partition", "feature_path", "num_slices",
        "attribute_row", "attribute_attribute_file", "attribute_other", "key", "id", "image_path",
    ]  # fmt: skip
    rows = [
        {"path": made.file(key).name, "patient_id": key[0], "modality": key[1]}
        | {name: f"{name} {number}" for name in names}
        for number, key in enumerate(made.vectors)
    ]
    pd.DataFrame(rows).to_csv(made.root / "m.csv", index=False)
    made.store.ingest_manifest(made.root / "m.csv", dataset="cohort")
    made.extract()
    samples, _, _ = contents(made.store, "v")
    assert {name for name, _ in samples.attributes.iloc[0]} == set(names)
    same(made.store, passed_on(made.store, "v", tmp_path, form), "v")
