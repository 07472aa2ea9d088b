"""Equal vectors of two patients, against comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.tables import equal as equal_module
from featstore.tables.equal import Stored, equal_leaks
from featstore.tables.leakage import Leak

from .pairs import cohorts, compared, people


def equal(vectors: np.ndarray, rows: pa.Table, content: list[int | None] | None = None, **options: bool) -> list[Leak]:
    pointers = places(range(rows.num_rows), range(rows.num_rows), content)
    return equal_leaks(rows, [Stored(pointers, lambda segments, at: vectors[at])], **options)


def places(positions: Iterable[int], rows: Iterable[int], content: list[int | None] | None = None) -> pa.Table:
    at = pa.array(rows, pa.int64())
    columns = {"position": pa.array(positions, pa.int64()), "segment": pa.array([1] * len(at), pa.int64()), "row": at}
    columns["alias"] = pa.array(["x"] * len(at), pa.string())
    columns["sample_key"] = pa.array([f"s{n}" for n in at.to_pylist()], pa.string())
    return pa.table(columns | {"content": pa.array(content or [None] * len(at), pa.uint64())})


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
        return equal_leaks(people(count, splits), [Stored(places(range(count), range(count)), gather)])

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
    (leak,) = equal_leaks(rows, [Stored(pointers, gather)])
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
    monkeypatch.setattr(equal_module, "PASSING_BYTES", 1)
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
