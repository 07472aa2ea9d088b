"""Which pixel values are black and white: by the user's word, by the file's, or by the pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from featstore import ImageTransform, InputError, Picture, UsageError
from featstore.ranges import of_window

PLAIN = {"image_size": (8, 8), "crop_pct": 1.0, "mean": (0.0,), "std": (1.0,), "channels": 1}


def seen(image: object, **settings: object) -> np.ndarray:
    """What a network sees of an 8 × 8 image, without resizing: (8, 8)."""
    return ImageTransform(**{**PLAIN, **settings})(image)[0]  # type: ignore[arg-type]


@pytest.fixture
def hounsfield(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(-1024, 3000, (8, 8)).astype(np.int16)


def test_a_file_s_own_window_is_its_black_and_white(hounsfield: np.ndarray) -> None:
    expected = np.clip((hounsfield.astype(np.float64) + 160) / 399, 0, 1)
    np.testing.assert_allclose(seen(Picture(hounsfield, window=(-160.0, 239.0))), expected, atol=1e-6)
    with pytest.raises(InputError, match="The pixels are int16") as error:
        seen(Picture(hounsfield))
    assert error.value.hint is not None
    assert "--window CENTRE,WIDTH" in error.value.hint


def test_the_user_s_window_goes_first_for_all_files_alike(hounsfield: np.ndarray) -> None:
    asked = ImageTransform.from_settings(PLAIN, {"window": "40,400"})
    assert asked.range == "-160.0,239.0"
    expected = np.clip((hounsfield.astype(np.float64) + 160) / 399, 0, 1)
    for own in (None, (0.0, 80.0), (-1400.0, 200.0)):
        np.testing.assert_allclose(asked(Picture(hounsfield, window=own))[0], expected, atol=1e-6)
    np.testing.assert_allclose(asked(hounsfield)[0], expected, atol=1e-6)


@pytest.mark.parametrize("text", ["40", "40,1", "40,-3", "a,b", "40,nan", "1,2,3"])
def test_windows_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="CENTRE,WIDTH"):
        of_window(text)


def test_a_window_and_a_range_are_one_thing() -> None:
    with pytest.raises(UsageError, match="two words for one thing"):
        ImageTransform.from_settings(PLAIN, {"window": "40,400", "range": "minmax"})


def test_what_is_inverted_is_turned(rng: np.random.Generator) -> None:
    """MONOCHROME1: small values are bright."""
    grey = rng.integers(0, 256, (8, 8), np.uint8)
    np.testing.assert_array_equal(seen(Picture(grey, inverted=True)), seen(255 - grey))
    deep = rng.integers(0, 65536, (8, 8)).astype(np.uint16)
    for settings in ({}, {"range": "minmax"}, {"range": "100,60000"}):
        np.testing.assert_allclose(
            seen(Picture(deep, inverted=True), **settings), 1 - seen(deep, **settings), atol=1e-6
        )


def test_a_volume_s_range_is_the_same_for_all_its_slices(rng: np.random.Generator) -> None:
    volume = rng.normal(100, 30, (8, 8, 4))
    extent = (float(volume.min()), float(volume.max()))
    slices = [seen(Picture(volume[..., k], extent=extent), range="volume") for k in range(4)]
    expected = (volume - extent[0]) / (extent[1] - extent[0])
    np.testing.assert_allclose(np.stack(slices, axis=-1), expected, atol=1e-6)
    own = seen(Picture(volume[..., 0], extent=extent), range="minmax")
    assert own.max() == 1.0
    with pytest.raises(InputError, match="no slice of a volume"):
        seen(volume[..., 0], range="volume")
    with pytest.raises(InputError, match="Every value of the volume is 3"):
        seen(Picture(np.full((8, 8), 3.0), extent=(3.0, 3.0)), range="volume")


def test_a_picture_is_taken_as_its_pixels_are(rng: np.random.Generator) -> None:
    colour = rng.integers(0, 256, (20, 31, 3), np.uint8)
    transform = ImageTransform(image_size=(8, 8))
    np.testing.assert_array_equal(transform(Picture(colour)), transform(colour))
    np.testing.assert_array_equal(np.asarray(Picture(colour)), colour)
    reference = np.asarray(Image.fromarray(colour).convert("L"), np.float32) / 255
    assert seen(Picture(colour[:8, :8])).shape == reference[:8, :8].shape


def test_a_whole_volume_is_no_image(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="2 or 3 axes") as error:
        seen(rng.normal(size=(8, 8, 4, 1)))
    assert "--expand axis=2" in str(error.value.hint)
