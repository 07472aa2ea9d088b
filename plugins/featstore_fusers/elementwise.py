"""Element-wise fusion, of inputs of one width."""

from __future__ import annotations

import numpy as np

from featstore import Fuser, Parts, UsageError
from featstore_fusers.concat import Matrix, require_rows, widths


class Mean(Fuser):
    """The mean of the inputs that a row has: parts (rows, width) → (rows, width). A row without any is NaN.

    Raises:
        UsageError: the inputs are of different widths.
    """

    def transform(self, parts: Parts) -> Matrix:
        values = _stacked(parts, "mean")
        has = ~np.isnan(values)
        count = has.sum(axis=0)
        total = np.where(has, values, 0.0).sum(axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


class Max(Fuser):
    """The largest of the inputs that a row has, feature by feature. A row without any is NaN.

    Raises:
        UsageError: the inputs are of different widths.
    """

    def transform(self, parts: Parts) -> Matrix:
        largest: Matrix = np.fmax.reduce(_stacked(parts, "max"))
        return largest


def _stacked(parts: Parts, what: str) -> Matrix:
    """(inputs, rows, width)."""
    require_rows(parts, what)
    if len({part.shape[1] for part in parts.values()}) > 1:
        raise UsageError(
            f"{what} takes inputs of one width, and these are {widths(parts)}.",
            hint="bring them to one width: steps of each input, such as pca(64)",
        )
    return np.stack([np.asarray(part, np.float64) for part in parts.values()])
