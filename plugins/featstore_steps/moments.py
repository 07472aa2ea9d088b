"""Means and variances of features, block by block, missing values left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore_steps.passes import Matrix


@dataclass(slots=True)
class Moments:
    """By Chan, Golub and LeVeque (1983), which loses no digits to a large mean.

    scikit-learn's ``partial_fit`` can't be used: a first block without a value of some feature makes its mean NaN for
    good.

    Attributes:
        count, mean, squares: float64 (width,): values that are there, their mean, and the sum of their squared
            deviations from it.
    """

    count: Matrix = field(default_factory=lambda: np.zeros(0))
    mean: Matrix = field(default_factory=lambda: np.zeros(0))
    squares: Matrix = field(default_factory=lambda: np.zeros(0))

    def add(self, values: Matrix) -> None:
        """Take in some rows, (rows, width)."""
        if not len(self.count):
            self.count, self.mean, self.squares = np.zeros((3, values.shape[1]))
        has = ~np.isnan(values)
        n = has.sum(axis=0)
        total = np.maximum(self.count + n, 1)
        mean = np.where(has, values, 0).sum(axis=0) / np.maximum(n, 1)
        delta = mean - self.mean
        deviations = (np.where(has, values - mean, 0) ** 2).sum(axis=0)
        self.squares += deviations + delta**2 * self.count * n / total
        self.mean += delta * n / total
        self.count += n

    @property
    def variance(self) -> Matrix:
        """The population's, (width,)."""
        return self.squares / self.count


def is_constant(count: Any, mean: Matrix, variance: Matrix) -> npt.NDArray[np.bool_]:
    """Features that don't vary: what rounding alone can make of a constant isn't spread. As scikit-learn decides it."""
    eps = np.finfo(np.float64).eps
    found: npt.NDArray[np.bool_] = variance <= count * eps * variance + (count * mean * eps) ** 2
    return found
