"""From MRI volumes to slice features, saved three ways, and one fused row a patient, with the commands that one types.

::

    python examples/s1_volumetric_mri/run.py [--out out/s1_volumetric_mri]

``make_patients.py`` makes the volumes: a real average brain, simulated patients. Everything goes below ``--out``: the
volumes and tables to ``data``, the store to ``store``, what leaves it to ``saved``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import featstore

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for what the examples share

from shared import empty_folder, run, shell_line, title  # noqa: E402

FORMATS = ("npy", "csv", "h5")
DAMAGED = ("003", "T2")
CLINICAL = (
    *("--table", "clinical", "--numeric", "age", "--numeric", "weight"),
    *("--categorical", "sex", "--categorical", "scanner"),
    *("--label", "label", "--scheme", "default"),
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Volumetric MRI features: from NIfTI volumes to a fused table.")
    parser.add_argument("--out", type=empty_folder, default="out/s1_volumetric_mri", help="a new or empty folder")
    parser.add_argument("--patients", type=int, default=24, help="how many to simulate (default: 24)")
    parser.add_argument("--components", type=int, default=12, help="principal components (default: 12)")
    args = parser.parse_args(argv)
    out: Path = args.out
    data, store, saved = out / "data", out / "store", out / "saved"

    title("Volumes of two contrasts, a clinical table, reports; one file is damaged")
    run("python", HERE / "make_patients.py", data, "--patients", str(args.patients))
    damaged, whole = damage(data)

    title("Into the store: each third axial slice is a sample, each report is one")
    os.environ["FEATSTORE_STORE"] = str(store.resolve())
    print(f"\n$ {shell_line('export', [f'FEATSTORE_STORE={store}'])}")
    run("featstore", "init", store)
    layout = ("--layout", "grade{label:int}/{patient_id}/{modality}.nii.gz")
    run("featstore", "ingest", data / "mri", *layout, "--expand", "axis=2,step=3")
    run("featstore", "ingest", data / "reports.csv", "--expand", "text=report", "--modality", "report")
    run("featstore", "ingest-table", data / "clinical.csv", "--name", "clinical")
    run("featstore", "split", "--stratify", "label", "--ratio", "train=0.75", "--ratio", "test=0.25")

    title("1,024 values a slice: mean and standard deviation of the last map of a U-Net's encoder")
    run(
        *("featstore", "extract", "--name", "mri", "--backbone", "smp:resnet34", "--no-pretrained", "--in-chans", "1"),
        *("--modality", "T1", "--modality", "T2", "--set", "range=volume", "--set", "image_size=96"),
        *("--pooler", "meanstd"),
        code=3,
    )
    run(
        *("featstore", "sql"),
        "select patient_id, modality, stage, message, count(*) slices from failures where not resolved group by all",
    )
    print(f"\nThe damaged file is fetched again, and only its slices are tried again.\n$ cp {whole} {damaged}")
    shutil.copyfile(whole, damaged)
    run("featstore", "retry")

    title("Features and labels, saved as NPY, CSV and HDF5, and read back without featstore")
    saved.mkdir()
    for format_ in FORMATS:
        run("featstore", "export", "mri", "--modality", "T1", "--out", saved / f"features.{format_}")
    save_labels(saved)
    print(f"\n{compare_saved(saved, store)}")

    title("Rows in another order: they have names, so nothing depends on it")
    shuffle_features(saved)
    shuffled = ("--index", saved / "shuffled.index.csv", "--name", "again", "--backbone", "smp:resnet34, by NPY")
    run("featstore", "import", saved / "shuffled.npy", *shuffled)
    print(f"\n{compare_again(store)}")
    pd.read_csv(data / "clinical.csv", dtype=str)[::-1].to_csv(saved / "clinical_reversed.csv", index=False)
    run("featstore", "ingest-table", saved / "clinical_reversed.csv", "--name", "clinical", "--replace")

    title("One row a patient: with the clinical table, then with the second contrast and the reports, reduced")
    run("featstore", "extract", "--name", "report", "--backbone", "text:hashing", "--modality", "report")
    run(
        *("featstore", "materialize", "--name", "clinical_t1", "--input", "t1=mri/T1:mean", *CLINICAL),
        *("--standardize", "--out", saved / "clinical_t1.csv"),
    )
    run(
        *("featstore", "materialize", "--name", "fused"),
        *("--input", "t1=mri/T1:mean", "--input", "t2=mri/T2:mean", "--input", "report=report", *CLINICAL),
        *("--standardize", "--pca", str(args.components), "--out", saved / "fused.parquet"),
    )

    title("What is in it, and what made it")
    run(
        *("featstore", "sql"),
        "select alias, coalesce(feature_set || '@v' || feature_set_version, tabular) what, backbone, "
        "model_version[:8] weights, run_id from lineage where lineage.table = 'fused' order by all",
    )
    print(f"\nThe store stays in {store}: featstore status --store {store}")


def damage(data: Path) -> tuple[Path, Path]:
    """Cut one volume off in the middle, as an interrupted copy does: its path, and that of the whole file."""
    patient, modality = DAMAGED
    (path,) = (data / "mri").glob(f"*/{patient}/{modality}.nii.gz")
    whole = data / "whole.nii.gz"
    shutil.copyfile(path, whole)
    content = whole.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    print(f"\n{path} is damaged: {len(content) // 3:,} of its {len(content):,} bytes are left.")
    return path, whole


def save_labels(saved: Path) -> None:
    """The labels as an array of their own, for tools that want them so: row by row those of ``features.npy``."""
    np.save(saved / "labels.npy", read_index(saved / "features.index.csv")["label"].to_numpy(np.int64))


def read_index(path: Path) -> pd.DataFrame:
    """An index of rows, with identifiers as text: "007" is not 7."""
    return pd.read_csv(path, dtype={"patient_id": str, "sample_key": str})


def compare_saved(saved: Path, store: Path) -> str:
    """Read the three files with NumPy, pandas and h5py, and compare them with each other and the store.

    Raises:
        AssertionError: a value differs.
    """
    import h5py

    features, labels = np.load(saved / "features.npy"), np.load(saved / "labels.npy")
    keys = read_index(saved / "features.index.csv")["sample_key"].to_numpy()
    table = read_index(saved / "features.csv")
    columns = [f"features_{number}" for number in range(features.shape[1])]
    with h5py.File(saved / "features.h5") as file:
        hdf5 = file["features"][:], file["labels"][:], file["sample_key"].asstr()[:]
    X, y, sample_keys = featstore.open(store).features("mri").arrays(modality="T1")
    for got in (
        (table[columns].to_numpy(np.float32), table["label"].to_numpy(), table["sample_key"].to_numpy()),
        hdf5,
        (X, y, sample_keys),
    ):
        for mine, other in zip((features, labels, keys), got, strict=True):
            np.testing.assert_array_equal(mine, other)
    return (
        f"NPY, CSV and HDF5 hold the same {features.shape[0]} × {features.shape[1]} features to the last bit, the same "
        "labels and the same keys, and so does the store."
    )


def shuffle_features(saved: Path) -> None:
    """Write the features in one random order, and their index in another; its column ``row`` says which is which."""
    features, index = np.load(saved / "features.npy"), read_index(saved / "features.index.csv")
    rng = np.random.default_rng(0)
    order = rng.permutation(len(features))
    np.save(saved / "shuffled.npy", features[order])
    index["row"] = np.argsort(order)  # where each row went
    # The labels are in the store, with the samples.
    index[["row", "sample_key"]].sample(frac=1, random_state=0).to_csv(saved / "shuffled.index.csv", index=False)


def compare_again(store: Path) -> str:
    """Compare what came back shuffled with what had been there, key by key.

    Raises:
        AssertionError: a value differs.
    """
    opened = featstore.open(store)
    mine, again = opened.features("mri").arrays(modality="T1"), opened.features("again").arrays()
    for one, other in zip(mine, again, strict=True):
        np.testing.assert_array_equal(one, other)
    return f"again@v1 has the {len(again[0])} vectors of mri@v1, each with its own sample and label, to the last bit."


if __name__ == "__main__":
    main()
