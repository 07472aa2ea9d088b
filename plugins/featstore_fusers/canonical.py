"""Canonical correlation analysis: what two inputs say in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from featstore_steps import covariance, is_constant, signs, whole_number

from featstore import ConflictError, Fuser, Parts, UsageError
from featstore_fusers.concat import Matrix, side_by_side

#: Directions with less than this share of the largest variance are rounding, such as float32's, and no feature.
_CUT_OFF = 1e-10


class Cca(Fuser):
    """The first n canonical variates of each of two inputs, side by side: (rows, w1), (rows, w2) → (rows, 2 n).

    Hotelling's (1936), of the train rows that have both inputs, by whitening each input's correlations and a singular
    value decomposition of what is left between them. Each variate has variance 1 over those rows, and the n-th of one
    input goes with the n-th of the other. A row that lacks an input is NaN in its half.

    Raises:
        UsageError: other than two inputs; more variates than there can be; or so few train rows for so many features
            that perfect correlation would be found in noise.
        ConflictError: an input that doesn't vary.
    """

    def __init__(self, variates: float | str) -> None:
        self._variates = whole_number(variates, "cca(n): n", hint="cca(8)")

    def fit(self, blocks: Callable[[], Iterator[Parts]]) -> None:
        sides: dict[str, int] = {}

        def complete() -> Iterator[Matrix]:
            for parts in blocks():
                sides.update({alias: part.shape[1] for alias, part in parts.items()})
                if len(sides) != 2:
                    raise UsageError(
                        f"cca takes two inputs, and there are {len(sides)}: {', '.join(sides)}.",
                        hint="two inputs, or fuser pca(32)",
                    )
                values = side_by_side(parts, "cca")
                yield values[np.isfinite(values).all(axis=1)]

        rows, mean, spread = covariance(complete)
        variance = np.diag(spread)
        scale = np.where(is_constant(rows, mean, variance), 1.0, np.sqrt(variance))
        correlation = spread / scale[:, None] / scale
        (one, width), other = next(iter(sides.items())), list(sides)[1]
        white = {
            one: _whitening(correlation[:width, :width], one),
            other: _whitening(correlation[width:, width:], other),
        }
        self._require(rows, {alias: w.shape[1] for alias, w in white.items()})
        between = white[one].T @ correlation[:width, width:] @ white[other]
        left, correlations, right = np.linalg.svd(between, full_matrices=False)
        n = self._variates
        directions = white[one] @ left[:, :n]
        sign = signs(directions.T)
        self._correlations = np.ascontiguousarray(correlations[:n])
        self._sides = {
            one: _side(mean[:width], scale[:width], directions * sign),
            other: _side(mean[width:], scale[width:], white[other] @ right[:n].T * sign),
        }

    def transform(self, parts: Parts) -> Matrix:
        halves = []
        for alias, side in self._sides.items():
            values = np.asarray(parts[alias], np.float64)
            whole = np.isfinite(values).all(axis=1)
            half = np.full((len(values), side["directions"].shape[1]), np.nan)
            half[whole] = ((values[whole] - side["mean"]) / side["scale"]) @ side["directions"]
            halves.append(half)
        return np.concatenate(halves, axis=1)

    def estimators(self) -> Mapping[str, object]:
        return {"sides": self._sides, "correlations": self._correlations}

    def restore(self, estimators: Mapping[str, Any]) -> None:
        self._sides, self._correlations = estimators["sides"], estimators["correlations"]

    def _require(self, rows: int, ranks: Mapping[str, int]) -> None:
        said = " and ".join(f"{rank} of {alias}" for alias, rank in ranks.items())
        if self._variates > min(ranks.values()):
            raise UsageError(
                f"cca({self._variates}) of {said} independent features can't be.", hint=f"cca({min(ranks.values())})"
            )
        if rows <= sum(ranks.values()):
            raise UsageError(
                f"{rows} train rows have both inputs, and {said} independent features: cca would find perfect "
                "correlation in noise.",
                hint=f"narrower inputs: steps of each input, such as pca({rows // 4})"
                if rows > 7
                else "more train rows",
            )


def _side(mean: Matrix, scale: Matrix, directions: Matrix) -> dict[str, Matrix]:
    return {key: np.ascontiguousarray(v) for key, v in (("mean", mean), ("scale", scale), ("directions", directions))}


def _whitening(correlation: Matrix, alias: str) -> Matrix:
    """(width, rank): what makes of standardized features uncorrelated ones of variance 1."""
    variances, vectors = np.linalg.eigh(correlation)
    keep = variances > _CUT_OFF * max(variances[-1], 0.0)
    if not keep.any() or variances[-1] <= 0:
        raise ConflictError(
            f"The input {alias!r} is the same in every train row that has both inputs.", hint="leave it out"
        )
    return np.asarray(vectors[:, keep] / np.sqrt(variances[keep]))
