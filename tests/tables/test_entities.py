"""Rows that are visits or samples: every vector, label and key where pandas and scikit-learn have it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings

from featstore import ConflictError, NotFoundError, UsageError
from featstore.tables.recipe_plain import from_json

from .expected import check, remade


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Visits with one or two inputs of their own or of their patients; samples with the patient's other vectors."""

    def one_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    entity = one_of("visit", "visit", "sample", "patient")
    agg = st.sampled_from(["mean", "first", "last", "max", "median"])
    own: dict[str, Any] = {"alias": "a", "features": "v", "modality": "A"}
    own |= {"aggregation": draw(agg)} if entity != "sample" else {}
    other: dict[str, Any] = {"alias": "p", "features": "v", "modality": "P", "aggregation": draw(agg)}
    if entity == "visit":
        other |= one_of({}, {"per": "patient"})
    elif entity == "sample":
        other |= one_of({}, {"per": "patient"}, {"per": "visit"}, {"modality": "A"})
    for item in (own, other):
        item |= one_of({}, {"steps": ["standardize"]}, {"steps": ["l2"]})
    bounds = [{"max_samples": 2}, {"max_samples": 1, "order_by": "slice"}]
    bounds = [] if other["aggregation"] in ("first", "last") else bounds
    other |= one_of({}, {"order_by": "slice"}, *bounds)
    recipe = {"name": f"t_{entity}", "entity": entity, "scheme": "default", "inputs": one_of([own, other], [own])}
    joins = [{"join": "inner"}, {"join": "left"}, {"join": "outer"}, {"min_modalities": 1}]
    recipe |= one_of(*joins) | {"missing": one_of("none", "mean", "knn(3)"), "steps": one_of([], ["standardize"])}
    return recipe | one_of({}, {"label": "none"})


@settings(max_examples=16, derandomize=True, phases=[Phase.generate])
@given(recipe=recipes())
def test_rows_of_every_kind_equal_those_made_without_featstore(visited: Any, recipe: dict[str, Any]) -> None:
    visited.store.materialize(from_json(recipe))
    table = visited.store.table(recipe["name"])
    assert table.entity == recipe["entity"]
    check(table, remade(visited, recipe))


@pytest.mark.parametrize("entity", ["visit", "sample"])
def test_the_report_adds_up_for_visits_and_samples(visited: Any, entity: str) -> None:
    agg = "" if entity == "sample" else ":mean"
    result = visited.store.materialize(
        name="r", entity=entity, inputs=[f"a=v/A{agg}", "p=v/P:mean"], scheme="default", join="left"
    )
    report, samples = result.report, visited.samples()
    mine = samples[samples.modality == "A"] if entity == "sample" else samples.dropna(subset=["visit_id"])
    keys = ["sample_key"] if entity == "sample" else ["patient_id", "visit_id"]
    if entity == "sample":  # patients who have none of them are lost, too
        without = set(samples.patient_id) - set(mine.patient_id)
        reason, rowless = "without a sample of modality A", {"rowless": True}
    else:  # and so are samples of visits that nobody named
        unnamed = samples[samples.visit_id.isna() & samples.modality.isin(["A", "P"])]
        without, reason, rowless = set(unnamed.patient_id), "without a visit_id", {}
    assert without
    assert report["lost"][0]["reason"] == reason
    assert report["lost"][0] == report["lost"][0] | {"rows": len(without), "patients": len(without)} | rowless
    lost = pq.ParquetFile(result.path / "lost.parquet").read().to_pandas()
    assert set(lost.patient_id[lost.reason == reason]) == without
    assert report["candidates"] == len(mine[keys].drop_duplicates()) + len(without)
    assert report["inputs"]["a"]["lost"].get("no such modality", 0) == (
        0 if entity == "sample"
        else len(mine[keys].drop_duplicates()) - len(mine[mine.modality == "A"][keys].drop_duplicates())
    )  # fmt: skip
    assert report["candidates"] == report["rows"] + sum(entry["rows"] for entry in report["lost"])
    patients = {p for p, s in visited.splits.items() if s is None}
    (unsplit,) = [entry for entry in report["lost"] if "in no split" in entry["reason"]]
    lost = mine[mine.patient_id.isin(patients)]
    assert (unsplit["rows"], unsplit["patients"]) == (len(lost[keys].drop_duplicates()), lost.patient_id.nunique())
    assert report["by_split"].keys() == {"train", "val", "test"}
    assert sum(split["rows"] for split in report["by_split"].values()) == result.rows
    assert report["entity"] == entity


