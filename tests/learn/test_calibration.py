"""Lines through log-odds: the maximum of the likelihood, whenever there is one."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from featstore.learn.calibration import cox, lines, logit, overlap, platt, sigmoid

from .reference import is_line, parted


@settings(max_examples=150)
@given(st.data())
def test_lines_solve_their_equations_and_exist_where_classes_overlap(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 20))
    grid = st.integers(-6, 6).map(lambda n: n * data.draw(st.sampled_from([0.01, 1.0, 5.0])))
    x = np.array(data.draw(st.lists(grid, min_size=rows, max_size=rows)))
    positive = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    counts = st.lists(st.integers(0, 3), min_size=rows, max_size=rows)
    weights = np.array(data.draw(st.lists(counts.filter(any), min_size=1, max_size=3)), float)
    there = overlap(x, positive, weights)
    for line, w, exists in zip(cox(x, positive, weights), weights, there, strict=True):
        copies = np.repeat(np.arange(rows), w.astype(int))
        assert exists == (not parted(x[copies], positive[copies]))
        assert np.isfinite(line).all() == exists
        assert not exists or is_line(line, x, positive, w)


def test_cox_equals_scikit_learn_without_a_penalty(rng: np.random.Generator) -> None:
    x = rng.normal(size=400)
    positive = rng.random(400) < sigmoid(0.7 * x - 0.3)
    ours = cox(x, positive, np.ones((1, 400)))[0]
    model = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(x[:, None], positive)
    np.testing.assert_allclose(ours, [model.coef_[0, 0], model.intercept_[0]], rtol=1e-7)


def test_a_model_that_is_right_has_slope_one_and_intercept_zero(rng: np.random.Generator) -> None:
    p = rng.random(100_000)
    np.testing.assert_allclose(cox(logit(p), rng.random(100_000) < p, np.ones((1, 100_000)))[0], [1, 0], atol=0.04)


def test_platt_is_scikit_learns(rng: np.random.Generator) -> None:
    x = rng.normal(size=(300, 3))
    y = (x[:, 0] + rng.normal(size=300) > 0).astype(int)
    parts = [(np.arange(300)[np.arange(300) % 3 != i], np.arange(300)[np.arange(300) % 3 == i]) for i in range(3)]
    theirs = CalibratedClassifierCV(LinearSVC(random_state=0), cv=parts, ensemble=False).fit(x, y)
    (fitted,) = theirs.calibrated_classifiers_
    decisions = np.empty(300)
    for inside, outside in parts:
        decisions[outside] = LinearSVC(random_state=0).fit(x[inside], y[inside]).decision_function(x[outside])
    slope, intercept = platt(decisions, y == 1)
    p = sigmoid(slope * fitted.estimator.decision_function(x) + intercept)
    np.testing.assert_allclose(p, theirs.predict_proba(x)[:, 1], atol=1e-4)  # their solver stops earlier


def test_platt_of_classes_that_are_parted_and_of_equal_values() -> None:
    decisions, positive = np.array([-1.0, -2, 1, 3]), np.array([False, False, True, True])
    slope, intercept = platt(decisions, positive)
    assert slope > 0
    assert is_line((slope, intercept), decisions, np.where(positive, 3 / 4, 1 / 4), np.ones(4))
    slope, intercept = platt(np.full(4, 7.0), positive)
    assert (slope, sigmoid(np.array(intercept))) == (0, pytest.approx(0.5))


def test_lines_far_from_the_origin(rng: np.random.Generator) -> None:
    x = 1e4 + rng.normal(size=50)
    targets = (rng.random(50) < 0.5).astype(float)
    (line,) = lines(x, targets, np.ones((1, 50)))
    p = sigmoid(line[0] * x + line[1])
    assert abs((targets - p).sum()) < 1e-6
