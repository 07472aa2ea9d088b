"""Fitting every value of a model's parameter, fold by fold, and choosing among them on val."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import UsageError
from featstore.learn.models import Probe, fit, youden
from featstore.learn.request import MODELS, ProbeRequest
from featstore.learn.rows import Rows
from featstore.learn.tasks import Task

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fold:
    """A table, or one fold of it, with the models that were fitted on its train rows. The features are gone.

    Attributes:
        name: ``fold0``; empty where there are no folds.
        y, known: see :meth:`Task.encode`.
        trials: value of the parameter → the model and its scores of all rows.
    """

    name: str
    rows: Rows
    y: Array
    known: npt.NDArray[np.bool_]
    trials: Mapping[float, tuple[Probe, Array]]

    def within(self, split: str) -> npt.NDArray[np.bool_]:
        """The rows of a split whose labels are known."""
        return np.asarray((self.rows.splits == split) & self.known)


@dataclass(frozen=True)
class Chosen:
    """A fold with the model that was taken, and its scores of all rows."""

    fold: Fold
    probe: Probe
    scores: Array

    @classmethod
    def of(cls, fold: Fold, task: Task, value: float, *, youden: bool) -> Chosen:
        probe, scores = fold.trials[value]
        return cls(fold, _with_threshold(fold, task, probe, scores) if youden else probe, scores)


def fit_all(name: str, rows: Rows, task: Task, request: ProbeRequest, say: Callable[[str], None]) -> Fold:
    """Fit every value on the train rows of one fold, and score all of its rows."""
    y, known = task.encode(rows.labels)
    train = (rows.splits == "train") & known
    x, patients = rows.x[train], rows.patients[train]
    trials = {}
    for value in request.values:
        probe = fit(request, value, task.classes, task.positive, x, y[train], patients, say)
        trials[value] = probe, probe.scores(rows.x)
    return Fold(name, replace(rows, x=np.empty((len(y), 0))), y, known, trials)


def choose(folds: Sequence[Fold], task: Task, request: ProbeRequest) -> tuple[float, list[dict[str, Any]]]:
    """The value of the parameter that is best on val: its mean over the folds; of equals, the first that was given.

    Returns:
        the value, and the scores of all that were tried: none where only one was given.

    Raises:
        UsageError: several were given, and there is no val, or its score isn't defined.
    """
    if len(request.values) == 1:
        return request.values[0], []
    parameter = MODELS[request.model].parameter
    once = f"give --{parameter} once, or split with --ratio val=0.2 --stratify label"
    having = [fold for fold in folds if fold.within("val").any()]
    if not having:
        raise UsageError(
            f"Several values of {parameter} were given, and no row of a split val is there to choose by.", hint=once
        )
    tried = []
    for value in request.values:
        scores = np.array([_score(fold, task, value) for fold in having])
        if np.isnan(scores).all():
            raise UsageError(
                f"{parameter} can't be chosen by {task.metric} on val: it isn't defined, because all labels of val, or "
                "all predictions, are the same.",
                hint=once,
            )
        tried.append({parameter: value, task.metric: float(np.nanmean(scores))})
    best = max(range(len(tried)), key=lambda i: tried[i][task.metric])
    return request.values[best], tried


def _score(fold: Fold, task: Task, value: float) -> float:
    probe, scores = fold.trials[value]
    chosen = fold.within("val")
    measures = task.measures(probe, fold.y[chosen], scores[chosen])
    return float(measures(np.ones((1, int(chosen.sum()))))[task.metric][0])


def _with_threshold(fold: Fold, task: Task, probe: Probe, scores: Array) -> Probe:
    chosen = fold.within("val")
    is_positive = fold.y[chosen] == task.positive
    if not 0 < is_positive.sum() < len(is_positive):
        what = "has rows of one class only" if len(is_positive) else "has no row"
        where = f" of {fold.name}" if fold.name else ""
        raise UsageError(
            f"The threshold can't be tuned: the split val{where} {what}.",
            hint="leave out --threshold, or split with --ratio val=0.2 --stratify label",
        )
    return replace(probe, threshold=youden(scores[chosen, task.positive], is_positive))
