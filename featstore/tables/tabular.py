"""Clinical columns on their way into a table: as the alignment found them, categories encoded by what train has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import codes
from featstore.errors import ConflictError, NotFoundError, UsageError, did_you_mean
from featstore.spec import Block, Step, Transformer
from featstore.tables.recipe import TabularInput
from featstore.tables.spelling import alike

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class TabularPart:
    """One tabular input, aligned to a table's rows.

    Attributes:
        raw: the columns as they are, in row order, null where a row has none.
        present: bool (rows,): rows that have a row in the data set.
        unseen: values that no train row has, by column.
        encoded: bool (rows,) by column: rows whose value its encoder could say in numbers, once there is one.
    """

    spec: TabularInput
    raw: pa.Table
    present: npt.NDArray[np.bool_]
    unseen: dict[str, list[str]] = field(default_factory=dict)
    encoded: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    @classmethod
    def align(cls, spec: TabularInput, rows: pa.Table, places: pa.ChunkedArray) -> TabularPart:
        """Take the rows that the alignment found.

        Args:
            rows: of the data set, in the order that ``places`` speaks of.
            places: int64, which of them goes into each row of the table; null where none does.

        Raises:
            NotFoundError: a column that isn't there. UsageError: a numeric column that holds no numbers, or a
                categorical one of lists.
            ConflictError: an infinite number.
        """
        import pyarrow as pa

        for name in spec.columns:
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
        for name in spec.categorical:
            if pa.types.is_nested(kind := rows.schema.field(name).type):
                raise UsageError(
                    f"The column {name!r} of {spec.name!r} holds {kind}: several values a row are no category.",
                    hint="make a column of each, and take the table in with --replace",
                )
        raw = rows.select(list(spec.columns)).take(places.combine_chunks())
        for position, column in enumerate(raw.columns):
            if pa.types.is_floating(column.type):
                raw = raw.set_column(position, raw.column_names[position], _finite(column, raw.column_names[position]))
        return cls(spec, raw, places.is_valid().to_numpy(zero_copy_only=False))

    def fit(self, steps: Mapping[str, Step], train: npt.NDArray[np.bool_]) -> dict[str, Transformer]:
        """Let each categorical column's step learn from the values of train rows.

        Raises:
            UsageError: a column has no value in any of them.
        """
        fitted = {}
        for name, step in steps.items():
            values = self._category(name)
            known = np.array([v is not None for v in values])
            if not (known & train).any():
                raise UsageError(f"The column {name!r} has no value in any train row.", hint="leave it out")
            fitted[name] = step.fit(_once(Block(values[known & train][:, None])))
            self._note_unseen(name, values[known & train])
        return fitted

    def compare(self, train: pa.Table, table: str) -> None:
        """Note which values the train rows of a table that was made before haven't.

        Args:
            train: their clinical columns, as that table has them.
            table: what to call it in an error.

        Raises:
            ConflictError: a column holds values of another kind by now.
        """
        for name in self.spec.columns:
            self._require_kind(name, train.schema.field(name).type, table)
        for name in self.spec.categorical:
            self._note_unseen(name, categories(train.column(name)))

    def _require_kind(self, name: str, then: pa.DataType, table: str) -> None:
        column = self.raw.column(name)
        if column.null_count == len(column):
            return
        kinds = [_kind(column.type), _kind(then)]
        if name in self.spec.numeric:  # true and false are as good as 1 and 0 there
            kinds = ["numbers" if kind == "booleans" else kind for kind in kinds]
        if kinds[0] != kinds[1]:
            raise ConflictError(
                f"The column {name!r} of {self.spec.name!r} holds {kinds[0]} by now, and {kinds[1]} when {table} was "
                f"made{_odd_text(column) if kinds == ['text', 'numbers'] else ''}: none of them would be known.",
                hint=f"correct it, and featstore ingest-table --name {self.spec.name} --replace; or materialize again",
            )

    def alike(self) -> dict[str, list[list[str]]]:
        """Categories that differ in case, spaces or characters that look the same alone, by column: each is one of its
        own, which few people mean.
        """
        every = {name: alike(set(self._category(name)) - {None}) for name in self.spec.categorical}
        return {name: found for name, found in every.items() if found}

    def _note_unseen(self, name: str, train: npt.NDArray[np.object_]) -> None:
        self.unseen.pop(name, None)  # another fold's
        if others := set(self._category(name)) - set(train) - {None}:
            self.unseen[name] = sorted(others)

    def _category(self, name: str) -> npt.NDArray[np.object_]:
        return categories(self.raw.column(name))

    def names(self, encoders: Mapping[str, Any]) -> list[str]:
        """The features that this part gives: the numeric columns, and those that encoders make."""
        names = list(self.spec.numeric)
        for name, encoder in encoders.items():
            width = encoder.transform(np.array([[self._example(name)]], object)).shape[1]
            values = getattr(encoder, "categories_", [()])[0]
            if width == 1:
                names.append(name)
            else:
                names += (
                    [f"{name}={v}" for v in values]
                    if len(values) == width
                    else map(f"{name}_{{}}".format, range(width))
                )
        return names

    def _example(self, name: str) -> str:
        return next((v for v in self._category(name) if v is not None), "")

    def matrix(self, encoders: Mapping[str, Transformer]) -> npt.NDArray[np.float64]:
        """float64 (rows, features): numbers as they are, categories encoded; NaN where a row has no value."""
        import pyarrow as pa

        parts = [
            self.raw.column(name)
            .cast(pa.float64(), safe=False)
            .combine_chunks()
            .to_numpy(zero_copy_only=False)[:, None]
            for name in self.spec.numeric
        ]
        for name, encoder in encoders.items():
            values = self._category(name)
            known = np.array([v is not None for v in values], bool)
            example = np.array([[self._example(name)]], object)
            encoded = np.full((len(values), encoder.transform(example).shape[1]), np.nan)
            if known.any():  # what is missing stays NaN: unknown is not "none of these"
                encoded[known] = encoder.transform(values[known][:, None])
            self.encoded[name] = np.asarray(~np.isnan(encoded).any(axis=1), np.bool_)
            parts.append(encoded)
        return np.concatenate(parts, axis=1) if parts else np.zeros((self.raw.num_rows, 0))

    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """``has_<column>`` for every column that lacks some value, or whose encoder doesn't know some."""
        found = {}
        for name in self.raw.column_names:
            has = self.has(name)
            if not has.all():
                found[f"has_{name}"] = has
        return found

    def has(self, name: str) -> npt.NDArray[np.bool_]:
        """bool (rows,): rows that have a value of a column, and one that its encoder knows."""
        known = np.asarray(self.raw.column(name).is_valid().to_numpy(), np.bool_)
        return known & self.encoded[name] if name in self.encoded else known


