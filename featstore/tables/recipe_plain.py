"""Recipes as plain data, as people write it in YAML and as the catalog keeps it → :class:`Recipe`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from featstore.errors import UsageError
from featstore.keys import InputRef, Ref, check_name, parse_words
from featstore.tables.recipe import Input, Label, Output, Recipe, TabularInput
from featstore.tables.recipe_flags import old_words
from featstore.tables.recipe_schema import Schema, check, schema

#: Keys of stored recipes of featstore 0.1, before steps.
_OLD: Schema = {
    "impute": {"anyOf": [{"type": "string", "enum": ["none", "mean"]}, {"type": "null"}]},
    "standardize": {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
    "pca": {"anyOf": [{"type": "number"}, {"type": "null"}]},
}


@contextmanager
def at(place: str) -> Iterator[None]:
    """Say of an error where it is."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{place}: {error.message}", hint=error.hint) from None


def from_json(plain: Mapping[str, Any]) -> Recipe:
    """The recipe that plain data say: the inverse of :meth:`Recipe.to_json`, and lenient as people write.

    One text stands for a list of one, and what is empty for what was never said. An input is a line
    (``[ALIAS=]NAME[@vK][/MODALITY][:AGG]``) or a mapping; a table's ``text`` is short for inputs, named for its
    columns. Recipes that earlier versions stored are read: ``impute``, ``standardize`` and ``pca`` become steps.

    Raises:
        UsageError: an unknown key, a value of another type or form, with its path (``inputs[1].agregation``).
        LeakageError: the label is among the inputs.
    """
    plain = modern(plain)
    check(plain, schema())
    for key in ("name", "inputs"):
        if key not in plain:
            raise UsageError(f"The recipe has no {key}.", hint={"name": "name: grade"}.get(key, "inputs: [r18/A:mean]"))
    said = {key: value for key, value in plain.items() if value is not None}
    if "join" in said and "min_modalities" in said:
        raise UsageError("join and min_modalities both say which rows are kept; give one of them.")
    inputs = [_input(item, f"inputs[{n}]") for n, item in enumerate(_several(said.pop("inputs")))]
    tables: list[TabularInput] = []
    for n, table in enumerate(said.pop("tables", ())):
        texts, rest = _table(table, f"tables[{n}]")
        inputs += texts
        tables += [rest] if rest else []
    fields: dict[str, Any] = {**said, "steps": _steps(said.get("steps"), "steps")}
    if "label" in plain:
        fields["label"] = _label(plain["label"])
    if "output" in said:
        fields["output"] = _output(said["output"])
    return Recipe(inputs=tuple(inputs), tables=tuple(tables), **fields)


def modern(plain: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the keys that recipes had before there were steps."""
    old = {key: plain[key] for key in _OLD if key in plain} if isinstance(plain, Mapping) else {}
    if not old:
        return plain
    check(old, {"type": "object", "properties": _OLD, "additionalProperties": False})
    rest = {key: value for key, value in plain.items() if key not in old}
    missing, steps = old_words(
        old.get("impute"), bool(old.get("standardize")), old.get("pca"), rest.get("missing"),
        _several(rest.get("steps") or ()),
    )  # fmt: skip
    return rest | {"missing": missing, "steps": steps}


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _steps(value: Any, path: str) -> tuple[str, ...]:
    steps = _several(value) if value is not None else []
    for n, step in enumerate(steps):
        with at(f"{path}[{n}]"):
            try:
                parse_words(step)
            except UsageError as error:
                cut = step.count("(") != step.count(")")
                hint = "quote a step that has a comma: ['select(8, anova)', l2]" if cut else error.hint
                raise UsageError(error.message, hint=hint) from None
    return tuple(steps)


def _input(plain: str | Mapping[str, Any], path: str) -> Input:
    with at(path):
        said = said_apart(plain)
    if "alias" in said and "prefix" in said:
        raise UsageError(f"{path}: alias and prefix are the same; give one of them.")
    with at(path):
        ref, modality = _features(said["features"]), said.get("modality")
        alias = said.get("alias") or said.get("prefix")
        alias = alias or (f"{ref.name}_{modality}" if modality else ref.name)
        check_name(alias, "table column", hint="give the input an alias: NAME=…")
    return Input(
        alias, ref, modality, said.get("aggregation"), _steps(said.get("steps"), f"{path}.steps"),
        said.get("max_samples"), said.get("order_by"), said.get("per"),
    )  # fmt: skip


def said_apart(plain: str | Mapping[str, Any]) -> dict[str, Any]:
    """An input with its line taken apart: ``features``, and of ``alias``, ``modality``, ``aggregation`` what it says.

    Raises:
        UsageError: there is no line and no feature set, or both; the line and the mapping say a thing twice.
    """
    given = {"input": plain} if isinstance(plain, str) else {k: v for k, v in plain.items() if v is not None}
    if ("input" in given) == ("features" in given):
        raise UsageError(
            "an input has either a line, input, or features.", hint="input: a=r18/A:mean, or features: r18"
        )
    if "features" in given:
        return given
    line = given.pop("input")
    found = InputRef.parse(line)
    words = {"features": str(found.ref), "modality": found.modality, "aggregation": found.agg}
    # Only a line with = names its column itself; another one is named for what it holds in the end.
    words |= {"alias": found.alias} if "=" in line else {}
    said = {key: value for key, value in words.items() if value is not None}
    for key in given:
        if key in said or (key == "prefix" and "alias" in said):
            raise UsageError(f"{key} is said twice, in the line {line!r} and beside it.", hint="keep one of them")
    return said | given


def _features(text: str) -> Ref:
    try:
        return Ref.parse(text)
    except UsageError as error:
        hint = f"input: {text} takes a whole line" if re.search("[/:=]", text) else error.hint
        raise UsageError(error.message, hint=hint) from None


def _table(plain: Mapping[str, Any], path: str) -> tuple[list[Input], TabularInput | None]:
    said = {key: value for key, value in plain.items() if value is not None}
    if "name" not in said:
        raise UsageError(f"{path} has no name.", hint="name: what ingest-table took it in as")
    texts = []
    for column, line in said.pop("text", {}).items():
        with at(f"{path}.text.{column}"):
            if "=" in line:
                raise UsageError(f"{line!r} has an alias; it is the column's name.", hint=f"{line.partition('=')[2]}")
            check_name(column, "table column", hint=f"give it under inputs, as NAME={line}")
            texts.append(_input(f"{column}={line}", "features"))
    columns = {key: tuple(_several(said.pop(key, ()))) for key in ("numeric", "categorical")}
    if texts and not any(columns.values()) and set(said) == {"name"}:
        return texts, None
    if not any(columns.values()):
        raise UsageError(
            f"{path}: no column of the table {said['name']!r} is asked for.", hint="numeric: [age], categorical: [sex]"
        )
    return texts, TabularInput(**(said | columns | {"steps": _steps(said.get("steps"), f"{path}.steps")}))


def _label(plain: Any) -> Label:
    if not isinstance(plain, Mapping):
        return Label(None if plain in (None, "none") else plain)
    said = {key: value for key, value in plain.items() if value is not None}
    survival = "time" in said or "event" in said
    column = plain.get("column", None if survival else "label")
    kind = said.get("kind", "survival" if survival else None)
    return Label(None if column == "none" else column, kind, said.get("time"), said.get("event"))


def _output(plain: str | Mapping[str, Any]) -> Output:
    if isinstance(plain, str):
        return Output(plain)
    if "file" not in plain:
        raise UsageError("output has no file.", hint="output: {file: grade.parquet, wide: true}")
    return Output(plain["file"], bool(plain.get("wide")))
