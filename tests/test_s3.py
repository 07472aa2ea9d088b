"""A cohort on an S3 server: the same commands as for files of this machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import PIL.Image
import pytest

import featstore
from featstore import SetupError
from featstore.store import Store

IMAGES = {"backbone": "timm:test_resnet", "pretrained": False, "settings": {"image_size": "32"}, "in_chans": 1}


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def vectors(store: Store, name: str) -> dict[str, np.ndarray]:
    values, _, keys = store.features(name).arrays()
    return dict(zip(keys.tolist(), values, strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_on_s3_give_the_vectors_of_the_same_files_here(
    s3_bucket: Any, store: Store, tmp_path: Path, rng: np.random.Generator, num_workers: int
) -> None:
    for patient in ("007", "7", "Ünal 3"):
        for number in range(2):
            data = png(rng.integers(0, 256, (40, 36), np.uint8))
            s3_bucket.put_object(Key=f"cohort/{patient}/A/{number}.png", Body=data)
            file = tmp_path / "cohort" / patient / "A" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    layouts = ["{patient_id}/{modality}/*.png"]
    assert store.ingest(f"s3://{s3_bucket.name}/cohort", layouts=layouts).added == 6
    store.extract(name="r", num_workers=num_workers, **IMAGES)
    here = featstore.init(tmp_path / "here")
    here.ingest(tmp_path / "cohort", layouts=layouts)
    here.extract(name="r", **IMAGES)
    there, expected = vectors(store, "r"), vectors(here, "r")
    assert list(there) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(there[key], value)
    hashes = "SELECT sample_key, content_hash, size FROM samples ORDER BY 1"
    assert store.sql(hashes).to_pylist() == here.sql(hashes).to_pylist()


def test_a_changed_object_is_pending_again_and_a_bad_one_is_one_failure(
    s3_bucket: Any, store: Store, rng: np.random.Generator
) -> None:
    images = {f"in/{p}/A/1.png": png(rng.integers(0, 256, (32, 32), np.uint8)) for p in "abc"}
    for key, data in images.items():
        s3_bucket.put_object(Key=key, Body=data)
    s3_bucket.put_object(Key="in/c/A/1.png", Body=images["in/c/A/1.png"][:200])
    url, layouts = f"s3://{s3_bucket.name}/in", ["{patient_id}/{modality}/*.png"]
    store.ingest(url, layouts=layouts)
    result = store.extract(name="r", **IMAGES)
    assert (result.done, result.failed) == (2, 1)
    before = vectors(store, "r")
    s3_bucket.put_object(Key="in/a/A/1.png", Body=png(np.full((32, 33), 9, np.uint8)))
    s3_bucket.put_object(Key="in/c/A/1.png", Body=images["in/c/A/1.png"])
    assert store.ingest(url, layouts=layouts).changed == 2
    result = store.extract(name="r", **IMAGES)
    assert (result.done, result.failed) == (2, 0)
    after = vectors(store, "r")
    assert not np.array_equal(before["in/a/A/1.png"], after["in/a/A/1.png"])
    np.testing.assert_array_equal(before["in/b/A/1.png"], after["in/b/A/1.png"])


def test_rows_of_an_hdf5_file_on_s3(s3_bucket: Any, store: Store, rng: np.random.Generator) -> None:
    tiles = {name: rng.normal(15, 2, (n, 16, 16)).astype(np.float32) for name, n in (("train", 11), ("valid", 5))}
    file = io.BytesIO()
    with h5py.File(file, "w") as written:
        for name, values in tiles.items():
            written.create_dataset(name, data=values)
    s3_bucket.put_object(Key="in/tiles.h5", Body=file.getvalue())
    url = f"s3://{s3_bucket.name}/in/tiles.h5"
    result = store.ingest(url, modality="SST")
    assert (result.dataset, result.added, result.alone) == ("tiles", 16, 16)
    store.extract(name="r", **{**IMAGES, "settings": {"image_size": "16", "range": "5,25"}})
    rows = store.sql("SELECT sample_key, split FROM features").to_pylist()
    assert {row["sample_key"]: row["split"] for row in rows} == {
        f"tiles/tiles.h5#/{name}/{row}": name for name, values in tiles.items() for row in range(len(values))
    }


def test_a_server_that_goes_away_stops_the_run_and_blames_no_input(
    s3_bucket: Any, store: Store, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_bucket.put_object(Key="in/a/A/1.png", Body=png(rng.integers(0, 256, (32, 32), np.uint8)))
    store.ingest(f"s3://{s3_bucket.name}/in", layouts=["{patient_id}/{modality}/*.png"])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SetupError, match="can't be read"):
        store.extract(name="r", **IMAGES)
    assert store.errors().num_rows == 0
