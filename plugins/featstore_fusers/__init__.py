"""Fusers: the inputs of a training table → one vector.

``concat``, ``mean``, ``max`` and ``kronecker`` look at each row alone; ``pca``, ``cca`` and ``late`` learn from the
train rows.
"""

from __future__ import annotations

from collections.abc import Iterable

from featstore import FuserSpec, hookimpl
from featstore_fusers.canonical import Cca
from featstore_fusers.concat import Concat
from featstore_fusers.elementwise import Max, Mean
from featstore_fusers.kronecker import Kronecker
from featstore_fusers.late import Late
from featstore_fusers.projection import Pca


@hookimpl
def featstore_fusers() -> Iterable[FuserSpec]:
    yield FuserSpec("concat", load=Concat, description="all inputs side by side, in the order given")
    yield FuserSpec("mean", load=Mean, description="element-wise mean of the inputs that a row has, all of one width")
    yield FuserSpec("max", load=Max, description="element-wise maximum of the inputs that a row has, all of one width")
    yield FuserSpec(
        "kronecker",
        load=Kronecker,
        description="tensor fusion: every product of one feature or 1 of each input; kronecker(limit), of the width",
    )
    yield FuserSpec("pca", load=Pca, description="principal components of all side by side: pca(32), or pca(0.95)")
    yield FuserSpec("cca", load=Cca, description="canonical variates of two inputs, side by side: cca(8)")
    yield FuserSpec("late", load=Late, description="scores of a model of each input; for train rows, out of fold")
