"""Fusers: the inputs of a training table → one vector."""

from __future__ import annotations

from collections.abc import Iterable

from featstore import FuserSpec, hookimpl
from featstore_fusers.concat import Concat


@hookimpl
def featstore_fusers() -> Iterable[FuserSpec]:
    yield FuserSpec("concat", load=Concat, description="all inputs side by side, in the order given")
