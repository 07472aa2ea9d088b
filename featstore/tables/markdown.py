"""Markdown of words that anybody may have chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")
_PATH = re.compile(r"[/\\]")


def escaped(value: object) -> str:
    """Text that is shown as it stands, wherever in a line of Markdown, on one line.

    >>> print(escaped("a_b | <i>"))
    a\\_b \\| \\<i\\>
    """
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """The lines of a table."""
    cells = [[f"{c:,}" if isinstance(c, int) else escaped(c) for c in row] for row in rows]
    names = [escaped(head) for head in heads]
    return [f"| {' | '.join(line)} |" for line in (names, ["---"] * len(names), *cells)]


def settings(values: Mapping[str, Any], hidden: Iterable[str] = ()) -> str:
    """Settings in words, escaped: names, numbers, short lists. Of a path only its end; no patients, nothing hidden.

    >>> settings({"size": 224, "mean": [0.5, 0.5], "corpus": "/home/me/c.txt", "holdout": "x = 1"}, ["holdout"])
    'corpus c.txt; holdout (told by the store alone); mean 0.5, 0.5; size 224'
    """
    told = []
    for key, value in sorted(values.items()):
        if value in (None, [], {}, ""):
            continue
        if key in hidden or "patient" in key:
            text = "(told by the store alone)"
        elif isinstance(value, Mapping):
            text = ", ".join(f"{k} {v}" for k, v in value.items() if isinstance(v, (int, float)))
        elif isinstance(value, (list, tuple)):
            text = ", ".join(map(str, value)) if len(value) <= 8 else f"{len(value)} values"
        else:
            text = str(value)
        told.append(f"{escaped(key)} {escaped(last_part(text) if _PATH.search(text) else text)}")
    return "; ".join(told)


def last_part(path: str) -> str:
    """The end of a path: the folders above may name people."""
    return PureWindowsPath(PurePosixPath(path).name).name


def count(number: int, noun: str) -> str:
    """A count with its noun."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