def categories(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Values as categories: text (rows,), None where there is none.

    One value is one text, whatever the type of its column: 1.0 is "1", and midnight is the day. A column of whole
    numbers becomes one of decimals by a single 2.5, and the others must stay what they were.
    """
    values, of = codes(column)
    texts = np.empty(len(values), object)
    texts[:] = [None if v is None else _category(v) for v in values.to_pylist()]
    return texts[of]


def _category(value: Any) -> str:
    if isinstance(value, float | Decimal):
        return str(int(value)) if value == int(value) else repr(float(value))
    if isinstance(value, datetime) and value.tzinfo is None and value.time() == time():
        return str(value.date())
    return str(value)


def _kind(kind: pa.DataType) -> str:
    """What a column holds, in a word; types of one kind may follow each other as rows come and go."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "numbers"
    if types.is_string(kind) or types.is_large_string(kind):
        return "text"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "dates"
    return "booleans" if types.is_boolean(kind) else str(kind)


def _odd_text(column: pa.ChunkedArray) -> str:
    """The first value that is no number."""
    return next((f" (such as {v!r})" for v in column.to_pylist() if v is not None and not _is_number(v)), "")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _once(block: Block) -> Callable[[], Iterator[Block]]:
    return lambda: iter([block])


def _finite(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A column of decimals with null for NaN: a missing value is one thing, however a file writes it."""
    import pyarrow.compute as pc

    if pc.any(pc.is_inf(column)).as_py():
        raise ConflictError(f"The column {name!r} holds an infinite number.", hint="correct it, and ingest it anew")
    return pc.if_else(pc.is_nan(column), None, column)


def _odd_one(rows: pa.Table, name: str) -> str:
    """The first value that made a column of numbers one of text: "n/a" among ages is easily overlooked."""
    for patient, value in zip(rows.column("patient_id").to_pylist(), rows.column(name).to_pylist(), strict=True):
        if value is not None and not _is_number(value):
            return f" (such as {value!r} of patient {patient})"
    return ""
