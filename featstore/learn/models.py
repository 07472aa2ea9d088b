"""The models themselves, which are scikit-learn's, and what makes predictions of their scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from featstore.errors import UsageError, one_line
from featstore.learn.calibration import platt, sigmoid
from featstore.learn.request import ProbeRequest
from featstore.tables.fitted import TRUSTED

Array = npt.NDArray[Any]
#: At most so many parts, for Platt's scaling.
_PLATT_FOLDS = 5


@dataclass(frozen=True)
class Probe:
    """A fitted model.

    Attributes:
        estimator: scikit-learn's. It was fitted on the indices of the classes.
        classes: the labels' classes in their order; empty where labels are numbers.
        positive: the index of the positive one of two classes.
        platt: of ``svm``, slope and intercept that make probabilities of decision values, one pair a class, or one for
            two classes; None where there were too few patients.
        threshold: the score of the positive class above which it is called; None: the class of the highest score is.
    """

    model: str
    estimator: Any
    classes: tuple[Any, ...] = ()
    positive: int | None = None
    platt: tuple[tuple[float, float], ...] | None = None
    threshold: float | None = None

    def scores(self, x: Array) -> Array:
        """float64 (rows, classes): decision values of ``svm``, else probabilities; (rows, 1) where labels are numbers.

        Args:
            x: (rows, width), the fused features.
        """
        if not self.classes:
            return np.asarray(self.estimator.predict(x), np.float64).reshape(-1, 1)
        if self.model != "svm":
            return np.asarray(self.estimator.predict_proba(x), np.float64)
        return _columns(self.estimator.decision_function(x))

    def probabilities(self, scores: Array) -> Array | None:
        """float64 (rows, classes) that sum to 1, of :meth:`scores`; None where there are none."""
        if not self.classes:
            return None
        if self.model != "svm":
            return scores
        if self.platt is None:
            return None
        if len(self.classes) == 2:
            ((slope, intercept),) = self.platt
            return np.stack([sigmoid(sign * (slope * scores[:, 1] + intercept)) for sign in (-1, 1)], axis=1)
        each = np.stack([sigmoid(s * scores[:, i] + c) for i, (s, c) in enumerate(self.platt)], axis=1)
        total = each.sum(axis=1, keepdims=True)
        return np.where(total > 0, each / np.where(total > 0, total, 1), 1 / len(self.classes))

    def called(self, scores: Array) -> Array:
        """The index of the class that is called, by row of :meth:`scores`."""
        if self.threshold is None or self.positive is None:
            return np.asarray(scores.argmax(axis=1))
        return np.where(scores[:, self.positive] > self.threshold, self.positive, 1 - self.positive)

    def save(self, path: Path) -> None:
        """Write it with skops, which :meth:`load` reads: never pickle."""
        from skops import io as skops

        skops.dump(dict(vars(self)), path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            Exception: skops' own, where the file holds a type that isn't trusted; nothing of it is run.
        """
        from skops import io as skops

        return cls(**skops.load(path, trusted=list(TRUSTED)))


