"""The errors of featstore, all in one tree.

::

    FeatstoreError
    ├── UsageError (ValueError)       a malformed name, flag, layout, ratio, recipe
    ├── NotFoundError (KeyError)      no such store, feature set, plugin, column, run
    ├── ConflictError (ValueError)    the data contradict each other, or what the store holds
    ├── LeakageError (ValueError)     a training table would leak
    ├── SqlError (ValueError)         a query that is not allowed, or that DuckDB refuses
    ├── InputError (ValueError)       one input can't be decoded: a failure row, never the end of a run
    ├── PluginError                   a plugin that is broken, missing, or registered twice
    ├── BusyError                     another process holds the catalog
    ├── CorruptError                  bytes on disk are not what was written
    ├── MigrationError                the catalog and the code don't fit each other
    └── SetupError                    the environment is at fault: no weights, disk full, out of memory

Every message says the fact, then the cause, and ``hint`` the next command or step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any


class FeatstoreError(Exception):
    """Base of every error that featstore raises on purpose.

    Args:
        message: the fact and its cause, in one or two sentences.
        hint: what to do next, ideally a command; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message

    def __reduce__(
        self,
    ) -> tuple[object, ...]:  # hint is keyword-only: the default would lose it between processes
        return (_rebuild, (type(self), self.message, self.hint), vars(self))


def _rebuild(kind: type[FeatstoreError], message: str, hint: str) -> FeatstoreError:
    return kind(message, hint=hint)


class UsageError(FeatstoreError, ValueError):
    """A name, flag, layout, ratio or recipe is malformed."""

    exit_code = 2


class NotFoundError(FeatstoreError, KeyError):
    """A store, feature set, table, run, plugin or column that isn't there."""


class ConflictError(FeatstoreError, ValueError):
    """The given data contradict each other, or what the store already holds."""


class LeakageError(FeatstoreError, ValueError):
    """A training table would show its model what it is tested on.

    Attributes:
        rows: the offending rows, as far as they are told one by one.
    """

    def __init__(self, message: str, *, hint: str = "", rows: Iterable[Mapping[str, Any]] = ()) -> None:
        super().__init__(message, hint=hint)
        self.rows = [dict(row) for row in rows]


class SqlError(FeatstoreError, ValueError):
    """A query that the sandbox refuses, or that DuckDB can't run."""


class InputError(FeatstoreError, ValueError):
    """One input can't be read or decoded. Readers raise it; it becomes a failure row."""


class PluginError(FeatstoreError):
    """A plugin is broken, missing, or registers a name that another one has."""


class BusyError(FeatstoreError):
    """Another process holds the catalog, and still did after the announced wait."""


class CorruptError(FeatstoreError):
    """Bytes on disk are not what was written."""


class MigrationError(FeatstoreError):
    """The catalog was made by a newer featstore, or an applied migration was edited."""


class SetupError(FeatstoreError):
    """The environment is at fault: missing weights, a full disk, no memory. Never recorded as a bad input."""


def one_line(text: str, most: int = 1000) -> str:
    """A message as it can be kept and shown: one line, no control characters, at most so many characters.

    What libraries say of a damaged file may quote it: bytes that move the cursor, names of any length.

    >>> one_line("no\\n  column \\x1b[31m")
    'no column \\\\x1b[31m'
    """
    words = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    return shown if len(shown) <= most else f"{shown[: most // 2]} … {shown[-(most // 2) + 3 :]}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A suffix for an error message, such as ``" Did you mean 'mean'?"``, or nothing.

    >>> did_you_mean("maen", ["mean", "max"])
    " Did you mean 'mean'?"
    >>> did_you_mean("zzz", ["mean", "max"])
    ''
    """
    by_lower = {name.lower(): name for name in known}
    names = [by_lower[close] for close in get_close_matches(word.lower(), by_lower, n=3, cutoff=0.6)]
    return f" Did you mean {' or '.join(repr(n) for n in names)}?" if names else ""
