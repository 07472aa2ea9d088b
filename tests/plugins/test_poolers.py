"""Poolers: one law for all (torch gives what NumPy gives), and each against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from featstore_poolers import featstore_poolers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from featstore import UsageError
from featstore.arrays import FeatureReader, SegmentLayout, create_group, create_segment, write_chunk
from featstore.keys import parse_call
from featstore.tables.aggregate import PooledInput

SPECS = {spec.name: spec for spec in featstore_poolers()}
ORDERLESS = ["mean", "max", "min", "std", "meanstd", "median", "gem(3)"]
POOLED = [*ORDERLESS, "gem(1.5)", "first", "last"]
CALLS = [*POOLED, "cls", "tokens"]
# What each gives of one group of rows, (n, D) in float64.
OF_A_GROUP = {
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0),
    "min": lambda rows: rows.min(0),
    "std": lambda rows: rows.std(0),
    "meanstd": lambda rows: np.concatenate([rows.mean(0), rows.std(0)]),
    "median": lambda rows: np.median(rows, axis=0),
    "gem(3)": lambda rows: np.cbrt((np.maximum(rows, 1e-6) ** 3).mean(0)),
    "first": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
}


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
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-5, atol=1e-5 * max(np.abs(values).max(), 1))


@pytest.mark.parametrize("call", ORDERLESS)
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
    np.testing.assert_array_equal(pooler("min")(values, prefix=1, grid=None), values[:, 1:].min(1))
    np.testing.assert_allclose(pooler("std")(values, prefix=1, grid=None), values[:, 1:].std(1), rtol=1e-5)
    np.testing.assert_array_equal(pooler("first")(values, prefix=1, grid=None), values[:, 1])
    np.testing.assert_array_equal(pooler("last")(values, prefix=1, grid=None), values[:, 8])
    for prefix in (0, 1):  # nine positions, and eight
        median = pooler("median")(values, prefix=prefix, grid=None)
        np.testing.assert_allclose(median, np.median(values[:, prefix:], axis=1), rtol=1e-6)
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
    np.testing.assert_array_equal(pooler("std")(row, prefix=0, grid=None), 0)
    for call in ("mean", "max", "min", "median", "first", "last"):
        np.testing.assert_array_equal(pooler(call)(row, prefix=0, grid=None), row[:, 0])


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("offset", [0, 1e3, 1e6, -3e7])
def test_the_deviation_of_values_that_are_all_far_from_0(make: Any, offset: float) -> None:
    values = (np.random.default_rng(1).normal(0, 8, (2, 3000, 5)) + offset).astype(np.float32)
    expected = values.astype(np.float64).std(1)
    np.testing.assert_allclose(np.asarray(pooler("std")(make(values), prefix=0, grid=None)), expected, rtol=1e-5)
    both = np.asarray(pooler("meanstd")(make(values), prefix=0, grid=None))
    np.testing.assert_allclose(both[:, 5:], expected, rtol=1e-5)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
@given(value=st.floats(-(2**60), 2**60, width=32, allow_subnormal=False), length=st.integers(1, 40))
def test_what_never_changes_has_no_spread(make: Any, value: float, length: int) -> None:
    same = np.full((1, length, 2), value, np.float32)
    np.testing.assert_array_equal(np.asarray(pooler("std")(make(same), prefix=0, grid=None)), 0)
    np.testing.assert_array_equal(np.asarray(pooler("median")(make(same), prefix=0, grid=None)), same[:, 0])


def test_the_median_of_values_whose_sum_overflows() -> None:
    large = np.array([3e38, 3.2e38], np.float32)[None, :, None]
    np.testing.assert_allclose(pooler("median")(large, prefix=0, grid=None), [[3.1e38]], rtol=1e-6)


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("call", ORDERLESS)
@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_nan_is_never_hidden_and_stays_in_its_channel(call: str, make: Any, at: int) -> None:
    values = tokens()
    clean = np.asarray(pooler(call)(make(values.copy()), prefix=1, grid=None))
    values[1, at, 2] = np.nan
    out = np.asarray(pooler(call)(make(values), prefix=1, grid=None))
    hit = np.zeros(clean.shape, bool)
    hit[1, 2::4] = True
    assert np.isnan(out[hit]).all()
    np.testing.assert_array_equal(out[~hit], clean[~hit])


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureReader, pa.Table]:
    """A thousand rows of a feature set, far from 0, and the pointers of 60 patients, who have 1 to 30 of them each."""
    rng = np.random.default_rng(3)
    group = tmp_path_factory.mktemp("features") / "v1.zarr"
    create_group(group, {})
    layout = SegmentLayout(group / "s1", 1000, 1000, (5,), "float32")
    create_segment(layout, [str(row) for row in range(1000)])
    write_chunk(layout, 0, rng.normal(1e4, 3, (1000, 5)).astype(np.float32), np.ones(1000, np.bool_))
    lengths = rng.integers(1, 31, 60)
    total = int(lengths.sum())
    pointers = {"position": np.repeat(np.arange(60), lengths), "segment": np.ones(total, int)}
    return FeatureReader({1: layout.path}), pa.table({**pointers, "row": rng.permutation(1000)[:total]})


@pytest.mark.parametrize("call", OF_A_GROUP)
def test_ragged_groups_are_pooled_as_each_alone(ragged: tuple[FeatureReader, pa.Table], call: str) -> None:
    reader, pointers = ragged
    made = PooledInput.of(reader, pointers, 60, 5, pooler(call))
    whole = made.block(0, 60)
    positions, segments, rows = (pointers.column(c).to_numpy() for c in ("position", "segment", "row"))
    for patient in range(60):
        mine = positions == patient
        expected = OF_A_GROUP[call](reader.gather(segments[mine], rows[mine]).astype(np.float64))
        np.testing.assert_allclose(whole[patient], expected, rtol=1e-9, atol=1e-9)
        assert made.block(patient, patient + 1).tobytes() == whole[patient].tobytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("call", ["mean", "max", "min", "median", "meanstd", "gem(3)", "first", "last"])
def test_low_precision_is_reduced_in_float32(call: str, dtype: torch.dtype) -> None:
    low = torch.full((1, 4096, 2), 1.5).to(dtype)  # its sum is past float16's and bfloat16's whole numbers
    out = pooler(call)(low, prefix=0, grid=None)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(out[0, :2].numpy(), 1.5, rtol=1e-6)
    half = np.full((1, 4096, 2), 40, np.float16)
    assert pooler(call)(half, prefix=0, grid=None).dtype == np.float32


@pytest.mark.parametrize("call", [*POOLED, "grid(1,1)"])
@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_nothing_left_after_the_prefix_is_said(call: str, make: Any) -> None:
    with pytest.raises(ValueError, match="all 2 tokens are prefix"):
        pooler(call)(make((3, 2, 5)), prefix=2, grid=None)


def test_cls_needs_a_class_token() -> None:
    with pytest.raises(ValueError, match="has none"):
        pooler("cls")(tokens(), prefix=0, grid=None)


# ---------------------------------------------------------------------------------------------------- grids
SIDE = st.lists(st.integers(1, 12), min_size=2, max_size=2).map(sorted)  # a coarser side, and the tokens' own


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
@given(
    sides=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=2, max_size=2), seed=st.integers(0, 9)
)
def test_grid_is_torchs_adaptive_average(make: Any, sides: list[tuple[int, int]], seed: int) -> None:
    (h, height), (w, width) = (sorted(side) for side in sides)
    values = tokens(seed, length=2 + height * width)
    out = pooler(f"grid({h},{w})")(make(values), prefix=2, grid=(height, width))
    maps = torch.from_numpy(values[:, 2:]).permute(0, 2, 1).reshape(3, 4, height, width)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, (h, w)).flatten(2).permute(0, 2, 1)
    assert out.shape == (3, h * w, 4)
    np.testing.assert_allclose(np.asarray(out), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_grid_goes_from_the_tokens_themselves_to_their_mean_one_input_at_a_time() -> None:
    values = tokens(length=12)
    np.testing.assert_array_equal(pooler("grid(3,4)")(values, prefix=0, grid=(3, 4)), values)
    np.testing.assert_allclose(pooler("grid(1,1)")(values, prefix=0, grid=(3, 4))[:, 0], values.mean(1), rtol=1e-5)
    whole = pooler("grid(2,3)")(values, prefix=0, grid=(3, 4))
    for i in range(3):
        np.testing.assert_array_equal(pooler("grid(2,3)")(values[i : i + 1], prefix=0, grid=(3, 4))[0], whole[i])
    assert pooler("grid(2,3)")(values.astype(np.float16), prefix=0, grid=(3, 4)).dtype == np.float32


@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_a_nan_stays_in_its_cell(make: Any) -> None:
    values = tokens(length=16)
    values[1, 5, 2] = np.nan  # the second row and column of 4 × 4: in the first of 2 × 2 cells
    out = np.asarray(pooler("grid(2,2)")(make(values), prefix=0, grid=(4, 4)))
    assert np.argwhere(np.isnan(out)).tolist() == [[1, 0, 2]]


def test_grid_says_what_it_cant_do() -> None:
    with pytest.raises(ValueError, match="these lie on none"):
        pooler("grid(2,2)")(tokens(), prefix=0, grid=None)
    for call in ("grid(4,3)", "grid(3,4)"):
        with pytest.raises(ValueError, match="finer than the tokens' own grid of 3 × 3"):
            pooler(call)(tokens(), prefix=0, grid=(3, 3))
    with pytest.raises(ValueError, match="2 × 4 doesn't hold 9"):
        pooler("grid(2,2)")(tokens(), prefix=0, grid=(2, 4))


@given(n=st.integers(1, 3), height=st.integers(1, 5), width=st.integers(1, 5), d=st.integers(1, 4))
def test_flatten_is_torchs_of_a_map(n: int, height: int, width: int, d: int) -> None:
    maps = torch.from_numpy(np.random.default_rng(0).normal(size=(n, d, height, width)).astype(np.float32))
    values = maps.permute(0, 2, 3, 1).flatten(1, 2)
    expected = maps.flatten(1).numpy()
    np.testing.assert_array_equal(pooler("flatten")(values, prefix=0, grid=(height, width)).numpy(), expected)
    np.testing.assert_array_equal(pooler("flatten")(values.numpy(), prefix=0, grid=None), expected)


def test_flatten_drops_nothing_in_silence() -> None:
    with pytest.raises(ValueError, match="1 prefix tokens, such as CLS"):
        pooler("flatten")(tokens(), prefix=1, grid=(2, 4))


# ------------------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize("call", [*CALLS, "grid(1,1)", "flatten"])
def test_other_shapes_are_refused(call: str) -> None:
    for values, prefix in ((np.ones((3, 4)), 0), (np.ones((3, 4, 5)), 5), (np.ones((3, 4, 5)), -1)):
        with pytest.raises(ValueError, match=r"\(N, L, D\)"):
            pooler(call)(values, prefix=prefix, grid=None)


@pytest.mark.parametrize(
    "call",
    [
        *["gem(0)", "gem(-1)", "gem(nan)", "gem(inf)", "gem(2,3)", "mean(1)", "median(2)", "cls(0)", "tokens(2)"],
        *["grid", "grid(7)", "grid(0,7)", "grid(7,-7)", "grid(2.5,2)", "grid(7,7,7)", "flatten(1)", "roi-mean(1)"],
    ],
)
def test_arguments_are_checked_before_anything_runs(call: str) -> None:
    with pytest.raises(UsageError, match=r"takes|finite|numbers") as error:
        pooler(call)
    assert error.value.hint or "must be numbers" in str(error.value)


@pytest.mark.parametrize("p", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused_from_python_too(p: float) -> None:
    with pytest.raises(UsageError, match="one finite p above 0"):
        SPECS["gem"].load(p)
    with pytest.raises(UsageError, match="whole numbers above 0"):
        SPECS["grid"].load(7, p)


def test_what_each_takes() -> None:
    takes = {name: set(spec.accepts) for name, spec in SPECS.items()}
    groups = {parse_call(call)[0] for call in OF_A_GROUP}
    assert {name for name, what in takes.items() if what == {"tokens", "groups"}} == groups
    assert {name for name, what in takes.items() if what == {"tokens"}} == {"cls", "tokens", "grid", "flatten"}
    assert {name for name, what in takes.items() if what == {"regions"}} == {"roi-mean", "roi-meanstd"}
    assert all(spec.description for spec in SPECS.values())
