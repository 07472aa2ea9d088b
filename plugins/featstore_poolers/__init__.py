"""Poolers: one input's tokens → a vector, and one patient's rows → a row.

``mean``, ``max``, ``min``, ``std``, ``meanstd``, ``median``, ``gem(p)``, ``first`` and ``last`` pool positions or rows;
``cls`` takes the class token; ``tokens`` keeps all, ``grid(h,w)`` fewer of them, and ``flatten`` puts a map in one
row; ``roi-mean`` and ``roi-meanstd`` pool inside a mask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from featstore import PoolerSpec, UsageError, hookimpl
from featstore_poolers import grids, positions, regions

_BOTH: frozenset[Any] = frozenset({"tokens", "groups"})
_TOKENS: frozenset[Any] = frozenset({"tokens"})
_REGIONS: frozenset[Any] = frozenset({"regions"})


def _plain(name: str, function: Any, accepts: frozenset[Any], description: str) -> PoolerSpec:
    """A pooler without arguments."""

    def load(*arguments: float) -> Any:
        if arguments:
            raise UsageError(f"The pooler {name} takes no arguments, and got {arguments}.", hint=name)
        return function

    return PoolerSpec(name, load, accepts, description=description)


@hookimpl
def featstore_poolers() -> Iterable[PoolerSpec]:
    yield _plain("mean", positions.mean, _BOTH, "mean over positions")
    yield _plain("max", positions.max, _BOTH, "maximum over positions")
    yield _plain("min", positions.min, _BOTH, "minimum over positions")
    yield _plain("std", positions.std, _BOTH, "population standard deviation over positions")
    yield _plain("meanstd", positions.meanstd, _BOTH, "mean and population standard deviation, side by side")
    yield _plain("median", positions.median, _BOTH, "median over positions")
    yield _plain("first", positions.first, _BOTH, "the first position, or a patient's first row in key order")
    yield _plain("last", positions.last, _BOTH, "the last position, or a patient's last row in key order")
    yield PoolerSpec("gem", positions.gem, description="generalized mean over positions: gem(3)")
    yield _plain("cls", positions.cls, _TOKENS, "the class token")
    yield _plain("tokens", positions.tokens, _TOKENS, "every token, as they are")
    yield PoolerSpec("grid", grids.coarsen, _TOKENS, description="means over the cells of a coarser grid: grid(7,7)")
    yield _plain("flatten", grids.flatten, _TOKENS, "all values of a feature map in one row, channel by channel")
    yield _plain("roi-mean", regions.roi_mean, _REGIONS, "mean of what lies inside the mask")
    yield _plain("roi-meanstd", regions.roi_meanstd, _REGIONS, "meanstd of what lies inside the mask")
