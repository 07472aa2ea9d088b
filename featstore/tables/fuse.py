"""Fusing: aligned parts → one vector a row, block by block, with steps that learned from train rows only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import ConflictError, UsageError
from featstore.plugins import Plugins
from featstore.spec import Block, Fuser, Matrix, Parts, Step
from featstore.tables.aggregate import PooledInput
from featstore.tables.fitted import Fitted, side_by_side
from featstore.tables.recipe import Recipe
from featstore.tables.tabular import TabularPart

#: Bytes of one block of rows with all its parts: what bounds memory, however many rows there are.
BLOCK_BYTES = 16 << 20
#: Rows that are written at once, as many as a row group of Parquet has, unless their vectors are large.
BATCH_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a table's rows beside their inputs.

    Attributes:
        train: bool (rows,): the only rows that anything learns from.
        patients: int64 (rows,): equal numbers are rows of one patient.
        labels: (rows,), or None where the table has none.
    """

    train: npt.NDArray[np.bool_]
    patients: npt.NDArray[np.int64]
    labels: npt.NDArray[Any] | None = None


@dataclass(slots=True)
class Steps:
    """The steps that a recipe names, new and unfitted.

    Attributes:
        encode: table → one step for each of its categorical columns.
        inputs: alias or table → its own steps, by name.
    """

    encode: dict[str, dict[str, Step]]
    inputs: dict[str, dict[str, Step]]
    missing: Step | None
    fuser: Fuser
    steps: dict[str, Step]

    @classmethod
    def of(cls, recipe: Recipe, plugins: Plugins) -> Steps:
        """What a recipe names.

        Raises:
            NotFoundError: there is no such step or fuser. UsageError: its arguments don't fit; or something learns, and
                nothing says which rows are train's, or it learns from labels, and there are none.
        """
        made = cls(
            {t.name: {c: plugins.step(t.encode, "categories") for c in t.categorical} for t in recipe.tables},
            {
                name: _named(part.steps, plugins)
                for name, part in [(i.alias, i) for i in recipe.inputs] + [(t.name, t) for t in recipe.tables]
            },
            None if recipe.missing == "none" else plugins.step(_impute(recipe.missing)),
            plugins.fuser(recipe.fuser),
            _named(recipe.steps, plugins),
        )
        learning = made.learning(repr(recipe.fuser))
        if learning:
            recipe.require_scheme(f"{', '.join(learning)} learn{'s' if len(learning) == 1 else ''}")
        labelled = [name for name, step in made._every() if step.labelled]
        for name in [*labelled, *([recipe.fuser] if made.fuser.labelled else [])]:
            if not recipe.label.columns:
                raise UsageError(f"{name!r} learns from labels, and this table has none.", hint="--label label")
        return made

    def learning(self, fuser: str = "the fuser") -> list[str]:
        """The names of what has something to learn; ``fuser`` is what the fuser is called."""
        names = [name for name, step in self._every() if step.learns]
        return list(dict.fromkeys([*names, *([fuser] if type(self.fuser).fit is not Fuser.fit else [])]))

    def _every(self) -> Iterator[tuple[str, Step]]:
        for columns in self.encode.values():
            yield from (("encoding categories", step) for step in columns.values())
        for own in self.inputs.values():
            yield from own.items()
        yield from [("imputing", self.missing)] if self.missing else []
        yield from self.steps.items()


def _impute(missing: str) -> str:
    name, bracket, rest = missing.partition("(")
    return f"impute({name}, {rest}" if bracket else f"impute({name})"


def _named(steps: tuple[str, ...], plugins: Plugins) -> dict[str, Step]:
    """Steps by their names; the second of a name is called ``pca-2``."""
    found: dict[str, Step] = {}
    for text in steps:
        base = text.partition("(")[0].strip()
        name, count = base, 1
        while name in found:
            count += 1
            name = f"{base}-{count}"
        found[name] = plugins.step(text)
    return found


