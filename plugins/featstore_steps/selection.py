"""Selection: the features that tell most of the label, each by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore import ConflictError, Step, UsageError
from featstore_steps.arguments import whole_number
from featstore_steps.labels import read_labels
from featstore_steps.moments import Moments, is_constant
from featstore_steps.passes import NO_ROWS, SPLIT_OTHERWISE, Blocks, Matrix, matrix

_HINT = "pca(32) needs no labels"


class Select(Step):
    """The k features of the largest F: of an analysis of variance for classes, of a regression for numbers.

    Gives a ``SelectKBest`` of ``f_classif`` or ``f_regression``, whose scores are had as sums over rows. Of equal
    features the later ones are taken, as scikit-learn takes them; scores are rounded to 12 digits, so that features
    which say the same in other units are equal.

    Raises:
        UsageError: no labels, or those of survival; missing values; fewer features than k, rows than they need, or one
            class alone.
    """

    labelled = True

    def __init__(self, k: float | str) -> None:
        self._k = whole_number(k, "select(k): k", hint="select(100)")

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.feature_selection import SelectKBest, f_classif, f_regression

        numeric = _are_numbers(blocks)
        scores, between, within = _of_numbers(blocks) if numeric else _of_classes(blocks)
        width = len(scores)
        if self._k > width:
            raise UsageError(f"There are {width} features, so select({self._k}) can't be.", hint=f"select({width})")
        selector = SelectKBest(f_regression if numeric else f_classif, k=self._k)
        selector.scores_ = np.array([float(f"{score:.12g}") for score in scores])
        selector.pvalues_ = _chance(between, within, selector.scores_)
        selector.n_features_in_ = width
        return selector


def _are_numbers(blocks: Blocks) -> bool:
    """Whether the labels are numbers, and not classes, by those of the first block."""
    for block in blocks():
        return read_labels(block.labels, "select", hint=_HINT).dtype.kind == "f"
    raise ConflictError(NO_ROWS, hint=SPLIT_OTHERWISE)


def _of_classes(blocks: Blocks) -> tuple[Matrix, int, int]:
    """F of each feature, (width,), and the degrees of freedom between and within classes."""
    by_class: dict[Any, Moments] = {}
    for values, labels in _labelled(blocks):
        for name in np.unique(labels):
            by_class.setdefault(name, Moments()).add(values[labels == name])
    moments = [by_class[name] for name in sorted(by_class)]
    rows = int(sum(m.count[0] for m in moments))
    if len(moments) < 2 or rows <= len(moments):
        raise UsageError(
            f"select tells classes apart, and there are {len(moments)} in {rows} train rows.",
            hint="two classes or more, with more rows than classes",
        )
    count, mean = np.stack([m.count for m in moments]), np.stack([m.mean for m in moments])
    middle = (count * mean).sum(axis=0) / rows
    between = (count * (mean - middle) ** 2).sum(axis=0)
    within = np.sum([m.squares for m in moments], axis=0)
    # What rounding alone makes of features that don't vary, at all or within classes, is no variance.
    within = np.where(is_constant(rows, middle, within / rows), 0.0, within)
    between = np.where(is_constant(rows, middle, between / rows), 0.0, between)
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = (between / (len(moments) - 1)) / (within / (rows - len(moments)))
    return scores, len(moments) - 1, rows - len(moments)


def _of_numbers(blocks: Blocks) -> tuple[Matrix, int, int]:
    """F of each feature's correlation with the label, (width,), and the degrees of freedom."""
    features, label = Moments(), Moments()
    for values, labels in _labelled(blocks):
        features.add(values)
        label.add(labels[:, None])
    rows = int(label.count[0])
    if rows < 3 or is_constant(rows, label.mean, label.variance).any():
        raise UsageError(
            f"select needs three train rows or more with labels that vary, and there are {rows}.", hint=_HINT
        )
    products = np.zeros(len(features.mean))
    for values, labels in _labelled(blocks):
        products += ((values - features.mean) * (labels - label.mean)[:, None]).sum(axis=0)
    constant = is_constant(rows, features.mean, features.variance)
    size = np.sqrt(np.where(constant, 1.0, features.squares) * label.squares)
    share = np.where(constant, 0.0, np.clip(products / size, -1, 1) ** 2)
    with np.errstate(divide="ignore"):
        scores = np.where(share < 1, share / (1 - share) * (rows - 2), np.finfo(np.float64).max)
    return scores, 1, rows - 2


def _labelled(blocks: Blocks) -> Iterator[tuple[Matrix, npt.NDArray[Any]]]:
    """Values (rows, width), without gaps, and labels (rows,)."""
    for block in blocks():
        yield matrix(block, no_gaps_for="select"), read_labels(block.labels, "select", hint=_HINT)


def _chance(between: int, within: int, scores: Matrix) -> Matrix:
    """The p values of F."""
    from scipy.special import fdtrc

    with np.errstate(invalid="ignore"):
        return np.asarray(fdtrc(between, within, scores), np.float64)
