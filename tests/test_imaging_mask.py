"""Masks go where their image's pixels go: against timm's sizes and crops, and against an image of the mask itself."""

from __future__ import annotations

import io
import pickle
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from featstore_readers import featstore_readers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from featstore import ImageTransform, InputError, Source, UsageError, import_torchvision

MODES = ["center", "squash", "border"]
# The image of a mask comes out as it is: 0…1.
PLAIN = {"mean": (0.0,), "std": (1.0,), "channels": 1, "range": "0,1"}
PHOTOS = Path(skimage.data.__file__).parent


@cache
def timms(size: tuple[int, int], crop_pct: float, crop_mode: str) -> tuple[Any, Any]:
    """timm's own resizing and cropping."""
    import_torchvision()
    from timm.data import create_transform
    from timm.data.transforms import CenterCropOrPad

    made = create_transform(input_size=(1, *size), crop_pct=crop_pct, crop_mode=crop_mode, interpolation="bilinear")
    # timm pads images with their mean; tensors of one channel take a number only.
    return made.transforms[0], CenterCropOrPad(size, fill=0) if crop_mode == "border" else made.transforms[1]


def expected(mask: npt.NDArray[np.bool_], size: tuple[int, int], crop_pct: float, crop_mode: str) -> npt.NDArray[Any]:
    """Each pixel cut into as many as the new raster has, so that every new pixel is a whole number of pieces."""
    resize, crop = timms(size, crop_pct, crop_mode)
    height, width = mask.shape
    columns, rows = resize(Image.fromarray(mask.astype(np.uint8))).size
    pieces = mask.repeat(rows, axis=0).reshape(rows, height, width).mean(axis=1)
    pieces = pieces.repeat(columns, axis=1).reshape(rows, columns, width).mean(axis=2)
    return crop(torch.from_numpy(pieces)[None])[0].numpy()


def disc(height: int, width: int, y: float, x: float, radius: float) -> npt.NDArray[np.bool_]:
    rows, columns = np.ogrid[:height, :width]
    return (rows + 0.5 - y) ** 2 + (columns + 0.5 - x) ** 2 < radius**2


def centroid(shares: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    rows, columns = np.indices(shares.shape)
    return np.array([np.average(rows, weights=shares), np.average(columns, weights=shares)])


# ------------------------------------------------------------------------------------------------- geometry
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.tuples(st.integers(3, 30), st.integers(3, 30)),
    square=st.booleans(),
    crop_pct=st.sampled_from([0.7, 0.875, 0.9, 1.0, 1.15, 2.0]),
    crop_mode=st.sampled_from(MODES),
    inside=st.floats(0.05, 1),
    seed=st.integers(0, 9),
)
def test_shares_are_areas_at_timms_sizes_and_crops(
    shape: tuple[int, int],
    size: tuple[int, int],
    square: bool,
    crop_pct: float,
    crop_mode: str,
    inside: float,
    seed: int,
) -> None:
    size = (size[0], size[0]) if square else size
    if crop_mode == "border":  # timm itself fails there: a side would round to no pixel at all
        ratio = max(side / int(want / crop_pct) for side, want in zip(shape, size, strict=True))
        if min(round(side / ratio) for side in shape) < 1:
            return
    mask = np.random.default_rng(seed).random(shape) < inside
    transform = ImageTransform(image_size=size, crop_pct=crop_pct, crop_mode=crop_mode)
    wanted = expected(mask, size, crop_pct, crop_mode)
    if not wanted.any():
        with pytest.raises(InputError, match=r"left after the crop|all its pixels are 0"):
            transform.mask(mask, size=shape)
        return
    shares = transform.mask(mask, size=shape)
    assert shares.shape == size
    assert shares.dtype == np.float32
    assert shares.flags.c_contiguous
    assert shares.min() >= 0
    assert shares.max() <= 1
    np.testing.assert_allclose(shares, wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("crop_mode", MODES)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "hamming"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((200, 300), (64, 64)), ((300, 200), (48, 80)), ((40, 50), (112, 112)), ((97, 131), (97, 131))],
    ids=str,
)
def test_a_mask_lies_on_an_image_of_itself(
    shape: tuple[int, int], size: tuple[int, int], interpolation: str, crop_mode: str
) -> None:
    transform = ImageTransform(**PLAIN, image_size=size, interpolation=interpolation, crop_mode=crop_mode)
    mask = disc(*shape, 0.55 * shape[0], 0.45 * shape[1], 0.2 * min(shape))
    shares = transform.mask(mask, size=shape)
    image = transform(mask.astype(np.float32))[0]
    assert abs(centroid(shares) - centroid(image)).max() < 0.05  # of a pixel
    assert shares.sum() == pytest.approx(image.sum(), rel=0.02)
    differences = {
        (y, x): np.abs(np.roll(shares, (y, x), (0, 1)) - image).mean() for y in (-1, 0, 1) for x in (-1, 0, 1)
    }
    assert min(differences, key=differences.__getitem__) == (0, 0)