@dataclass(slots=True)
class Fusion:
    """The parts of a table and what makes one vector of them.

    Attributes:
        incomplete: rows written whose fused vector has missing values.
    """

    inputs: Mapping[str, PooledInput]
    tabular: Mapping[str, TabularPart]
    facts: Facts
    fitted: Fitted
    matrices: dict[str, Matrix]
    width: int = 0
    incomplete: int = 0
    _widest: int = 0

    @classmethod
    def fit(
        cls, inputs: Mapping[str, PooledInput], tabular: Mapping[str, TabularPart], facts: Facts, steps: Steps
    ) -> Fusion:
        """Fit encoders, each input's own steps, the imputer, the fuser, and the steps after it, each on what
        it is given.

        Raises:
            ConflictError: there is something to learn and no train row, or a column has no value in any.
            UsageError: a step or the fuser can't work on this.
        """
        if steps.learning() and not facts.train.any():
            raise ConflictError(
                "No row of this table is in the split 'train', so there is nothing to learn from.",
                hint='featstore sql "select split, count(*) n from patients group by all"',
            )
        fitted = Fitted(steps.fuser)
        for name, part in tabular.items():
            fitted.encode[name] = part.fit(steps.encode.get(name, {}), facts.train)
        made = cls.of(inputs, tabular, facts, fitted)
        for alias, own in steps.inputs.items():
            fitted.inputs[alias] = {}
            for place, (name, step) in enumerate(own.items()):
                fitted.inputs[alias][name] = step.fit(partial(made._train_own, alias, place))
        if steps.missing:
            fitted.missing = steps.missing.fit(made._train_side_by_side)
        steps.fuser.fit(made._train_parts)
        made._widest = made._fused_width(steps=0)  # a tensor product is far wider than what it is made of
        for place, (name, step) in enumerate(steps.steps.items()):
            fitted.steps[name] = step.fit(partial(made._train_fused, place))
        made.width = made._fused_width()
        return made

    @classmethod
    def of(
        cls, inputs: Mapping[str, PooledInput], tabular: Mapping[str, TabularPart], facts: Facts, fitted: Fitted
    ) -> Fusion:
        """Rows that go through what will be fitted."""
        matrices = {name: part.matrix(fitted.encode.get(name, {})) for name, part in tabular.items()}
        return cls(inputs, tabular, facts, fitted, matrices)

    @classmethod
    def restored(
        cls, inputs: Mapping[str, PooledInput], tabular: Mapping[str, TabularPart], facts: Facts, fitted: Fitted
    ) -> Fusion:
        """Rows that go through what was fitted before."""
        made = cls.of(inputs, tabular, facts, fitted)
        made._widest, made.width = made._fused_width(steps=0), made._fused_width()
        return made

    def _fused_width(self, steps: int | None = None) -> int:
        return int(self.apply(self.raw(0, 1), 0, 1, steps).shape[1])

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Spans of rows whose parts fit into the block budget; the same for the same recipe.

        All but the last have a power of two, from 64 to 4,096: some of them make a row group of Parquet, to be filled
        in place.
        """
        width = sum(i.width for i in self.inputs.values()) + sum(m.shape[1] for m in self.matrices.values())
        fitting = BLOCK_BYTES // (8 * max(width, self._widest, 1))
        size = 1 << (min(max(fitting, 64), BATCH_ROWS).bit_length() - 1)
        for start in range(0, len(self.facts.train), size):
            yield start, min(start + size, len(self.facts.train))

    def raw(self, start: int, stop: int) -> dict[str, Matrix]:
        """The inputs of vectors of some rows, pooled and nothing else: float64 (rows, width), NaN where missing."""
        return {alias: pooled.block(start, stop) for alias, pooled in self.inputs.items()}

    def apply(self, raw: Mapping[str, Matrix], start: int, stop: int, steps: int | None = None) -> Matrix:
        """What :meth:`raw` gave, and the tables' rows → fused vectors, float64 (rows, width)."""
        return self.fitted.fuse(self.fitted.fill(self._own(raw, start, stop)), steps)

    def _own(self, raw: Mapping[str, Matrix], start: int, stop: int) -> Parts:
        every = {**raw, **{name: matrix[start:stop] for name, matrix in self.matrices.items()}}
        own = {alias: self.fitted.own(alias, values) for alias, values in every.items()}
        return self._with_facts(own, slice(start, stop))

    def _with_facts(self, parts: Mapping[str, Matrix], rows: Any) -> Parts:
        facts = self.facts
        labels = None if facts.labels is None else facts.labels[rows]
        return Parts(parts, labels=labels, patients=facts.patients[rows], train=facts.train[rows])

    # ----------------------------------------------------------------------------------------- train rows
    def _train(self) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
        for start, stop in self.blocks():
            rows = np.flatnonzero(self.facts.train[start:stop])
            if len(rows):
                yield start, stop, rows

    def _train_own(self, alias: str, steps: int) -> Iterator[Block]:
        """One input's train rows, those that aren't missing, through the first of its own steps."""
        pooled = self.inputs.get(alias)
        for start, stop, rows in self._train():
            values = (pooled.block(start, stop) if pooled else self.matrices[alias][start:stop])[rows]
            has = ~np.isnan(values).all(axis=1)
            if has.any():
                yield self._block(self.fitted.own(alias, values[has], steps), start + rows[has])

    def _train_raw_parts(self) -> Iterator[Parts]:
        for start, stop, rows in self._train():
            every = {**self.raw(start, stop), **{name: m[start:stop] for name, m in self.matrices.items()}}
            own = {alias: self.fitted.own(alias, values[rows]) for alias, values in every.items()}
            yield self._with_facts(own, start + rows)

    def _train_side_by_side(self) -> Iterator[Block]:
        for parts in self._train_raw_parts():
            yield Block(side_by_side(parts), parts.labels, parts.patients)

    def _train_parts(self) -> Iterator[Parts]:
        for parts in self._train_raw_parts():
            yield self.fitted.fill(parts)

    def _train_fused(self, steps: int) -> Iterator[Block]:
        for parts in self._train_parts():
            yield Block(self.fitted.fuse(parts, steps), parts.labels, parts.patients)

    def _block(self, values: Matrix, rows: npt.NDArray[np.int64]) -> Block:
        labels = None if self.facts.labels is None else self.facts.labels[rows]
        return Block(values, labels, self.facts.patients[rows])
