"""Flags and files that mean the same are the same recipe; flags of before keep their meaning."""

from __future__ import annotations

from typing import Any

import pytest

from featstore import LeakageError, UsageError
from featstore.tables.recipe import Input, Recipe
from featstore.tables.recipe_file import from_json
from featstore.tables.recipe_flags import from_flags
from featstore.tables.recipe_yaml import parse

KNOWN = {
    "labs": ["crp", "stage", "drawn_at", "a.b"],
    "notes": ["age", "sex", "stage", "seen_at", "labs.crp"],
    "a.b": ["c", "b.c"],
}


def flags(**fields: Any) -> Recipe:
    return from_flags(**({"name": "t", "inputs": ["r18/A:mean"], "known_columns": KNOWN} | fields))


PAIRS: dict[str, tuple[dict[str, Any], str]] = {
    "least": ({}, ""),
    "several inputs": ({"inputs": ["a=v/A:mean", "v@v2/P:gem(3)"]}, "inputs: ['a=v/A:mean', 'v@v2/P:gem(3)']"),
    "one text": ({"inputs": "v", "tables": "labs", "numeric": "crp"},
                 "inputs: v\ntables: [{name: labs, numeric: crp}]"),
    "entity": ({"entity": "visit", "scheme": "cv", "where": "site = 'X'"},
               "entity: visit\nscheme: cv\nwhere: site = 'X'"),
    "join": ({"join": "outer"}, "join: outer"),
    "min_modalities": ({"min_modalities": 1}, "min_modalities: 1"),
    "no label": ({"label": "none"}, "label: none"),
    "label": ({"label": "labs.grade"}, "label: labs.grade"),
    "kind": ({"label": "labs.grade", "label_kind": "number"}, "label: {column: labs.grade, kind: number}"),
    "kind of their own": ({"label_kind": "classes"}, "label: {kind: classes}"),
    "survival": ({"survival": "o.days, o.died"}, "label: {time: o.days, event: o.died}"),
    "steps": ({"steps": ["robust", "pca(4)"], "fuser": "mean", "missing": "knn(3)"},
              "steps: [robust, pca(4)]\nfuser: mean\nmissing: knn(3)"),
    "impute": ({"impute": "mean"}, "missing: mean"),
    "impute nothing": ({"impute": "none"}, ""),
    "standardize": ({"standardize": True}, "steps: standardize"),
    "pca": ({"pca": 4.0}, "steps: [pca(4)]"),
    "share": ({"pca": 0.1234567890123}, "steps: [pca(0.1234567890123)]"),
    "both": ({"standardize": True, "pca": 4, "impute": "mean"}, "missing: mean\nsteps: [standardize, pca(4)]"),
    "input steps": ({"inputs": ["a=v", "b=w"], "input_steps": ["a=l2", "b=pca(2)", "a=pca(8)"]},
                    "inputs: [{input: a=v, steps: [l2, pca(8)]}, {input: b=w, steps: pca(2)}]"),
    "table steps": ({"tables": ["labs"], "numeric": ["crp"], "input_steps": ["labs=robust"]},
                    "tables: [{name: labs, numeric: [crp], steps: robust}]"),
    "several tables": ({"tables": ["labs", "notes"], "numeric": ["crp", "age"], "categorical": ["labs.stage", "sex"]},
                       "tables: [{name: labs, numeric: crp, categorical: stage}, "
                       "{name: notes, numeric: age, categorical: sex}]"),
    "dots": ({"tables": ["a.b"], "numeric": ["a.b.c", "b.c"]}, "tables: [{name: a.b, numeric: [c, b.c]}]"),
    "encode": ({"tables": ["labs", "notes"], "numeric": ["crp"], "categorical": ["sex"], "encode": ["ordinal"]},
               "tables: [{name: labs, numeric: crp}, {name: notes, categorical: sex, encode: ordinal}]"),
    "encode of one": ({"tables": ["labs", "notes"], "categorical": ["labs.stage", "sex"], "encode": ["labs=ordinal"]},
                      "tables: [{name: labs, categorical: stage, encode: ordinal}, {name: notes, categorical: sex}]"),
    "dated": ({"tables": ["labs"], "numeric": ["crp"], "as_of": "acquired_at", "time": "drawn_at", "within": "90d"},
              "as_of: acquired_at\ntables: [{name: labs, numeric: crp, time: drawn_at, within: 90d}]"),
    "one of two is dated": (
        {"tables": ["labs", "notes"], "numeric": ["crp", "age"], "as_of": "o.day", "time": "labs.drawn_at",
         "within": "4w"},
        "as_of: o.day\ntables: [{name: labs, numeric: crp, time: drawn_at, within: 4w}, {name: notes, numeric: age}]",
    ),
    "both are dated": (
        {"tables": ["labs", "notes"], "numeric": ["crp", "age"], "as_of": "acquired_at",
         "time": ["seen_at", "drawn_at"], "within": ["notes=12h", "labs=90d"]},
        "as_of: acquired_at\ntables: [{name: labs, numeric: crp, time: drawn_at, within: 90d}, "
        "{name: notes, numeric: age, time: seen_at, within: 12h}]",
    ),
    "the rest": (
        {"max_samples": 8, "order_by": "slice", "near_duplicates": 0.99, "allow": {"outdated": "why"}},
        "max_samples: 8\norder_by: slice\nnear_duplicates: 0.99\nallow: {outdated: why}",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PAIRS)
def test_flags_and_files_say_the_same(what: str) -> None:
    fields, text = PAIRS[what]
    plain = {"name": "t", "inputs": ["r18/A:mean"]} | (parse(text, "t.yaml") or {})
    made = flags(**fields)
    assert made == from_json(plain)
    assert made.to_json() == from_json(plain).to_json()
    assert from_json(made.to_json()) == made


REFUSALS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no table": ({"numeric": ["age"]}, "--numeric 'age': columns need a --table", "--table"),
    "no column": ({"tables": ["labs"], "numeric": ["crpp"]}, "'crpp'.*'crp'", "columns: crp"),
    "column of several": (
        {"tables": ["labs", "notes"], "categorical": ["stage"]}, "'stage' is in several tables", "write labs.stage",
    ),
    "no such column here": ({"tables": ["labs"], "numeric": ["crp", "age"]}, "No given --table has.*'age'", "crp"),
    "no column asked for": ({"tables": ["labs"]}, "No column of the table 'labs'", "--numeric"),
    "no such time": ({"tables": ["labs"], "numeric": ["crp"], "time": ["drawn"]}, "'drawn'.*'drawn_at'", "columns"),
    "two times": (
        {"tables": ["labs"], "numeric": ["crp"], "time": ["drawn_at", "a.b"]}, "gives 'labs' two columns", "",
    ),
    "no as-of": ({"tables": ["labs"], "numeric": ["crp"], "time": ["drawn_at"]}, "one needs the other", "--as-of"),
    "no time": ({"tables": ["labs"], "numeric": ["crp"], "within": ["90d"]}, "--table with a --time", ""),
    "within of which": (
        {"tables": ["labs", "notes"], "numeric": ["crp", "age"], "as_of": "acquired_at",
         "time": ["drawn_at", "seen_at"], "within": ["90d"]},
        "may be of 'labs' or 'notes'", "--within labs=90d",
    ),
    "within of no table": (
        {"tables": ["labs"], "numeric": ["crp"], "as_of": "acquired_at", "time": ["drawn_at"], "within": ["lab=90d"]},
        "there is no 'lab'. Did you mean 'labs'", "there is labs",
    ),
    "within twice": (
        {"tables": ["labs"], "numeric": ["crp"], "as_of": "acquired_at", "time": ["drawn_at"],
         "within": ["90d", "labs=4w"]},
        "both '90d' and '4w'", "",
    ),
    "encode of numbers": ({"tables": ["labs"], "numeric": ["crp"], "encode": ["ordinal"]}, "a --categorical", ""),
    "steps of nobody": ({"inputs": ["a=v"], "input_steps": ["b=l2"]}, "there is no 'b'", "there is a"),
    "steps without a name": ({"inputs": ["a=v"], "input_steps": ["l2"]}, "isn't NAME=VALUE", "--input-step a=l2"),
    "survival of one": ({"survival": "o.days"}, "isn't TIME,EVENT", "outcome.days,outcome.died"),
    "survival of three": ({"survival": "o.days,o.died,x"}, "isn't TIME,EVENT", "recipe file"),
    "survival and a label": ({"survival": "o.days,o.died", "label": "label"}, "give one of them", ""),
    "survival of another kind": ({"survival": "o.days,o.died", "label_kind": "number"}, "of survival where", ""),
    "join and a number": ({"join": "inner", "min_modalities": 1}, "--join and --min-modalities", ""),
    "old and new missing": ({"impute": "mean", "missing": "median"}, "--impute is --missing", "--missing median"),
    "old and new steps": ({"standardize": True, "pca": 4, "steps": ["l2"]}, "which comes first",
                          "--step 'standardize' --step 'pca(4)' --step 'l2'"),
    "impute by the median": ({"impute": "median"}, "--impute 'median'", "--missing median"),
    "pca of nothing": ({"pca": 0}, "--pca takes", ""),
    "pca of a half": ({"pca": 2.5}, "not 2.5", ""),
    "pca of no number": ({"pca": float("nan")}, "not nan", ""),
    "pca without end": ({"pca": float("inf")}, "not inf", ""),
    "no input": ({"inputs": []}, "at least one input", "--input"),
    "an input that is none": ({"inputs": ["v//A"]}, "'v//A' isn't an input", ""),
    "one alias twice": ({"inputs": ["a=v/A", "a=v/P"]}, "called 'a'", "name inputs apart"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_refused(what: str) -> None:
    fields, message, hint = REFUSALS[what]
    with pytest.raises(UsageError, match=message) as caught:
        flags(**fields)
    assert hint in caught.value.hint


def test_the_label_is_no_input() -> None:
    with pytest.raises(LeakageError, match="the label and an input at once"):
        flags(tables=["labs"], numeric=["crp"], label="labs.crp")


def test_steps_of_an_input_keep_their_order() -> None:
    made = flags(inputs=["a=v"], input_steps=["a=pca(8)", "a=l2", "a=pca(4)"])
    assert [part.steps for part in made.parts if isinstance(part, Input)] == [("pca(8)", "l2", "pca(4)")]
