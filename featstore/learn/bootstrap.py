"""Bootstrap intervals: what a measure would have been with other patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: Of weights at once.
_BLOCK_NBYTES = 16 * 1024 * 1024
#: Percentiles of the two ends: 95 % lie between.
ENDS = (2.5, 97.5)


def resampled(measure: Callable[[Array], dict[str, Array]], patients: Array, count: int, seed: int) -> dict[str, Array]:
    """A measure of ``count`` resamples of the patients, drawn with replacement; all rows of a patient go together.

    The patients are numbered in sorted order; resample after resample, as many as there are of them are drawn by
    ``numpy.random.default_rng(seed).integers(patients, size=patients)``.

    Args:
        measure: takes weights (b, n), gives (b,) values a name; see :mod:`featstore.learn.measures`.
        patients: (n,) text, whose each row is.

    Returns:
        float64 (count,) a name; NaN where a resample has no such value, because it lacks a class.
    """
    _, owner = np.unique(patients, return_inverse=True)
    total = int(owner.max()) + 1
    draws, block = np.random.default_rng(seed), max(1, _BLOCK_NBYTES // (8 * len(owner)))
    parts: list[dict[str, Array]] = []
    for start in range(0, count, block):
        counts = [
            np.bincount(draws.integers(total, size=total), minlength=total) for _ in range(min(block, count - start))
        ]
        parts.append(measure(np.stack(counts)[:, owner].astype(np.float64)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}


def interval(values: Array) -> tuple[float, float, int] | None:
    """The 95 % percentile interval and how many values it is of; those that are NaN are left out.

    None where fewer than half of them are defined: the rest would tell of lucky resamples.
    """
    defined = values[np.isfinite(values)]
    if not len(defined) or 2 * len(defined) < len(values):
        return None
    low, high = np.percentile(defined, ENDS)
    return float(low), float(high), len(defined)
