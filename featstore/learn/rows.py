"""The rows that a probe learns from and is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import UsageError
from featstore.learn.request import Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.tables import TrainingTable

#: Steps after which columns have one scale.
_SCALING = ("standardize", "robust", "minmax")
#: Standard deviations of columns may differ so much before a penalty on the coefficients is a matter of units.
_SCALES = 1e3


@dataclass(frozen=True)
class Rows:
    """The rows of a table, or of one fold of it, in their order.

    Attributes:
        facts: their key columns, split and label, as the table has them.
        x: float64 (rows, width), the fused features.
        patients, splits: text; a row that is in no split has None.
        labels: Python values; None where there is none.
    """

    facts: pa.Table
    x: npt.NDArray[np.float64]
    patients: npt.NDArray[Any]
    splits: npt.NDArray[Any]
    labels: list[Any]

    @property
    def labelled(self) -> npt.NDArray[np.bool_]:
        return np.array([label is not None for label in self.labels], np.bool_)


def label_kind(table: TrainingTable, rows: Rows) -> Kind:
    """Whether a table's labels are classes or numbers: as its recipe says, else numbers where they are floats."""
    import pyarrow as pa

    label = table.recipe.get("label")
    kind = label.get("kind") if isinstance(label, Mapping) else None
    if kind is not None:
        return "number" if kind == "number" else "classes"
    return "number" if pa.types.is_floating(rows.facts.schema.field("label").type) else "classes"


def read(table: TrainingTable, fold: int | None) -> Rows:
    """The rows of a table, or of one of its folds.

    Raises:
        UsageError: the labels are of survival, no row has one, nothing is fused, or a row has features or a label that
            are no finite numbers.
        CorruptError: the file is gone or damaged.
    """
    arrow = table.to_arrow() if fold is None else table.to_arrow(fold=fold)
    if "label" not in arrow.column_names and "event" in arrow.column_names:
        raise UsageError(
            f"{_named(table)} is labelled with survival, a time and an event, which no probe learns.",
            hint="take table.arrays() to a library of survival analysis, or materialize with a label of classes",
        )
    keys = [name for name in ("patient_id", "visit_id", "sample_key") if name in arrow.column_names]
    # A label that is NaN is none, as it is in every view of the table.
    column = arrow.column("label").to_pylist() if "label" in arrow.column_names else []
    labels = [None if label != label else label for label in column]
    if all(label is None for label in labels):
        raise UsageError(
            f"{_named(table)} has no labels, so there is nothing to learn.",
            hint="materialize with --label TABLE.COLUMN",
        )
    if any(isinstance(label, float) and np.isinf(label) for label in labels):
        raise UsageError(f"{_named(table)} has labels that are infinite.", hint="--where … leaves those patients out")
    fused = arrow.column("fused").combine_chunks()
    x = np.asarray(fused.flatten(), np.float64).reshape(len(labels), fused.type.list_size)
    patients = np.array(arrow.column("patient_id").to_pylist(), object)
    if not x.shape[1]:
        raise UsageError(f"{_named(table)} has no fused features.", hint="materialize it with inputs that have some")
    if (broken := ~np.isfinite(x).all(axis=1)).any():
        such_as = ", ".join(map(repr, dict.fromkeys(patients[broken])))
        raise UsageError(
            f"{_named(table)} has missing values in the fused features of {broken.sum():,} of its {len(x):,} rows, "
            f"such as of the patients {_first(such_as)}: a probe can't learn from them.",
            hint="materialize with --missing mean, or with --join inner",
        )
    splits = np.array(arrow.column("split").to_pylist(), object)
    return Rows(arrow.select([*keys, "split", "label"]), x, patients, splits, labels)


def scale_note(table: TrainingTable, rows: Rows) -> str | None:
    """What is to be said where the train rows' features are of very different sizes. They are left as they are."""
    if any(str(step).startswith(_SCALING) for step in table.recipe.get("steps", ())):
        return None
    spread = rows.x[rows.splits == "train"].std(axis=0)
    spread = spread[spread > 0]
    if not spread.size or spread.max() / spread.min() <= _SCALES:
        return None
    return (
        f"The features' standard deviations among the train rows are {spread.min():.3g} to {spread.max():.3g}: the "
        "penalty, or the distance, sees the large ones alone. Nothing was changed; materialize with --step standardize."
    )


def _first(text: str, most: int = 120) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _named(table: TrainingTable) -> str:
    return f"The table {table.name}@v{table.version}"
