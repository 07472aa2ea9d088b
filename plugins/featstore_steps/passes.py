"""Going over the train rows: block by block, or some columns of all rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from featstore import Block, ConflictError, UsageError

Matrix: TypeAlias = npt.NDArray[np.float64]
Blocks: TypeAlias = Callable[[], Iterator[Block]]
#: Starts a new pass over matrices (rows, width), one after another.
Passes: TypeAlias = Callable[[], Iterator[Matrix]]

NO_ROWS = "No train row has anything to learn from."
SPLIT_OTHERWISE = "leave that input out, or split so that train has it"
#: Bytes of the columns that are looked at at once, where all rows of a column are needed.
COLUMN_BYTES = 128 << 20


def matrix(block: Block, no_gaps_for: str = "") -> Matrix:
    """A block's values, none of them infinite: float64 (rows, width).

    Args:
        no_gaps_for: the step that can't take missing values, where it can't.

    Raises:
        ConflictError: an infinite value, of which no mean or variance could be had.
        UsageError: a missing one, where there may be none.
    """
    values = np.asarray(block.values, np.float64)
    if np.isinf(values).any():
        raise ConflictError("A train row holds an infinite value.", hint="correct it, or leave its input out")
    if no_gaps_for and np.isnan(values).any():
        raise UsageError(
            f"{no_gaps_for} can't take the missing values of this table.",
            hint="--missing mean, or --join inner without gaps",
        )
    return values


def numbers(blocks: Blocks, no_gaps_for: str = "") -> Passes:
    """Passes over the blocks' values, as :func:`matrix` checks them."""
    return lambda: (matrix(block, no_gaps_for) for block in blocks())


def require_values(count: npt.NDArray[np.float64]) -> None:
    """Raise ConflictError where a feature has no value in any train row, so that nothing can be learned of it."""
    if not len(count):
        raise ConflictError(NO_ROWS, hint=SPLIT_OTHERWISE)
    if not count.all():
        raise ConflictError(
            f"{np.count_nonzero(count == 0)} feature(s) have no value in any train row, so there is nothing to learn "
            "of them.",
            hint=SPLIT_OTHERWISE,
        )


def columns(matrices: Passes) -> Iterator[Matrix]:
    """All train rows of a few columns at a time, (rows, some): as many as :data:`COLUMN_BYTES` hold, one pass for each.

    For what can't be had as a sum over rows, such as a median.

    Raises:
        ConflictError: a feature that no train row has a value of.
    """
    rows, count = 0, np.zeros(0)
    for values in matrices():
        has = (~np.isnan(values)).sum(axis=0)
        count = count + has if rows else has
        rows += len(values)
    require_values(count)
    step = max(COLUMN_BYTES // (8 * rows), 1)
    for start in range(0, len(count), step):
        out = np.empty((rows, min(step, len(count) - start)))
        row = 0
        for values in matrices():
            out[row : row + len(values)] = values[:, start : start + step]
            row += len(values)
        yield out
