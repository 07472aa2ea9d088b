"""Poolers of the tokens inside a mask: statistics in which a position counts by its share of the region."""

from __future__ import annotations

import math
from typing import Any

from featstore_poolers.positions import Grid, split_positions


def roi_mean(values: Any, *, prefix: int, grid: Grid, weights: Any) -> Any:
    """Weighted mean over positions: (N, L, D), weights (N, L - prefix) → (N, D).

    Raises ValueError where the weights are not one a position. An input whose weights are all 0 has no region: its
    row is NaN, and other rows are as they would be without it. A NaN outside the region counts too: it says that
    something is wrong with the input.
    """
    xp, positions, shares = _weigh(values, prefix, weights)
    return _centre(xp, positions, shares)[0]


def roi_meanstd(values: Any, *, prefix: int, grid: Grid, weights: Any) -> Any:
    """Weighted mean and standard deviation over positions, concatenated: (N, L, D) → (N, 2 D).

    The deviation is the population's: ``sqrt(sum(w * (x - mean)²) / sum(w))``. With weights of one value it is
    ``meanstd``. Weights, errors and NaN are as of ``roi_mean``.
    """
    xp, positions, shares = _weigh(values, prefix, weights)
    centre, deviations = _centre(xp, positions, shares)
    return xp.concat([centre, xp.sqrt(xp.sum(shares * deviations**2, axis=1))], axis=1)


def _weigh(values: Any, prefix: int, weights: Any) -> tuple[Any, Any, Any]:
    """The array namespace, the positions (N, L - prefix, D), and their shares (N, L - prefix, 1), which sum to 1."""
    xp, positions = split_positions(values, prefix)
    if tuple(weights.shape) != tuple(positions.shape[:2]):
        raise ValueError(
            f"Weights are one a position, {tuple(positions.shape[:2])}, and these are {tuple(weights.shape)}."
        )
    weights = xp.astype(weights, positions.dtype)[:, :, None]
    total = xp.sum(weights, axis=1, keepdims=True)
    return xp, positions, weights / xp.where(total > 0, total, xp.full_like(total, math.nan))


def _centre(xp: Any, positions: Any, shares: Any) -> tuple[Any, Any]:
    """The weighted mean (N, D), and the deviations from it (N, L - prefix, D)."""
    rough = xp.sum(shares * positions, axis=1, keepdims=True)
    deviations = positions - rough
    # The shares sum to 1 but for rounding, which weighs as much as the values are large: their own mean mends it.
    rest = xp.sum(shares * deviations, axis=1, keepdims=True)
    return (rough + rest)[:, 0, :], deviations - rest
