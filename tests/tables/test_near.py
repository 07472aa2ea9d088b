"""Equal and nearly equal vectors of two patients, against comparing all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.tables import near
from featstore.tables.leakage import Leak
from featstore.tables.near import Stored, equal_leaks, near_leaks, near_pairs

SPLITS = ["train", "val", "test", None]


def people(count: int, splits: list[str | None], patients: list[str] | None = None) -> pa.Table:
    ids = [f"P{n}" for n in range(count)] if patients is None else patients
    return pa.table({"patient_id": pa.array(ids, pa.string()), "split": pa.array(splits, pa.string())})


def equal(vectors: np.ndarray, rows: pa.Table, content: list[int | None] | None = None, **options: bool) -> list[Leak]:
    pointers = places(range(rows.num_rows), range(rows.num_rows), content)
    return equal_leaks(rows, {"x": Stored(pointers, lambda segments, at: vectors[at])}, **options)


def places(positions: Iterable[int], rows: Iterable[int], content: list[int | None] | None = None) -> pa.Table:
    at = pa.array(rows, pa.int64())
    columns = {"position": pa.array(positions, pa.int64()), "segment": pa.array([1] * len(at), pa.int64()), "row": at}
    columns["sample_key"] = pa.array([f"s{n}" for n in at.to_pylist()], pa.string())
    return pa.table(columns | {"content": pa.array(content or [None] * len(at), pa.uint64())})


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[np.ndarray, pa.Table]:
    """Vectors of which some are equal, nearly equal, constant, zero or missing; patients keep to one split."""
    count, dim = draw(st.integers(1, 14)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.normal(0, 10.0 ** draw(st.integers(-30, 30)), (count, dim)).astype(np.float32).astype(np.float64)
    for row, how in enumerate(draw(st.lists(st.integers(0, 9), min_size=count, max_size=count))):
        other = int(rng.integers(count))
        vectors[row] = {
            0: vectors[other], 1: vectors[other] * 3, 2: vectors[other] * (1 + rng.normal(0, 1e-3, dim)), 3: 0.0,
            4: -0.0, 5: np.nan, 6: 7.5,
        }.get(how, vectors[row])  # fmt: skip
    homes = draw(st.lists(st.sampled_from(SPLITS), min_size=count, max_size=count))
    owners = draw(st.lists(st.integers(0, count - 1), min_size=count, max_size=count))
    return vectors, people(count, [homes[o] for o in owners], [f"P{o}" for o in owners])


def compared(rows: pa.Table, everyone: bool) -> Iterator[tuple[int, int]]:
    patients, splits = rows.column("patient_id").to_pylist(), rows.column("split").to_pylist()
    for a, b in itertools.combinations(range(rows.num_rows), 2):
        apart = (
            patients[a] != patients[b] if everyone else None not in (splits[a], splits[b]) and splits[a] != splits[b]
        )
        if apart:
            yield a, b


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
    whose = near._Whose(rows, everyone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_TILE", size)  # blocks so small that pairs lie across them
        pairs = near_pairs(lambda start, stop: vectors[start:stop], whose.apart, threshold)
    assert pairs.found == len(expected)
    found = dict(zip(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True), pairs.cosine, strict=True))
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(pairs.cosine) == sorted(pairs.cosine, reverse=True)


@given(cohorts(), st.booleans())
def test_all_equal_vectors(cohort: tuple[np.ndarray, pa.Table], everyone: bool) -> None:
    vectors, rows = cohort
    stored = vectors.astype(np.float32)
    pairs = {(a, b) for a, b in compared(rows, everyone) if (stored[a] == stored[b]).all()}
    leaks = equal(vectors, rows, everyone=everyone)
    assert bool(leaks) == bool(pairs)
    for leak in leaks:
        # Every row that leaks stands in a pair, and every pair leaks: of n rows n − 1 pairs.
        groups = {tuple(stored[a] + 0) for a, _ in pairs}
        members = {g: {r for pair in pairs for r in pair if tuple(stored[r] + 0) == g} for g in groups}
        assert leak.found == sum(len(m) - 1 for m in members.values())
        assert len(leak.rows) == leak.found
        told = {row[p] for row in leak.rows for p in ("patient_id", "other_patient_id")}
        ids = rows.column("patient_id").to_pylist()
        assert told == {ids[r] for m in members.values() for r in m}
        assert all(
            row["patient_id"] != row["other_patient_id"] and (everyone or row["split"] != row["other_split"])
            for row in leak.rows
        )
        constant = sum(len(m) - 1 for g, m in members.items() if len(set(g)) == 1)
        assert (f"; {constant} of them are one number throughout" in leak.message) == bool(constant)


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
        for name in ("_TILE", "_HELD_BYTES", "_PASSING_BYTES"):
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
    apart = near._Whose(rows, False).apart
    few, all_of_them = (near_pairs(lambda a, b: vectors[a:b], apart, 0.5, most=most) for most in (7, 5000))
    assert few.found == all_of_them.found == len(all_of_them.first) == 3600
    assert few.first.tolist() == all_of_them.first[:7].tolist()
    assert few.second.tolist() == all_of_them.second[:7].tolist()


def test_samples_with_the_same_bytes_are_another_kind() -> None:
    vectors = np.ones((4, 3)) * [[1], [1], [2], [2]]
    vectors[:, 0] = 0
    rows = people(4, ["train", "test", "train", "test"])
    assert [leak.found for leak in equal(vectors, rows)] == [2]
    (leak,) = equal(vectors, rows, [7, 7, None, 7])
    assert [(row["patient_id"], row["other_patient_id"]) for row in leak.rows] == [("P2", "P3")]
    assert equal(vectors, rows, [7, 7, 2**63, 2**63]) == []


def test_nothing_is_read_where_nobody_is_compared() -> None:
    def gather(segments: np.ndarray, rows: np.ndarray) -> Any:
        raise AssertionError

    def compared(count: int, splits: list[str | None]) -> list[Leak]:
        return equal_leaks(people(count, splits), {"x": Stored(places(range(count), range(count)), gather)})

    assert compared(3, [None] * 3) == compared(3, ["train", None, "train"]) == compared(0, []) == []
    assert compared(3, [None, "train", "train"]) == []


def test_a_vector_that_stands_in_several_rows_is_compared_once() -> None:
    """A patient's vector goes into each of its visits."""
    read: list[int] = []

    def gather(segments: np.ndarray, rows: np.ndarray) -> np.ndarray:
        read.extend(rows.tolist())
        return np.array([[5.0, 1], [5, 1], [2, 3]])[rows]

    rows = people(5, ["train", "train", "test", "test", "val"], ["a", "a", "b", "b", "c"])
    pointers = places(range(5), [0, 0, 1, 1, 2])
    (leak,) = equal_leaks(rows, {"x": Stored(pointers, gather)})
    assert leak.found == 1
    assert leak.rows == [
        {"input": "x", "patient_id": "a", "sample_key": "s0", "split": "train"}
        | {"other_patient_id": "b", "other_sample_key": "s1", "other_split": "test"}
    ]
    assert read == [0, 0, 1, 2]  # the first one also for its width


