"""What is made of all positions alike, against the array API standard: one code for torch tensors and NumPy arrays.

Each function takes values of shape (N, L, D), how many of the L tokens are a prefix (class token, registers), and
the grid of the others. Reductions run over positions alone, in float32 where the values are of lower precision.
A NaN among what is pooled is never hidden: it makes its own channel NaN.
"""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace

from featstore import UsageError

Grid = tuple[int, int] | None

# Radenović, Tolias, Chum (2018), https://arxiv.org/abs/1711.02512, clamp there: a root of 0 has no gradient.
_GEM_EPS = 1e-6


def mean(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Mean over positions: (N, L, D) → (N, D). Raises ValueError where no position is left."""
    xp, positions = split_positions(values, prefix)
    return xp.mean(positions, axis=1)


def max(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Maximum over positions: (N, L, D) → (N, D). Raises ValueError where no position is left."""
    xp, positions = split_positions(values, prefix)
    return xp.max(positions, axis=1)


def min(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Minimum over positions: (N, L, D) → (N, D). Raises ValueError where no position is left."""
    xp, positions = split_positions(values, prefix)
    return xp.min(positions, axis=1)


def std(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Standard deviation over positions: (N, L, D) → (N, D).

    It is the population's (``ddof=0``), so that one position gives 0 and not NaN. Raises ValueError where no
    position is left.
    """
    xp, positions = split_positions(values, prefix)
    return _deviation(xp, positions)


def meanstd(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Mean and standard deviation over positions, concatenated: (N, L, D) → (N, 2 D).

    The deviation is the population's, as of ``std``. Raises ValueError where no position is left.
    """
    xp, positions = split_positions(values, prefix)
    return xp.concat([xp.mean(positions, axis=1), _deviation(xp, positions)], axis=1)


def median(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Median over positions, (N, L, D) → (N, D): of an even number of them, the mean of the two in the middle.

    Raises ValueError where no position is left.
    """
    xp, positions = split_positions(values, prefix)
    ordered = xp.sort(positions, axis=1)
    count = ordered.shape[1]
    # Halved before they are added: the sum of two large values overflows.
    middle = ordered[:, (count - 1) // 2, :] / 2 + ordered[:, count // 2, :] / 2
    greatest = ordered[:, -1, :]  # sorted last, a NaN would be passed over
    return xp.where(xp.isnan(greatest), greatest, middle)


def first(values: Any, *, prefix: int, grid: Grid) -> Any:
    """The first position, in the order of the caller: (N, L, D) → (N, D). Raises ValueError where none is left."""
    _, positions = split_positions(values, prefix)
    return positions[:, 0, :]


def last(values: Any, *, prefix: int, grid: Grid) -> Any:
    """The last position, in the order of the caller: (N, L, D) → (N, D). Raises ValueError where none is left."""
    _, positions = split_positions(values, prefix)
    return positions[:, -1, :]


def gem(p: float = 3.0, *more: float) -> Any:
    """Build the generalized mean of Radenović et al. (2018), ``mean(max(x, 1e-6) ** p) ** (1 / p)``.

    ``gem(3)`` is the usual one; ``gem(1)`` is the mean of the clamped values, and a large ``p`` approaches
    the maximum. Negative values count as 1e-6: it is made for features after a ReLU.

    Raises:
        UsageError: not one finite ``p`` above 0.
    """
    if more or not (math.isfinite(p) and p > 0):
        raise UsageError(f"gem takes one finite p above 0, and got {(p, *more)}.", hint="gem(3)")
    p = float(p)

    def pool(values: Any, *, prefix: int, grid: Grid) -> Any:
        xp, positions = split_positions(values, prefix)
        positions = xp.clip(positions, min=_GEM_EPS)
        top = xp.max(positions, axis=1, keepdims=True)  # x**p overflows float32 soon: scale to at most 1 first
        return top[:, 0, :] * xp.mean((positions / top) ** p, axis=1) ** (1 / p)

    return pool


def cls(values: Any, *, prefix: int, grid: Grid) -> Any:
    """The first prefix token: (N, L, D) → (N, D). Raises ValueError for a backbone without one."""
    check_tokens(values, prefix)
    if prefix == 0:
        raise ValueError("cls needs a class token, and this backbone has none: pool with mean, for example.")
    return values[:, 0, :]


def tokens(values: Any, *, prefix: int, grid: Grid) -> Any:
    """Every token, prefix included, unchanged: (N, L, D)."""
    check_tokens(values, prefix)
    return values


def split_positions(values: Any, prefix: int) -> tuple[Any, Any]:
    """The array namespace, and the positions (N, L - prefix, D) in float32 at least."""
    check_tokens(values, prefix)
    if values.shape[1] == prefix:
        raise ValueError(f"Nothing to pool: all {prefix} tokens are prefix tokens, such as CLS: pool with cls.")
    xp = array_namespace(values)
    positions = values[:, prefix:, :]
    if xp.finfo(positions.dtype).bits < 32:
        positions = xp.astype(positions, xp.float32)
    return xp, positions


def check_tokens(values: Any, prefix: int) -> None:
    """Raise ValueError where these are no tokens."""
    if values.ndim != 3 or not 0 <= prefix <= values.shape[1]:
        raise ValueError(f"Tokens are (N, L, D) with a prefix within L, not {tuple(values.shape)} with {prefix}.")


def _deviation(xp: Any, positions: Any) -> Any:
    """The population's standard deviation over axis 1."""
    # Twice, because the rounding of a mean of many large values is more than small deviations are.
    for _ in range(2):
        positions = positions - xp.mean(positions, axis=1, keepdims=True)
    return xp.sqrt(xp.mean(positions**2, axis=1))
