"""One thread for what is learned: the same bytes, however many a job was given."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

import featstore
from featstore.threads import one_thread


def test_within_the_block_alone() -> None:
    import scipy.linalg  # noqa: F401

    def threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    with threadpool_limits(2):
        before = threads()
        with one_thread(False):
            assert threads() == before
        with one_thread():
            assert threads() == {1}
        assert threads() == before


def test_a_table_that_has_learned_is_the_same_by_any_number_of_threads(tmp_path: Path) -> None:
    rows, width = 6_000, 800  # enough for other last digits on two threads
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.normal(size=(rows, width)).astype(np.float32))
    with open(tmp_path / "v.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "key", "patient_id", "modality"])
        writer.writerows([n, f"k{n}", f"p{n}", "A"] for n in range(rows))
    store = featstore.init(tmp_path / "store")
    store.import_features(tmp_path / "v.npy", name="v", index=tmp_path / "v.csv")
    store.split(ratios={"train": 0.7, "test": 0.3})
    recipe: dict[str, Any] = {"name": "t", "inputs": ["a=v"], "label": "none", "scheme": "default"}
    with threadpool_limits(2):
        first = store.materialize(**recipe, steps=["robust", "pca(11)"])
    with threadpool_limits(1):
        again = store.materialize(**recipe, steps=["robust", "pca(11)"])
    assert (first.unchanged, again.unchanged) == (False, True)
    with threadpool_limits(2):
        assert store.table("t").reproduce().same
