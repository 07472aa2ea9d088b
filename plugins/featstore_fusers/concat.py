"""Concatenation: the fuser that learns nothing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from featstore import Fuser, Parts


class Concat(Fuser):
    """Every part side by side, in the mapping's order: (rows, w1), (rows, w2) → (rows, w1 + w2), float64.

    Missing inputs stay NaN. Raises ValueError where there is no part, or the parts disagree about their rows.
    """

    def transform(self, parts: Parts) -> npt.NDArray[np.float64]:
        shapes = {alias: part.shape for alias, part in parts.items()}
        if not shapes or any(len(shape) != 2 for shape in shapes.values()):
            raise ValueError(f"concat needs one or more (rows, width) parts, not {shapes}.")
        if len({shape[0] for shape in shapes.values()}) > 1:
            raise ValueError(f"The parts must have the same rows: {shapes}.")
        return np.concatenate([np.asarray(part, np.float64) for part in parts.values()], axis=1)
