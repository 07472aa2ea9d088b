"""Principal components of all inputs together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from featstore_steps import components_or_share, fit_pca

from featstore import Fuser, Parts
from featstore_fusers.concat import Matrix, side_by_side


class Pca(Fuser):
    """So many principal components of the concatenation, or as many as have a share of its variance.

    Learned from the train rows that have every input; a row that lacks something is NaN. Inputs of larger values weigh
    more: ``standardize`` each before.

    Raises:
        UsageError: the train rows can't give so many components, or are too wide.
    """

    def __init__(self, components: float | str) -> None:
        self._components = components_or_share(components)

    def fit(self, blocks: Callable[[], Iterator[Parts]]) -> None:
        def complete() -> Iterator[Matrix]:
            for parts in blocks():
                values = side_by_side(parts, "pca")
                yield values[_is_whole(values)]

        self._pca: Any = fit_pca(complete, self._components)

    def transform(self, parts: Parts) -> Matrix:
        values = side_by_side(parts, "pca")
        whole = _is_whole(values)
        fused = np.full((len(values), self._pca.n_components_), np.nan)
        if whole.any():
            fused[whole] = self._pca.transform(values[whole])
        return fused

    def estimators(self) -> Mapping[str, object]:
        return {"pca": self._pca}

    def restore(self, estimators: Mapping[str, object]) -> None:
        self._pca = estimators["pca"]


def _is_whole(values: Matrix) -> Any:
    return np.isfinite(values).all(axis=1)