def test_no_patient_is_on_both_sides_whatever_a_row_is(visited: Any) -> None:
    visited.store.materialize(name="s", entity="sample", inputs=["a=v/A"], scheme="default")
    frame = visited.store.table("s").to_pandas()
    assert (frame.groupby("patient_id").split.nunique() == 1).all()
    assert frame.sample_key.is_unique
    x, y, patients = visited.store.table("s").arrays(split="train")
    assert len(x) == len(y) == len(patients) == (frame.split == "train").sum()
    assert len(set(patients)) < len(patients)


def test_late_scores_keep_all_rows_of_a_patient_together(visited: Any) -> None:
    """A train row's score is of a model that has seen no row of its patient, not only not this one."""
    visited.store.materialize(name="l", entity="sample", inputs=["a=v/A"], scheme="default", fuser="late")
    table = visited.store.table("l")
    frame, models = table.to_pandas(), table.fitted()["fuser"]["models"]["a"]
    train = frame[frame.split == "train"]
    x, scores = np.stack(train.a).astype(np.float64), np.stack(train.fused)[:, 0]
    folds = [np.abs(models[f"without{n}"].predict_proba(x)[:, 1] - scores) < 1e-6 for n in range(5)]
    for rows in train.reset_index(drop=True).groupby("patient_id").groups.values():
        assert any(fold[list(rows)].all() for fold in folds)
    seen = [int(models[f"without{n}"].named_steps["standardscaler"].n_samples_seen_) for n in range(5)]
    assert sum(len(train) - n for n in seen) == len(train)


@pytest.mark.parametrize(
    ("fields", "kind", "text"),
    [
        ({"entity": "visit", "inputs": ["a=v/A"]}, ConflictError, r"several rows of a visit"),
        ({"inputs": [{"input": "a=v/A", "per": "visit"}]}, UsageError, r"finer than a row"),
        ({"entity": "sample", "inputs": ["a=v/A:mean"]}, UsageError, r"every input here is pooled"),
        ({"inputs": ["a=v/A:mean"], "order_by": "slcie"}, ConflictError, r"'slcie'.*Did you mean 'slice'"),
        ({"inputs": ["a=v/A:first"], "order_by": "acquired_at"}, ConflictError, r"no 'acquired_at'"),
        ({"entity": "vist", "inputs": ["a=v/A:mean"]}, UsageError, r"'vist'.*'visit'"),
        ({"inputs": ["a=v/A:mean"], "max_samples": 0}, UsageError, r"max_samples"),
        ({"inputs": ["a=v/A:mean", "p=v/P:mean"], "min_modalities": 3}, UsageError, r"1 to 2"),
        ({"inputs": ["a=v/A:mean"], "join": "left", "min_modalities": 1}, UsageError, r"one of them"),
        (
            {"inputs": [{"input": "a=v/A:mean", "steps": ["standardise"]}], "scheme": "default"}, NotFoundError,
            r"no step 'standardise'.*'standardize'",
        ),
    ],
)  # fmt: skip
def test_what_rows_cant_be_is_refused(visited: Any, fields: dict[str, Any], kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        visited.store.materialize(from_json({"name": "t"} | fields))
    assert caught.value.hint or re.search("Did you mean|must be|give one of them", caught.value.message)


def test_a_store_without_visits_says_so(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(50, count=6, slices=1)
    with pytest.raises(NotFoundError, match=r"No visit is left"):
        cohort.store.materialize(name="t", entity="visit", inputs=["a=v/A:mean"], label="none")
