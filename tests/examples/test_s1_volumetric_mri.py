"""The volumetric MRI example runs to its end, and what it saved is what nibabel, smp, pandas and scikit-learn give."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import h5py
import nibabel
import numpy as np
import numpy.typing as npt
import pandas as pd
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

import featstore
from featstore import import_torchvision

pytestmark = pytest.mark.trial
EXAMPLE = Path(__file__).parents[2] / "examples" / "s1_volumetric_mri"
PATIENTS, COMPONENTS = 8, 4


def load(name: str) -> ModuleType:
    """A script of the example as a module: examples are no package."""
    spec = importlib.util.spec_from_file_location(f"s1_volumetric_mri_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def commands(text: str) -> set[tuple[str, ...]]:
    """The featstore commands that a text shows, in words."""
    lines = text.replace(" \\\n", " ").splitlines()
    return {tuple(shlex.split(line[2:])) for line in lines if line.startswith("$ featstore ")}


make_patients = load("make_patients")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The example's folder after a run, and what it said."""
    folder = tmp_path_factory.mktemp("s1")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), "--patients", str(PATIENTS), "--components", str(COMPONENTS)],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    return folder / "out" / "s1_volumetric_mri", done.stdout


@pytest.fixture(scope="module")
def out(ran: tuple[Path, str]) -> Path:
    return ran[0]


@pytest.fixture(scope="module")
def index(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "saved" / "features.index.csv", dtype={"patient_id": str})


def clinical_columns(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "data" / "clinical.csv", dtype={"patient_id": str}).set_index("patient_id").sort_index()


def encoded(clinical: pd.DataFrame) -> list[npt.NDArray[np.float64]]:
    """Age and weight, and a column a sex and scanner."""
    one_hot = [
        clinical[name].to_numpy() == value for name in ("sex", "scanner") for value in sorted(set(clinical[name]))
    ]
    return [clinical[["age", "weight"]].to_numpy(float), np.stack(one_hot, axis=1).astype(float)]


def per_patient(out: Path, modality: str) -> npt.NDArray[np.float64]:
    """The mean over each patient's slices, in the order of the ids."""
    X, _, keys = featstore.open(out / "store").features("mri").arrays(modality=modality)
    ids = np.array([key.split("/")[2] for key in keys])
    return np.stack([X[ids == patient].astype(np.float64).mean(axis=0) for patient in sorted(set(ids))])


