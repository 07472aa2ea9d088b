"""Recipes as text: YAML without its traps, or JSON, and back.

Of what plain YAML guesses only these are taken: ``null`` and ``~``, ``true`` and ``false``, decimal numbers. So a
column that is called ``no``, ``on`` or ``2024-01-01`` is text; ``007``, which YAML would make a 7, is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import yaml

from featstore.errors import UsageError, one_line

_TAG = "tag:yaml.org,2002:"
#: Mappings that merge one another could grow without bound.
_MERGED = 100
_DIGITS = "-+0123456789"
#: What text becomes where nothing quotes it: tag → the form, and what it begins with.
_GUESSED: Mapping[str, tuple[re.Pattern[str], list[str] | None]] = {
    "merge": (re.compile(r"<<"), ["<"]),
    "null": (re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    "bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    "int": (re.compile(r"[-+]?[0-9]+"), list(_DIGITS)),
    "float": (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), list(_DIGITS + ".")),
}


class _Loader(yaml.SafeLoader):
    """Finds the structure; :class:`_Values` makes the values."""


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 would guess at, and what we would."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Plain and single-quoted text loses line ends that aren't \n.
        lines = data.split("\n")
        style = None if data.isprintable() else "|" if all(line.isprintable() for line in lines) else '"'
        return self.represent_scalar(f"{_TAG}str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)

_Loader.yaml_implicit_resolvers = {}
for _tag, (_form, _first) in _GUESSED.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _tag, re.compile(rf"(?:{_form.pattern})\Z"), _first)


def parse(text: str, where: str) -> Any:
    """The plain data that a YAML text holds.

    Args:
        where: what it is called in errors: a file's name, or ``--set label``.

    Raises:
        UsageError: it is no YAML, gives a key twice, refers to itself, or holds what is neither text, number, truth
            value, list nor mapping.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _Values(where).of(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        tab = mark is not None and mark.buffer is not None and "\t" in (str(error.problem), mark.buffer[mark.pointer])
        raise UsageError(
            f"{where}{line} isn't YAML: {one_line(str(error.problem or error.context))}.",
            hint="indent with spaces; YAML takes no tabs"
            if tab
            else "quote text that holds : # { } [ ] & * or a comma",
        ) from None
    except yaml.YAMLError as error:
        raise UsageError(f"{where} isn't YAML: {one_line(str(error))}.") from None
    except RecursionError:
        raise UsageError(f"{where} is nested too deep for a recipe.") from None


def parse_json(text: str, where: str) -> Any:
    """The same of JSON."""

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise UsageError(f"{where} gives {one_line(key, 100)!r} twice.", hint="keep one of them")
            found[key] = value
        return found

    def constant(name: str) -> Any:
        raise UsageError(f"{where} holds {name}, which is no number.")

    try:
        return json.loads(text, object_pairs_hook=mapping, parse_constant=constant)
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{where} isn't JSON: {one_line(str(error))}.") from None
    except RecursionError:
        raise UsageError(f"{where} is nested too deep for a recipe.") from None


def dump(plain: Any) -> str:
    """Plain data as YAML that :func:`parse` reads back as it was."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


class _Values:
    """Nodes → values, each once: an alias costs nothing, however often it is used."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.made: dict[int, Any] = {}
        self.begun: set[int] = set()

    def of(self, node: yaml.Node) -> Any:
        if id(node) in self.made:
            return self.made[id(node)]
        if id(node) in self.begun:
            raise self._error(node, "an anchor refers to itself")
        self.begun.add(id(node))
        self.made[id(node)] = self._make(node)
        return self.made[id(node)]

    def _make(self, node: yaml.Node) -> Any:
        tag = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.of(item) for item in node.value]
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return self._mapping(node)
        if isinstance(node, yaml.ScalarNode) and tag in {"str", *_GUESSED}:
            return self._scalar(node, tag)
        raise self._error(node, f"{one_line(node.tag)} isn't for recipes: they are text, numbers, lists and mappings")

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be text")
            if key.tag == f"{_TAG}merge":
                if not isinstance(value, yaml.MappingNode) or merged:
                    raise self._error(value, "<< takes one mapping", hint="<<: *anchor, once")
                merged = self.of(value)
                if len(merged) > _MERGED:
                    raise self._error(value, f"<< takes a mapping of at most {_MERGED} keys")
                continue
            if key.value in own:  # whatever YAML would make of it, a key is a name: no, on, 007
                raise self._error(key, f"{one_line(key.value, 100)!r} is given twice", hint="keep one of them")
            own[key.value] = self.of(value)
        return merged | own

    def _scalar(self, node: yaml.ScalarNode, tag: str) -> Any:
        text: str = node.value
        if tag in {"str", "merge"}:
            return text
        if not _GUESSED[tag][0].fullmatch(text):  # !!int x
            raise self._error(node, f"{one_line(text, 100)!r} is no {tag}")
        if tag == "null":
            return None
        if tag == "bool":
            return text.lower() == "true"
        if re.match(r"[-+]?0[0-9]", text):
            raise self._error(node, f"{one_line(text, 100)} may be text or a number", hint=f"quote it: '{text[:100]}'")
        try:
            number = int(text) if tag == "int" else float(text)
        except ValueError:  # thousands of digits
            number = math.inf
        if not math.isfinite(number):
            raise self._error(node, f"{one_line(text, 100)} is too large")
        return number

    def _error(self, node: yaml.Node, problem: str, *, hint: str = "") -> UsageError:
        return UsageError(f"{self.where}, line {node.start_mark.line + 1}: {problem}.", hint=hint)
