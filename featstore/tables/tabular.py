"""Clinical columns on their way into a table: looked up by patient_id, one-hot encoded by what train has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import ConflictError, NotFoundError, UsageError, did_you_mean
from featstore.tables.recipe import TabularInput

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class TabularPart:
    """One tabular input, aligned to a table's rows.

    Attributes:
        raw: the columns as they are, in row order, null where a patient has none.
        present: bool (rows,): patients with a row in the data set.
        encoder: the fitted one-hot encoder, where there are categorical columns.
        unseen: values that no train row has, by column; they are encoded as all zeros.
    """

    spec: TabularInput
    raw: pa.Table
    present: npt.NDArray[np.bool_]
    encoder: Any = None
    unseen: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def align(cls, spec: TabularInput, rows: pa.Table, patients: Sequence[str]) -> TabularPart:
        """Look the patients' rows up.

        Raises:
            NotFoundError: a column that isn't there. UsageError: a numeric column that holds no numbers.
            ConflictError: an infinite number.
        """
        import pyarrow as pa

        for name in (*spec.numeric, *spec.categorical):
            if name not in rows.column_names:
                raise NotFoundError(
                    f"The table {spec.name!r} has no column {name!r}.{did_you_mean(name, rows.column_names)}",
                    hint=f"its columns: {', '.join(rows.column_names)}",
                )
        numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean)
        for name in spec.numeric:
            kind = rows.schema.field(name).type
            if not any(is_kind(kind) for is_kind in numbers):
                raise UsageError(
                    f"The column {name!r} of {spec.name!r} holds {kind}, not numbers{_odd_one(rows, name)}.",
                    hint=f"--categorical {name}; or leave missing cells empty and take the table in with --replace",
                )
        where = {patient: row for row, patient in enumerate(rows.column("patient_id").to_pylist())}
        index = pa.array([where.get(p) for p in patients], pa.int64())
        raw = rows.select([*spec.numeric, *spec.categorical]).take(index)
        for position, column in enumerate(raw.columns):
            if pa.types.is_floating(column.type):
                raw = raw.set_column(position, raw.column_names[position], _finite(column, raw.column_names[position]))
        return cls(spec, raw, np.array([p in where for p in patients], bool))

    def fit(self, train: npt.NDArray[np.bool_]) -> None:
        """Learn the categories from the train rows only."""
        if not self.spec.categorical:
            return
        from sklearn.preprocessing import OneHotEncoder

        values = self._categories()
        categories = [np.unique([v for v in column[train] if v is not None]).astype(object) for column in values.T]
        for name, known in zip(self.spec.categorical, categories, strict=True):
            if not len(known):
                raise UsageError(f"The column {name!r} has no value in any train row.", hint="leave it out")
        self.encoder = OneHotEncoder(categories=categories, handle_unknown="ignore", sparse_output=False)
        self.encoder.fit(np.array([[c[0] for c in categories]], object))
        for position, name in enumerate(self.spec.categorical):
            others = {v for v in values[:, position] if v is not None} - set(categories[position])
            if others:
                self.unseen[name] = sorted(others)

    def _categories(self) -> npt.NDArray[np.object_]:
        columns = [
            [None if v is None else str(v) for v in self.raw.column(c).to_pylist()] for c in self.spec.categorical
        ]
        out = np.empty((self.raw.num_rows, len(columns)), object)
        for position, column in enumerate(columns):
            out[:, position] = column
        return out

    def names(self) -> list[str]:
        """The fused features of this part."""
        encoded = []
        if self.encoder is not None:
            encoded = [
                f"{name}={value}"
                for name, known in zip(self.spec.categorical, self.encoder.categories_, strict=True)
                for value in known
            ]
        return [*self.spec.numeric, *encoded]

    def matrix(self) -> npt.NDArray[np.float64]:
        """float64 (rows, features): numbers as they are, categories one-hot; NaN where the patient has no value."""
        import pyarrow as pa

        parts = [
            self.raw.column(name)
            .cast(pa.float64(), safe=False)
            .combine_chunks()
            .to_numpy(zero_copy_only=False)[:, None]
            for name in self.spec.numeric
        ]
        if self.encoder is not None:
            values = self._categories()
            encoded = np.asarray(self.encoder.transform(values), np.float64)
            start = 0
            for position, known in enumerate(self.encoder.categories_):
                missing = np.array([v is None for v in values[:, position]])
                encoded[missing, start : start + len(known)] = np.nan  # unknown is not "none of these"
                start += len(known)
            parts.append(encoded)
        return np.concatenate(parts, axis=1) if parts else np.zeros((self.raw.num_rows, 0))

    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """``has_<column>`` for every column that lacks some value."""
        found = {}
        for name in self.raw.column_names:
            has = self.raw.column(name).is_valid().to_numpy()
            if not has.all():
                found[f"has_{name}"] = has
        return found


def _finite(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column of decimals with null for NaN: a missing value is one thing, however a file writes it."""
    import pyarrow.compute as pc

    if pc.any(pc.is_inf(column)).as_py():
        raise ConflictError(f"The column {name!r} holds an infinite number.", hint="correct it, and ingest it anew")
    return pc.if_else(pc.is_nan(column), None, column)


def _odd_one(rows: pa.Table, name: str) -> str:
    """The first value that made a column of numbers one of text: "n/a" among ages is easily overlooked."""
    for patient, value in zip(rows.column("patient_id").to_pylist(), rows.column(name).to_pylist(), strict=True):
        try:
            float(value)
        except (TypeError, ValueError):
            if value is not None:
                return f" (such as {value!r} of patient {patient})"
    return ""
