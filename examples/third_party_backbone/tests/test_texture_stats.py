"""The laws that featstore relies on, and the numbers against scikit-image and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops
from texture_stats.backbone import Texture, TextureStats
from texture_stats.statistics import FIRST_ORDER, GLCM

import featstore
from featstore.testing import check_backbone

IMAGE = (np.random.default_rng(7).normal(120, 40, (37, 52)).clip(0, 255)).astype(np.uint8)


def numbers(image: np.ndarray[Any, Any], **settings: Any) -> dict[str, float]:
    values = Texture(**settings)(image)
    return dict(zip([*FIRST_ORDER, *(f"glcm_{name}" for name in GLCM)], map(float, values), strict=True))


def test_it_keeps_the_laws() -> None:
    check_backbone("texture:stats")


def test_first_order() -> None:
    found = numbers(IMAGE)
    pixels = IMAGE.astype(float)
    centred = pixels - pixels.mean()
    expected = {
        "mean": pixels.mean(),
        "std": np.sqrt((centred**2).mean()),
        "skewness": (centred**3).mean() / (centred**2).mean() ** 1.5,
        "kurtosis": (centred**4).mean() / (centred**2).mean() ** 2 - 3,
        "p10": np.quantile(pixels, 0.1),
        "median": np.median(pixels),
        "maximum": pixels.max(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5), name
    shares = np.histogram(IMAGE, bins=32, range=(0, 256))[0] / IMAGE.size
    assert found["uniformity"] == pytest.approx((shares**2).sum(), rel=1e-5)
    assert found["entropy"] == pytest.approx(-(shares[shares > 0] * np.log2(shares[shares > 0])).sum(), rel=1e-5)


def test_cooccurrence_is_scikit_images() -> None:
    found = numbers(IMAGE, levels=16)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    matrix = graycomatrix(IMAGE // 16, [1], angles, levels=16, symmetric=True, normed=True)
    for ours, theirs in (("asm", "ASM"), *((name, name) for name in ("contrast", "dissimilarity", "homogeneity"))):
        assert found[f"glcm_{ours}"] == pytest.approx(graycoprops(matrix, theirs).mean(), rel=1e-5), ours
    assert found["glcm_correlation"] == pytest.approx(graycoprops(matrix, "correlation").mean(), rel=1e-4)


def test_a_constant_image_has_finite_numbers() -> None:
    found = numbers(np.full((9, 9), 77, np.uint8))
    assert all(np.isfinite(value) for value in found.values())
    assert (found["std"], found["skewness"], found["glcm_contrast"], found["glcm_correlation"]) == (0, 0, 0, 1)


def test_a_turned_image_has_the_same_texture() -> None:
    one, other = numbers(IMAGE), numbers(np.ascontiguousarray(np.rot90(IMAGE)))
    assert other == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    "settings", [{"levels": "1"}, {"levels": "x"}, {"range": "5"}, {"range": "9,3"}, {"level": "8"}]
)
def test_wrong_settings_are_usage_errors(settings: dict[str, str]) -> None:
    with pytest.raises(featstore.UsageError):
        TextureStats(featstore.BackboneRequest("texture:stats", settings=settings))


def test_floats_need_a_range() -> None:
    image = IMAGE / np.float32(255)
    with pytest.raises(featstore.InputError, match="range of float32"):
        numbers(image)
    assert numbers(image, range="0.0,1.0")["mean"] == pytest.approx(image.mean(), rel=1e-5)
