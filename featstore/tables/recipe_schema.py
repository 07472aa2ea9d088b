"""The form of a recipe file, as a JSON Schema for editors; recipes are checked against the same."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias, get_args

from featstore.errors import UsageError, did_you_mean, one_line
from featstore.tables.recipe import (
    LEAKS,
    Entity,
    Input,
    Join,
    Label,
    LabelKind,
    Output,
    Recipe,
    TabularInput,
    one_of,
)  # fmt: skip

Schema: TypeAlias = dict[str, Any]

#: What can't be said in the dataclasses' own words, because a file says it otherwise.
_WORDS = {
    "name": "What the table is called.",
    "tables": "Clinical tables, and the columns of them that are fused.",
    "label": "label for the patients' own, TABLE.COLUMN, none; or a mapping.",
    "numeric": "Columns of numbers.",
    "categorical": "Columns of categories.",
    "text": "Columns of text: column → FEATURES[:AGG], short for an input of that feature set, named for the column.",
    "inputs": "Vectors: [ALIAS=]NAME[@vK][/MODALITY][:AGG], or a mapping.",
    "input": "[ALIAS=]NAME[@vK][/MODALITY][:AGG], all in one line.",
    "features": "The feature set, NAME or NAME@vK.",
    "modality": "The modality, where the feature set has several.",
    "prefix": "Another word for alias.",
    "output": "Where the table is exported to, beside the store's own copy: a file, or a mapping.",
}


@cache
def schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a recipe file; one object, to be read only."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "featstore recipe",
        "description": "A training table, for featstore materialize RECIPE.yaml.",
        **_mapping(_recipe(), required=["name", "inputs"]),
    }


def check(plain: Any, form: Schema, path: str = "") -> None:
    """Raise :class:`UsageError` where plain data haven't this form; required keys are for the reader to miss.

    It understands what :func:`schema` uses.
    """
    forms = form.get("anyOf", [form])
    fits = next((each for each in forms if _is(plain, each)), None)
    if fits is None:
        raise _wrong(plain, form, forms, path)
    if isinstance(plain, str) and "enum" in fits:
        one_of(path, plain, tuple(fits["enum"]))
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            inner = fits.get("properties", {}).get(key, fits["additionalProperties"])
            if inner is False:
                known = list(fits["properties"])
                raise UsageError(
                    f"{_at(path, key)}: there is no such key.{did_you_mean(str(key), known)}",
                    hint=f"known: {', '.join(known)}",
                )
            check(value, inner, _at(path, key))
    elif isinstance(plain, (list, tuple)):
        for index, item in enumerate(plain):
            check(item, fits["items"], f"{path}[{index}]")


def _at(path: str, key: object) -> str:
    text = one_line(str(key), 100)
    return f"{path}.{text}" if path else text


# ----------------------------------------------------------------------------------------------- checking
_WANTED = {
    "string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false", "array": "a list",
    "object": "a mapping",
}  # fmt: skip


def _is(plain: Any, form: Schema) -> bool:
    match form["type"]:
        case "null":
            return plain is None
        case "boolean":
            return isinstance(plain, bool)
        case "string":
            return isinstance(plain, str) and bool(plain.strip())
        case "integer":
            return isinstance(plain, int) and not isinstance(plain, bool)
        case "number":
            return isinstance(plain, (int, float)) and not isinstance(plain, bool) and math.isfinite(plain)
        case "array":
            return isinstance(plain, (list, tuple))
    return isinstance(plain, Mapping)


def _wrong(plain: Any, form: Schema, forms: list[Schema], path: str) -> UsageError:
    wanted = " or ".join(_WANTED[each["type"]] for each in forms if each["type"] != "null")
    hint = ""
    if wanted.startswith("text") and isinstance(plain, (bool, int, float)):
        hint = f"quote what is meant as text: '{str(plain).lower()}'"
    elif isinstance(plain, Mapping) and "a list" in wanted:
        hint = "begin each with '- '"
    elif isinstance(plain, Mapping) and wanted == "text":
        hint = "quote text that holds ': '"
    elif examples := [word for each in forms for word in each.get("examples", ())]:
        hint = f"such as {', '.join(examples)}"
    return UsageError(f"{path or 'A recipe'} should be {wanted}, and is {_found(plain)}.", hint=hint)


def _found(plain: Any) -> str:
    match plain:
        case None:
            return "empty"
        case bool():
            return str(plain).lower()
        case int() | float():
            return f"the number {one_line(str(plain), 40)}"
        case str():
            return f"the text {one_line(plain, 60)!r}" if plain.strip() else "empty text"
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a mapping"
    return f"of type {type(plain).__name__}"


# ------------------------------------------------------------------------------------------------- the form
def _recipe() -> dict[str, Schema]:
    said = _said(Recipe) | _WORDS
    forms = {
        "name": _text("grade"),
        "entity": _choice(Entity, default="patient"),
        "label": _either(_text("label", "labs.grade", "none"), _label()),
        "scheme": _text("default"),
        "where": _text("site <> 'JM'"),
        "join": _choice(Join, default="inner"),
        "min_modalities": _whole(minimum=1),
        "inputs": _some(_either(_text("a=r18@v2/A:mean"), _input())),
        "tables": {"type": "array", "items": _table()},
        "missing": _text("none", "mean", "median", "zero", "knn", default="none"),
        "fuser": _text("concat", default="concat"),
        "steps": _some(_text("standardize", "pca(32)")),
        "as_of": _text("acquired_at"),
        "max_samples": _whole(minimum=1),
        "order_by": _text("acquired_at"),
        "near_duplicates": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "allow": _mapping(dict.fromkeys(LEAKS, _text())),
        "output": _either(_text("grade.parquet"), _output()),
    }
    return _finished(forms, said, filled=("name", "inputs"))


def _input() -> Schema:
    said = _said(Input) | _WORDS
    forms = {
        "input": _text("a=r18@v2/A:mean"),
        "features": _text("r18@v2"),
        "modality": _text("A"),
        "aggregation": _text("mean"),
        "alias": _text("a"),
        "prefix": _text("a"),
        "steps": _some(_text("l2", "pca(64)")),
        "max_samples": _whole(minimum=1),
        "order_by": _text("acquired_at"),
        "per": _choice(Entity),
    }
    either = [{"required": ["input"]}, {"required": ["features"]}]
    return _mapping(_finished(forms, said, filled=("input", "features")), oneOf=either)


def _table() -> Schema:
    said = _said(TabularInput) | _WORDS | {"name": "What ingest-table took it in as."}
    forms = {
        "name": _text("labs"),
        "numeric": _some(_text("age")),
        "categorical": _some(_text("sex")),
        "text": {"type": "object", "additionalProperties": _text("minilm:mean")},
        "encode": _text("onehot", "ordinal", default="onehot"),
        "steps": _some(_text("robust")),
        "time": _text("drawn_at"),
        "within": _text("90d", pattern="^[1-9][0-9]*[dhw]$"),
    }
    return _mapping(_finished(forms, said, filled=("name",)), required=["name"])


def _label() -> Schema:
    forms = {
        "column": _text("label", "labs.grade"),
        "kind": _choice(LabelKind),
        "time": _text("outcome.days"),
        "event": _text("outcome.died"),
    }
    return _mapping(_finished(forms, _said(Label)))


def _output() -> Schema:
    forms = {"file": _text("grade.parquet"), "wide": {"type": "boolean", "default": False}}
    return _mapping(_finished(forms, _said(Output), filled=("file",)), required=["file"])


def _text(*examples: str, **rest: Any) -> Schema:
    # Not only spaces.
    return {"type": "string", "pattern": r"\S", **({"examples": list(examples)} if examples else {}), **rest}


def _whole(**rest: Any) -> Schema:
    return {"type": "integer", **rest}


def _choice(words: Any, **rest: Any) -> Schema:
    return {"type": "string", "enum": list(get_args(words)), **rest}


def _mapping(properties: dict[str, Schema], **rest: Any) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False, **rest}


def _either(*forms: Schema) -> Schema:
    return {"anyOf": list(forms)}


def _some(form: Schema) -> Schema:
    """A list, or one text without the list around it."""
    text, *_ = form.get("anyOf", [form])
    return _either(text, {"type": "array", "items": form})


def _finished(forms: dict[str, Schema], said: Mapping[str, str], filled: tuple[str, ...] = ()) -> dict[str, Schema]:
    """With descriptions; all but ``filled`` may be left empty."""
    done = {}
    for key, form in forms.items():
        given = form if key in filled else _either(*form.get("anyOf", [form]), {"type": "null"})
        done[key] = {"description": said[key], **given} if key in said else given
    return done


def _said(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of its attributes, in Markdown."""
    text = (kind.__doc__ or "").partition("Attributes:\n")[2]
    said: dict[str, str] = {}
    for match in re.finditer(r"^ {8}(?P<names>[a-z_, ]+): (?P<what>.+(?:\n {12}.+)*)", text, re.MULTILINE):
        what = re.sub(r":attr:`(?:\w+\.)?(\w+)`", r"``\1``", re.sub(r"\s+", " ", match["what"]))
        what = re.sub(r"\bNone\b", "null", what.replace("``", "`"))
        for name in match["names"].split(", "):
            said[name] = what[0].upper() + what[1:]
    return said
