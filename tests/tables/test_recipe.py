"""A recipe says one thing in every form: as data, as YAML, as JSON in the catalog, as flags."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from featstore import LeakageError, UsageError
from featstore.keys import Ref
from featstore.tables.recipe import LEAKS, Input, Label, Output, Recipe, TabularInput
from featstore.tables.recipe_file import from_json, to_yaml
from featstore.tables.recipe_yaml import parse

#: Columns as spreadsheets have them; much of it is something else to YAML.
COLUMNS = [
    "no", "on", "yes", "true", "null", "~", "007", "08", "0", "7", "1e5", "1.5", ".5", "0x1F", "1_000", "1:30",
    "2024-01-01", ".nan", "<<", "=", "a: b", "- x", "# x", "&a", "*a", "!x", "%y", "@z", "`t`", "{a}", "[b]", "'q'",
    '"q"', "é", "Ω", "two words", " spaces ", "x,y", "tab\there", "line\nbreak", "\x85x", "x\u2028y", "\ufeff", "🙂",
    "a.b",
]  # fmt: skip
STEPS = ["l2", "standardize", "pca(32)", "pca(0.95)", "select(8, anova)", "impute(knn, 5)"]
NAMES = ["v", "r18", "p_r18.mean", "007", "1e5", "no", "null", "08"]

text = st.text(min_size=1, max_size=20).filter(str.strip)
steps = st.lists(st.sampled_from(STEPS), max_size=3).map(tuple)
maybe_text = st.none() | text


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes that say anything that one can."""
    aliases = draw(st.lists(st.sampled_from(NAMES).map("in_{}".format), min_size=1, max_size=3, unique=True))
    inputs = tuple(
        Input(
            alias, Ref(draw(st.sampled_from(NAMES)), draw(st.none() | st.integers(1, 9))),
            draw(st.none() | st.sampled_from(["A", "T1 w", "a=b", "a/b:c", "007"])),
            draw(st.none() | st.sampled_from(["mean", "gem(3)", "attention(8, 2)"])),
            draw(steps), draw(st.none() | st.integers(1, 99)), draw(maybe_text),
            draw(st.none() | st.sampled_from(["patient", "visit", "sample"])),
        )
        for alias in aliases
    )  # fmt: skip
    columns = draw(st.lists(st.sampled_from(COLUMNS), max_size=6, unique_by=str.lower))
    dated = draw(st.booleans()) and bool(columns)
    tables = []
    if columns:
        cut = draw(st.integers(0, len(columns)))
        within = draw(st.none() | st.sampled_from(["90d", "12h", "4w"])) if dated else None
        tables.append(
            TabularInput(
                draw(st.sampled_from(["labs", "3.5", "off"])), tuple(columns[:cut]), tuple(columns[cut:]),
                draw(st.sampled_from(["onehot", "ordinal"])), draw(steps), draw(text) if dated else None, within,
            )
        )  # fmt: skip
    labels = [
        Label(), Label(None), Label("outcome.grade"), Label("outcome.age", "number"), Label("label", "classes"),
        Label(None, "survival", "outcome.days", "outcome.died"),
    ]  # fmt: skip
    min_modalities = draw(st.none() | st.integers(1, len(inputs)))
    return Recipe(
        draw(st.sampled_from(NAMES)), inputs, tuple(tables), draw(st.sampled_from(["patient", "visit", "sample"])),
        draw(st.sampled_from(labels)), draw(maybe_text), draw(maybe_text),
        "inner" if min_modalities else draw(st.sampled_from(["inner", "left", "outer"])), min_modalities,
        draw(st.sampled_from(["concat", "kronecker(8)"])), draw(st.sampled_from(["none", "mean", "knn(5)"])),
        draw(steps), draw(text) if dated else None, draw(st.none() | st.integers(1, 99)), draw(maybe_text),
        draw(st.none() | st.floats(0, 1, exclude_min=True)),
        draw(st.dictionaries(st.sampled_from(LEAKS), text, max_size=2)), draw(st.integers(0, 2**32 - 1)),
    )  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(recipe=recipes())
def test_every_form_says_the_same(recipe: Recipe) -> None:
    assert from_json(recipe.to_json()) == recipe
    assert from_json(json.loads(json.dumps(recipe.to_json()))) == recipe
    assert from_json(parse(to_yaml(recipe), "recipe.yaml")) == recipe
    assert from_json(from_json(recipe.to_json()).to_json()) == recipe


def test_where_a_copy_went_makes_no_other_table() -> None:
    one = Recipe("t", (Input("a", Ref("v")),))
    other = Recipe("t", (Input("a", Ref("v")),), output=Output("t.csv", wide=True))
    assert one == other
    assert one.to_json() == other.to_json()


A = (Input("a", Ref("v")),)
LABS = TabularInput("labs", ("age",), ("sex",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": ()}, "at least one input"),
        ({"entity": "pateint"}, "entity 'pateint'.*'patient'"),
        ({"join": "outter"}, "join 'outter'.*'outer'"),
        ({"allow": {"outdated": " "}}, "allow outdated needs a reason"),
        ({"allow": {"outdate": "why"}}, "allow 'outdate'.*'outdated'"),
        ({"steps": ("pca(",)}, r"'pca\(' isn't NAME"),
        ({"fuser": "concat("}, r"'concat\(' isn't NAME"),
        ({"missing": ""}, "missing '' isn't one of none, mean"),
        ({"tables": (TabularInput("labs", ("age",), encode="one hot"),)}, "'one hot' isn't NAME"),
        ({"min_modalities": 2}, "must be 1 to 1"),
        ({"min_modalities": 1, "join": "left"}, "give one of them"),
        ({"near_duplicates": 0.0}, "above 0 and at most 1"),
        ({"near_duplicates": float("nan")}, "above 0 and at most 1"),
        ({"max_samples": 0}, "at least 1"),
        ({"label": Label(None, "survival", "o.days")}, "a time and an event"),
        ({"label": Label("label", "survival")}, "of survival where"),
        ({"label": Label("label", "survival", "o.days", "o.died")}, "nothing else"),
        ({"as_of": "acquired_at", "tables": (LABS,)}, "one needs the other"),
        ({"tables": (TabularInput("labs", ("age",), time="drawn_at"),)}, "one needs the other"),
        ({"tables": (TabularInput("labs", ("age",), within="90d"),)}, "of a table with a time"),
        (
            {"tables": (TabularInput("labs", ("age",), time="t", within="90 days"),), "as_of": "acquired_at"},
            r"isn't a span \(90d",
        ),
        ({"tables": (TabularInput("labs", ("A",)),)}, "called 'a', 'A'"),
        ({"tables": (TabularInput("labs", ("Time",)),)}, "called 'Time'"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe(**({"name": "t", "inputs": A} | fields))


def test_the_label_is_no_input() -> None:
    survival = Label(None, "survival", "labs.AGE", "labs.died")
    for label in (Label("labs.age"), survival):
        with pytest.raises(LeakageError, match="the label and an input at once"):
            Recipe("t", A, (LABS,), label=label)


@pytest.mark.parametrize(("within", "seconds"), [("90d", 7_776_000), ("12h", 43_200), ("4w", 2_419_200), (None, None)])
def test_spans(within: str | None, seconds: int | None) -> None:
    assert TabularInput("labs", within=within).within_s == seconds
