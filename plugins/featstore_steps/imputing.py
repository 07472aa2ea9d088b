"""Filling what is missing: never silently, since a table's mask columns say where."""

from __future__ import annotations

from typing import Any

import numpy as np

from featstore import ConflictError, Step, UsageError
from featstore.errors import did_you_mean
from featstore_steps.arguments import shown, whole_number
from featstore_steps.moments import Moments
from featstore_steps.passes import NO_ROWS, SPLIT_OTHERWISE, Blocks, Matrix, Passes, columns, numbers, require_values

WAYS = ("mean", "median", "zero", "knn")
#: Bytes of train rows that nearest neighbours may be looked for among.
NEIGHBOUR_BYTES = 256 << 20


class Impute(Step):
    """NaN → the feature's mean or median over the train rows, zero, or the mean of the nearest train rows that have it.

    ``mean`` and ``median`` give a ``SimpleImputer``, ``zero`` a ``FunctionTransformer``, since nothing is to be learned
    for it, and ``knn`` a ``KNNImputer`` of five or so many neighbours. A KNNImputer holds all train rows, and compares
    every row with each of them: too many are refused, as some of them would do less than what was asked for.

    Raises:
        ConflictError: a feature without any value in train. UsageError: another way, or train rows too large for knn.
    """

    def __init__(self, way: float | str, neighbours: float | str | None = None) -> None:
        if way not in WAYS:
            raise UsageError(
                f"impute knows {', '.join(WAYS)}, not {shown(way)}.{did_you_mean(str(way), WAYS)}", hint="impute(mean)"
            )
        if neighbours is not None and way != "knn":
            raise UsageError(
                f"impute({way}) takes nothing more; a number of neighbours is knn's.", hint="impute(knn,5)"
            )
        self._way = str(way)
        self._neighbours = 5 if neighbours is None else whole_number(neighbours, "impute(knn,k): k", hint="impute(knn)")
        self.learns = way != "zero"

    def fit(self, blocks: Blocks) -> Any:
        matrices = numbers(blocks)
        if self._way == "zero":
            return _zero()
        if self._way == "mean":
            return _simple("mean", _means(matrices))
        if self._way == "median":
            return _simple("median", _medians(matrices))
        from sklearn.impute import KNNImputer

        return KNNImputer(n_neighbors=self._neighbours).fit(_all_rows(matrices))


def _zero() -> Any:
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(np.nan_to_num, kw_args={"nan": 0.0, "posinf": np.inf, "neginf": -np.inf})


def _simple(way: str, values: Matrix) -> Any:
    """The ``SimpleImputer`` that fills with these: the mean, and the median, of one row is that row."""
    from sklearn.impute import SimpleImputer

    return SimpleImputer(strategy=way).fit(values[None])


def _means(matrices: Passes) -> Matrix:
    moments = Moments()
    for values in matrices():
        moments.add(values)
    require_values(moments.count)
    return moments.mean


def _medians(matrices: Passes) -> Matrix:
    # SimpleImputer's own are NumPy's of masked arrays, which take six times as long and a copy more.
    return np.concatenate([np.nanmedian(some, axis=0, overwrite_input=True) for some in columns(matrices)])


def _all_rows(matrices: Passes) -> Matrix:
    """Every train row at once, within :data:`NEIGHBOUR_BYTES`."""
    rows: list[Matrix] = []
    size = 0
    for values in matrices():
        rows.append(values)
        size += values.nbytes
        if size > NEIGHBOUR_BYTES:
            raise UsageError(
                f"impute(knn) compares with every train row, and these are more than {NEIGHBOUR_BYTES >> 20} MiB.",
                hint="impute(median), or narrower inputs: steps of each input, such as pca(64)",
            )
    if not rows:
        raise ConflictError(NO_ROWS, hint=SPLIT_OTHERWISE)
    together = np.concatenate(rows)
    require_values((~np.isnan(together)).sum(axis=0))
    return together
