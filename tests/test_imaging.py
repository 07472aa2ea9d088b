"""The transform against timm's own, and what it does where timm would convert in silence."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from featstore import ImageTransform, InputError, UsageError, import_torchvision

PHOTOS = Path(skimage.data.__file__).parent
PLAIN = {"mean": (0.0,), "std": (1.0,), "channels": 1, "crop_pct": 1.0}


@cache
def timms(**config: Any) -> Any:
    import_torchvision()
    from timm.data import create_transform

    return create_transform(**config, is_training=False)


def compare(image: Image.Image, **config: Any) -> None:
    ours = ImageTransform(
        image_size=config["input_size"][-2:],
        channels=config["input_size"][0],
        **{key: value for key, value in config.items() if key != "input_size"},
    )(np.asarray(image))
    theirs = timms(**config)(image).numpy()
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos", "box", "hamming"])
@pytest.mark.parametrize(
    ("photo", "size", "crop_pct"),
    [("retina.jpg", (224, 224), 0.875), ("rocket.jpg", (96, 160), 0.95), ("chelsea.png", (448, 448), 1.15)],
)
def test_real_photos_come_out_as_from_timm(
    photo: str, size: tuple[int, int], crop_pct: float, interpolation: str, crop_mode: str
) -> None:
    compare(
        Image.open(PHOTOS / photo),
        input_size=(3, *size),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    square=st.booleans(),
    crop_pct=st.sampled_from([0.7, 0.875, 0.9, 0.95, 1.0, 1.15]),
    crop_mode=st.sampled_from(["center", "squash", "border"]),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
    seed=st.integers(0, 9),
)
def test_every_rounding_is_timms(
    shape: tuple[int, int],
    size: tuple[int, int],
    square: bool,
    crop_pct: float,
    crop_mode: str,
    interpolation: str,
    seed: int,
) -> None:
    size = (size[0], size[0]) if square else size
    assume(crop_pct <= min(size))
    if crop_mode == "border":  # timm itself fails there: a side would round to no pixel at all
        ratio = max(side / int(want / crop_pct) for side, want in zip(shape, size, strict=True))
        if min(round(side / ratio) for side in shape) < 1:
            return
    pixels = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
    compare(
        Image.fromarray(pixels),
        input_size=(3, *size),
        interpolation=interpolation,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
    )


def test_grey_for_a_grey_network_is_timms() -> None:
    compare(
        Image.open(PHOTOS / "camera.png"),
        input_size=(1, 128, 128),
        interpolation="bicubic",
        crop_pct=0.9,
        crop_mode="center",
        mean=(0.3,),
        std=(0.7,),
    )


def test_grey_is_repeated_as_convert_would_but_refused_when_asked() -> None:
    image = Image.open(PHOTOS / "camera.png")
    transform = ImageTransform()
    np.testing.assert_array_equal(transform(np.asarray(image)), transform(np.asarray(image.convert("RGB"))))
    np.testing.assert_array_equal(transform(np.asarray(image)[:, :, None]), transform(np.asarray(image)))
    with pytest.raises(InputError, match="image is grey"):
        ImageTransform(grey="refuse")(np.asarray(image))


def test_colour_becomes_grey_by_rec601_at_every_depth() -> None:
    image = Image.open(PHOTOS / "chelsea.png")
    transform = ImageTransform(**PLAIN)
    grey = transform(np.asarray(image))
    np.testing.assert_array_equal(grey, transform(np.asarray(image.convert("L"))))
    deep = np.asarray(image).astype(np.uint16) * 257
    assert np.abs(transform(deep) - grey).max() < 0.02  # 8-bit grey is rounded, before and after resizing
    with pytest.raises(InputError, match="image is RGB"):
        ImageTransform(**PLAIN, colour="refuse")(np.asarray(image))


def test_12_bits_in_16_are_not_taken_for_16() -> None:
    """Three scans of 12 bits would differ by a hundredth of what they should."""
    scan = np.random.default_rng(0).integers(0, 4096, (40, 40), dtype=np.uint16)
    same = {"image_size": (32, 32), "channels": 1, "mean": (0.0,), "std": (1.0,)}
    with pytest.raises(InputError, match=r"the brightest is 40\d\d: .* 12-bit"):
        ImageTransform(**same)(scan)
    assert ImageTransform(**same, range="0,4095")(scan).max() > 0.7
    assert ImageTransform(**same, range="0,65535")(scan).max() < 0.1
    assert not ImageTransform(**same)(np.zeros_like(scan)).any()  # what is black in any range
    scan[0, 0] = 4096
    assert ImageTransform(**same)(scan).max() < 0.1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_is_dropped_only_where_it_says_nothing(dtype: type, channels: int, rng: np.random.Generator) -> None:
    opaque = 1 if dtype is np.float32 else np.iinfo(dtype).max
    colours = (rng.random((20, 30, channels)) * opaque).astype(dtype)
    image = np.concatenate([colours, np.full((20, 30, 1), opaque, dtype)], axis=2)
    transform = ImageTransform(range=f"0,{opaque}")
    np.testing.assert_array_equal(transform(image), transform(colours))
    image[3, 4, -1] = 0
    with pytest.raises(InputError, match="partly transparent"):
        transform(image)
    drop = ImageTransform(range=f"0,{opaque}", alpha="drop")
    np.testing.assert_array_equal(drop(image), drop(colours))


@given(
    low=st.floats(-2000, 2000),
    width=st.floats(0.5, 5000),
    dtype=st.sampled_from(["i2", ">i2", "i4", "f4", "f8"]),
)
def test_a_window_maps_its_ends_to_0_and_1_and_clips(low: float, width: float, dtype: str) -> None:
    pixels = np.linspace(-4000, 8000, 64).reshape(8, 8).astype(dtype)
    out = ImageTransform(**PLAIN, image_size=(8, 8), range=f"{low},{low + width}")(pixels)
    expected = np.clip((pixels.astype(float) - low) / width, 0, 1)
    np.testing.assert_allclose(out[0], expected, atol=1e-5)


def test_ranges_by_dtype_and_by_image(rng: np.random.Generator) -> None:
    deep = rng.integers(0, 65536, (50, 40), dtype=np.uint16)
    by_dtype = ImageTransform(**PLAIN, image_size=(50, 40))
    np.testing.assert_allclose(by_dtype(deep)[0], deep / 65535, atol=1e-6)
    minmax = ImageTransform(**PLAIN, image_size=(16, 16), range="minmax")
    hounsfield = rng.normal(0, 500, (50, 40)).astype(np.float32)
    out = minmax(hounsfield)
    assert out.min() >= 0
    assert out.max() <= 1
    np.testing.assert_allclose(minmax(hounsfield * 3 + 7), out, atol=1e-5)  # affine changes don't matter
    with pytest.raises(InputError, match="float32, whose range says nothing"):
        by_dtype(hounsfield)
    with pytest.raises(InputError, match="Every pixel is 7"):
        minmax(np.full((9, 9), 7, np.int16))


def test_the_window_comes_before_the_interpolation() -> None:
    # A metal pixel of 30,000 HU must brighten its neighbours no more than a pixel of the window's own white.
    scan = np.zeros((64, 64), np.int16)
    scan[32, 32] = 30_000
    white = np.where(scan > 0, 400, 0).astype(np.int16)
    transform = ImageTransform(**PLAIN, image_size=(16, 16), range="0,400")
    np.testing.assert_array_equal(transform(scan), transform(white))


def test_many_channels_are_taken_as_they_are(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (40, 60, 5), dtype=np.uint8)
    five = ImageTransform(image_size=(20, 20), mean=(0.5,) * 5, std=(0.2,) * 5, channels=5)
    one = ImageTransform(image_size=(20, 20), mean=(0.5,), std=(0.2,), channels=1)
    np.testing.assert_array_equal(five(image)[3], one(image[:, :, 3])[0])
    with pytest.raises(InputError, match="3 channels and the network takes 5"):
        five(image[:, :, :3])


def test_output_is_a_contiguous_float32_array_and_the_input_is_untouched(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (33, 47, 3), dtype=np.uint8)
    image.flags.writeable = False
    for transform in (ImageTransform(), ImageTransform(range="0,100"), ImageTransform(image_size=(33, 47))):
        out = transform(image)
        assert out.dtype == np.float32
        assert out.flags.c_contiguous
        assert out.shape == (3, *transform.image_size)
        np.testing.assert_array_equal(out, transform(np.asfortranarray(image)))


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ("a report", "array of pixels, not str"),
        (np.zeros(9, np.uint8), "this array has 1"),
        (np.zeros((2, 3, 4, 5), np.uint8), "this array has 4"),
        (np.zeros((0, 5), np.uint8), "no pixels"),
        (np.zeros((5, 5, 7), np.uint8), "7 channels"),
        (np.zeros((5, 5), bool), "bool"),
        (np.zeros((5, 5), complex), "complex128"),
        (np.array([[1.0, np.nan], [np.inf, 2.0]]), "2 of 4 values are NaN or infinite"),
        (np.zeros((1, 90_000), np.uint8), "sides are too unequal"),
    ],
)
def test_bad_inputs_are_refused_with_the_fact(image: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ImageTransform(crop_pct=0.25)(image)


# ------------------------------------------------------------------------------------------------- settings
def test_settings_make_the_same_transform_again_through_json_and_pickle() -> None:
    import json

    transform = ImageTransform(image_size=(32, 48), range="-1000,400", crop_mode="border", alpha="drop")
    again = ImageTransform.from_settings(json.loads(json.dumps(transform.settings)))
    assert again == transform == pickle.loads(pickle.dumps(transform))
    assert hash(again) == hash(transform)
    assert ImageTransform(range="0,1") == ImageTransform(range=" 0.0,1.00")


def test_overrides_are_read_from_text() -> None:
    transform = ImageTransform.from_settings(
        {"image_size": [224, 224], "channels": 3},
        {
            "image_size": "224x320",
            "interpolation": "lanczos",
            "mean": "0.5",
            "std": "0.1,0.2,0.3",
            "crop_pct": "1",
            "crop_mode": "squash",
            "range": "-1000,400",
            "grey": "refuse",
            "colour": "refuse",
            "alpha": "drop",
        },
    )
    assert transform == ImageTransform(
        (224, 320),
        "lanczos",
        (0.5,) * 3,
        (0.1, 0.2, 0.3),
        1.0,
        "squash",
        3,
        "-1000,400",
        "refuse",
        "refuse",
        "drop",
    )
    assert ImageTransform.from_settings({}, {"image_size": "96"}).image_size == (96, 96)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("imagesize", "224", "Did you mean 'image_size'"),
        ("checkpoint_kyes", "order", "Did you mean 'checkpoint_keys'"),
        ("channels", "4", "isn't a setting"),
        ("image_size", "big", "224x320"),
        ("image_size", "224x", "224x320"),
        ("image_size", "0", "at least one pixel"),
        ("mean", "a,b,c", "one number a channel"),
        ("mean", "0.1,0.2", "2 values and the network takes 3"),
        ("mean", "nan", "finite"),
        ("std", "0", "above 0"),
        ("crop_pct", "-1", "share"),
        ("crop_pct", "300", "share"),
        ("crop_mode", "centre", "Did you mean 'center'"),
        ("interpolation", "cubic", "Did you mean 'bicubic'"),
        ("range", "5,1", "LO must be below HI"),
        ("range", "auto", "dtype, minmax, volume, or LO,HI"),
        ("alpha", "premultiply", "opaque, drop"),
    ],
)
def test_bad_settings_say_what_would_be_good(key: str, value: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ImageTransform.from_settings({}, {key: value}, others=("checkpoint_keys",))
