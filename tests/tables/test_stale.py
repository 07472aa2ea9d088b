"""Stale tables: what has changed since a table was made, and only that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(77, count=12, slices=2)
    made.clinical({p: {"age": 30 + n} for n, p in enumerate(made.patients)})
    made.store.split(scheme="cv", ratios={"train": 0.7, "val": 0.3})
    made.store.materialize(
        name="t", inputs=["a=v/A:mean"], tables=["clinical"], numeric=["age"], scheme="cv", join="left"
    )
    made.store.materialize(name="pinned", inputs=["a=v/A:mean"], scheme="cv@v1", join="left")
    made.store.materialize(name="other", inputs=["p=v/P:mean"], scheme="default", join="left")
    return made


def stale(cohort: Any) -> dict[str, str | None]:
    """Table → why its latest version is stale."""
    rows = cohort.store.sql("SELECT name, arg_max(coalesce(stale, ''), version) AS why FROM tables GROUP BY ALL")
    return {row["name"]: row["why"] or None for row in rows.to_pylist()}


def test_a_new_split_marks_those_that_follow_it(cohort: Any) -> None:
    assert stale(cohort) == {"t": None, "pinned": None, "other": None}
    cohort.store.split(scheme="cv", ratios={"train": 0.5, "val": 0.5}, replace=True)
    assert stale(cohort) == {"t": "the scheme cv has a version 2", "pinned": None, "other": None}


def test_changed_bytes_mark_the_tables_that_used_them(cohort: Any) -> None:
    key = next(k for k in cohort.vectors if k[1] == "A")
    cohort.vectors[key] = cohort.vectors[key] + np.float32(1)
    cohort.file(key).write_bytes(cohort.vectors[key].astype("<f4").tobytes())
    cohort.ingest()
    changed = "samples of a have changed"
    assert stale(cohort) == {"t": changed, "pinned": changed, "other": None}
    cohort.extract()
    assert stale(cohort) == {"t": changed, "pinned": changed, "other": None}  # it still has the vector of before
    again = cohort.store.materialize(
        name="t", inputs=["a=v/A:mean"], tables=["clinical"], numeric=["age"], scheme="cv", join="left"
    )
    assert again.version == 2
    assert stale(cohort)["t"] is None


def test_a_table_taken_in_anew_marks(cohort: Any) -> None:
    cohort.clinical({p: {"age": 99} for p in cohort.patients}, replace=True)
    assert stale(cohort) == {"t": "the table clinical was taken in anew", "pinned": None, "other": None}
