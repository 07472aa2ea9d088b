"""What is measured of a probe, on any number of reweighted copies of the same rows at once.

Every measure takes ``weights``, (b, n): how often each of the n rows counts, in each of b copies. All ones is the split
itself; the counts of a resample give the bootstrap, without copying a row. A value that isn't defined is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.learn.calibration import cox, logit, overlap

Array = npt.NDArray[Any]
#: Of equal width, over [0, 1], for the expected calibration error.
ECE_BINS = 10


@dataclass(frozen=True)
class ClassMeasures:
    """Measures of labels that are classes.

    Of two classes AUC, average precision, sensitivity, specificity and calibration are the positive class's. Of more,
    they are means over the classes that occur, each against the rest, and there is no calibration slope. Expected
    calibration error: of two classes, of the positive one's probability; of more, of the called class's.

    Attributes:
        y: (n,) the index of each row's class.
        scores: (n, classes) what rows are ranked by.
        probabilities: (n, classes), or None where the model has none.
        predicted: (n,) the index of the class that is called.
        positive: the index of the positive class; None where there are more than two.
        classes: their names, to tell of.
    """

    y: Array
    scores: Array
    probabilities: Array | None
    predicted: Array
    positive: int | None
    classes: Sequence[str]

    @cached_property
    def occurring(self) -> list[int]:
        return [int(c) for c in np.unique(self.y)]

    @property
    def _measured(self) -> list[int]:
        return self.occurring if self.positive is None else [self.positive]

    def __call__(self, weights: Array) -> dict[str, Array]:
        """Measure → (b,)."""
        total, hit = weights.sum(axis=1), self.predicted == self.y
        ranked = [_ranked(self.scores[:, c], self.y == c, weights) for c in self._measured]
        recall = [_share(weights, self.y == c, hit) for c in self.occurring]
        called = [_share(weights, self.y == c, self.predicted == c) for c in self._measured]
        others = [_share(weights, self.y != c, self.predicted != c) for c in self._measured]
        found = {
            "auc": np.mean([auc for auc, _ in ranked], axis=0),
            "average_precision": np.mean([precision for _, precision in ranked], axis=0),
            "accuracy": (weights @ hit.astype(np.float64)) / total,
            "balanced_accuracy": np.mean(recall, axis=0),
            "sensitivity": np.mean(called, axis=0),
            "specificity": np.mean(others, axis=0),
        }
        return found | self._calibration(weights, total)

    def _calibration(self, weights: Array, total: Array) -> dict[str, Array]:
        nothing = np.full(len(weights), np.nan)
        names = ["brier", "ece"] + ([] if self.positive is None else ["calibration_slope", "calibration_intercept"])
        p = self.probabilities
        if p is None:
            return dict.fromkeys(names, nothing)
        if self.positive is None:
            squares = ((p - np.eye(p.shape[1])[self.y]) ** 2).sum(axis=1)
            sure, right = p.max(axis=1), p.argmax(axis=1) == self.y
        else:
            sure, right = p[:, self.positive], self.y == self.positive
            squares = (sure - right) ** 2
        bins = np.minimum((sure * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        gaps = weights @ ((sure - right)[:, None] * np.eye(ECE_BINS)[bins])
        found = {"brier": (weights @ squares) / total, "ece": np.abs(gaps).sum(axis=1) / total}
        if self.positive is None:
            return found
        odds = logit(sure)
        line = cox(odds, right, weights) if np.isfinite(odds).all() else np.full((len(weights), 2), np.nan)
        return found | {"calibration_slope": line[:, 0], "calibration_intercept": line[:, 1]}

    def reason(self, metric: str) -> str:
        """Why a measure isn't defined on these rows."""
        if metric.startswith("calibration") and self.probabilities is not None:
            return self._no_line()
        of_probabilities = metric in {"brier", "ece"} or metric.startswith("calibration")
        return "the model has no probabilities" if of_probabilities else self._one_class()

    def _one_class(self) -> str:
        return f"all rows are of the class {self.classes[self.occurring[0]]}"

    def _no_line(self) -> str:
        assert self.positive is not None
        assert self.probabilities is not None
        if len(self.occurring) < 2:
            return self._one_class()
        odds = logit(self.probabilities[:, self.positive])
        if not np.isfinite(odds).all():
            return "some probabilities are 0 or 1, which have no log-odds"
        if np.ptp(odds) == 0:
            return "all probabilities are the same"
        if not overlap(odds, self.y == self.positive, np.ones((1, len(odds))))[0]:
            return "the probabilities part the classes without an error"
        return "the fit does not converge"


@dataclass(frozen=True)
class NumberMeasures:
    """Measures of labels that are numbers.

    Attributes:
        y: (n,) the labels.
        values: (n,) what the model says.
    """

    y: Array
    values: Array

    def __call__(self, weights: Array) -> dict[str, Array]:
        """Measure → (b,)."""
        total, wrong = weights.sum(axis=1), self.y - self.values
        squares = weights @ wrong**2
        # Moments about a value amid the data: differences of large numbers would lose their digits.
        y, v = self.y - self.y.mean(), self.values - self.values.mean()
        of_y, of_v = (_varies(a, weights) * _moment(a, a, weights, total) for a in (y, v))
        with np.errstate(divide="ignore", invalid="ignore"):
            r2 = np.where(of_y > 0, 1 - squares / of_y, np.nan)
            r = np.where((of_y > 0) & (of_v > 0), _moment(y, v, weights, total) / np.sqrt(of_y * of_v), np.nan)
        return {
            "r2": r2,
            "mae": (weights @ np.abs(wrong)) / total,
            "rmse": np.sqrt(squares / total),
            "pearson_r": np.clip(r, -1, 1),
        }

    def reason(self, metric: str) -> str:
        """Why a measure isn't defined on these rows."""
        return "all labels are the same" if np.ptp(self.y) == 0 else "all predictions are the same"


def _ranked(scores: Array, positive: Array, weights: Array) -> tuple[Array, Array]:
    """AUC and average precision; rows of one score are taken together. NaN where a class has no weight."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    counts, is_positive = weights[:, order], positive[order]
    above, below = (np.add.reduceat(counts * group, starts, axis=1) for group in (is_positive, ~is_positive))
    hits, misses = above.sum(axis=1), below.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        auc = (above * (below.cumsum(axis=1) - below / 2)).sum(axis=1) / (hits * misses)
        found = above[:, ::-1].cumsum(axis=1)
        called = found + below[:, ::-1].cumsum(axis=1)
        precision = np.where(called > 0, found / called, 0.0)
        average = (precision * above[:, ::-1]).sum(axis=1) / hits
    return auc, np.where(misses > 0, average, np.nan)


def _share(weights: Array, among: Array, of: Array) -> Array:
    """The share of the rows ``among`` that are ``of``, NaN where there are none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((weights @ (among & of).astype(np.float64)) / (weights @ among.astype(np.float64)))


def _moment(a: Array, b: Array, weights: Array, total: Array) -> Array:
    """The sum of products about the means."""
    return np.asarray(weights @ (a * b) - (weights @ a) * (weights @ b) / total)


def _varies(a: Array, weights: Array) -> Array:
    """Whether more than one value has weight: told from the values, since a sum of squares is rarely exactly 0."""
    counts = weights > 0
    return np.asarray(np.where(counts, a, -np.inf).max(axis=1) > np.where(counts, a, np.inf).min(axis=1))
