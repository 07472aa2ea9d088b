"""Poolers: one law for all (torch gives what NumPy gives), and each against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from featstore_poolers import featstore_poolers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featstore import UsageError
from featstore.keys import parse_call

SPECS = {spec.name: spec for spec in featstore_poolers()}
CALLS = ["mean", "max", "meanstd", "gem(3)", "gem(1.5)", "cls", "tokens"]


def pooler(call: str) -> Any:
    name, arguments = parse_call(call)
    return SPECS[name].load(*arguments)


def tokens(seed: int = 0, n: int = 3, length: int = 9, d: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(2, 3, (n, length, d)).astype(np.float32)


@pytest.mark.parametrize("call", CALLS)
@given(
    values=arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(2, 12), st.integers(1, 5)),
        elements=st.floats(-100, 100, width=32),
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_torch_gives_what_numpy_gives(call: str, values: np.ndarray, dtype: type) -> None:
    values = values.astype(dtype)
    pool = pooler(call)
    ours = pool(values, prefix=1, grid=None)
    theirs = pool(torch.from_numpy(values), prefix=1, grid=None)
    assert ours.dtype == dtype
    assert str(theirs.dtype) == f"torch.{np.dtype(dtype)}"
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("call", ["mean", "max", "meanstd", "gem(3)"])
@given(seed=st.integers(0, 99), prefix=st.integers(0, 3))
def test_positions_alone_are_pooled_in_any_order_and_one_input_at_a_time(call: str, seed: int, prefix: int) -> None:
    values = tokens(seed)
    pool = pooler(call)
    whole = pool(values, prefix=prefix, grid=None)
    np.testing.assert_allclose(pool(values[:, prefix:], prefix=0, grid=(1, 9 - prefix)), whole, rtol=1e-6)
    order = np.random.default_rng(seed).permutation(9 - prefix)
    shuffled = np.concatenate([values[:, :prefix] * 5, values[:, prefix:][:, order]], axis=1)
    np.testing.assert_allclose(pool(shuffled, prefix=prefix, grid=None), whole, rtol=1e-4, atol=1e-5)
    for i in range(3):
        np.testing.assert_array_equal(pool(values[i : i + 1], prefix=prefix, grid=None)[0], whole[i])


def test_definitions() -> None:
    values = tokens()
    np.testing.assert_allclose(pooler("mean")(values, prefix=1, grid=None), values[:, 1:].mean(1), rtol=1e-6)
    np.testing.assert_array_equal(pooler("max")(values, prefix=1, grid=None), values[:, 1:].max(1))
    both = pooler("meanstd")(values, prefix=1, grid=None)
    np.testing.assert_allclose(both[:, :4], values[:, 1:].mean(1), rtol=1e-6)
    np.testing.assert_allclose(both[:, 4:], values[:, 1:].std(1), rtol=1e-5)
    np.testing.assert_array_equal(pooler("cls")(values, prefix=2, grid=None), values[:, 0])
    np.testing.assert_array_equal(pooler("tokens")(values, prefix=2, grid=None), values)
    clamped = np.maximum(values[:, 1:].astype(np.float64), 1e-6)
    for call, p in (("gem(3)", 3), ("gem(0.5)", 0.5), ("gem", 3)):
        expected = (clamped**p).mean(1) ** (1 / p)
        np.testing.assert_allclose(pooler(call)(values, prefix=1, grid=None), expected, rtol=1e-5)


def test_gem_goes_from_the_mean_to_the_maximum_without_overflow() -> None:
    values = np.abs(tokens()) + 1
    np.testing.assert_allclose(pooler("gem(1)")(values, prefix=0, grid=None), values.mean(1), rtol=1e-5)
    large = pooler("gem(60)")(values * np.float32(1e20), prefix=0, grid=None)
    assert np.isfinite(large).all()
    assert (large <= values.max(1) * 1.0001e20).all()
    assert (large > values.max(1) * 0.95e20).all()


def test_one_row_has_no_spread_and_no_nan() -> None:
    row = tokens(length=1)
    both = pooler("meanstd")(row, prefix=0, grid=None)
    np.testing.assert_array_equal(both[:, :4], row[:, 0])
    np.testing.assert_array_equal(both[:, 4:], 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", ["mean", "max", "meanstd", "gem(3)"])
def test_low_precision_is_reduced_in_float32(call: str, dtype: torch.dtype) -> None:
    low = torch.full((1, 4096, 2), 1.5).to(dtype)  # its sum is past float16's and bfloat16's whole numbers
    out = pooler(call)(low, prefix=0, grid=None)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out[0, :2].numpy(), 1.5, rtol=1e-6)
    half = np.full((1, 4096, 2), 40, np.float16)
    assert pooler(call)(half, prefix=0, grid=None).dtype == np.float32


@pytest.mark.parametrize("call", ["mean", "max", "meanstd", "gem(3)"])
@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_nothing_left_after_the_prefix_is_said(call: str, make: Any) -> None:
    with pytest.raises(ValueError, match="all 2 tokens are prefix"):
        pooler(call)(make((3, 2, 5)), prefix=2, grid=None)


def test_cls_needs_a_class_token() -> None:
    with pytest.raises(ValueError, match="has none"):
        pooler("cls")(tokens(), prefix=0, grid=None)


@pytest.mark.parametrize("call", CALLS)
def test_other_shapes_are_refused(call: str) -> None:
    for values, prefix in ((np.ones((3, 4)), 0), (np.ones((3, 4, 5)), 5), (np.ones((3, 4, 5)), -1)):
        with pytest.raises(ValueError, match=r"\(N, L, D\)"):
            pooler(call)(values, prefix=prefix, grid=None)


@pytest.mark.parametrize(
    "call", ["gem(0)", "gem(-1)", "gem(nan)", "gem(inf)", "gem(2,3)", "mean(1)", "cls(0)", "tokens(2)"]
)
def test_arguments_are_checked_before_anything_runs(call: str) -> None:
    with pytest.raises(UsageError, match=r"takes|finite|numbers"):
        pooler(call)


@pytest.mark.parametrize("p", [float("nan"), float("inf"), -float("inf")])
def test_gem_itself_refuses_what_is_no_number(p: float) -> None:
    with pytest.raises(UsageError, match="one finite p above 0"):
        SPECS["gem"].load(p)


def test_what_needs_tokens_doesnt_take_groups() -> None:
    groups = {name for name, spec in SPECS.items() if "groups" in spec.accepts}
    assert groups == {"mean", "max", "meanstd", "gem"}
    assert all("tokens" in spec.accepts for spec in SPECS.values())
