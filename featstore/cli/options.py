"""What commands share: how a store is named, and how words become values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featstore.errors import UsageError

if TYPE_CHECKING:
    from featstore.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def with_store(function: F) -> F:
    """Add ``--store``, ``--plugin`` and ``--strict-plugins``; the command gets the opened store first."""

    @click.option(
        "--store",
        "path",
        metavar="DIR",
        help="The store (else $FEATSTORE_STORE, else the nearest featstore.toml).",
    )
    @click.option("--plugin", "plugins", multiple=True, metavar="FILE.py", help="A plugin file or module; repeatable.")
    @click.option("--strict-plugins", is_flag=True, help="Fail on a broken plugin instead of listing it.")
    @functools.wraps(function)
    def command(*args: Any, path: str | None, plugins: tuple[str, ...], strict_plugins: bool, **kwargs: Any) -> Any:
        from featstore import store

        opened: Store = store.open(path, plugins=plugins, strict_plugins=strict_plugins)
        return function(opened, *args, **kwargs)

    return command  # type: ignore[return-value]


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout.")


def pairs(values: Sequence[str], flag: str) -> dict[str, str]:
    """``KEY=VALUE`` words as a dict.

    >>> pairs(["train=0.7", "val=0.3"], "--ratio")
    {'train': '0.7', 'val': '0.3'}
    """
    found: dict[str, str] = {}
    for text in values:
        key, mark, value = text.partition("=")
        if not mark or not key or not value:
            raise UsageError(f"{flag} {text!r} isn't KEY=VALUE.")
        if key in found:
            raise UsageError(f"{flag} gives {key!r} twice.")
        found[key] = value
    return found


def ratios(values: Sequence[str]) -> dict[str, float]:
    """``SPLIT=SHARE`` words as numbers."""
    try:
        return {name: float(value) for name, value in pairs(values, "--ratio").items()}
    except ValueError as error:
        raise UsageError(f"--ratio takes SPLIT=NUMBER, such as train=0.7: {str(error).rstrip('.')}.") from None
