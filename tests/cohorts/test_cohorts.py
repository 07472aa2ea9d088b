"""Cohorts of DICOM, NIfTI, HDF5, NPY and 16-bit files go through the same four commands as PNGs, and keep their range.

The vectors are the pixels that a network would see, and are compared with what pydicom, nibabel, h5py, tifffile and
Pillow read themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import PIL.Image
import pydicom
import pydicom.uid
import pytest
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset

import featstore
from featstore.cli import main as cli_main
from featstore.store import Store

PLUGIN = str(Path(__file__).with_name("pixels_plugin.py"))
SIDE = 16
PATIENTS = [f"{number:03}" for number in range(7, 19)]
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("ingest", …)``: one command of the CLI on this test's store, which must succeed."""
    import sys

    monkeypatch.setenv("FEATSTORE_PLUGINS", PLUGIN)
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)

    def call(*words: str, code: int = 0) -> None:
        monkeypatch.setattr(sys, "argv", ["featstore", *words])
        with pytest.raises(SystemExit) as ended:
            cli_main()
        assert (ended.value.code or 0) == code, words

    call("init", "store")
    return call


def four_commands(run: Run, ingest: list[str], extract: list[str], tmp_path: Path) -> dict[str, np.ndarray]:
    """Ingest, split, extract, materialize; the vectors by sample_key."""
    run("ingest", *ingest)
    run("split", "--scheme", "mine", "--ratio", "train=0.7", "--ratio", "val=0.3", "--seed", "1")
    run("extract", "--name", "x", "--backbone", "pixels:grey", "--num-workers", "0", *extract)
    run("materialize", "--name", "t", "--input", "x:mean", "--scheme", "mine", "--label", "none")
    store = featstore.open(tmp_path / "store")
    _, _, patients = store.table("t").arrays()
    assert len(patients) == len(set(store.sql("SELECT DISTINCT patient_id FROM samples").column(0).to_pylist()))
    values, _, keys = store.features("x").arrays()
    return dict(zip(keys.tolist(), values, strict=True))


def windowed(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.clip((values.astype(np.float64) - low) / (high - low), 0, 1).reshape(-1)


# ------------------------------------------------------------------------------------------------- DICOM
def write_dicom(path: Path, patient: str, number: int, stored: np.ndarray, **tags: Any) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient, str(number)])
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.PatientID, image.Modality, image.InstanceNumber = patient, "CT", number
    image.StudyInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient])
    image.SeriesInstanceUID = pydicom.uid.generate_uid(entropy_srcs=[patient, "series"])
    image.StudyDate, image.StudyTime = "20210304", "101112"
    image.Rows, image.Columns = stored.shape[-2:]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 0
    image.RescaleSlope, image.RescaleIntercept = "1", "-1024"
    for name, value in tags.items():
        setattr(image, name, value)
    image.PixelData = stored.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, image, enforce_file_format=True)


