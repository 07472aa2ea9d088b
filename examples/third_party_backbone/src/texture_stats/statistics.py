"""The statistics themselves, after the Image Biomarker Standardisation Initiative (https://arxiv.org/abs/1612.07003)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

FIRST_ORDER = (
    "mean", "std", "skewness", "kurtosis", "minimum", "p10", "median", "p90", "maximum", "entropy", "uniformity",
)  # fmt: skip
GLCM = ("contrast", "dissimilarity", "homogeneity", "asm", "entropy", "correlation")

#: Rows and columns to the neighbour: 0°, 45°, 90°, 135°.
OFFSETS = ((0, 1), (-1, 1), (1, 0), (1, 1))


def first_order(pixels: Vector, binned: NDArray[np.intp], levels: int) -> Vector:
    """Of the pixels (H, W), and of their histogram: float64 (11,), as :data:`FIRST_ORDER` names them."""
    mean, std = pixels.mean(), pixels.std()
    normal = (pixels - mean) / std if std > 0 else np.zeros_like(pixels)
    skewness = (normal**3).mean()
    kurtosis = (normal**4).mean() - 3 if std > 0 else 0.0
    shares = np.bincount(binned.ravel(), minlength=levels) / binned.size
    p10, median, p90 = np.percentile(pixels, (10, 50, 90))
    return np.array(
        [
            mean, std, skewness, kurtosis, pixels.min(), p10, median, p90, pixels.max(),
            entropy(shares), (shares**2).sum(),
        ]
    )  # fmt: skip


def glcm(binned: NDArray[np.intp], levels: int) -> Vector:
    """Of the grey-level co-occurrence matrices of four directions, averaged: float64 (6,), as :data:`GLCM` has them."""
    averaged: Vector = np.mean([_features(cooccurrence(binned, levels, *offset)) for offset in OFFSETS], axis=0)
    return averaged


def cooccurrence(binned: NDArray[np.intp], levels: int, down: int, right: int) -> Vector:
    """How often each pair of levels are neighbours, symmetric, as shares: float64 (levels, levels)."""
    height, width = binned.shape
    here = binned[max(-down, 0) : height - max(down, 0), : width - right]
    there = binned[max(down, 0) : height + min(down, 0), right:]
    counts = np.bincount((here * levels + there).ravel(), minlength=levels**2).reshape(levels, levels)
    shares: Vector = (counts + counts.T) / (2 * counts.sum())
    return shares


def _features(shares: Vector) -> list[Any]:
    i, j = np.indices(shares.shape)
    apart = i - j
    mean = (i * shares).sum()
    variance = ((i - mean) ** 2 * shares).sum()
    # Of a constant image the correlation is not defined; all pairs are equal, so it counts as 1.
    correlation = ((i - mean) * (j - mean) * shares).sum() / variance if variance > 0 else 1.0
    return [
        (apart**2 * shares).sum(),
        (np.abs(apart) * shares).sum(),
        (shares / (1 + apart**2)).sum(),
        (shares**2).sum(),
        entropy(shares),
        correlation,
    ]


def entropy(shares: Vector) -> float:
    """In bits."""
    present = shares[shares > 0]
    return float(-(present * np.log2(present)).sum()) + 0.0  # no -0.0 for a constant image
