"""Nearly equal vectors of two patients, against comparing all pairs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.tables import near
from featstore.tables.compared import Whose
from featstore.tables.near import near_leaks, near_pairs

from .pairs import cohorts, compared, people


@given(cohorts(), st.sampled_from([0.2, 0.9, 0.999, 0.9999999, 1.0]), st.booleans(), st.integers(1, 5))
def test_all_pairs_above_the_threshold(
    cohort: tuple[np.ndarray, pa.Table], threshold: float, everyone: bool, size: int
) -> None:
    vectors, rows = cohort
    expected = {}
    with np.errstate(invalid="ignore"):
        units = vectors / np.abs(vectors).max(axis=1, keepdims=True)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
    for a, b in compared(rows, everyone):
        cosine = float(units[a] @ units[b])
        if abs(cosine - threshold) < 1e-12 and threshold < 1:
            return  # it depends on the order of a sum
        if cosine >= threshold - 1e-12:
            expected[a, b] = cosine
    whose = Whose(rows, everyone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_TILE", size)  # blocks so small that pairs lie across them
        pairs = near_pairs(lambda start, stop: vectors[start:stop], whose.apart, threshold)
    assert pairs.found == len(expected)
    found = dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), pairs.cosine, strict=True))
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(pairs.cosine) == sorted(pairs.cosine, reverse=True)


def test_blocks_are_taken_as_they_are(rng: np.random.Generator) -> None:
    """The result doesn't depend on how rows are read, nor on the precision of the first pass."""
    vectors = rng.normal(size=(400, 33))
    vectors[200:] = vectors[:200] * rng.uniform(0.5, 2, (200, 1)) + rng.normal(0, 0.02, (200, 33))
    rows = people(400, ["train"] * 200 + ["test"] * 200)
    reads: list[int] = []

    def read(start: int, stop: int) -> np.ndarray:
        reads.append(stop - start)
        return vectors[start:stop]

    (whole,) = near_leaks({"x": read}, rows, 0.9995)
    assert reads == [1, 400, 1, 400, 400]  # the mean, then the rows beside themselves
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_TILE", "_HELD_BYTES", "PASSING_BYTES"):
            patch.setattr(near, name, 64)
        (blocks,) = near_leaks({"x": read}, rows, 0.9995)
    assert max(reads[5:]) == 64
    for one, other in zip(whole.rows, blocks.rows, strict=True):  # the mean is a sum of blocks: the last bit may differ
        assert one | {"cosine": 0} == other | {"cosine": 0}
        assert one["cosine"] == pytest.approx(other["cosine"], abs=1e-12)
    units = vectors - vectors.mean(axis=0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert whole.found == (np.triu(units @ units.T, 200)[:200, 200:] >= 0.9995).sum() > 80
    assert "cosine 0.9995 or more" in whole.message


def test_only_the_nearest_are_told_and_all_are_counted(rng: np.random.Generator) -> None:
    vectors = np.abs(rng.normal(size=(120, 8))) + 5
    rows = people(120, ["train", "test"] * 60)
    apart = Whose(rows, False).apart
    few, all_of_them = (near_pairs(lambda a, b: vectors[a:b], apart, 0.5, most=most) for most in (7, 5000))
    assert few.found == all_of_them.found == len(all_of_them.first) == 3600
    assert few.first.tolist() == all_of_them.first[:7].tolist()
    assert few.second.tolist() == all_of_them.second[:7].tolist()
