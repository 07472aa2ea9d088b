"""Recipes as files: YAML or JSON → :class:`~featstore.tables.recipe.Recipe`, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.errors import NotFoundError, UsageError
from featstore.tables.recipe import Recipe
from featstore.tables.recipe_flags import from_flags
from featstore.tables.recipe_plain import at, from_json, modern, said_apart
from featstore.tables.recipe_schema import check, schema
from featstore.tables.recipe_yaml import dump, parse, parse_json

#: A recipe is written by a person.
_LARGEST = 1 << 20


def read(
    path: Path, *, settings: Sequence[str] = (), name: str | None = None, allow: Mapping[str, str] | None = None
) -> Recipe:
    """The recipe in a YAML or JSON file.

    Args:
        settings: ``key=value`` words that change it; see :func:`with_settings`.
        name: in place of the file's.
        allow: beside the file's; of one kind, this reason counts.

    Raises:
        NotFoundError: there is no such file.
        UsageError: it is no recipe, and where in it that shows. LeakageError: the label is among the inputs.
    """
    plain = _load(path)
    with at(path.name):
        if not isinstance(plain, Mapping):
            check(plain, schema())
        plain = dict(plain) if name is None else {**plain, "name": name}
        for kind, reason in (allow or {}).items():
            plain = _put(plain, ["allow", kind], reason, "allow")
        return from_json(with_settings(plain, settings))


def to_yaml(recipe: Recipe) -> str:
    """A recipe as a file that :func:`read` takes."""
    return dump(recipe.to_json())


def _load(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file {path}.", hint="a recipe is a YAML file: recipe.yaml") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}.") from None
    if len(data) > _LARGEST:
        raise UsageError(f"{path} is larger than 1 MiB, which no recipe is.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path} isn't text in UTF-8.") from None
    return (parse_json if path.suffix.lower() == ".json" else parse)(text, path.name)


def with_settings(plain: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Plain data with values put in: ``scheme=cv``, ``inputs.0.aggregation=max``, ``label.kind=number``.

    Values are YAML. A line, a label or an output that is one text is taken apart where a key of it is set.

    Raises:
        UsageError: a word isn't ``key=value``, or goes where there is nothing; what comes out is no recipe.
    """
    made = dict(plain)
    for word in settings:
        key, mark, value = word.partition("=")
        path = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
        if not mark or not all(path):
            raise UsageError(f"--set {word!r} isn't key=value.", hint="--set scheme=cv, --set inputs.0.aggregation=max")
        made = _put(made, path, parse(value, f"--set {key}"), key)
    if settings:
        check(modern(made), schema())
    return made


def _put(holder: Any, path: Sequence[str], value: Any, key: str, above: str = "") -> Any:
    """A copy of ``holder`` with a value at a path: what is shared by an anchor elsewhere stays as it is."""
    if not path:
        return value
    first, *rest = path
    if isinstance(holder, str):
        holder = _apart(holder, above, first)
    elif isinstance(holder, Mapping) and above == "inputs" and first != "input" and "input" in holder:
        holder = said_apart(holder)
    if isinstance(holder, (list, tuple)):
        if not first.isdecimal() or int(first) >= len(holder):
            raise UsageError(
                f"--set {key}: {above} has no {first!r}; it has {len(holder)}, from 0.", hint=f"--set {above}.0…"
            )
        n = int(first)
        return [*holder[:n], _put(holder[n], rest, value, key, above), *holder[n + 1 :]]
    if isinstance(holder, Mapping) or (holder is None and not first.isdecimal()):
        return {**(holder or {}), first: _put((holder or {}).get(first), rest, value, key, first)}
    raise UsageError(f"--set {key}: there is nothing at {first!r} to set.", hint="see what is there: the recipe file")


def _apart(text: str, above: str, first: str) -> Any:
    """One text, as what can hold a key: a line of an input, a label, an output."""
    match above:
        case "inputs" if first.isdecimal():
            return [text]
        case "inputs":
            return {"input": text} if first == "input" else said_apart(text)
        case "label":
            return {"column": text}
        case "output":
            return {"file": text}
        case "steps" | "numeric" | "categorical" if first.isdecimal():
            return [text]
    return text


__all__ = ["from_flags", "from_json", "read", "to_yaml", "with_settings"]