def test_dicom(run: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    """As a PACS gives it: names that say nothing, and headers that say whose it is."""
    for number, patient in enumerate(PATIENTS):
        for k in range(2):
            stored = rng.integers(0, 4096, (SIDE, SIDE))
            write_dicom(tmp_path / "ct" / f"S{number:02}" / f"IM{k:04}", patient, k, stored)
    found = four_commands(run, ["ct", "--layout", "dicom"], ["--window", "40,400"], tmp_path)
    assert len(found) == 24
    for key, value in found.items():
        image = pydicom.dcmread(tmp_path / key)
        hounsfield = pydicom.pixels.apply_rescale(image.pixel_array, image)
        np.testing.assert_allclose(value, windowed(hounsfield, -160, 239), atol=1e-6)
    store = featstore.open(tmp_path / "store")
    rows = store.sql("SELECT patient_id, visit_id, modality, acquired_at FROM samples ORDER BY sample_key").to_pylist()
    assert [row["patient_id"] for row in rows[::2]] == PATIENTS
    assert {(row["modality"], str(row["acquired_at"])) for row in rows} == {("CT", "2021-03-04 10:11:12")}
    assert len({row["visit_id"] for row in rows}) == len(PATIENTS)


def test_dicom_frames_and_what_is_inverted(run: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    for patient in PATIENTS:
        stored = rng.integers(0, 4096, (3, SIDE, SIDE))
        tags = {
            "NumberOfFrames": 3, "PhotometricInterpretation": "MONOCHROME1",
            "WindowCenter": "500", "WindowWidth": "1000",
        }  # fmt: skip
        write_dicom(tmp_path / "xa" / patient / "XA" / "run.dcm", patient, 0, stored, **tags)
    found = four_commands(run, ["xa", "--layout", "{patient_id}/{modality}/*.dcm"], [], tmp_path)
    assert list(found)[:3] == [f"xa/007/XA/run.dcm#frame={k}" for k in range(3)]
    for key, value in found.items():
        file, _, frame = key.partition("#frame=")
        image = pydicom.dcmread(tmp_path / file)
        hounsfield = pydicom.pixels.apply_rescale(image.pixel_array, image)[int(frame)]
        np.testing.assert_allclose(value, 1 - windowed(hounsfield, 0, 999), atol=1e-6)


# ------------------------------------------------------------------------------------------------- NIfTI
def test_nifti(run: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    """Volumes that lie otherwise (LPS) are brought to RAS+; a slice has its volume's range."""
    for patient in PATIENTS:
        volume = rng.integers(-300, 3000, (SIDE, SIDE, 7)).astype(np.int16)
        path = tmp_path / "mri" / patient / "T1.nii.gz"
        path.parent.mkdir(parents=True)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, -1, 3, 1])), path)
    ingest = ["mri", "--layout", "{patient_id}/{modality}.nii.gz", "--expand", "axis=2,step=3"]
    found = four_commands(run, ingest, ["--set", "range=volume"], tmp_path)
    assert list(found)[:3] == [f"mri/007/T1.nii.gz#axis=2&slice={k}" for k in (0, 3, 6)]
    for key, value in found.items():
        file, _, k = key.replace("#axis=2&slice=", "|").partition("|")
        volume = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(tmp_path / file)).dataobj)
        np.testing.assert_allclose(value, windowed(volume[:, :, int(k)], volume.min(), volume.max()), atol=1e-6)
    orientations = "SELECT DISTINCT attributes['orientation'] AS o FROM samples"
    assert featstore.open(tmp_path / "store").sql(orientations).to_pylist() == [{"o": "LPS"}]


