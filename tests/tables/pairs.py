"""Cohorts with equal and nearly equal vectors, and which of their rows are compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

SPLITS = ["train", "val", "test", None]


def people(count: int, splits: list[str | None], patients: list[str] | None = None) -> pa.Table:
    ids = [f"P{n}" for n in range(count)] if patients is None else patients
    return pa.table({"patient_id": pa.array(ids, pa.string()), "split": pa.array(splits, pa.string())})


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
