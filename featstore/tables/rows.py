"""The rows of a table: their keys, labels, and the splits of each fold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import codes, numbers
from featstore.keys import FOLD
from featstore.tables.features import label_type, typed_labels
from featstore.tables.fuse import Facts

if TYPE_CHECKING:
    import pyarrow as pa

#: Of survival, as scikit-survival has it.
SURVIVAL = np.dtype([("event", np.bool_), ("time", np.float64)])


@dataclass(frozen=True, slots=True)
class Rows:
    """What :class:`~featstore.catalog.alignment.Alignment` says of a table's rows, or a file of before does.

    Attributes:
        table: the key columns, ``split, label, label_type``; of survival also ``time, event``.
        keys: the names of the key columns.
        folds: how many folds the scheme has; 0 for none.
        classes: labels that are numbers are names of classes.
    """

    table: pa.Table
    keys: tuple[str, ...]
    folds: int = 0
    classes: bool = False

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def survival(self) -> bool:
        return "event" in self.table.column_names

    @property
    def names(self) -> list[str]:
        """Of the folds, in order; one empty name where there are none."""
        return [f"fold{n}" for n in range(self.folds)] or [""]

    def splits(self, fold: str) -> pa.Array:
        """The split of each row in one fold: those in it are ``val``, those in another one are ``train``."""
        import pyarrow as pa

        column = self.table.column("split").combine_chunks()
        if not fold:
            return column
        known = column.dictionary_encode()
        new = [
            value if value is None or not FOLD.fullmatch(value) else "val" if value == fold else "train"
            for value in known.dictionary.to_pylist()
        ]
        return pa.array(new, pa.string()).take(known.indices)

    def facts(self, fold: str) -> Facts:
        """What is known of the rows, as one fold sees them."""
        _, patients = codes(self.table.column("patient_id"))
        return Facts(self._train(fold), patients.astype(np.int64), self.labels())

    def _train(self, fold: str) -> npt.NDArray[np.bool_]:
        names, of = codes(self.splits(fold))
        return np.array([name == "train" for name in names.to_pylist()], np.bool_)[of]

    def label_column(self) -> pa.Array:
        """The labels in their declared type: int64, float64 or text."""
        return self.table.column("label").cast(label_type(self.table)).combine_chunks()

    def labels(self) -> npt.NDArray[Any] | None:
        """(rows,): int64, float64 or text; structured of ``event`` and ``time`` for survival; None without labels."""
        if self.survival:
            out = np.empty(len(self), SURVIVAL)
            for name in ("event", "time"):
                out[name] = self.table.column(name).to_numpy()
            return out
        column = self.label_column()
        if column.null_count:
            return None
        if str(column.type) == "string":
            return typed_labels(column.to_pylist(), "str")
        values = numbers(column)
        return values.astype(np.str_) if self.classes and values.dtype == np.float64 else values

    def train_hash(self, fold: str) -> str:
        """SHA-256 of the keys of the train rows: what was learned was learned from these."""
        train = self.table.take(np.flatnonzero(self._train(fold)))
        keys = [train.column(name).to_pylist() for name in self.keys]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()
