"""Fusing: aligned parts → one vector a patient, block by block, with steps that learned from train rows only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import ConflictError
from featstore.spec import Fuser
from featstore.tables.aggregate import PooledInput
from featstore.tables.recipe import Recipe
from featstore.tables.steps import ImputeMean, Matrix, Pca, Standardize, Step
from featstore.tables.tabular import TabularPart

#: Bytes of one block of rows with all its parts: what bounds memory, however many rows there are.
BLOCK_BYTES = 64 << 20


def learns(fuser: Fuser) -> bool:
    """Whether a fuser has something to fit."""
    return type(fuser).fit is not Fuser.fit


@dataclass(slots=True)
class Fusion:
    """The parts of a table and what makes one vector of them.

    Attributes:
        train: bool (rows,): the only rows that anything learns from.
    """

    inputs: Mapping[str, PooledInput]
    tabular: Mapping[str, TabularPart]
    fuser: Fuser
    steps: list[Step]
    train: npt.NDArray[np.bool_]
    width: int = 0
    _matrices: dict[str, Matrix] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        fuser: Fuser,
        inputs: Mapping[str, PooledInput],
        tabular: Mapping[str, TabularPart],
        train: npt.NDArray[np.bool_],
    ) -> Fusion:
        """The fusion that a recipe asks for, not fitted yet."""
        steps: list[Step] = []
        if recipe.impute == "mean":
            steps.append(ImputeMean())
        if recipe.standardize:
            steps.append(Standardize())
        if recipe.pca is not None:
            steps.append(Pca(recipe.pca))
        return cls(inputs, tabular, fuser, steps, train)

    def fit(self) -> None:
        """Fit encoders, the fuser, then each step on what the ones before it give.

        Raises:
            ConflictError: there is something to learn and no train row.
        """
        encodes = any(part.spec.categorical for part in self.tabular.values())
        if (self.steps or encodes or learns(self.fuser)) and not self.train.any():
            raise ConflictError(
                "No patient of this table is in the split 'train', so there is nothing to learn from.",
                hint='featstore sql "select split, count(*) n from patients group by all"',
            )
        for name, part in self.tabular.items():
            part.fit(self.train)
            self._matrices[name] = part.matrix()
        self.fuser.fit(self._train_parts)
        for position, step in enumerate(self.steps):
            step.fit(partial(self._train_blocks, position))
        self.width = self.fused(0, min(1, len(self.train))).shape[1]

    def estimators(self) -> dict[str, Any]:
        """Everything fitted, by name: what is saved beside the table."""
        fitted: dict[str, Any] = {step.name: step.estimator for step in self.steps}
        encoders = {name: part.encoder for name, part in self.tabular.items() if part.encoder is not None}
        if encoders:
            fitted["onehot"] = encoders
        if of_fuser := dict(self.fuser.estimators()):
            fitted["fuser"] = of_fuser
        return fitted

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Spans of rows whose parts fit into the block budget; the same for the same recipe."""
        width = sum(i.width for i in self.inputs.values()) + sum(m.shape[1] for m in self._matrices.values())
        size = max(BLOCK_BYTES // (8 * max(width, 1)), 64)
        for start in range(0, len(self.train), size):
            yield start, min(start + size, len(self.train))

    def parts(self, start: int, stop: int) -> dict[str, Matrix]:
        """The parts of some rows, by alias or table name."""
        parts = {alias: pooled.block(start, stop) for alias, pooled in self.inputs.items()}
        return parts | {name: matrix[start:stop] for name, matrix in self._matrices.items()}

    def apply(self, parts: Mapping[str, Matrix], steps: int | None = None) -> Matrix:
        """Parts → fused vectors, float64 (rows, width), through the first ``steps`` steps."""
        fused = self.fuser.transform(parts)
        for step in self.steps[:steps]:
            fused = step.transform(fused)
        return fused

    def fused(self, start: int, stop: int) -> Matrix:
        """The fused vectors of some rows."""
        return self.apply(self.parts(start, stop))

    def _train_parts(self) -> Iterator[dict[str, Matrix]]:
        for start, stop in self.blocks():
            rows = self.train[start:stop]
            if rows.any():
                yield {name: part[rows] for name, part in self.parts(start, stop).items()}

    def _train_blocks(self, steps: int) -> Iterator[Matrix]:
        for parts in self._train_parts():
            yield self.apply(parts, steps)