@pytest.mark.parametrize(
    ("shape", "size", "crop_mode"),
    [
        *[(shape, (20, 30), mode) for shape in ((60, 90), (10, 15), (20, 30)) for mode in MODES],
        *[((60, 90), (20, 20), "center"), ((60, 80), (20, 20), "squash"), ((60, 80), (20, 20), "border")],
    ],
    ids=str,
)
def test_where_pixels_divide_a_mask_is_exactly_its_image_by_box(
    shape: tuple[int, int], size: tuple[int, int], crop_mode: str, rng: np.random.Generator
) -> None:
    transform = ImageTransform(**PLAIN, image_size=size, interpolation="box", crop_pct=1.0, crop_mode=crop_mode)
    mask = rng.random(shape) < 0.4
    image = transform(mask.astype(np.float32))[0]
    np.testing.assert_allclose(transform.mask(mask, size=shape), image, atol=1e-6)


@pytest.mark.parametrize("interpolation", ["nearest", "bicubic", "lanczos"])
def test_the_mask_of_a_real_photo_tells_the_object_from_the_ground(interpolation: str) -> None:
    photo = np.asarray(Image.open(PHOTOS / "retina.jpg"))
    eye = photo.max(axis=2) > 20
    transform = ImageTransform(interpolation=interpolation, mean=(0,) * 3, std=(1,) * 3)
    brightest = transform(photo).max(axis=0)
    shares = transform.mask(eye, size=photo.shape[:2])
    assert np.mean(brightest[shares == 0] < 20 / 255) > 0.99
    assert np.mean(brightest[shares == 1] > 20 / 255) > 0.99


@given(seed=st.integers(0, 99), crop_mode=st.sampled_from(MODES), up=st.booleans())
def test_parts_add_up_to_the_whole_and_lie_within_it(seed: int, crop_mode: str, up: bool) -> None:
    labels = np.random.default_rng(seed).integers(0, 3, (31, 47))
    transform = ImageTransform(image_size=(80, 70) if up else (14, 9), crop_mode=crop_mode)
    zero, one, two = (transform.mask(labels, size=(31, 47), labels=(label,)) for label in range(3))
    both = transform.mask(labels, size=(31, 47), labels=(1, 2))
    np.testing.assert_allclose(one + two, both, atol=1e-6)
    image = transform.mask(np.ones((31, 47), bool), size=(31, 47))
    np.testing.assert_allclose(zero + both, image, atol=1e-6)
    assert crop_mode == "border" or (image == 1).all()


