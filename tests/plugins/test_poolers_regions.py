"""Region poolers: the same on torch and NumPy, and weighted statistics by their definition in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from featstore_poolers import featstore_poolers
from hypothesis import given
from hypothesis import strategies as st

LOAD = {spec.name: spec.load for spec in featstore_poolers()}
CALLS = ["roi-mean", "roi-meanstd"]
MAKE = [np.asarray, torch.from_numpy]


def pool(call: str, values: Any, weights: Any, prefix: int = 0) -> np.ndarray:
    return np.asarray(LOAD[call]()(values, prefix=prefix, grid=None, weights=weights))


def inputs(seed: int = 0, n: int = 3, length: int = 9, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Values, and weights of which some are 0, some 1 and others between; none of an input's are all 0."""
    rng = np.random.default_rng(seed)
    weights = np.clip(rng.normal(0.3, 1, (n, length)), 0, 1).astype(np.float32)
    weights[:, rng.integers(length)] = rng.uniform(0.01, 1)
    return rng.normal(2, 3, (n, length, d)).astype(np.float32), weights


def definition(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    rows = []
    for x, w in zip(values.astype(np.float64), weights.astype(np.float64), strict=True):
        mean = np.average(x, axis=0, weights=w)
        rows.append(np.concatenate([mean, np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))]))
    return np.stack(rows)


@pytest.mark.parametrize("make", MAKE)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 4),
    length=st.integers(1, 40),
    d=st.integers(1, 5),
    prefix=st.integers(0, 2),
    wide=st.booleans(),
)
def test_by_definition(make: Any, seed: int, n: int, length: int, d: int, prefix: int, wide: bool) -> None:
    values, weights = inputs(seed, n, length, d)
    expected = definition(values, weights)
    cls = np.full((n, prefix, d), 1e9, np.float32)
    dtype = np.float64 if wide else np.float32
    values = make(np.concatenate([cls, values], axis=1).astype(dtype))
    both = pool("roi-meanstd", values, make(weights), prefix)
    assert both.dtype == dtype
    np.testing.assert_allclose(both, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(pool("roi-mean", values, make(weights), prefix), both[:, :d])


@pytest.mark.parametrize("make", MAKE)
@given(seed=st.integers(0, 99), weight=st.floats(2**-20, 1, width=32))
def test_equal_weights_give_plain_statistics_of_what_is_inside(make: Any, seed: int, weight: float) -> None:
    values, _ = inputs(seed)
    inside = np.zeros((3, 9), np.float32)
    inside[:, 2:7] = weight
    expected = LOAD["meanstd"]()(make(values[:, 2:7]), prefix=0, grid=None)
    np.testing.assert_allclose(pool("roi-meanstd", make(values), make(inside)), expected, rtol=1e-4, atol=1e-5)


def test_one_position_has_no_spread_and_no_nan() -> None:
    values, _ = inputs()
    inside = np.zeros((3, 9), np.float32)
    inside[:, 4] = 0.1
    both = pool("roi-meanstd", values, inside)
    np.testing.assert_allclose(both[:, :4], values[:, 4], rtol=1e-6)
    np.testing.assert_allclose(both[:, 4:], 0, atol=1e-6)


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("offset", [1e3, 1e6, -3e7])
def test_values_that_are_all_far_from_0(make: Any, offset: float) -> None:
    rng = np.random.default_rng(2)
    values = (rng.normal(0, 8, (2, 3000, 5)) + offset).astype(np.float32)
    weights = rng.uniform(0, 1, (2, 3000)).astype(np.float32)
    expected = definition(values, weights)
    both = pool("roi-meanstd", make(values), make(weights))
    np.testing.assert_allclose(both[:, :5], expected[:, :5], rtol=np.finfo(np.float32).eps)
    np.testing.assert_allclose(both[:, 5:], expected[:, 5:], rtol=1e-5)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", MAKE)
def test_each_input_is_pooled_as_if_alone(call: str, make: Any) -> None:
    values, weights = inputs()
    whole = pool(call, make(values), make(weights))
    for i in range(3):
        alone = pool(call, make(values[i : i + 1]), make(weights[i : i + 1]))
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-6, atol=1e-7)
    order = np.random.default_rng(0).permutation(9)
    shuffled = pool(call, make(values[:, order]), make(weights[:, order]))
    np.testing.assert_allclose(shuffled, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", MAKE)
def test_an_input_without_a_region_is_nan_and_touches_no_other(call: str, make: Any) -> None:
    values, weights = inputs()
    whole = pool(call, make(values), make(weights.copy()))
    weights[1] = 0
    out = pool(call, make(values), make(weights))
    assert np.isnan(out[1]).all()
    np.testing.assert_array_equal(out[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("weight", [0, 0.5])
def test_a_nan_is_never_hidden_not_even_outside(call: str, make: Any, weight: float) -> None:
    values, weights = inputs()
    weights[1, 3] = weight
    whole = pool(call, make(values.copy()), make(weights))
    values[1, 3, 2] = np.nan
    out = pool(call, make(values), make(weights))
    hit = np.zeros(whole.shape, bool)
    hit[1, 2::4] = True
    assert np.isnan(out[hit]).all()
    np.testing.assert_array_equal(out[~hit], whole[~hit])


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_reduced_in_float32(call: str, dtype: torch.dtype) -> None:
    low = torch.full((1, 4096, 2), 1.5).to(dtype)
    out = LOAD[call]()(low, prefix=0, grid=None, weights=torch.ones(1, 4096, dtype=torch.float64))
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out[0, :2].numpy(), 1.5, rtol=1e-6)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("shape", [(3, 9), (3, 7), (2, 8), (3, 8, 1), (8,)])
def test_weights_must_be_one_a_position(call: str, shape: tuple[int, ...]) -> None:
    values, _ = inputs()
    with pytest.raises(ValueError, match=r"one a position, \(3, 8\)"):
        pool(call, values, np.ones(shape, np.float32), prefix=1)


@pytest.mark.parametrize("call", CALLS)
def test_what_all_poolers_refuse(call: str) -> None:
    with pytest.raises(ValueError, match="all 2 tokens are prefix"):
        pool(call, np.ones((3, 2, 5)), np.ones((3, 0)), prefix=2)
    with pytest.raises(ValueError, match=r"\(N, L, D\)"):
        pool(call, np.ones((3, 4)), np.ones((3, 4)))
