"""The models are scikit-learn's; what is made of their scores, and how they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_curve
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.svm import LinearSVC

from featstore.errors import UsageError
from featstore.learn.models import Probe, fit, youden
from featstore.learn.request import ProbeRequest

from .reference import is_line


def data(rng: np.random.Generator, classes: int, rows: int = 90) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    y = rng.integers(0, classes, rows)
    x = rng.normal(size=(rows, 3)) + 1.2 * np.eye(3)[y]
    return x, y, np.array([f"p{i // 2}" for i in range(rows)], object)


def fitted(request: ProbeRequest, x: Any, y: Any, patients: Any, classes: int) -> tuple[Probe, list[str]]:
    said: list[str] = []
    positive = 1 if classes == 2 else None
    return fit(request, request.values[0], tuple(range(classes)), positive, x, y, patients, said.append), said


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weight", [None, "balanced"])
def test_scores_and_calls_are_scikit_learns(rng: np.random.Generator, classes: int, weight: str | None) -> None:
    x, y, patients = data(rng, classes)
    probe, _ = fitted(ProbeRequest(C=0.3, class_weight=weight), x, y, patients, classes)
    model = LogisticRegression(C=0.3, max_iter=1000, class_weight=weight).fit(x, y)
    np.testing.assert_array_equal(probe.scores(x), model.predict_proba(x))
    np.testing.assert_array_equal(probe.called(probe.scores(x)), model.predict(x))
    probe, _ = fitted(ProbeRequest(model="svm", C=0.3, class_weight=weight), x, y, patients, classes)
    svm = LinearSVC(C=0.3, random_state=42, class_weight=weight).fit(x, y)
    decisions = svm.decision_function(x)
    np.testing.assert_array_equal(probe.scores(x) if classes > 2 else probe.scores(x)[:, 1], decisions)
    np.testing.assert_array_equal(probe.called(probe.scores(x)), svm.predict(x))


def test_neighbours_and_ridge_are_scikit_learns(rng: np.random.Generator) -> None:
    x, y, patients = data(rng, 3)
    probe, _ = fitted(ProbeRequest(model="knn", k=4), x, y, patients, 3)
    model = KNeighborsClassifier(4, algorithm="brute").fit(x, y)
    np.testing.assert_array_equal(probe.scores(x), model.predict_proba(x))
    np.testing.assert_array_equal(probe.called(probe.scores(x)), model.predict(x))
    numbers = x @ [1.0, 2, 3] + rng.normal(size=90)
    for request, other in [
        (ProbeRequest(model="ridge", alpha=2), Ridge(2.0)),
        (ProbeRequest(model="knn", k=4), KNeighborsRegressor(4, algorithm="brute")),
    ]:
        probe = fit(request, request.values[0], (), None, x, numbers, patients, print)
        np.testing.assert_array_equal(probe.scores(x)[:, 0], other.fit(x, numbers).predict(x))
    with pytest.raises(UsageError, match="k is 91, and there are 90 train rows"):
        fitted(ProbeRequest(model="knn", k=91), x, y, patients, 3)


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_of_a_svm_follow_its_decisions(rng: np.random.Generator, classes: int) -> None:
    x, y, patients = data(rng, classes, 400)
    probe, said = fitted(ProbeRequest(model="svm"), x, y, patients, classes)
    scores = probe.scores(x)
    p = probe.probabilities(scores)
    assert said == []
    assert p is not None
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert ((p >= 0) & (p <= 1)).all()
    for c in range(classes):
        assert p[:, c].mean() == pytest.approx((y == c).mean(), abs=0.05)
    if classes == 2:
        assert (np.diff(p[np.argsort(scores[:, 1]), 1]) >= 0).all()


def test_a_svm_without_enough_patients_has_no_probabilities(rng: np.random.Generator) -> None:
    x, y, patients = data(rng, 2, 20)
    patients[y == 1] = "one"
    probe, said = fitted(ProbeRequest(model="svm"), x, y, patients, 2)
    assert probe.probabilities(probe.scores(x)) is None
    assert any("too few patients" in text for text in said)


def test_platt_parts_keep_patients_together(rng: np.random.Generator) -> None:
    from featstore.learn.models import _parts

    _, y, patients = data(rng, 3)
    found = _parts(y, patients, 42)
    assert found is not None
    assert len(found) == 5
    assert sorted(np.concatenate([outside for _, outside in found]).tolist()) == list(range(90))
    for inside, outside in found:
        assert not set(patients[inside]) & set(patients[outside])
        assert set(y[inside]) == {0, 1, 2}


def test_probabilities_are_learned_from_patients_that_were_not_seen(rng: np.random.Generator) -> None:
    """Of pure noise in many columns, a svm is sure of what it has seen; its probabilities must not be."""
    x, y = rng.normal(size=(60, 100)), np.arange(60) % 2
    probe, said = fitted(ProbeRequest(model="svm"), x, y, np.array([f"p{i:02}" for i in range(60)], object), 2)
    decisions = np.empty(60)
    for inside, outside in StratifiedGroupKFold(5, shuffle=True, random_state=42).split(x, y, np.arange(60)):
        decisions[outside] = LinearSVC(random_state=42).fit(x[inside], y[inside]).decision_function(x[outside])
    assert probe.platt is not None
    ((slope, intercept),) = probe.platt
    targets = np.where(y == 1, 31 / 32, 1 / 32)
    assert is_line((slope, intercept), decisions, targets, np.ones(60))
    assert any("no better than chance" in text for text in said) == (slope <= 0)


@pytest.mark.parametrize("model", ["logistic", "svm", "knn"])
@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_saved_comes_back(tmp_path: Path, rng: np.random.Generator, model: str, classes: int) -> None:
    x, y, patients = data(rng, classes)
    probe, _ = fitted(ProbeRequest(model=model), x, y, patients, classes)
    probe.save(tmp_path / "probe.skops")
    again = Probe.load(tmp_path / "probe.skops")
    np.testing.assert_array_equal(again.scores(x), probe.scores(x))
    np.testing.assert_array_equal(again.probabilities(again.scores(x)), probe.probabilities(probe.scores(x)))
    np.testing.assert_array_equal(again.called(again.scores(x)), probe.called(probe.scores(x)))
    assert (again.classes, again.positive, again.threshold) == (probe.classes, probe.positive, probe.threshold)


def test_too_few_iterations_are_said(rng: np.random.Generator) -> None:
    x, y, patients = data(rng, 2)
    for model in ("logistic", "svm"):
        _, said = fitted(ProbeRequest(model=model, max_iter=1), x * 1000, y, patients, 2)
        assert said[0].startswith(f"{model} did not converge within 1 iterations at 1")
        assert "--max-iter 10" in said[0]


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=20))
def test_youden_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s / 5 for s, _ in rows]), np.array([p for _, p in rows])
    if positive.all() or not positive.any():
        return
    false, true, cuts = roc_curve(positive, scores, drop_intermediate=False)
    hits, misses = np.rint(true * positive.sum()), np.rint(false * (~positive).sum())
    j = hits[1:] * (~positive).sum() - misses[1:] * positive.sum()  # the first cut calls nobody
    expected = cuts[1:][j.argmax()]
    np.testing.assert_array_equal(scores > youden(scores, positive), scores >= expected)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model": "logistics"}, "Did you mean 'logistic'"),
        ({"model": "knn", "C": 1.0}, "knn has no C; its parameter is k"),
        ({"model": "logistic", "k": (5,)}, "logistic has no k"),
        ({"C": 0}, "C must be a number above 0, not 0"),
        ({"C": (1.0, float("nan"))}, "C must be a number above 0"),
        ({"model": "knn", "k": 2.5}, "k must be a whole number"),
        ({"model": "ridge", "alpha": -1}, "alpha must be"),
        ({"class_weight": "even"}, "class_weight is None or 'balanced'"),
        ({"model": "knn", "class_weight": "balanced"}, "knn can't weigh"),
        ({"threshold": 0.3}, "threshold is 0.5 or 'youden'"),
        ({"max_iter": 0}, "max_iter"),
        ({"seed": -1}, "seed"),
        ({"bootstrap": -1}, "bootstrap"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ProbeRequest(**options)


def test_values_are_taken_once_in_their_order() -> None:
    assert ProbeRequest(C=(10, 1, 10.0)).values == (10.0, 1.0)
    assert ProbeRequest(C=np.logspace(-1, 1, 3)).values == (0.1, 1.0, 10.0)
    assert ProbeRequest(model="knn", k=None).values == (5,)
