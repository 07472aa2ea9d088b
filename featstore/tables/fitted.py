"""What was learned from train rows, and how it is applied: to the table's own rows, and later to new patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import CorruptError, PluginError, UsageError
from featstore.spec import Fuser, Matrix, Parts, Transformer
from featstore.tables.tabular import categories

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.tables.fuse import Steps

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
    def restore(cls, steps: Steps, estimators: Mapping[str, Any], form: pa.Schema, table: str) -> Fitted:
        """From the recipe's steps, new and unfitted, and what :meth:`estimators` gave.

        Args:
            form: the columns of the table's data.
            table: what to call it in an error.

        Raises:
            CorruptError: these aren't the objects that such steps make: what was left out would do nothing, unseen.
        """
        found = _translated(dict(estimators), steps, form)
        wanted = {
            "encode": {name: columns for name, columns in steps.encode.items() if columns},
            "inputs": {alias: own for alias, own in steps.inputs.items() if own},
            "missing": steps.missing, "steps": steps.steps,
        }  # fmt: skip
        wanted = {name: value for name, value in wanted.items() if value not in (None, {})}
        of_fuser = found.pop("fuser", {})
        if wrong := [*_unlike(wanted, found), *_fuser_unlike(steps.fuser, of_fuser)]:
            raise CorruptError(
                f"What {table} has learned isn't what its recipe's steps learn: {', '.join(wrong)}.",
                hint="materialize it again; or restore its folder from a backup",
            )
        return cls(steps.fuser, **_in_order(wanted, found))

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


def _unlike(wanted: Any, found: Any, path: str = "") -> list[str]:
    """What of the steps has no fitted object, and what else is there."""
    if not isinstance(wanted, Mapping):
        return [] if hasattr(found, "transform") else [f"{path} can't transform"]
    if not isinstance(found, Mapping):
        return [f"{path or 'it'} is no mapping"]
    names = {name: f"{path}.{name}" if path else str(name) for name in (*wanted, *found)}
    wrong = [f"{names[name]} is missing" for name in wanted if name not in found]
    wrong += [f"{names[name]} is in no recipe's step" for name in found if name not in wanted]
    return wrong + [
        line for name in wanted if name in found for line in _unlike(wanted[name], found[name], names[name])
    ]


def _fuser_unlike(fuser: Fuser, estimators: Any) -> list[str]:
    """Let the fuser take back what it gave, and ask for it again."""
    try:
        fuser.restore(estimators)
        again = dict(fuser.estimators())
    except Exception as error:  # a plugin's: whatever it raises, this isn't what it gave
        return [f"the fuser can't take back what it learned ({type(error).__name__}: {error})"]
    return [] if set(again) == set(estimators) else ["the fuser learned something else"]


def _in_order(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Found objects in the recipe's order."""
    return {
        name: _in_order(inner, found[name]) if isinstance(inner, Mapping) else found[name]
        for name, inner in wanted.items()
    }


def _translated(found: dict[str, Any], steps: Steps, form: pa.Schema) -> dict[str, Any]:
    """What featstore 0.1 kept, as it is kept now; what can't be said so stays as it is.

    There was one step after the fuser that imputed, and one encoder for all of a table's categorical columns.
    """
    old = {"impute", "standardize", "pca", "onehot"} & set(found)
    if not old or {"encode", "inputs", "missing", "steps"} & set(found):
        return found
    if "impute" in old and type(steps.fuser).__name__ != "Concat":
        return found  # to fill what is fused isn't to fuse what is filled
    new = {name: value for name, value in found.items() if name not in old}
    if after := {name: found[name] for name in ("standardize", "pca") if name in old}:
        new["steps"] = after
    if "impute" in old:
        new["missing"] = found["impute"]
    if "onehot" in old:
        new["encode"] = {
            table: _one_a_column(encoder, steps.encode.get(table, {}), form)
            for table, encoder in found["onehot"].items()
        }
    return new


def _one_a_column(encoder: Any, columns: Iterable[str], form: pa.Schema) -> Any:
    import pyarrow as pa
    from sklearn.preprocessing import OneHotEncoder

    names, known = list(columns), getattr(encoder, "categories_", [])
    if len(names) != len(known):
        return encoder
    made = {}
    for name, values in zip(names, known, strict=True):
        kind = form.field(name).type
        if pa.types.is_floating(kind) or pa.types.is_timestamp(kind):  # they were written otherwise: 1.0, not 1
            values = categories(pa.chunked_array([pa.array(list(values), pa.string()).cast(kind)]))
        made[name] = OneHotEncoder(categories=[values], handle_unknown="ignore", sparse_output=False)
        made[name].fit(values[:, None])
    return made


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
                hint="--missing mean, or --join inner without gaps",
            ) from error
        if values.ndim != 2 or len(values) != rows:
            raise PluginError(f"The step {name!r} gave an array of shape {values.shape} for {rows} rows.")
    return values
