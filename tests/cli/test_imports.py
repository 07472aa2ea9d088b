"""featstore import: its words, what it says, its exit codes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore

IDS = ["007", "7", "Ünï 3", "a b"]


@pytest.fixture
def words(store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> Any:
    """The words of an import of four vectors, and a function that writes others."""
    monkeypatch.setenv("FEATSTORE_STORE", str(store.path))
    vectors = rng.normal(size=(4, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", vectors)
    lines = [f"{n}.png,{patient},A\n" for n, patient in enumerate(IDS)]
    (tmp_path / "meta.csv").write_text("key,patient_id,modality\n" + "".join(lines))
    return ["import", tmp_path / "x.npy", "--name", "f", "--index", tmp_path / "meta.csv"]


def test_what_it_says(store: featstore.Store, run: Callable[..., Any], words: list[Any]) -> None:
    origin = ["--in-order", "--backbone", "uni", "--dtype", "float16"]
    done = run(*words, *origin)
    assert (done.code, done.out) == (0, ""), done.err
    assert done.err.splitlines() == [
        "f@v1: 4 vectors of 6 float16 imported, 0 unchanged.",
        "Rows matched in order, as you said; 4 samples and 4 patients made.",
        "They are called by key.",
        "The values were float32, and are rounded to float16.",
        "The patients '007' and '7' look alike, and are taken for two.",
    ]
    assert set(store.sql("SELECT patient_id FROM patients").column(0).to_pylist()) == set(IDS)
    assert run(*words, *origin, "--json").json["unchanged"] == 4
    other = run(*words, "--in-order")
    assert "f has other versions, made otherwise or of other vectors: v1." in other.err
    assert store.sql("SELECT backbone FROM feature_sets ORDER BY version").column(0).to_pylist() == ["uni", "unknown"]


def test_failed_rows_and_refusals(run: Callable[..., Any], words: list[Any]) -> None:
    vectors = np.load(words[1])
    vectors[1, 1] = np.nan
    np.save(words[1], vectors)
    refused = run(*words)
    assert refused.code == 2
    assert "next: give the index a column row (0 is the first), or say --in-order" in refused.err
    failed = run(*words, "--in-order")
    assert failed.code == 3
    assert "3 vectors of 6 float32 imported, 0 unchanged, 1 failed" in failed.err
    assert "next: featstore errors" in failed.err
    again = run(*words, "--in-order", "--json")
    assert (again.code, again.json["failed_before"]) == (3, 1)
    assert run(*words, "--in-order", "--shape", "a").code == 2
    shaped = run(*words, "--in-order", "--shape", "2,4")
    assert shaped.code == 1
    assert "has 6 values, which the shape (2, 4) doesn't have" in shaped.err
    assert run(*words, "--in-order", "--shape", "2,3", "--json").json["shape"] == [2, 3]
