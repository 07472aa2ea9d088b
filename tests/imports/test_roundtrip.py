"""What an export writes comes back as it was, to the bit: vectors, dtypes, shapes, and what is known of samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featstore
from featstore.errors import UsageError
from featstore.imports import ImportResult

from .conftest import read, rows, same

#: Text that a table could mistake for something else.
WORDS = ["=1+1", "'=x", "-3", "NA", 'a,b\n"c"', "007", "nan", "''@", "ü", "1.50", "'q", "+"]


def fill(store: featstore.Store, tmp_path: Path, values: np.ndarray, labels: list[Any]) -> None:
    """A store with a feature set ``f`` of as many samples as there are vectors, in two data sets."""
    n = len(values)
    frame = pd.DataFrame(
        {
            "sample_key": [f"{'ab'[i % 2]}/{WORDS[i % len(WORDS)]}/{i}.png" for i in range(n)],
            "patient_id": [f"{WORDS[i % len(WORDS)]}{i // 24}".strip() for i in range(n)],
            "visit_id": [f"v{i % 3}" if i % 3 else None for i in range(n)],
            "modality": ["A", "P"] * (n // 2),
            "site": WORDS[0],
            "split": ["train" if i % len(WORDS) % 3 else "val" for i in range(n)],
            "label": [labels[i % len(WORDS)] for i in range(n)],
            "file": [f"scan {i}" if i % 2 else None for i in range(n)],
            "row": [WORDS[(i + 1) % len(WORDS)] for i in range(n)],
            "num": [WORDS[(i + 5) % len(WORDS)] for i in range(n)],
        }
    )
    frame = frame.rename(columns={"file": "attribute_file", "row": "attribute_row"})
    frame.assign(split=frame["patient_id"].map(frame.groupby("patient_id")["split"].first())).to_parquet(
        tmp_path / "i.parquet", index=False
    )
    np.save(tmp_path / "x.npy", values)
    options: dict[str, Any] = {"in_order": True, "index": tmp_path / "i.parquet"}
    store.import_features(tmp_path / "x.npy", name="f", backbone="uni", **options)


FACTS = (
    "SELECT sample_key, patient_id, visit_id, modality, split, site, label, attributes FROM samples ORDER BY sample_key"
)


def check_same(one: featstore.Store, other: featstore.Store) -> None:
    """Two stores hold the same vectors of the same samples."""
    mine, theirs = read(one), read(other)
    assert mine.keys() == theirs.keys()
    for key, value in mine.items():
        assert (value.dtype, value.shape) == (theirs[key].dtype, theirs[key].shape)
        assert value.tobytes() == theirs[key].tobytes()
    for ours, others in zip(rows(one, FACTS), rows(other, FACTS), strict=True):
        assert {**ours, "attributes": dict(ours["attributes"])} == {**others, "attributes": dict(others["attributes"])}
    types = "SELECT DISTINCT label_type FROM patients"
    assert rows(one, types) == rows(other, types)


CASES = [
    ("x.parquet", {}), ("w.parquet", {"wide": True}), ("x.csv", {}), ("x.npy", {}), ("x.h5", {}),
    ("p.h5", {"layout": "{split}"}), ("q.h5", {"layout": "{modality}/{split}"}), ("x.zarr", {}),
    ("p.zarr", {"layout": "{split}"}), ("tree", {"format": "tree", "layout": "{modality}/{split}.npy"}),
    ("x.h5ad", {}), ("x.h5mu", {}),
]  # fmt: skip


#: Flat vectors say little that tokens don't, but where text or another tool's format is between.
KINDS = [(*case, "tokens") for case in CASES] + [
    (*case, "float32") for case in CASES if case[0] in ("x.csv", "x.npy", "x.h5", "x.h5ad", "tree")
]


@pytest.mark.parametrize(("name", "out", "kind"), KINDS, ids=[f"{case[0]}-{case[2]}" for case in KINDS])
def test_export_and_import(
    store: featstore.Store, tmp_path: Path, rng: np.random.Generator, name: str, out: dict[str, Any],
    kind: str,
) -> None:  # fmt: skip
    tokens = kind != "float32"
    bits = rng.integers(0, 2**16, (48, 3, 4), dtype=np.uint16).view(np.float16) if tokens else None
    values = bits if bits is not None else rng.integers(0, 2**32, (48, 5), dtype=np.uint32).view(np.float32)
    values = np.where(np.isfinite(values), values, values.dtype.type(-0.0))
    labels: list[Any] = [None, *range(11)] if tokens else ["01", "1", "x", *map(str, range(9))]
    fill(store, tmp_path, values, labels)
    store.export("f", out=tmp_path / name, **out)
    options: dict[str, Any] = {}
    if name == "x.npy":
        options["index"] = tmp_path / "x.index.csv"
    if name.endswith((".csv", "w.parquet")) and tokens:
        options |= {"shape": (3, 4)}
    if name.endswith(".csv"):
        options |= {"dtype": str(values.dtype)}

    again: ImportResult = store.import_features(tmp_path / name, name="f", backbone="uni", **options)
    assert (again.added, again.samples_added, again.key) == (0, 0, "sample_key")
    assert again.unchanged == 48

    other = featstore.init(tmp_path / "other")
    if not tokens and name in ("x.csv", "x.npy", "tree"):
        options["label_type"] = "str"  # nothing in a CSV says that these numbers are words
    result = other.import_features(tmp_path / name, name="f", **options)
    assert (result.added, result.failed) == (48, 0)
    check_same(store, other)


def test_one_modality_of_several(store: featstore.Store, tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(24, 3)).astype(np.float32)
    fill(store, tmp_path, values, list(range(12)))
    np.save(tmp_path / "y.npy", values[:, :2] * 2)
    store.import_features(tmp_path / "y.npy", name="g", index=tmp_path / "i.parquet", in_order=True)
    store.export("f", "g", out=tmp_path / "x.h5mu")
    with pytest.raises(UsageError, match="has the modalities f, g"):
        store.import_features(tmp_path / "x.h5mu", name="h")
    store.import_features(tmp_path / "x.h5mu", name="h", vectors="g")
    expected = read(store, "g")
    assert same(read(store, "h"), list(expected), np.stack(list(expected.values())))


def test_every_float16_survives_a_csv(store: featstore.Store, tmp_path: Path) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = every[np.isfinite(every)].reshape(-1, 64)
    assert values.size == 63_488
    frame = pd.DataFrame({"sample_key": [f"d/{n}" for n in range(len(values))], "patient_id": "p", "modality": "A"})
    frame.to_csv(tmp_path / "i.csv", index=False)
    np.save(tmp_path / "x.npy", values)
    store.import_features(tmp_path / "x.npy", name="f", index=tmp_path / "i.csv", in_order=True)
    store.export("f", out=tmp_path / "x.csv")
    assert store.import_features(tmp_path / "x.csv", name="f", dtype="float16").unchanged == len(values)