def test_one_pixel_of_many_is_not_lost() -> None:
    mask = np.zeros((3000, 2000), np.uint8)
    mask[1234, 987] = 1
    transform = ImageTransform(image_size=(32, 32), crop_pct=1.0, crop_mode="squash", interpolation="nearest")
    shares = transform.mask(mask, size=(3000, 2000))
    assert shares.sum() == pytest.approx(32 * 32 / (3000 * 2000), rel=1e-5)
    assert np.flatnonzero(shares).tolist() == [1234 * 32 // 3000 * 32 + 987 * 32 // 2000]


def test_padding_is_outside() -> None:
    transform = ImageTransform(image_size=(40, 40), crop_pct=1.0, crop_mode="border")
    shares = transform.mask(np.full((20, 40), 255, np.uint8), size=(20, 40))
    np.testing.assert_array_equal(shares, np.repeat([0, 1, 0], [10, 20, 10])[:, None] * np.ones(40))
    padded = ImageTransform(image_size=(30, 30), crop_pct=2.0)  # the resized image is smaller than the crop
    shares = padded.mask(np.ones((15, 15), bool), size=(15, 15))
    assert shares.sum() == 15 * 15
    assert shares[7:22, 7:22].all()


# ------------------------------------------------------------------------------------------------ what is inside
@pytest.mark.parametrize("dtype", [bool, "u1", "u2", ">u2", "i2", "i4", "u8", "f4", "f8"])
def test_every_dtype_of_whole_numbers_says_the_same(dtype: Any) -> None:
    inside = disc(30, 40, 12, 20, 9)
    transform = ImageTransform(image_size=(16, 16))
    wanted = transform.mask(inside, size=(30, 40))
    for value in (1, 100):
        np.testing.assert_array_equal(transform.mask((inside * value).astype(dtype), size=(30, 40)), wanted)
        found = transform.mask(
            (inside * value).astype(dtype), size=(30, 40), labels=(int(np.dtype(dtype).type(value)),)
        )
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(transform.mask(np.asfortranarray(inside), size=(30, 40)), wanted)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
def test_a_mask_that_was_saved_in_any_mode(mode: str, tmp_path: Path) -> None:
    inside = disc(30, 40, 12, 20, 9)
    transform = ImageTransform(image_size=(16, 16))
    file = tmp_path / "mask.png"
    Image.fromarray(inside.astype(np.uint8) * 255).convert(mode).save(file)
    (read,) = (spec.read for spec in featstore_readers() if ".png" in spec.suffixes)
    found = transform.mask(read(Source(file)), size=(30, 40))
    np.testing.assert_array_equal(found, transform.mask(inside, size=(30, 40)))


def test_a_mask_that_is_all_inside_and_one_that_has_negative_labels() -> None:
    transform = ImageTransform(image_size=(8, 8))
    np.testing.assert_array_equal(transform.mask(np.full((9, 9), 7), size=(9, 9)), 1)
    signed = np.where(disc(9, 9, 4, 4, 3), -1, 0)
    shares = transform.mask(signed, size=(9, 9))
    np.testing.assert_array_equal(transform.mask(signed, size=(9, 9), labels=[-1, 300]), shares)


def test_labels_are_exactly_those_named() -> None:
    labels = np.arange(36).reshape(6, 6)
    transform = ImageTransform(image_size=(6, 6), crop_pct=1.0)
    shares = transform.mask(labels, size=(6, 6), labels=(7, np.int64(0), 35, 99))
    assert np.flatnonzero(shares).tolist() == [0, 7, 35]


def test_a_mask_that_went_through_jpeg_says_so() -> None:
    file = io.BytesIO()
    Image.fromarray(disc(64, 64, 30, 30, 20).astype(np.uint8) * 255).save(file, "jpeg")
    with pytest.raises(InputError, match=r"different values \(0, 1, .*…\).*JPEG") as error:
        ImageTransform().mask(np.asarray(Image.open(file)), size=(64, 64))
    assert "PNG" in error.value.hint


HALF = np.repeat([0, 255], 50).astype(np.uint8).reshape(10, 10)
COLOURED = np.stack([HALF, HALF, HALF // 2], axis=2)
VEILED = np.stack([HALF, np.full_like(HALF, 128)], axis=2)


@pytest.mark.parametrize(
    ("mask", "labels", "says", "hint"),
    [
        ("a report", None, "array of pixels, not str", ""),
        (np.zeros(9, np.uint8), None, r"this array is \(9,\)", ""),
        (np.zeros((2, 3, 4, 5), np.uint8), None, r"this array is \(2, 3, 4, 5\)", ""),
        (np.zeros((10, 10, 5), np.uint8), None, r"this array is \(10, 10, 5\)", ""),
        (np.zeros((0, 10), np.uint8), None, r"this array is \(0, 10\)", ""),
        (HALF.astype(complex), None, "complex128", ""),
        (HALF / 510, None, "float64 that aren't all whole numbers", "threshold"),
        (np.where(HALF, np.nan, 0), None, "aren't all whole numbers", "threshold"),
        (COLOURED, None, "in colour", "grey image"),
        (np.concatenate([COLOURED, np.full((10, 10, 1), 255, np.uint8)], axis=2), (1,), "in colour", "grey image"),
        (VEILED, None, "partly transparent", "without transparency"),
        (HALF[:, :9], None, "10 × 9 pixels and its image 10 × 10", "resample it there"),
        (np.zeros((20, 20), np.uint8), None, "20 × 20 pixels and its image 10 × 10", "resample it there"),
        (np.arange(100).reshape(10, 10) % 3, None, r"3 different values \(0, 1, 2\)", "MASK#label=1,2"),
        (np.arange(100).reshape(10, 10), None, r"100 different values \(0, 1, 2, 3, 4, 5, 6, 7, …\)", "PNG"),
        (HALF // 255 + 1, None, r"2 different values \(1, 2\).*neither is 0", "MASK#label=1,2"),
        (HALF * 0, None, "Nothing is marked in the mask", ""),
        (HALF, (1, 2), r"has the label 1 or 2: it has 2 different values \(0, 255\)", "MASK#label"),
        (HALF * 0, (3,), "has the label 3: it has 0 everywhere", "MASK#label"),
        (HALF, (), r"\[\] are no labels", "MASK#label"),
        (HALF, (255, 1.5), "1.5. are no labels", "MASK#label"),
        (HALF, ("255",), "'255'. are no labels", "MASK#label"),
    ],
)
def test_what_is_no_mask_of_this_image_is_refused_with_the_fact(mask: Any, labels: Any, says: str, hint: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        ImageTransform().mask(mask, size=(10, 10), labels=labels)
    assert hint in error.value.hint


def test_what_the_crop_takes_away_is_said_and_the_hint_helps() -> None:
    mask = np.zeros((50, 200), np.uint8)
    mask[:, 198:] = 1
    transform = ImageTransform()
    for crop_mode in MODES:  # a crop_pct below 1 takes the rim in all of them
        with pytest.raises(InputError, match="left after the crop") as error:
            replace(transform, crop_mode=crop_mode).mask(mask, size=(50, 200))
    settings = dict(word.split("=") for word in error.value.hint.split() if "=" in word)
    everything = ImageTransform.from_settings(transform.settings, settings)
    assert everything.mask(mask, size=(50, 200)).mean() == pytest.approx(0.01)


def test_a_mask_is_no_setting() -> None:
    transform = ImageTransform()
    assert set(transform.settings) == {field.name for field in fields(transform)}
    assert "mask" not in transform.settings
    with pytest.raises(UsageError, match="'mask' isn't a setting"):
        ImageTransform.from_settings({}, {"mask": "yes"})
    mask = disc(30, 40, 12, 20, 9)
    before = transform.settings, pickle.dumps(transform)
    shares = transform.mask(mask, size=(30, 40))
    assert before == (transform.settings, pickle.dumps(transform))
    np.testing.assert_array_equal(pickle.loads(before[1]).mask(mask, size=(30, 40)), shares)
    # What the image's pixels mean doesn't matter.
    others = ImageTransform(range="minmax", interpolation="lanczos", alpha="drop", grey="refuse", mean=(0.1,) * 3)
    np.testing.assert_array_equal(others.mask(mask, size=(30, 40)), shares)
