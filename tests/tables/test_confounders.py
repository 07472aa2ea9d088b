"""How far site and scanner predict the label, against formulas of others."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association

import featstore
from featstore.tables.confounders import cramers_v, eta_squared, leave_one_out
from featstore.tables.recipe_plain import from_json

PLUGIN = str(Path(__file__).with_name("vectors_plugin.py"))
TABLES = st.tuples(st.integers(2, 5), st.integers(2, 5)).flatmap(
    lambda shape: st.lists(
        st.lists(st.integers(0, 30), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    )
)


def full(table: Sequence[Sequence[int]]) -> np.ndarray:
    """Without empty rows and columns."""
    counts = np.array(table)
    return counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]


@given(TABLES)
def test_cramers_v_is_scipys_with_bergsmas_correction(table: list[list[int]]) -> None:
    counts = full(table)
    n = counts.sum()
    if min(counts.shape, default=0) < 2 or n <= max(counts.shape):
        return
    assert 0 <= cramers_v(counts) <= 1
    r, c = counts.shape
    plain = association(counts, method="cramer") ** 2 * (min(r, c) - 1)  # φ²
    assert plain == pytest.approx(chi2_contingency(counts, correction=False).statistic / n)
    corrected = max(0, plain - (r - 1) * (c - 1) / (n - 1))
    least = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    if least > 0.05:
        assert cramers_v(counts) == pytest.approx(min(1, math.sqrt(corrected / least)), abs=1e-9)


def test_no_association_is_less_than_its_bias() -> None:
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(200):
        made = pd.crosstab(rng.integers(0, 8, 60), rng.integers(0, 2, 60)).to_numpy()
        tables.append((cramers_v(made), association(made, method="cramer")))
    ours, plain = np.mean(tables, axis=0)
    assert plain > 0.25
    assert ours < plain / 2


@given(TABLES)
def test_guessing_by_the_others(table: list[list[int]]) -> None:
    counts = full(table)
    if not counts.size:
        return
    rows = [(level, kind) for (level, kind), n in np.ndenumerate(counts % 7) for _ in range(n)]
    if not rows:
        return
    usual = (counts % 7).sum(axis=0).argmax()
    right = 0
    for number, (level, kind) in enumerate(rows):
        others = Counter(k for m, (one, k) in enumerate(rows) if m != number and one == level)
        (first, most), (_, second) = (*others.most_common(2), (None, 0), (None, 0))[:2]
        right += (first if most - second > 1 else usual) == kind
    counts = counts % 7
    assert leave_one_out(counts) == pytest.approx(right / len(rows))


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(-1e3, 1e3)), min_size=2, max_size=40))
def test_eta_squared_is_the_share_of_the_variance(pairs: list[tuple[int, float]]) -> None:
    levels, values = (np.array(column) for column in zip(*pairs, strict=True))
    frame = pd.DataFrame({"level": levels, "value": values.astype(float)})
    spread = ((frame.value - frame.value.mean()) ** 2).sum()
    within = frame.groupby("level").value.transform(lambda v: v - v.mean()).pow(2).sum()
    if spread > 1e-6:
        assert eta_squared(levels, values.astype(float)) == pytest.approx(1 - within / spread, abs=1e-6)


@pytest.mark.parametrize("kind", ["int", "float"])
def test_report_of_a_table(tmp_path: Path, kind: str) -> None:
    """Three scanners, two sites, labels that follow the scanner; one patient has two, some have none."""
    store = featstore.init(tmp_path / "store")
    store = featstore.open(store.path, plugins=[PLUGIN])
    rng = np.random.default_rng(3)
    people = []
    with open(tmp_path / "m.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "patient_id", "modality", "label", "site", "ManufacturerModelName", "kVp", "slice"])
        for n in range(40):
            scanner = ["X 1", "Ünal", None][n % 3]
            label = int(n % 3 == 0) if n % 8 else 1 - int(n % 3 == 0)
            value = label if kind == "int" else label + n / 50
            site = ["JM", "KD"][(n // 3) % 2]
            for number in range(2):
                (tmp_path / f"{n}_{number}.f4").write_bytes(rng.normal(size=4).astype("<f4").tobytes())
                own = "X 1" if n == 1 and number else scanner
                writer.writerow([f"{n}_{number}.f4", f"P{n:02}", "A", value, site, own, 120, number])
            levels = "+".join(sorted({scanner or "", "X 1"} - {""})) if n == 1 else scanner or "(none)"
            people.append({"site": site, "ManufacturerModelName": levels, "label": value})
    store.ingest_manifest(tmp_path / "m.csv", dataset="d", label_type=kind)
    store.extract(name="v", backbone="numbers:4", device="cpu")
    report = store.materialize(name="t", inputs=["v/A:mean"]).report["confounders"]
    frame = pd.DataFrame(people)
    # kVp is the same of all, and so is the data set: they are left out. `slice` tells of no scanner.
    assert {entry["column"] for entry in report} == {"site", "ManufacturerModelName"}
    assert [entry["value"] for entry in report] == sorted((e["value"] for e in report), reverse=True)
    for entry in report:
        assert entry["levels"] == frame[entry["column"]].nunique()
        assert entry["rows"] == 40
        if kind == "int":
            table = pd.crosstab(frame[entry["column"]], frame.label).to_numpy()
            assert entry["measure"] == "cramers_v"
            assert entry["value"] == pytest.approx(cramers_v(table))
            assert entry["accuracy"] == pytest.approx(leave_one_out(table))
            assert entry["baseline"] == pytest.approx(frame.label.value_counts(normalize=True).max())
        else:
            within = frame.groupby(entry["column"]).label.transform(lambda v: v - v.mean()).pow(2).sum()
            assert entry["measure"] == "eta2"
            assert entry["value"] == pytest.approx(1 - within / ((frame.label - frame.label.mean()) ** 2).sum())
    assert report[0]["column"] == "ManufacturerModelName"
    assert report[0]["value"] > 0.4


def test_numbers_that_name_classes_are_classes(make_cohort: Callable[..., Any]) -> None:
    """Grades of 1.5, 2.5 and 3.5 are told by the site, whatever their order."""
    cohort = make_cohort(3, count=24, extract=False)
    rows = cohort.manifest()
    rows[0].append("site")
    for row in rows[1:]:
        row.append("YXZ"[cohort.patients.index(row[1]) % 3])
    cohort.ingest_rows(rows)
    cohort.extract()
    cohort.clinical({p: {"grade": (1.5, 2.5, 3.5)[n % 3]} for n, p in enumerate(cohort.patients)})
    found = {}
    for kind in ("classes", "number"):
        recipe = {"name": kind, "inputs": ["a=v/A:mean"], "label": {"column": "clinical.grade", "kind": kind}}
        report = cohort.store.materialize(from_json(recipe)).report
        (found[kind],) = [entry for entry in report["confounders"] if entry["column"] == "site"]
    assert (found["classes"]["measure"], found["classes"]["accuracy"]) == ("cramers_v", 1.0)
    assert (found["number"]["measure"], found["number"]["value"]) == ("eta2", 1.0)
