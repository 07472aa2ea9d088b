"""Measures equal scikit-learn's, with ties, classes that are missing and patients that are drawn several times."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from featstore.learn.bootstrap import interval, resampled
from featstore.learn.calibration import logit
from featstore.learn.measures import ClassMeasures, NumberMeasures

from . import reference
from .reference import ODD_IDS, close


@st.composite
def predictions(draw: st.DrawFn, classes: int) -> dict[str, Any]:
    """Few rows, several a patient, coarse scores that tie, and maybe a class that doesn't occur."""
    rows = draw(st.integers(1, 14))
    some = draw(st.lists(st.sampled_from(range(classes)), min_size=1, max_size=classes, unique=True))
    y = np.array(draw(st.lists(st.sampled_from(some), min_size=rows, max_size=rows)))
    steps = draw(st.sampled_from([4, 1000]))
    raw = np.array(
        draw(
            st.lists(st.lists(st.integers(1, steps), min_size=classes, max_size=classes), min_size=rows, max_size=rows)
        ),
        float,
    )
    ids = draw(st.lists(st.sampled_from(ODD_IDS), min_size=rows, max_size=rows))
    p = raw / raw.sum(axis=1, keepdims=True)
    return {"y": y, "scores": p, "patients": np.array(ids, object), "predicted": p.argmax(axis=1)}


def of_classes(case: dict[str, Any], positive: int | None) -> ClassMeasures:
    names = [str(c) for c in range(case["scores"].shape[1])]
    return ClassMeasures(case["y"], case["scores"], case["scores"], case["predicted"], positive, names)


@settings(max_examples=150)
@given(st.integers(2, 4).flatmap(lambda classes: predictions(classes)), st.integers(0, 1))
def test_measures_of_classes_equal_scikit_learn(case: dict[str, Any], positive: int) -> None:
    chosen = positive if case["scores"].shape[1] == 2 else None
    measures = of_classes(case, chosen)
    found = {name: values[0] for name, values in measures(np.ones((1, len(case["y"])))).items()}
    expected = reference.of_classes(case["y"], case["scores"], case["scores"], case["predicted"], chosen)
    for name, value in expected.items():
        assert close(found[name], value), name
        assert not math.isnan(value) or measures.reason(name).startswith("all rows are of the class")
    assert set(found) - set(expected) == (set() if chosen is None else {"calibration_slope", "calibration_intercept"})


@settings(max_examples=150)
@given(predictions(2))
def test_calibration_is_the_maximum_of_the_likelihood(case: dict[str, Any]) -> None:
    measures, x, positive = of_classes(case, 1), logit(case["scores"][:, 1]), case["y"] == 1
    found = measures(np.ones((1, len(x))))
    line = [found["calibration_slope"][0], found["calibration_intercept"][0]]
    if reference.parted(x, positive):
        assert np.isnan(line).all()
        one_class = positive.all() or not positive.any()
        same = len(set(x.tolist())) == 1
        reason = "all rows" if one_class else "all probabilities" if same else "the probabilities part"
        assert measures.reason("calibration_slope").startswith(reason)
    else:
        assert reference.is_line(line, x, positive, np.ones(len(x)))


@settings(max_examples=150)
@given(st.data())
def test_measures_of_numbers_equal_scikit_learn(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 12))
    numbers = st.lists(st.integers(-3, 3).map(lambda n: n / 2 + 1000), min_size=rows, max_size=rows)
    y, values = np.array(data.draw(numbers)), np.array(data.draw(numbers))
    measures = NumberMeasures(y, values)
    found = {name: value[0] for name, value in measures(np.ones((1, rows))).items()}
    for name, value in reference.of_numbers(y, values).items():
        assert close(found[name], value), name
        assert not math.isnan(value) or measures.reason(name).endswith("are the same")


