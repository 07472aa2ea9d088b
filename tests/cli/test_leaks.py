"""featstore leaks, trained-on, and what a refused materialize says."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def run_in(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A store of imported vectors: "07" in test is "7" in train again, and a third patient nearly so."""
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    vectors = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    vectors[9] = vectors[0]
    vectors[10] = vectors[0] + np.float32(1e-3)
    np.save(tmp_path / "v.npy", vectors)
    ids = ["7", *(f"T {n}" for n in range(1, 9)), "07", "é", "X"]
    with open(tmp_path / "v.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "key", "patient_id", "modality", "split", "label"])
        writer.writerows([n, f"k{n}", p, "A", "test" if n > 8 else "train", n % 2] for n, p in enumerate(ids))
    assert run("init", tmp_path / "store").code == 0
    assert run("import", tmp_path / "v.npy", "--name", "v", "--index", tmp_path / "v.csv").code == 0
    return run


TABLE = ("materialize", "--name", "t", "--input", "v", "--scheme", "default")


def test_refused_then_allowed_then_looked_at(run_in: Callable[..., Any]) -> None:
    refused = run_in(*TABLE)
    assert refused.code == 1
    assert "Patients in different splits have the same vector of 'v', 1 time(s). [same-vectors]" in refused.err
    assert "\n  '07' (test) v/k9 = '7' (train) v/k0, input v\n" in refused.err
    assert "--allow same-vectors='why'" in refused.err
    assert run_in(*TABLE, "--allow", "same-vectors=they are twins").code == 0
    found = run_in("leaks", "t")
    assert found.code == 1
    assert "same-vectors: Patients in different splits have the same vector of 'v', 1 time(s)." in found.out
    assert "near-duplicates: " in found.out
    rows = [line.split() for line in found.out.splitlines() if line.startswith("v ")]
    assert ["v", "07", "v/k9", "test", "7", "v/k0", "train"] in rows
    assert ["v", "07", "test", "7", "train", "1"] in rows
    assert [row[:5] for row in rows].count(["v", "7", "train", "é", "test"]) == 1
    plain = run_in("leaks", "t", "--threshold", "1", "--json")
    assert plain.code == 1
    assert [leak["kind"] for leak in plain.json["leaks"]] == ["same-vectors", "near-duplicates"]
    assert plain.json["leaks"][1]["rows"][0]["cosine"] == pytest.approx(1, abs=1e-12)


def test_clean_feature_set(run_in: Callable[..., Any]) -> None:
    assert run_in("split", "--scheme", "one", "--ratio", "train=1").code == 0
    clean = run_in("leaks", "v", "--scheme", "one", "--threshold", "0.99")
    assert (clean.code, clean.out) == (0, "")
    assert "v@v1 is clean: 12 rows, no cosine of 0.99 or more." in clean.err
    assert run_in("leaks", "v", "--scheme", "one", "--all").code == 1
    assert run_in("leaks", "v", "--threshold", "2").code == 2


def test_trained_on(run_in: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("patient_id\nX\n08\nT 1\n")
    said = run_in("trained-on", "v", "--patients", tmp_path / "p.csv")
    assert said.code == 0
    assert "3 patients added, 0 known before: v@v1." in said.err
    assert "2 in the store now; 1 patient will count as soon as they are." in said.err
    assert run_in("trained-on", "v", "--scheme", "default", "--json").json["added"] == 8
    assert run_in("trained-on", "v", "--scheme", "default", "--split", "train").err.startswith(
        "0 patients added, 9 known"
    )
    refused = run_in(*TABLE, "--allow", "same-vectors=twins")
    assert refused.code == 1
    assert "The weights of v@v1 were trained on 1 patient(s) that this table holds out. [fine-tuned]" in refused.err
    assert "'X' (test)" in refused.err
    assert run_in("trained-on", "v").code == 2
