"""Texts that people take for the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def alike(values: Iterable[str]) -> list[list[str]]:
    """Texts that differ in case, spaces or characters that look the same alone.

    >>> alike(["M", "F", "m "])
    [['M', 'm ']]
    """
    found: dict[str, list[str]] = {}
    for value in sorted(values):
        found.setdefault(spelled(value), []).append(value)
    return [same for same in found.values() if len(same) > 1]


def spelled(value: str) -> str:
    """What people see of a category, without case and spaces."""
    seen = (c for c in unicodedata.normalize("NFKC", value) if unicodedata.category(c) != "Cf")
    return "".join("".join(seen).casefold().split())
