"""Which sample a row is, and what is said of it: by keys, paths of files, labels, modalities, new columns."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import featstore
from featstore.cli.imports import _say
from featstore.errors import ConflictError
from featstore.imports import ImportResult
from featstore.imports import run as import_run

from .conftest import read, rows, same

Save = Callable[..., Path]
VALUES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def file(array: Save) -> Path:
    return array(VALUES)


@pytest.fixture
def images(store: featstore.Store, tmp_path: Path) -> Path:
    """A folder of three images, ingested as the data set ``mri``."""
    root = tmp_path / "images"
    root.mkdir()
    for n in range(3):
        Image.fromarray(np.full((4, 4), n, np.uint8)).save(root / f"{n}.png")
    store.ingest(root, layouts=["{patient_id}.png"], modality="T", dataset="mri")
    return root


def test_a_file_that_changes_while_it_is_read(
    store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "v.csv"

    def write(order: list[int]) -> None:
        frame = pd.DataFrame({"id": order, "patient_id": [f"p{n}" for n in order], "f0": order, "f1": 0.0})
        frame.to_csv(source, index=False)
        os.utime(source, ns=(order[0] + 1, order[0] + 1))

    match = import_run.match

    def rewritten(*said: object) -> object:
        write([2, 1, 0])  # its writer ends between the reading of keys and of vectors
        return match(*said)  # type: ignore[arg-type]

    write([0, 1, 2])
    with monkeypatch.context() as patch:
        patch.setattr(import_run, "match", rewritten)
        with pytest.raises(ConflictError, match=r"was changed while it was read \(v.csv\)"):
            store.import_features(source, name="x", modality="T")
    assert not rows(store, "SELECT * FROM samples")
    store.import_features(source, name="x", modality="T")
    assert {key: float(value[0]) for key, value in read(store, "x").items()} == {"x/0": 0, "x/1": 1, "x/2": 2}


def test_a_key_that_is_a_patient(store: featstore.Store, file: Path, saved: Save) -> None:
    index = saved(pd.DataFrame({"patient_id": ["01", "1", "b"], "row": range(3)}))
    store.import_features(file, name="f", index=index, key="patient_id", modality="T")
    found = rows(store, "SELECT sample_key, patient_id FROM samples ORDER BY ALL")
    assert [tuple(row.values()) for row in found] == [("f/01", "01"), ("f/1", "1"), ("f/b", "b")]


def test_the_key_in_templates(store: featstore.Store, file: Path, saved: Save) -> None:
    index = saved(pd.DataFrame({"slide": ["a", "b", "c"], "row": range(3)}))
    store.import_features(file, name="f", index=index, key="slide", modality="T", patient_id="case-{slide}")
    assert {row["patient_id"] for row in rows(store, "SELECT * FROM samples")} == {"case-a", "case-b", "case-c"}


def test_paths_of_files_that_are_there(
    store: featstore.Store, images: Path, file: Path, saved: Save, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(images)
    paths = [f"{images}/0.png", f"{images}/../images/1.png", f"{tmp_path}/link/2.png"]
    result = store.import_features(file, name="f", index=saved(pd.DataFrame({"path": paths})), in_order=True)
    assert result.samples_added == 0
    assert same(read(store), [f"mri/{n}.png" for n in range(3)], VALUES)
    again = saved(pd.DataFrame({"path": [f"{images}/0.png", f"{images}/./0.png", paths[2]]}))
    with pytest.raises(ConflictError, match=r"1 key stands twice: 'mri/0.png'"):
        store.import_features(file, name="g", index=again, in_order=True)


def test_names_of_samples_of_another_data_set(store: featstore.Store, images: Path, file: Path, saved: Save) -> None:
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(3)], "patient_id": list("012"), "modality": "T"})
    index = saved(frame)
    with pytest.raises(ConflictError, match="3 rows are called as samples of 'mri'") as caught:
        store.import_features(file, name="f", index=index, in_order=True)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("--dataset mri ")
    assert store.import_features(file, name="f", index=index, in_order=True, dataset="mri").samples_added == 0
    assert store.import_features(file, name="f", index=index, in_order=True, new_samples=True).samples_added == 3


@pytest.mark.parametrize(
    ("asked", "labels", "kind"),
    [("str", ["true", "false", "true"], "str"), (None, [1, 0, 1], "int")],
)
def test_truth_as_label(
    store: featstore.Store, file: Path, saved: Save, asked: str | None, labels: list[object], kind: str
) -> None:
    frame = pd.DataFrame({"id": list("abc"), "patient_id": list("abc"), "modality": "T", "row": range(3)})
    index = saved(frame.assign(label=["true", "false", "true"]))
    store.import_features(file, name="f", index=index, label_type=asked)
    assert store.features("f").arrays()[1].tolist() == labels
    assert rows(store, "SELECT DISTINCT label_type FROM patients") == [{"label_type": kind}]


def test_a_modality_that_no_row_has(store: featstore.Store, images: Path, file: Path, saved: Save) -> None:
    frame = pd.DataFrame({"sample_key": [f"mri/{n}.png" for n in range(3)], "row": range(3)})
    for index in (saved(frame, "a.csv"), saved(frame.assign(modality="T"), "b.csv")):
        with pytest.raises(ConflictError, match="modality"):
            store.import_features(file, name="f", index=index, modality="P")
        store.import_features(file, name="f", index=index, modality="T")


def test_new_columns_of_samples_that_are_there(
    store: featstore.Store, images: Path, file: Path, saved: Save, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.DataFrame({"sample_key": [f"mri/{n}.png" for n in range(3)], "row": range(3), "scanner": "GE"})
    result = store.import_features(file, name="f", index=saved(frame))
    assert result.ignored == ["scanner"]
    assert not any(row["attributes"] for row in rows(store, "SELECT attributes FROM samples"))
    _say(result)
    assert "1 column of samples that are in the store is new, and was left out: scanner." in capsys.readouterr().err


def test_what_names_patches(capsys: pytest.CaptureFixture[str]) -> None:
    _say(ImportResult("f", 1, shape=(4,), coordinates=True))
    assert "Rows matched by their coordinates;" in capsys.readouterr().err


def test_one_row(store: featstore.Store, images: Path, file: Path, saved: Save) -> None:
    frame = pd.DataFrame({"sample_key": ["mri/0.png", "mri/1.png", "mri/x.png"], "row": range(3)})
    with pytest.raises(ConflictError, match=r"^1 row is of no sample"):
        store.import_features(file, name="f", index=saved(frame))
