"""The laws of poolers: ours keep all of them, and each way of being wrong is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from array_api_compat import array_namespace

from featstore import NotFoundError, PoolerSpec, UsageError
from featstore.plugins import Plugins
from featstore.testing import ConformanceError, check_pooler

ARGUMENTS = {"grid": "grid(2,2)"}
OURS = [ARGUMENTS.get(item.name, item.name) for item in Plugins.load().registered("pooler")]


def broken(pool: Callable[..., Any], accepts: frozenset[Any] = frozenset({"tokens", "groups"})) -> dict[str, str]:
    """The broken laws of a pooling function, by name, with what was seen."""

    def load() -> Any:
        return pool

    return {f.law: f.seen for f in check_pooler(PoolerSpec("x", load, accepts), strict=False) if not f.ok}


def positions(values: Any, prefix: int) -> Any:
    if values.shape[1] == prefix:
        raise ValueError("nothing to pool")
    return values[:, prefix:, :]


def mean(values: Any, *, prefix: int, grid: Any) -> Any:
    return array_namespace(values).mean(positions(values, prefix), axis=1)


def roi_mean(values: Any, *, prefix: int, grid: Any, weights: Any) -> Any:
    shares = weights[:, :, None]
    xp = array_namespace(values)
    return xp.sum(positions(values, prefix) * shares, axis=1) / xp.sum(shares, axis=1)


@pytest.mark.parametrize("name", [*OURS, "gem(4)"])
def test_ours_keep_every_law(name: str) -> None:
    check_pooler(name)


def test_proper_functions_keep_every_law() -> None:
    assert broken(mean) == {}
    assert broken(roi_mean, frozenset({"regions"})) == {}


def test_arguments_are_numbers_of_the_name() -> None:
    with pytest.raises(UsageError, match="gem"):
        check_pooler("gem(-1)")
    assert all(finding.ok for finding in check_pooler("gem", 2.5))
    with pytest.raises(NotFoundError, match="Did you mean 'mean'"):
        check_pooler("maen")


# ------------------------------------------------------------------------------------------------- what is wrong
def unchecked(values: Any, *, prefix: int, grid: Any) -> Any:
    return values[:, prefix:, :].mean(axis=1)  # NaN where nothing is left


def index_error(values: Any, *, prefix: int, grid: Any) -> Any:
    return positions(values, prefix)[:, 0, :] if values.shape[1] > 1 else [][0]


def batch_centred(values: Any, *, prefix: int, grid: Any) -> Any:
    found = mean(values, prefix=prefix, grid=grid)
    return found - 0.1 * array_namespace(values).mean(found, axis=0)


def first_rows(values: Any, *, prefix: int, grid: Any) -> Any:
    return mean(values, prefix=prefix, grid=grid)[:1]


def in_place(values: Any, *, prefix: int, grid: Any) -> Any:
    positions(values, prefix)[:, 0, :] *= 2
    return mean(values, prefix=prefix, grid=grid)


def nan_mean(values: Any, *, prefix: int, grid: Any) -> Any:
    if isinstance(values, np.ndarray):
        return np.nanmean(positions(values, prefix), axis=1)
    return positions(values, prefix).nanmean(dim=1)


def sample_std(values: Any, *, prefix: int, grid: Any) -> Any:
    return array_namespace(values).std(positions(values, prefix), axis=1, correction=1.0)  # NaN for one row


def numpy_only(values: Any, *, prefix: int, grid: Any) -> Any:
    return np.asarray(positions(values, prefix)).mean(axis=1)


def biased_in_torch(values: Any, *, prefix: int, grid: Any) -> Any:
    return (
        positions(values, prefix).std(axis=1)
        if isinstance(values, np.ndarray)
        else mean(values, prefix=prefix, grid=grid)
    )


def single(values: Any, *, prefix: int, grid: Any) -> Any:
    return array_namespace(values).astype(mean(values, prefix=prefix, grid=grid), array_namespace(values).float32)


def as_many_as_rows(values: Any, *, prefix: int, grid: Any) -> Any:
    return positions(values, prefix)[:, :, 0]


def all_tokens(values: Any, *, prefix: int, grid: Any) -> Any:
    return values


@pytest.mark.parametrize(
    ("pool", "law", "seen"),
    [
        (unchecked, "pools-or-refuses", "aren't finite"),
        (index_error, "pools-or-refuses", "IndexError"),
        (batch_centred, "looks-at-each-input-alone", "differ"),
        (first_rows, "pools-or-refuses", r"give \(1, 6\)"),
        (in_place, "writes-nothing", "values have changed"),
        (nan_mean, "hides-no-nan", "finite values, other than without it"),
        (sample_std, "pools-or-refuses", r"groups \(1 tokens.*aren't finite"),
        (numpy_only, "is-the-same-in-torch-and-numpy", "a tensor gives ndarray"),
        (biased_in_torch, "is-the-same-in-torch-and-numpy", "differ"),
        (single, "keeps-precision", "float64 gives float32"),
        (as_many_as_rows, "pools-or-refuses", "groups of different lengths give widths"),
        (all_tokens, "pools-or-refuses", r"groups .* give \(5, 1, 6\)"),
    ],
)  # fmt: skip
def test_wrong_functions(pool: Callable[..., Any], law: str, seen: str) -> None:
    found = broken(pool)
    assert law in found
    with pytest.raises(AssertionError, match=seen):
        raise AssertionError(found[law])


def test_sorted_rows_are_found() -> None:
    def by_size(values: Any, *, prefix: int, grid: Any) -> Any:
        found = np.asarray(values).mean(axis=(1, 2))
        return mean(values[np.argsort(found)], prefix=prefix, grid=grid)

    assert "keeps-order" in broken(by_size)


@pytest.mark.parametrize(
    ("pool", "seen"),
    [
        (lambda values, *, prefix, grid, weights: mean(values, prefix=prefix, grid=grid), "outside the mask"),
        (
            lambda values, *, prefix, grid, weights: array_namespace(values).sum(
                positions(values, prefix) * (weights[:, :, None] > 1), axis=1
            ),
            "makes no difference",
        ),
        (
            lambda values, *, prefix, grid, weights: array_namespace(values).sum(
                positions(values, prefix) * weights[:, :, None], axis=1
            ) / (array_namespace(values).sum(weights, axis=1)[:, None] - 1),
            "aren't finite",
        ),
    ],
)  # fmt: skip
def test_wrong_regions(pool: Callable[..., Any], seen: str) -> None:
    found = broken(pool, frozenset({"regions"}))
    assert any(seen in text for text in found.values()), found


def test_ignored_arguments_are_found() -> None:
    found = check_pooler(PoolerSpec("x", lambda *arguments: mean), strict=False)
    assert {f.law for f in found if not f.ok} == {"refuses-wrong-arguments"}


def test_wrong_words_for_what_it_accepts() -> None:
    assert "accepts is" in broken(mean, frozenset({"images"}))["loads"]
    with pytest.raises(ConformanceError, match="The pooler x breaks 1 of 10 laws:"):
        check_pooler(PoolerSpec("x", lambda: mean, frozenset()))
