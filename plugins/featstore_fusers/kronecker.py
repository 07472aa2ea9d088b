"""Tensor fusion."""

from __future__ import annotations

import math

import numpy as np
from featstore_steps import whole_number

from featstore import Fuser, Parts, UsageError
from featstore_fusers.concat import Matrix, require_rows, widths

#: Features that it may give, where the user says nothing: 0.5 MB a row in float64.
LIMIT = 65_536


class Kronecker(Fuser):
    """The outer product of all inputs, each with a 1 behind it: (rows, w1), (rows, w2) → (rows, (w1 + 1) (w2 + 1)).

    So every product of features of different inputs is there, and, by the ones, every feature by itself: "Tensor Fusion
    Network for Multimodal Sentiment Analysis", Zadeh et al. 2017. The last input's features vary fastest. Where an
    input is missing, what it would be a factor of is NaN.

    Raises:
        UsageError: that would be more than ``limit`` features.
    """

    def __init__(self, limit: float | str = LIMIT) -> None:
        self._limit = whole_number(limit, "kronecker(limit): the limit of its width", hint=f"kronecker({LIMIT})")

    def transform(self, parts: Parts) -> Matrix:
        require_rows(parts, "kronecker")
        width = math.prod(part.shape[1] + 1 for part in parts.values())
        if width > self._limit:
            raise UsageError(
                f"kronecker of inputs of the widths {widths(parts)} would give {width} features, and {self._limit} are "
                "allowed.",
                hint="narrower inputs: steps of each input, such as pca(16)",
            )
        rows = len(next(iter(parts.values())))
        fused = np.ones((rows, 1))
        for part in parts.values():
            factor = np.concatenate([np.asarray(part, np.float64), np.ones((rows, 1))], axis=1)
            fused = (fused[:, :, None] * factor[:, None, :]).reshape(rows, fused.shape[1] * factor.shape[1])
        return fused
