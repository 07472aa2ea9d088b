"""What was learned from train rows, and how it is applied: to the table's own rows, and later to new patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from featstore.errors import PluginError, UsageError
from featstore.spec import Fuser, Matrix, Parts, Transformer

#: The only types beyond skops' own trusted ones that a fitted table may hold. Never "whatever the file holds".
TRUSTED = ("numpy.dtype",)


@dataclass(slots=True)
class Fitted:
    """The fitted objects of one table, or of one fold of it.

    Attributes:
        encode: table → categorical column → what makes numbers of it.
        inputs: alias or table → step → what it goes through before the fuser.
        missing: fills what is missing, over all parts side by side; None leaves NaN.
        steps: what the fused vector goes through.
    """

    fuser: Fuser
    encode: dict[str, dict[str, Transformer]] = field(default_factory=dict)
    inputs: dict[str, dict[str, Transformer]] = field(default_factory=dict)
    missing: Transformer | None = None
    steps: dict[str, Transformer] = field(default_factory=dict)

    def estimators(self) -> dict[str, Any]:
        """Everything fitted, by name, each key where there is something: what is saved beside the table."""
        found = {
            "encode": {table: columns for table, columns in self.encode.items() if columns},
            "inputs": {alias: steps for alias, steps in self.inputs.items() if steps},
            "missing": self.missing, "fuser": dict(self.fuser.estimators()), "steps": self.steps,
        }  # fmt: skip
        return {name: value for name, value in found.items() if value not in (None, {})}

    @classmethod
    def restore(cls, fuser: Fuser, estimators: Mapping[str, Any]) -> Fitted:
        """From a new fuser of the same name, and what :meth:`estimators` gave."""
        fuser.restore(estimators.get("fuser", {}))
        kept = {name: estimators[name] for name in ("encode", "inputs", "missing", "steps") if name in estimators}
        return cls(fuser, **kept)

    def own(self, alias: str, values: Matrix, steps: int | None = None) -> Matrix:
        """One input through the first of its own steps. A row that is missing, all NaN, stays so."""
        through = list(self.inputs.get(alias, {}).items())[:steps]
        if not through:
            return values
        has = ~np.isnan(values).all(axis=1)
        if len(values) and has.all():
            return _chain(through, values)
        width = _chain(through, np.zeros((1, values.shape[1]))).shape[1]
        out = np.full((len(values), width), np.nan)
        if has.any():
            out[has] = _chain(through, values[has])
        return out

    def fill(self, parts: Parts) -> Parts:
        """Fill what is missing in parts that went through their own steps."""
        if self.missing is None:
            return parts
        filled = _chain([("impute", self.missing)], side_by_side(parts))
        ends = np.cumsum([part.shape[1] for part in parts.values()])[:-1]
        split = zip(parts, np.split(filled, ends, axis=1), strict=True)
        return Parts(split, labels=parts.labels, patients=parts.patients, train=parts.train)

    def fuse(self, parts: Parts, steps: int | None = None) -> Matrix:
        """Filled parts → fused vectors, float64 (rows, width), through the first ``steps`` steps.

        Raises:
            PluginError: the fuser gave something else.
        """
        fused = np.asarray(self.fuser.transform(parts))
        rows = len(next(iter(parts.values())))
        if fused.ndim != 2 or len(fused) != rows:
            raise PluginError(f"The fuser gave an array of shape {fused.shape} for {rows} rows.")
        return _chain(list(self.steps.items())[:steps], fused)


def side_by_side(parts: Parts) -> Matrix:
    """Parts → float64 (rows, sum of widths)."""
    return np.concatenate(list(parts.values()), axis=1)


def _chain(steps: Iterable[tuple[str, Transformer]], values: Matrix) -> Matrix:
    """float64 (rows, width) through fitted steps.

    Raises:
        UsageError: a step can't take the missing values. PluginError: a step gave something else.
    """
    for name, estimator in steps:
        rows = len(values)
        try:
            values = np.asarray(estimator.transform(values), np.float64)
        except ValueError as error:
            if np.isfinite(values).all():
                raise
            raise UsageError(
                f"The step {name!r} can't take the missing values of this table.",
                hint="--impute mean, or --join inner without gaps",
            ) from error
        if values.ndim != 2 or len(values) != rows:
            raise PluginError(f"The step {name!r} gave an array of shape {values.shape} for {rows} rows.")
    return values
