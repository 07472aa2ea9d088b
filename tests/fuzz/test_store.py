"""A folder with malformed files of every format among good ones: ingested and extracted, one failure row for each."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.store import Store

from . import cases
from .seeds import Format, Seed

HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
TEXTS = {"text", "CSV", "Parquet"}
#: What is malformed in each format's own way: the seed's bytes → a file.
OWN = {
    "text": [lambda data: data + b"\0", lambda data: data.decode().encode("utf-16")],
    "CSV": [lambda data: data + b'p9,"open', lambda data: data.replace(b"first", b"\xff")],
    "NIfTI, gzip": [lambda data: gzip.compress(gzip.decompress(data)[:300])],
    "PNG": [lambda data: data[:16] + b"\xff" * 8 + data[24:]],
    "NPY": [lambda data: data.replace(b"'shape': (4", b"'shape': (9")],
}


def malformed(format: Format) -> Mapping[str, bytes]:
    """Files of a format that can't be read, by what is wrong with them."""
    data = _seed(format).data
    found = {"empty": b"", "zeros": bytes(len(data))}
    if format.name not in ("text", "CSV"):  # which those may well be
        found |= {"cut": data[: len(data) // 3], "html": HTML}
    return found | {f"own{number}": make(data) for number, make in enumerate(OWN.get(format.name, ()))}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """``data/<patient>/<modality>/<file>``; a bad file's name begins with ``bad``."""
    for format in cases.formats():
        name = format.name.replace(", ", "-")
        modality = "text" if format.name in TEXTS else "image"
        files = {f"good-{name}": _seed(format).data} | {f"bad-{name}-{w}": d for w, d in malformed(format).items()}
        for stem, data in files.items():
            path = tmp_path / "data" / stem / modality / f"{stem}{_seed(format).suffix}"
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
    return tmp_path / "data"


def test_each_bad_file_is_one_failure_and_each_good_one_is_done(store: Store, tree: Path) -> None:
    bad = sorted(path.name for path in tree.rglob("bad*.*"))
    good = sorted(path.name for path in tree.rglob("good*.*"))
    assert len(bad) >= 40
    assert len(good) == len(cases.formats())
    store.ingest(tree, layouts=["{patient_id}/{modality}/*"], expand=["axis=0", "text=report"])
    keys = store.sql("SELECT sample_key FROM samples").column(0).to_pylist()
    assert sorted({_file(key) for key in keys}) == sorted(bad + good)
    wrong = sorted(key for key in keys if "/bad-" in key)
    # Of a packed volume that was cut short the header can be read: it is listed, and each of its slices fails.
    assert {file: n for file, n in Counter(map(_file, wrong)).items() if n > 1} == {"bad-NIfTI-gzip-cut.nii.gz": 6}

    images: dict[str, Any] = {"backbone": "timm:test_resnet", "pretrained": False, "in_chans": 1}
    settings = {"image_size": "32", "range": "minmax"}
    common: dict[str, Any] = {"device": "cpu", "num_workers": 2, "batch_size": 8}
    of_images = store.extract(name="i", settings=settings, modalities=("image",), **images, **common)
    of_texts = store.extract(name="t", backbone="text:hashing", modalities=("text",), **common)

    failures = store.errors().to_pylist()
    assert sorted(row["sample_key"] for row in failures) == wrong
    assert all(row["message"].strip() and "\n" not in row["message"] for row in failures)
    assert of_images.failed + of_texts.failed == len(wrong)
    assert of_images.done + of_texts.done == len(keys) - len(wrong)
    runs = store.sql("SELECT state, failed FROM runs WHERE kind = 'extract' ORDER BY run_id").to_pylist()
    assert Counter(run["state"] for run in runs) == {"done": 2}
    done = set()
    for name in ("i", "t"):
        values, _, found = store.features(name).arrays()
        assert np.isfinite(values).all()
        done |= {_file(key) for key in found}
    assert sorted(done) == good


def _seed(format: Format) -> Seed:
    """One of a single partition, where files have those: a patient is in one split."""
    name = {"HDF5": "packed", "NPZ": "fortran"}.get(format.name, format.seeds[0].name)
    return next(seed for seed in format.seeds if seed.name == name)


def _file(key: str) -> str:
    """A sample's file, from its key."""
    return key.partition("#")[0].rpartition("/")[2]