# ------------------------------------------------------------------------------------------------- what is saved
def test_slices_have_the_vectors_that_nibabel_and_smp_give(out: Path, index: pd.DataFrame) -> None:
    import_torchvision()
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    encoder = smp.encoders.get_encoder("resnet34", in_channels=1, weights=None).eval()
    features = np.load(out / "saved" / "features.npy")
    # Of both scanners: their files hold the brain in different orientations.
    scanners = clinical_columns(out)["scanner"].drop_duplicates()
    assert sorted(scanners) == ["north", "south"]
    for patient in scanners.index:
        (path,) = (out / "data" / "mri").glob(f"*/{patient}/T1.nii.gz")
        volume = np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj).astype(np.float64)
        unit = ((volume - volume.min()) / (volume.max() - volume.min())).astype(np.float32)
        for place in (6, 15):
            picture = PIL.Image.fromarray(unit[:, :, place]).resize((96, 96), PIL.Image.Resampling.BILINEAR)
            pixels = (np.asarray(picture) - np.float32(0.449)) / np.float32(0.226)
            with torch.inference_mode():
                last = encoder(torch.from_numpy(pixels)[None, None])[-1][0].numpy().astype(np.float64)
            expected = np.concatenate([last.mean(axis=(1, 2)), last.std(axis=(1, 2))])
            (row,) = np.flatnonzero(index["sample_key"].str.endswith(f"/{patient}/T1.nii.gz#axis=2&slice={place}"))
            assert expected.shape == (1024,)
            # Random weights give values of up to 60: 1e-5 of the largest, which is what float32 sums can keep.
            np.testing.assert_allclose(features[row], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_npy_csv_and_hdf5_hold_the_same(out: Path, index: pd.DataFrame) -> None:
    saved = out / "saved"
    features, labels = np.load(saved / "features.npy"), np.load(saved / "labels.npy")
    table = pd.read_csv(saved / "features.csv", dtype={"patient_id": str})
    assert features.shape == (PATIENTS * 8, 1024)
    assert features.dtype == np.float32
    in_columns = table[[f"features_{i}" for i in range(1024)]].to_numpy(np.float32)
    np.testing.assert_array_equal(in_columns, features)
    with h5py.File(saved / "features.h5") as file:
        np.testing.assert_array_equal(file["features"][:], features)
        np.testing.assert_array_equal(file["labels"][:], labels)
        assert list(file["patient_id"].asstr()) == list(index["patient_id"])
    # What the folders say, by each row's own key.
    in_folders = [int(key.split("/")[1].removeprefix("grade")) for key in index["sample_key"]]
    assert list(labels) == list(index["label"]) == list(table["label"]) == in_folders
    assert list(table["sample_key"]) == list(index["sample_key"])


def test_shuffled_rows_came_back_to_their_samples(out: Path, index: pd.DataFrame) -> None:
    saved, store = out / "saved", featstore.open(out / "store")
    shuffled, order = np.load(saved / "shuffled.npy"), pd.read_csv(saved / "shuffled.index.csv")
    assert list(order["row"]) != sorted(order["row"])
    assert not np.array_equal(shuffled, np.load(saved / "features.npy"))
    X, y, keys = store.features("again").arrays()
    by_key = dict(zip(order["sample_key"], shuffled[order["row"]], strict=True))
    np.testing.assert_array_equal(X, [by_key[key] for key in keys])
    np.testing.assert_array_equal(X, np.load(saved / "features.npy"))
    assert list(y) == list(index["label"])


def test_the_damaged_volume_was_a_failure_and_is_mended(ran: tuple[Path, str]) -> None:
    out, said = ran
    assert "exit code 3" in said
    assert "truncated or corrupt" in said
    store = featstore.open(out / "store")
    failures = store.sql(
        "select patient_id, modality, stage, resolved, count(*)::int slices from failures group by all"
    ).to_pylist()
    assert failures == [{"patient_id": "003", "modality": "T2", "stage": "read", "resolved": True, "slices": 8}]
    X, _, keys = store.features("mri").arrays(modality="T2")
    assert len(keys) == PATIENTS * 8
    assert np.isfinite(X).all()


def test_they_are_laid_out_as_the_readme_says(out: Path, tmp_path: Path) -> None:
    for name in ("features.npy", "features.index.csv"):
        (tmp_path / name).write_bytes((out / "saved" / name).read_bytes())
    words = [sys.executable, str(EXAMPLE.parent / "s5_tsne" / "tsne.py"), str(tmp_path / "features.npy")]
    assert subprocess.run(words, capture_output=True).returncode == 0
    table = pd.read_csv(tmp_path / "features.tsne.csv")
    assert list(table["label"]) == list(np.load(out / "saved" / "labels.npy"))
    assert table[["x", "y"]].min().tolist() == [0, 0]
    assert table[["x", "y"]].max().tolist() == [1, 1]


# ------------------------------------------------------------------------------------------------- what is fused
def test_the_clinical_merge_is_that_of_pandas_and_scikit_learn(out: Path) -> None:
    table = pd.read_csv(out / "saved" / "clinical_t1.csv", dtype={"patient_id": str}).sort_values("patient_id")
    clinical = clinical_columns(out)
    assert list(table["patient_id"]) == list(clinical.index)
    whole = np.concatenate([per_patient(out, "T1"), *encoded(clinical)], axis=1)
    train = (table["split"] == "train").to_numpy()
    expected = StandardScaler().fit(whole[train]).transform(whole)
    fused = table[[name for name in table.columns if name.startswith("fused_")]].to_numpy()
    assert fused.shape == (PATIENTS, 1024 + 2 + 4)
    np.testing.assert_allclose(fused, expected, atol=1e-4)


def test_the_fused_table_is_that_of_scikit_learn(out: Path) -> None:
    table = pq.read_table(out / "saved" / "fused.parquet").to_pandas().sort_values("patient_id")
    report, _, report_keys = featstore.open(out / "store").features("report").arrays()
    of_report = np.argsort([key.rpartition("key=")[2] for key in report_keys])
    parts = [per_patient(out, "T1"), per_patient(out, "T2"), report[of_report], *encoded(clinical_columns(out))]
    whole = np.concatenate(parts, axis=1).astype(np.float64)
    train = (table["split"] == "train").to_numpy()
    assert 0 < train.sum() < PATIENTS
    scaled = StandardScaler().fit(whole[train]).transform(whole)
    expected = PCA(COMPONENTS, svd_solver="full").fit(scaled[train]).transform(scaled)
    np.testing.assert_allclose(np.stack(table["fused"]), expected, rtol=1e-3, atol=1e-3)


def test_the_order_of_clinical_rows_changes_nothing(ran: tuple[Path, str]) -> None:
    out, said = ran
    given, turned = (
        pd.read_csv(out / name, dtype=str) for name in ("data/clinical.csv", "saved/clinical_reversed.csv")
    )
    assert list(given["patient_id"]) == list(turned["patient_id"])[::-1]
    assert "Table 'clinical' holds these very rows already." in said


def test_sql_tells_what_made_the_table(out: Path) -> None:
    store = featstore.open(out / "store")
    lineage = store.sql("select * from lineage where lineage.table = 'fused'").to_pylist()
    assert {(row["alias"], row["backbone"], row["modality"]) for row in lineage} == {
        ("t1", "smp:resnet34", "T1"),
        ("t2", "smp:resnet34", "T2"),
        ("report", "text:hashing", "report"),
        ("clinical", None, None),
    }
    runs = {row["run_id"] for row in store.sql("select run_id from runs").to_pylist()}
    assert {row["run_id"] for row in lineage} <= runs
    assert len({row["run_id"] for row in lineage if row["alias"] == "t2"}) == 2, "the retry made some of its vectors"


def test_the_readme_shows_what_is_run(ran: tuple[Path, str]) -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8").replace("--pca 12", f"--pca {COMPONENTS}")
    assert len(commands(text)) > 8
    assert commands(text) <= commands(ran[1])


# -------------------------------------------------------------------------------------------------- the patients
def test_both_scanners_hold_a_brain_in_one_place(out: Path) -> None:
    stored, lit = set(), []
    for path in sorted((out / "data" / "mri").glob("*/*/T1.nii.gz")):
        volume = nibabel.load(path)
        stored.add("".join(nibabel.aff2axcodes(volume.affine)))
        assert volume.get_data_dtype() == np.int16
        canonical = nibabel.as_closest_canonical(volume)
        np.testing.assert_allclose(nibabel.affines.voxel_sizes(canonical.affine), (2.8, 2.8, 5.5))
        values = np.asarray(canonical.dataobj)
        lit.append(values > 0.25 * values.max())
    assert stored == {"RAS", "LPS"}
    assert np.mean(lit, axis=0).max() == 1
    overlaps = [(lit[0] & other).sum() / (lit[0] | other).sum() for other in lit]
    assert min(overlaps) > 0.6


def test_the_same_seed_gives_the_same_voxels(out: Path, tmp_path: Path) -> None:
    make_patients.make_patients(tmp_path / "same", patients=PATIENTS)
    for path in sorted((tmp_path / "same" / "mri").rglob("T1.nii.gz")):
        there = out / "data" / path.relative_to(tmp_path / "same")
        np.testing.assert_array_equal(nibabel.load(path).get_fdata(), nibabel.load(there).get_fdata())
    for name in ("clinical.csv", "reports.csv"):
        assert (tmp_path / "same" / name).read_bytes() == (out / "data" / name).read_bytes()


def test_too_few_patients_and_a_full_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 4 patients"):
        make_patients.make_patients(tmp_path / "out", patients=3)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make_patients.make_patients(tmp_path)
    said = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), "--out", str(tmp_path)], capture_output=True, text=True
    )
    assert said.returncode == 2
    assert "holds something already" in said.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