def fit(
    request: ProbeRequest,
    value: float,
    classes: tuple[Any, ...],
    positive: int | None,
    x: Array,
    y: Array,
    patients: Array,
    say: Callable[[str], None],
) -> Probe:
    """Fit a model on the train rows, with one value of its parameter.

    Args:
        x: float64 (rows, width). y: (rows,) the indices of the classes, or numbers. patients: whose each row is.
        say: is told what the solver warns of.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator = _estimator(request, value, bool(classes), len(x)).fit(x, y)
        pairs = _platt(request, value, x, y, patients) if request.model == "svm" else None
    for text in dict.fromkeys(_told(warning, request, value) for warning in caught):
        say(text)
    if request.model == "svm" and pairs is None:
        say(
            "A class has too few patients among the train rows to learn probabilities from decision values, so there "
            "is no calibration."
        )
    if pairs and min(slope for slope, _ in pairs) <= 0:
        say(
            "Decision values tell a class of the train rows no better than chance where the svm has not seen the "
            "patient, so its probabilities go against them."
        )
    return Probe(request.model, estimator, classes, positive, pairs)


def youden(scores: Array, is_positive: Array) -> float:
    """The threshold at which sensitivity + specificity is highest; of several, the highest.

    Rows above it are called positive: it lies just below one row's score.

    Args:
        scores: (rows,) of the positive class. is_positive: (rows,) bool; both kinds are there.
    """
    order = np.argsort(-scores, kind="stable")
    hits, misses = is_positive[order].cumsum(), (~is_positive[order]).cumsum()
    last = np.flatnonzero(np.r_[scores[order][1:] != scores[order][:-1], True])
    # In whole numbers, so that what is equally good is equal.
    index = hits[last] * misses[-1] - misses[last] * hits[-1]
    return float(np.nextafter(scores[order][last[index.argmax()]], -np.inf))


def _estimator(request: ProbeRequest, value: float, classes: bool, rows: int) -> Any:
    if request.model == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(
            C=value, max_iter=request.max_iter, random_state=request.seed, class_weight=request.class_weight
        )
    if request.model == "svm":
        from sklearn.svm import LinearSVC

        return LinearSVC(
            C=value, max_iter=request.max_iter, random_state=request.seed, class_weight=request.class_weight
        )
    if request.model == "ridge":
        from sklearn.linear_model import Ridge

        return Ridge(alpha=value)
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    if value > rows:
        raise UsageError(f"k is {value:g}, and there are {rows} train rows with a label.", hint=f"--k {rows} at most")
    kind = KNeighborsClassifier if classes else KNeighborsRegressor
    return kind(n_neighbors=int(value), algorithm="brute")  # a tree's ties would depend on its leaves


def _platt(request: ProbeRequest, value: float, x: Array, y: Array, patients: Array) -> Any:
    """Platt's scaling of the decision values that models give for train patients they haven't seen, a pair a class."""
    folds = _parts(y, patients, request.seed)
    if folds is None:
        return None
    decisions = np.empty((len(y), len(np.unique(y))))
    for inside, outside in folds:
        model = _estimator(request, value, True, len(inside)).fit(x[inside], y[inside])
        decisions[outside] = _columns(model.decision_function(x[outside]))
    columns = [1] if decisions.shape[1] == 2 else range(decisions.shape[1])
    return tuple(platt(decisions[:, c], y == c) for c in columns)


def _parts(y: Array, patients: Array, seed: int) -> list[tuple[Array, Array]] | None:
    """Train rows in parts by patient, such that what is left of each part has every class; None if there are none."""
    from sklearn.model_selection import StratifiedGroupKFold

    classes = np.unique(y)
    fewest = min(len(set(patients[y == c])) for c in classes)
    for count in range(min(_PLATT_FOLDS, fewest), 1, -1):
        dealer = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        found = list(dealer.split(np.zeros((len(y), 1)), y, np.unique(patients, return_inverse=True)[1]))
        if all(len(np.unique(y[inside])) == len(classes) and len(outside) for inside, outside in found):
            return found
    return None


def _columns(decisions: Array) -> Array:
    """Decision values, a column a class; of two classes the one is the other's negative."""
    values = np.asarray(decisions, np.float64)
    return np.stack([-values, values], axis=1) if values.ndim == 1 else values


def _told(warning: warnings.WarningMessage, request: ProbeRequest, value: float) -> str:
    from sklearn.exceptions import ConvergenceWarning

    if issubclass(warning.category, ConvergenceWarning):
        return (
            f"{request.model} did not converge within {request.max_iter} iterations at {value:g}: its numbers may be "
            f"others with more; --max-iter {10 * request.max_iter}, or materialize with --step standardize."
        )
    return f"{request.model} at {value:g}: {one_line(str(warning.message), 200)}"
