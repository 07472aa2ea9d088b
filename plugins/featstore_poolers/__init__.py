"""Poolers: one input's tokens → a vector, and one patient's rows → a row.

``mean``, ``max``, ``meanstd``, ``gem(p)`` pool positions; ``cls`` takes the class token; ``tokens`` all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from featstore import PoolerSpec, UsageError, hookimpl
from featstore_poolers import pooling


def _plain(name: str, function: Any) -> Callable[..., Any]:
    """The loader of a pooler without arguments."""

    def load(*arguments: float) -> Any:
        if arguments:
            raise UsageError(f"The pooler {name} takes no arguments, and got {arguments}.", hint=name)
        return function

    return load


@hookimpl
def featstore_poolers() -> Iterable[PoolerSpec]:
    yield PoolerSpec("mean", _plain("mean", pooling.mean), description="mean over positions")
    yield PoolerSpec("max", _plain("max", pooling.max), description="maximum over positions")
    yield PoolerSpec(
        "meanstd",
        _plain("meanstd", pooling.meanstd),
        description="mean and population standard deviation over positions, side by side",
    )
    yield PoolerSpec("gem", pooling.gem, description="generalized mean over positions: gem(3)")
    yield PoolerSpec(
        "cls",
        _plain("cls", pooling.cls),
        accepts=frozenset({"tokens"}),
        description="the class token",
    )
    yield PoolerSpec(
        "tokens",
        _plain("tokens", pooling.tokens),
        accepts=frozenset({"tokens"}),
        description="every token, as they are",
    )
