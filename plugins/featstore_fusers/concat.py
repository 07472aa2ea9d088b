"""Concatenation: the fuser that learns nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from featstore import Fuser, Parts

Matrix: TypeAlias = npt.NDArray[np.float64]


class Concat(Fuser):
    """Every part side by side, in the mapping's order: (rows, w1), (rows, w2) → (rows, w1 + w2), float64.

    Missing inputs stay NaN. Raises ValueError where there is no part, or the parts disagree about their rows.
    """

    def transform(self, parts: Parts) -> Matrix:
        return side_by_side(parts, "concat")


def side_by_side(parts: Mapping[str, Matrix], what: str) -> Matrix:
    """Parts as one matrix. Raises ValueError where there is no part, or the parts disagree about their rows."""
    require_rows(parts, what)
    return np.concatenate([np.asarray(part, np.float64) for part in parts.values()], axis=1)


def require_rows(parts: Mapping[str, Matrix], what: str) -> None:
    """Raise ValueError where there is no part, or the parts disagree about their rows."""
    shapes = {alias: part.shape for alias, part in parts.items()}
    if not shapes or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"{what} needs one or more (rows, width) parts, not {shapes}.")
    if len({shape[0] for shape in shapes.values()}) > 1:
        raise ValueError(f"The parts must have the same rows: {shapes}.")


def widths(parts: Mapping[str, Matrix]) -> str:
    """How wide each part is, for messages: ``a 512, p 768``."""
    return ", ".join(f"{alias} {part.shape[1]}" for alias, part in parts.items())