def test_masks_of_volumes_are_cut_as_their_volumes_are(tmp_path: Path, rng: np.random.Generator) -> None:
    """Region pooling inside a segmentation volume, slice by slice."""
    affine = np.diag([-1, -1, 3, 1])
    folder = tmp_path / "mri" / "007"
    folder.mkdir(parents=True)
    volume = rng.integers(0, 3000, (SIDE, SIDE, 4)).astype(np.int16)
    labels = (rng.random((SIDE, SIDE, 4)) < 0.3).astype(np.uint8) * 2
    nibabel.save(nibabel.Nifti1Image(volume, affine), folder / "T1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(labels, affine), folder / "seg.nii.gz")
    store = featstore.init(tmp_path / "store")
    layouts = ["{patient_id}/{modality}.nii.gz"]
    store.ingest(tmp_path / "mri", layouts=layouts, expand=["axis=2"], mask_layout="{folder}/seg.nii.gz#label=2")
    settings = {"image_size": str(SIDE), "crop_pct": "1", "range": "0,3000", "mean": "0", "std": "1"}
    result = store.extract(
        name="r", backbone="timm:test_resnet", pretrained=False, in_chans=1, settings=settings, poolers=("roi-mean",)
    )
    assert (result.done, result.failed) == (4, 0)
    uris = store.sql("SELECT mask_uri FROM samples ORDER BY sample_key").column(0).to_pylist()
    assert [uri.rpartition("#")[2] for uri in uris] == [f"axis=2&slice={k}&label=2" for k in range(4)]


# -------------------------------------------------------------------------------------- HDF5, NPY, 16 bits
def test_hdf5(run: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    with h5py.File(tmp_path / "tiles.h5", "w") as file:
        for name, count in (("train", 9), ("valid", 4)):
            file.create_dataset(name, data=rng.normal(15, 3, (count, 1, SIDE, SIDE)).astype(np.float32))
    found = four_commands(run, ["tiles.h5", "--modality", "SST"], ["--set", "range=5,25"], tmp_path)
    assert list(found) == [
        f"tiles/tiles.h5#/{name}/{row}" for name, n in (("train", 9), ("valid", 4)) for row in range(n)
    ]
    with h5py.File(tmp_path / "tiles.h5") as file:
        for key, value in found.items():
            _, name, row = key.partition("#")[2].split("/")
            np.testing.assert_allclose(value, windowed(file[name][int(row), 0], 5, 25), atol=1e-6)
    splits = featstore.open(tmp_path / "store").sql("SELECT split, count(*) AS n FROM samples GROUP BY 1 ORDER BY 1")
    assert splits.to_pylist() == [{"split": "train", "n": 9}, {"split": "valid", "n": 4}]


def test_npy_arrays_row_by_row(run: Run, tmp_path: Path, rng: np.random.Generator) -> None:
    for patient in PATIENTS:
        (tmp_path / "in" / patient).mkdir(parents=True)
        np.save(tmp_path / "in" / patient / "PET.npy", rng.integers(4096, 60000, (3, SIDE, SIDE)).astype(np.uint16))
    ingest = ["in", "--layout", "{patient_id}/{modality}.npy", "--expand", "axis=0"]
    found = four_commands(run, ingest, [], tmp_path)
    assert len(found) == 3 * len(PATIENTS)
    for key, value in found.items():
        file, _, row = key.partition("#/")
        np.testing.assert_allclose(value, windowed(np.load(tmp_path / file)[int(row)], 0, 65535), atol=1e-6)


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_sixteen_bits_keep_their_range(run: Run, tmp_path: Path, rng: np.random.Generator, ending: str) -> None:
    for patient in PATIENTS:
        path = tmp_path / "in" / patient / "X" / f"1.{ending}"
        path.parent.mkdir(parents=True)
        pixels = rng.integers(0, 65536, (SIDE, SIDE)).astype(np.uint16)
        if ending == "png":
            PIL.Image.fromarray(pixels).save(path)
        else:
            tifffile.imwrite(path, pixels)
    found = four_commands(run, ["in", "--layout", "{patient_id}/{modality}/*"], [], tmp_path)
    for key, value in found.items():
        read = np.asarray(PIL.Image.open(tmp_path / key)) if ending == "png" else tifffile.imread(tmp_path / key)
        assert len(np.unique(value)) > 200  # 8 bits would leave 200 at most of these 256
        np.testing.assert_allclose(value, windowed(read, 0, 65535), atol=1e-6)


# ---------------------------------------------------------------------------------------------------- texts
def test_texts_of_a_table(store: Store, tmp_path: Path) -> None:
    """A text column is a modality; each text belongs to its key, whatever becomes of the rows' order."""
    texts = {"007": "no lesion seen", "7": "large mass, left", "Ü/1": "mass; 3 cm\nstable"}
    lines = [f'{patient},"{text}",55' for patient, text in texts.items()]
    (tmp_path / "notes.csv").write_text("\n".join(["patient_id,report,age", *lines]) + "\n")
    result = store.ingest(tmp_path / "notes.csv", expand=["text=report"])
    assert (result.added, result.modalities) == (3, {"report": 3})
    (tmp_path / "notes.csv").write_text("\n".join(["patient_id,report,age", *lines[::-1]]) + "\n")
    store.extract(name="t", backbone="text:hashing")
    rows = store.sql('SELECT f.patient_id, v.vector FROM features f JOIN vectors."t" v USING (sample_key)').to_pylist()
    assert {row["patient_id"] for row in rows} == set(texts)
    here = featstore.init(tmp_path / "here")
    for number, (patient, text) in enumerate(texts.items()):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / f"{number}.txt").write_text(text)
        with open(tmp_path / "m.csv", "a") as file:
            file.write(("path,patient_id,modality\n" if not number else "") + f"files/{number}.txt,{patient},report\n")
    here.ingest_manifest(tmp_path / "m.csv")
    here.extract(name="t", backbone="text:hashing")
    expected = here.sql(
        'SELECT f.patient_id, v.vector FROM features f JOIN vectors."t" v USING (sample_key)'
    ).to_pylist()
    assert {r["patient_id"]: r["vector"] for r in rows} == {r["patient_id"]: r["vector"] for r in expected}