@settings(max_examples=15)
@given(st.integers(2, 3).flatmap(lambda classes: predictions(classes)), st.integers(0, 5))
def test_bootstrap_equals_a_loop_over_copied_rows(case: dict[str, Any], seed: int) -> None:
    y, ids = case["y"], case["patients"]
    positive = 1 if case["scores"].shape[1] == 2 else None
    people, occurring = sorted(set(ids)), sorted(set(y.tolist()))
    found = resampled(of_classes(case, positive), ids, 25, seed)
    rng = np.random.default_rng(seed)
    for number in range(25):
        drawn = [people[i] for i in rng.integers(len(people), size=len(people))]
        rows = np.array([i for person in drawn for i in range(len(y)) if ids[i] == person])
        p, called = case["scores"][rows], case["predicted"][rows]
        expected = reference.of_classes(y[rows], p, p, called, positive, occurring)
        for name, value in expected.items():
            assert close(found[name][number], value), name
        if positive is not None:
            line = [found["calibration_slope"][number], found["calibration_intercept"][number]]
            x = logit(p[:, 1])
            if reference.parted(x, y[rows] == 1):
                assert np.isnan(line).all()
            else:
                assert reference.is_line(line, x, y[rows] == 1, np.ones(len(rows)))


@settings(max_examples=15)
@given(st.data(), st.integers(0, 5))
def test_bootstrap_of_numbers_equals_a_loop_over_copied_rows(data: st.DataObject, seed: int) -> None:
    rows = data.draw(st.integers(2, 12))
    numbers = st.lists(st.integers(-3, 3).map(lambda n: n / 7), min_size=rows, max_size=rows)
    y, values = np.array(data.draw(numbers)), np.array(data.draw(numbers))
    ids = np.array(data.draw(st.lists(st.sampled_from(ODD_IDS), min_size=rows, max_size=rows)), object)
    people, rng = sorted(set(ids)), np.random.default_rng(seed)
    found = resampled(NumberMeasures(y, values), ids, 25, seed)
    for number in range(25):
        drawn = [people[i] for i in rng.integers(len(people), size=len(people))]
        chosen = np.array([i for person in drawn for i in range(rows) if ids[i] == person])
        for name, value in reference.of_numbers(y[chosen], values[chosen]).items():
            if len(chosen) > 1 or name in {"mae", "rmse"}:  # SciPy refuses the correlation of one row
                assert close(found[name][number], value, 1e-8), name


def test_bootstrap_in_blocks_is_the_same(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    y, values = rng.normal(size=(2, 50))
    ids = np.array([f"p{i // 2}" for i in range(50)], object)
    whole = resampled(NumberMeasures(y, values), ids, 40, 3)
    monkeypatch.setattr("featstore.learn.bootstrap._BLOCK_NBYTES", 7 * 8 * 50)
    parts = resampled(NumberMeasures(y, values), ids, 40, 3)
    for name, of_all in whole.items():
        np.testing.assert_allclose(parts[name], of_all, rtol=1e-12)


def test_interval_is_of_what_is_defined() -> None:
    values = np.arange(100.0)
    assert interval(values) == (*np.percentile(values, [2.5, 97.5]), 100)
    values[:50] = np.nan
    assert interval(values) == (*np.percentile(np.arange(50.0, 100), [2.5, 97.5]), 50)
    values[50] = np.nan
    assert interval(values) is None


def test_probabilities_of_zero_and_one_have_no_slope() -> None:
    p = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    y = np.array([1, 0, 0, 0])
    measures = ClassMeasures(y, p, p, p.argmax(axis=1), 1, ["0", "1"])
    found = measures(np.ones((1, 4)))
    assert np.isnan(found["calibration_slope"][0])
    assert "log-odds" in measures.reason("calibration_slope")
    without = ClassMeasures(y, p, None, p.argmax(axis=1), 1, ["0", "1"])
    assert {name for name, value in without(np.ones((1, 4))).items() if np.isnan(value[0])} == {
        "brier", "ece", "calibration_slope", "calibration_intercept",
    }  # fmt: skip
    assert all(without.reason(name) == "the model has no probabilities" for name in ("brier", "calibration_slope"))
