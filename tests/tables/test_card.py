"""A data card says what a table is and what is wrong with it, and nothing of any patient."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from featstore.tables.card import card
from featstore.tables.lineage import lineage
from featstore.tables.markdown import escaped, table

RECIPE: dict[str, Any] = {
    "name": "grade", "entity": "patient", "label": "label", "scheme": "default", "where": None, "join": "outer",
    "inputs": [{"input": "a=r18/A:mean", "steps": ["l2", "pca(4)"]}, "p=r18/P:mean"],
    "tables": [{"name": "clinical", "numeric": ["age"], "categorical": ["sex"]}],
    "missing": "median", "fuser": "concat", "steps": ["standardize"],
}  # fmt: skip
REPORT: dict[str, Any] = {
    "entity": "patient", "candidates": 130, "rows": 120, "width": 40, "train_rows": 80, "nearly_constant": 0,
    "inputs": {
        alias: {
            "feature_set": "r18@v2", "modality": alias.upper(), "aggregation": "mean", "patients": 120, "samples": 900,
            "failed_samples": 0, "pending_samples": 0, "dropped_samples": 0, "missing": 0,
        }
        for alias in "ap"
    },
    "tables": {"clinical": {"rows": 140, "patients": 120, "lookalikes": [], "missing": 0, "unseen": {}, "gaps": {}}},
    "lost": [{"reason": "no label", "rows": 10, "patients": 10, "such_as": ["SECRET-1", "SECRET-2"]}],
    "lookalikes": [],
    "by_split": {
        "train": {"rows": 80, "labels": {"0": 40, "1": 40}}, "test": {"rows": 40, "labels": {"0": 20, "1": 20}},
    },
}  # fmt: skip
LINEAGE: dict[str, Any] = {"inputs": [], "tables": [], "scheme": None, "run": {"started_at": "2024-01-02T03:04:05"}}


def made(**changes: Any) -> str:
    """A card of the facts above, some of them changed: ``report__width=3``."""
    facts = {"recipe": copy.deepcopy(RECIPE), "report": copy.deepcopy(REPORT), "lineage": copy.deepcopy(LINEAGE)}
    for path, value in changes.items():
        *above, last = path.split("__")
        holder: Any = facts
        for key in above:
            holder = holder[key]
        holder[last] = value
    return card(facts["recipe"], facts["report"], facts["lineage"], "grade", 3)


def section(text: str, head: str) -> str:
    return text.partition(f"## {head}\n")[2].partition("\n## ")[0]


def test_the_same_facts_give_the_same_card() -> None:
    assert made() == made()
    assert made().startswith("# Data card: grade@v3\n")
    assert section(made(), "Known gaps").strip() == "None that could be seen."
    assert "10 rows: no label" in section(made(), "Who was left out")
    assert "SECRET" not in made()
    assert "| train | 80 | 40 | 40 |" in section(made(), "Rows by split")
    assert "- a: l2 → pca(4), before the fuser." in section(made(), "Fusion")
    assert "featstore reproduce grade@v3" in section(made(), "Making it again")


def test_the_recipe_in_it_is_the_recipe() -> None:
    text = section(made(), "Making it again")
    assert yaml.safe_load(text.partition("```yaml\n")[2].partition("\n```")[0]) == RECIPE
    hostile = section(made(recipe__name="a ```` b"), "Making it again")
    assert "\n`````yaml\n" in hostile
    assert hostile.rstrip().endswith("\n`````")


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        ({"report__inputs__a__failed_samples": 3}, "a: 3 of its samples failed"),
        ({"report__inputs__p__pending_samples": 1200}, "p: 1,200 of its samples have no vector yet"),
        ({"report__inputs__p__dropped_samples": 2}, "p: 2 of its samples are left out"),
        ({"report__tables__clinical__unseen": {"sex": ["X", "Y"]}}, "sex has 2 values that no train row has"),
        ({"report__tables__clinical__alike": {"site": [["JM", "jm"]]}}, "site has 1 categories in several spellings"),
        ({"report__tables__clinical__gaps": {"age": 7}}, "age is missing for 7 of 120 rows"),
        ({"report__tables__clinical__lookalikes": [["a", "b"]]}, "1 of its ids match nobody"),
        ({"report__lookalikes": [["007", "7"]]}, "1 pairs of patients have ids that look alike"),
        ({"report__by_split__test": {"rows": 5, "labels": {"0": 2, "1": 3}}}, "split test has only 5 rows"),
        ({"report__by_split__test__labels": {"1": 40}}, "split test has one class alone, 1"),
        ({"report__by_split": {"train": REPORT["by_split"]["train"]}}, "nothing is held out"),
        ({"report__nearly_constant": 4}, "4 fused features hardly vary"),
        ({"report__width": 81}, "more fused features (81) than train rows (80)"),
        ({"report__inputs__a__missing": 2, "recipe__missing": "none"}, "NaN in fused"),
        (
            {"report__confounders": [{"column": "site", "levels": 2, "rows": 120, "measure": "Cramér's V", "value": 0.9,
                                      "accuracy": 0.95, "baseline": 0.5}]},
            "site alone predicts the label: 95% right, where guessing has 50%",
        ),
        (
            {"lineage__inputs": [{"alias": "a", "runs": [], "samples": [{"changed": 6}]}]},
            "a: 6 of its samples have changed since",
        ),
    ],
)  # fmt: skip
def test_each_gap_is_told(changes: dict[str, Any], gap: str) -> None:
    assert gap in section(made(**changes), "Known gaps").replace("\\", "")


def test_leaks_and_staleness_are_bold() -> None:
    allowed = [{"kind": "same-content", "reason": "a phantom", "found": 2}]
    assert "**same-content: 2 cases, allowed: a phantom**" in section(made(report__allowed=allowed), "Allowed leaks")
    assert "**It is stale: the scheme has a version 2.**" in made(lineage__stale="the scheme has a version 2")


def test_numbers_are_no_classes() -> None:
    ages = {str(n): 1 for n in range(40)}
    assert "label 7" not in made(report__by_split={"train": {"rows": 40, "labels": ages}})
    number = made(recipe__label={"column": "clinical.age", "kind": "number"})
    assert "label 0" not in number
    assert "label 0" in made()


def test_no_patient_and_no_clinical_value_is_in_a_card(make_cohort: Callable[..., Any]) -> None:
    ids = [f"Meyer-{n:04}-x" for n in range(14)]
    cohort = make_cohort(13, ids=ids, missing=0.2)
    values = {p: {"note": f"bitter almond {n}", "weight": 61.03125 + n} for n, p in enumerate(cohort.patients[1:])}
    cohort.clinical(values | {"meyer-0001-X": {"note": "stranger", "weight": 1.5}})
    cohort.store.materialize(
        name="t", inputs=["a=v/A:mean"], tables=["clinical"], numeric=["weight"], categorical=["note"], join="left",
        impute="mean", scheme="default", where="patient_id <> 'Meyer-0003-x'",
    )  # fmt: skip
    folder = cohort.store.table("t").path
    text = (folder / "card.md").read_text(encoding="utf-8")
    for secret in ("eyer-", "almond", "stranger", "61.03", str(cohort.root.parent)):
        assert secret not in text
    report = cohort.store.table("t").report
    assert report["tables"]["clinical"]["unseen"]["note"]  # there was something to hide
    assert "note has" in section(text, "Known gaps")
    again = lineage(cohort.store.path, cohort.store.catalog, "t")
    now = card(cohort.store.table("t").recipe, report, again, "t", 1)
    assert "eyer-" not in now
    assert section(now, "Inputs") == section(text, "Inputs")
    assert "| a | v@v1 | A | mean | numbers:5 | last, mean |" in section(text, "Inputs")


def test_names_cant_break_the_markdown() -> None:
    text = made(report__inputs__a__modality="T1|T2 <img src=x> `*_[l](u)\n# head")
    assert "\n# head" not in text
    row = next(line for line in text.splitlines() if line.startswith("| a |"))
    assert "\\<img src=x\\>" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == len(re.findall(r"(?<!\\)\|", "| --- " * 10 + "|"))


@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), max_size=4))
def test_a_table_has_its_cells_whatever_is_in_them(rows: list[list[str]]) -> None:
    lines = table(["a", "b"], rows)
    assert len(lines) == 2 + len(rows)
    for line, cells in zip(lines[2:], rows, strict=True):
        found = [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1]]
        assert len(found) == 2
        assert "\n" not in line
        assert line == f"| {escaped(cells[0])} | {escaped(cells[1])} |"
