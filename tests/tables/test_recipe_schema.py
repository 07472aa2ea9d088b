"""The published schema says what is read: whatever it refuses is refused, by an independent judge of schemas."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jsonschema
import pytest
from hypothesis import given, settings

from featstore import FeatstoreError, UsageError
from featstore.tables.recipe_file import from_json
from featstore.tables.recipe_schema import check, schema

PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "recipe.schema.json"
JUDGE = jsonschema.Draft202012Validator(schema())
WHOLE: dict[str, Any] = {
    "name": "grade", "entity": "visit", "label": {"column": "labs.grade", "kind": "classes"}, "scheme": "cv",
    "where": "site <> 'JM'", "min_modalities": 1,
    "inputs": [
        "a=r18@v2/A:mean",
        {"input": "p=r18/P", "aggregation": "gem(3)", "steps": ["l2"], "max_samples": 8, "order_by": "slice"},
        {"features": "minilm", "modality": "report", "aggregation": "mean", "prefix": "notes", "per": "patient"},
    ],
    "tables": [
        {"name": "labs", "numeric": ["crp"], "categorical": "stage", "encode": "ordinal", "steps": "robust",
         "time": "drawn_at", "within": "90d"},
        {"name": "notes", "text": {"history": "minilm:mean"}},
    ],
    "missing": "median", "fuser": "kronecker(8)", "steps": ["standardize", "pca(0.95)"], "as_of": "acquired_at",
    "max_samples": 16, "order_by": "acquired_at", "near_duplicates": 0.999, "allow": {"outdated": "frozen for a paper"},
    "output": {"file": "grade.csv", "wide": True},
}  # fmt: skip


def test_the_published_schema_is_current() -> None:
    assert PUBLISHED.read_text() == json.dumps(schema(), indent=2, ensure_ascii=False) + "\n", "run: make docs"


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


def test_every_key_is_described() -> None:
    def described(form: Any, path: str) -> None:
        for key, inner in form.get("properties", {}).items() if isinstance(form, dict) else ():
            if path != ".allow":
                assert inner["description"].endswith("."), f"{path}.{key}"
                assert "None" not in inner["description"]
                assert ":attr:" not in inner["description"]
            for each in (inner, *inner.get("anyOf", ()), inner.get("items", {})):
                described(each, f"{path}.{key}")

    described(schema(), "")


@pytest.mark.parametrize(
    "plain",
    [
        WHOLE,
        {"name": "t", "inputs": "r18/A:mean"},
        {"name": "t", "inputs": ["v"], "label": None, "tables": None, "steps": None, "allow": None, "scheme": None},
        {"name": "t", "inputs": ["v"], "label": {"time": "o.days", "event": "o.died"}, "output": "t.csv"},
    ],
)
def test_recipes_are_valid_to_editors(plain: dict[str, Any]) -> None:
    JUDGE.validate(plain)
    recipe = from_json(plain)
    JUDGE.validate(recipe.to_json())
    assert from_json(recipe.to_json()) == recipe


#: What people put where something else belongs.
values = st.sampled_from(
    [None, True, 7, 1.5, -1, "", " ", "x", "mean", "none", [], ["x"], [7], [[]], {}, {"x": 1}]
).map(copy.deepcopy)
KEYS = ["name", "agregation", "x", *schema()["properties"], "input", "features", "alias", "time", "within", "column"]


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    """The whole recipe with a value, a key or an item changed somewhere."""
    made: dict[str, Any] = json.loads(json.dumps(WHOLE))
    for _ in range(draw(st.integers(1, 3))):
        holder: Any = made
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = draw(st.sampled_from(keys)) if keys else None
            if key is not None and isinstance(holder[key], (dict, list)) and draw(st.booleans()):
                holder = holder[key]
                continue
            break
        if isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS)) if key is None or draw(st.booleans()) else key] = draw(values)
        elif key is None:
            holder.append(draw(values))
        else:
            holder[key] = draw(values)
    return made


@settings(max_examples=400, deadline=None, derandomize=True)
@given(spoiled())
def test_what_the_schema_refuses_is_refused(plain: dict[str, Any]) -> None:
    try:
        from_json(plain)
    except FeatstoreError:
        return
    JUDGE.validate(plain)


@pytest.mark.parametrize(
    ("plain", "message", "hint"),
    [
        ({"nmae": "t"}, "nmae: there is no such key. Did you mean 'name'", "known: name, entity"),
        ({"inputs": ["v", {"features": "v", "agregation": "mean"}]}, r"inputs\[1\].agregation.*'aggregation'", "per"),
        ({"tables": [{"nmae": "labs"}]}, r"tables\[0\].nmae.*'name'", "known: name, numeric"),
        ({"name": 7}, "name should be text, and is the number 7", "'7'"),
        ({"name": True}, "name should be text, and is true", "'true'"),
        ({"steps": {"pca": 32}}, "steps should be text or a list, and is a mapping", "begin each with '- '"),
        ({"steps": ["l2", {"pca": 32}]}, r"steps\[1\] should be text, and is a mapping", "quote"),
        ({"tables": [{"name": "labs", "numeric": [7]}]}, r"tables\[0\].numeric\[0\] should be text", "'7'"),
        ({"max_samples": "7"}, "max_samples should be a whole number, and is the text '7'", ""),
        ({"max_samples": True}, "max_samples should be a whole number, and is true", ""),
        ({"max_samples": 1.5}, "max_samples should be a whole number, and is the number 1.5", ""),
        ({"near_duplicates": float("inf")}, "near_duplicates should be a number", ""),
        ({"output": {"wide": "yes"}}, "output.wide should be true or false, and is the text 'yes'", ""),
        ({"entity": "pateint"}, "entity 'pateint' isn't one of patient, visit, sample. Did you mean 'patient'", ""),
        ({"allow": {"outdate": "why"}}, "allow.outdate: .*'outdated'", "known: same-content"),
        ({"allow": "why"}, "allow should be a mapping, and is the text 'why'", ""),
        ({"where": ""}, "where should be text, and is empty text", "such as"),
        ({"inputs": [None]}, r"inputs\[0\] should be text or a mapping, and is empty", "such as a=r18"),
        ({"inputs": [[]]}, r"inputs\[0\] should be text or a mapping, and is a list", ""),
        ([], "A recipe should be a mapping, and is a list", ""),
        ({7: 1}, "7: there is no such key", ""),
        ({"name": b"x"}, "name should be text, and is of type bytes", ""),
    ],
)  # fmt: skip
def test_errors_say_where_what_and_what_instead(plain: Any, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check(plain, schema())
    assert hint in caught.value.hint
