"""Fusers."""

from __future__ import annotations

import numpy as np
import pytest
from featstore_fusers import featstore_fusers
from hypothesis import given
from hypothesis import strategies as st

from featstore import Fuser


def concat() -> Fuser:
    (spec,) = featstore_fusers()
    assert spec.name == "concat"
    return spec.load()


@given(rows=st.integers(0, 5), widths=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_parts_stand_side_by_side_in_their_order(rows: int, widths: list[int]) -> None:
    parts = {f"part{-i}": np.full((rows, width), float(i)) for i, width in enumerate(widths)}
    out = concat().transform(parts)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, np.hstack(list(parts.values())))


def test_missing_inputs_stay_nan_and_nothing_is_learned() -> None:
    fuser = concat()
    fuser.fit(lambda: iter(()))
    out = fuser.transform({"a": np.full((2, 2), np.nan), "b": np.ones((2, 1))})
    np.testing.assert_array_equal(out, [[np.nan, np.nan, 1]] * 2)
    assert fuser.estimators() == {}


def test_parts_that_cant_stand_side_by_side_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        concat().transform({"a": np.ones((2, 2)), "b": np.ones((1, 2))})
    for parts in ({}, {"a": np.ones(3)}):
        with pytest.raises(ValueError, match="one or more"):
            concat().transform(parts)