@pytest.mark.parametrize("width", [1, 2, 3, 31, 600])
def test_blocks_make_no_difference(width: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = rng.integers(0, 2, (500, width)).astype(np.float64)
    vectors[250:] = vectors[249::-1]
    rows = people(500, ["train"] * 250 + ["test"] * 250)
    (whole,) = equal(vectors, rows)
    monkeypatch.setattr(near, "_PASSING_BYTES", 1)
    (blocks,) = equal(vectors, rows)
    assert whole == blocks
    assert whole.found == sum(np.unique(vectors, axis=0, return_counts=True)[1] - 1)


def test_vectors_that_differ_in_few_bits_are_not_equal(rng: np.random.Generator) -> None:
    """Halves of float16 have many zero bits in common, where a weak hash would err."""
    base = rng.normal(size=64).astype(np.float16)
    rows = np.repeat(base[None].astype(np.float64), 2000, axis=0)
    for n in range(2000):
        changed = base.copy().view(np.uint16)
        changed[n % 64] ^= np.uint16(1 << (n // 64 % 16))
        changed[(n + 7) % 64] ^= np.uint16(1 << (n // 200))
        rows[n] = np.nan_to_num(changed.view(np.float16).astype(np.float64), posinf=9e4, neginf=-9e4)
    distinct = len(np.unique(rows.astype(np.float32) + 0, axis=0))
    leaks = equal(rows, people(2000, [None] * 2000), everyone=True)
    assert sum(leak.found for leak in leaks) == 2000 - distinct
