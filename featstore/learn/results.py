"""What a probe found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The fold of what all folds' models say of the rows that each has not seen.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of one split.

    Attributes:
        value: None where it isn't defined.
        low, high: the ends of the 95 % bootstrap interval; None where there is none.
        resamples: how many resamples the interval is of; the others lack a class.
        reason: why there is no value, or no interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    resamples: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SplitMeasures:
    """One split, or one of one fold.

    Attributes:
        fold: empty where there are none; ``all``: the rows of ``val`` of all folds, each by the model that has not seen
            it.
        rows, patients: how many were measured.
        labels: rows by label, of classes.
        threshold: the score above which a row is called positive; None: the class of the highest score is called.
        measures: by name: ``auc``, ``average_precision``, ``accuracy``, ``balanced_accuracy``, ``sensitivity``,
            ``specificity``, ``brier``, ``ece``, ``calibration_slope`` and ``calibration_intercept``; of numbers ``r2``,
            ``mae``, ``rmse`` and ``pearson_r``. Empty where there is no row.
    """

    split: str
    fold: str
    rows: int
    patients: int
    labels: Mapping[str, int]
    threshold: float | None
    measures: Mapping[str, Measured]


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """One measure of one split over the folds.

    Attributes:
        sd: with n - 1; None of one fold.
        folds: how many have such a value.
    """

    split: str
    metric: str
    mean: float
    sd: float | None
    folds: int


@dataclass(slots=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        table: ``NAME@vK``.
        parameters: all that was asked for, the value that was taken, and the versions of what computed it.
        classes: the labels' classes in their order; empty where labels are numbers.
        positive: of two classes, the one that sensitivity is of.
        tuned: the score on val of every value that was tried; empty where nothing was tuned.
        splits: ``train`` and ``val`` first; of folds, fold by fold, then ``val`` of all.
        folds: mean and standard deviation over the folds.
        notes: what one should know before one believes the numbers.
        path: the run's folder, with ``predictions.parquet`` and ``probe.skops`` (of folds ``probe-fold0.skops``, …).
    """

    table: str
    model: str
    parameters: dict[str, Any]
    classes: list[Any]
    positive: Any
    tuned: list[dict[str, Any]]
    splits: list[SplitMeasures]
    folds: list[FoldSummary]
    notes: list[str]
    run_id: str = ""
    path: Path = field(default_factory=Path)

    def of(self, split: str, fold: str = "") -> SplitMeasures:
        """The measures of one split, and fold where there are folds.

        Raises:
            KeyError: it wasn't measured.
        """
        for found in self.splits:
            if (found.split, found.fold) == (split, fold):
                return found
        raise KeyError((split, fold))
