"""Poolers of tokens that lie on a grid, for which it matters where a position is."""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from featstore import UsageError
from featstore_poolers.positions import Grid, check_tokens, split_positions


def coarsen(*size: float) -> Any:
    """Build the mean over each cell of a coarser grid: ``grid(7,7)`` keeps 7 × 7 tokens.

    It is torch's ``adaptive_avg_pool2d``: where the sides don't divide, a cell takes every position that it
    touches, so that neighbours share some. Prefix tokens lie on no grid and are left out.

    Raises:
        UsageError: not a height and a width in whole positions.
    """
    if len(size) != 2 or not all(side >= 1 and float(side).is_integer() for side in size):
        raise UsageError(f"grid takes a height and a width of whole numbers above 0, and got {size}.", hint="grid(7,7)")
    height, width = (int(side) for side in size)

    def pool(values: Any, *, prefix: int, grid: Grid) -> Any:
        """(N, L, D) → (N, height · width, D). Raises ValueError where there is no grid, or a smaller one."""
        xp, positions = split_positions(values, prefix)
        if grid is None:
            raise ValueError("grid needs tokens that lie on a grid, and these lie on none: pool with mean, say.")
        n, length, d = positions.shape
        if grid[0] * grid[1] != length:
            raise ValueError(f"A grid of {grid[0]} × {grid[1]} doesn't hold {length} positions.")
        if height > grid[0] or width > grid[1]:
            raise ValueError(
                f"grid({height},{width}) is finer than the tokens' own grid of {grid[0]} × {grid[1]}: it can only get "
                "coarser."
            )
        cells = xp.reshape(positions, (n, *grid, d))
        cells = xp.stack([xp.mean(cells[:, part, :, :], axis=1) for part in _parts(grid[0], height)], axis=1)
        cells = xp.stack([xp.mean(cells[:, :, part, :], axis=2) for part in _parts(grid[1], width)], axis=2)
        return xp.reshape(cells, (n, height * width, d))

    return pool


def _parts(length: int, count: int) -> list[slice]:
    """``length`` positions in ``count`` stretches of equal length, widened to whole positions."""
    return [slice(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]


def flatten(values: Any, *, prefix: int, grid: Grid) -> Any:
    """All values of a feature map in torch's order, (N, L, D) → (N, D · L): what flattening (N, C, H, W) gives.

    Flattening loses nothing. So a prefix token, which has no place on a map, is refused and not left out: raises
    ValueError.
    """
    check_tokens(values, prefix)
    if prefix:
        raise ValueError(
            f"flatten is for feature maps, and this backbone gives {prefix} prefix tokens, such as CLS, which have no "
            "place on one: tokens keeps them all."
        )
    xp = array_namespace(values)
    n, length, d = values.shape
    return xp.reshape(xp.permute_dims(values, (0, 2, 1)), (n, d * length))
