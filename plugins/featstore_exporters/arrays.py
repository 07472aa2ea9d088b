"""What HDF5, Zarr and AnnData files share: vectors and columns as arrays of a known number of rows, filled in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from featstore import UsageError
from featstore_exporters.columns import as_array, by_group, dtype_of, facts, is_vector, row_count, shape_of

#: Makes an array: name, shape, dtype (``str`` for text). What is never written to is NaN, or "".
Create = Callable[[str, tuple[int, ...], Any], Any]
#: Rows of columns that are written together, whatever the size of the vectors beside them.
ROWS = 8192


def array_names(schema: pa.Schema, **others: str) -> dict[str, str]:
    """Column that is no vector → the name of its array: its own, with ``_`` for ``/``, which would make it a folder.

    Args:
        others: columns that get another name.

    Raises:
        UsageError: two arrays would have one name.
    """
    names = {f.name: others.get(f.name, f.name.replace("/", "_")) for f in schema if not is_vector(f.type)}
    taken = Counter([*names.values(), *(f.name for f in schema if is_vector(f.type))])
    if twice := [f"{name!r}" for name, array in names.items() if taken[array] > 1]:
        raise UsageError(
            f"The columns {', '.join(twice)} would be arrays of one name: no '/' can be in it, and "
            "label is called labels.",
            hint="write Parquet or CSV",
        )
    return names


def write_columns(
    group: Any,
    create: Create,
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    *,
    vectors: Mapping[str, str],
    columns: Mapping[str, str],
) -> None:
    """Write every column as an array of its own.

    Args:
        group: what the arrays are made in; an array is replaced by another with ``del group[name]``.
        vectors: vector column → name of its array, (rows, *shape).
        columns: other column → name of its array, (rows,). Text is written with "" where it is missing; a number with
            NaN, as float64; what has no value at all isn't written.

    Raises:
        UsageError: the number of rows isn't known, or a number is too large for float64.
    """
    rows, done = row_count(schema), 0
    arrays = {
        v: create(name, (rows, *shape_of(schema.field(v))), dtype_of(schema.field(v))) for v, name in vectors.items()
    }
    with _Columns(group, create, rows, columns) as written:
        for batch in batches:
            end = done + batch.num_rows
            for name, array in arrays.items():
                if batch.num_rows:
                    array[done:end] = as_array(batch, schema.field(name))
            written.add(batch.select(list(columns)))
            done = end
    if done != rows:
        raise ValueError(f"{done} rows came, and the schema says {rows}")


def write_groups(create: Create, schema: pa.Schema, batches: Iterable[pa.RecordBatch], vector: str) -> None:
    """Write an array a group, and ``<group>_metadata``: the other columns as text (rows, columns), "" where missing.

    Raises:
        UsageError: a group has the name of another's metadata.
    """
    field = schema.field(vector)
    names = [other.name for other in schema if not is_vector(other.type)]
    groups = {name for name, _ in facts(schema)["groups"]}
    if twice := sorted(groups & {metadata_name(name) for name in groups}):
        raise UsageError(f"The group {twice[0]!r} has the name of another's metadata.", hint="write another --layout")
    for name, rows, parts in by_group(schema, batches):
        array = create(name, (rows, *shape_of(field)), dtype_of(field))
        table = create(metadata_name(name), (rows, len(names)), str)
        table.attrs["columns"] = names
        done, held = 0, []
        for batch in parts:
            array[done : done + batch.num_rows] = as_array(batch, field)
            done += batch.num_rows
            held.append(batch.select(names))
            if sum(map(len, held)) >= ROWS or done == rows:
                texts = [as_text(c.combine_chunks()) for c in pa.Table.from_batches(held).columns]
                start, held = done - len(texts[0]), []
                table[start:done] = np.stack(texts, axis=1)


def metadata_name(group: str) -> str:
    return f"{group}_metadata"


def as_text(column: pa.Array) -> npt.NDArray[Any]:
    """A column as text, "" where it is missing: a whole float keeps its point."""
    words = {None: "", True: "true", False: "false"} if pa.types.is_boolean(column.type) else {None: ""}
    values = column.to_pylist()
    return np.array([words[v] if v in words else str(v) for v in values], object)


def as_values(column: pa.Array, *, floats: bool) -> npt.NDArray[Any]:
    """A column as NumPy has it: text as objects, numbers and bools in their type, or with ``floats`` as float64.

    Raises:
        UsageError: a float64 would change a whole number.
    """
    type_ = column.type
    if pa.types.is_floating(type_):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_integer(type_) or pa.types.is_boolean(type_):
        if not floats:
            return np.asarray(column.to_numpy(zero_copy_only=False))
        found = column.to_pylist()
        values = np.array([np.nan if v is None else float(v) for v in found], np.float64)
        if any(v is not None and v != f for v, f in zip(found, values.tolist(), strict=True)):
            raise UsageError(
                "A column has missing values beside whole numbers above 2⁵³: a float would change these.",
                hint="write Parquet",
            )
        return values
    return as_text(column)


class _Columns:
    """Columns that come a batch at a time, each made where its first value shows up."""

    def __init__(self, group: Any, create: Create, rows: int, names: Mapping[str, str]) -> None:
        self._group, self._create, self._rows, self._names = group, create, rows, names
        self._made: dict[str, Any] = {}
        self._held: list[pa.RecordBatch] = []
        self._done = 0

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        if kind is None:
            self._flush(sum(map(len, self._held)))

    def add(self, batch: pa.RecordBatch) -> None:
        """Take some rows; they are written in blocks of :data:`ROWS`."""
        self._held.append(batch)
        held = sum(map(len, self._held))
        if held >= ROWS:
            self._flush(held - held % ROWS)

    def _flush(self, rows: int) -> None:
        if not rows:
            return
        table = pa.Table.from_batches(self._held)
        self._held = table.slice(rows).to_batches()
        for name in table.column_names:
            column = table.column(name).slice(0, rows).combine_chunks()
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            self._write(self._names[name], column)
        self._done += rows

    def _write(self, name: str, column: pa.Array) -> None:
        made, missing = self._made.get(name), column.null_count
        whole = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
        if missing == len(column) and (made is None or not whole):
            return  # NaN or "" stands there
        floats = whole and bool(
            missing or (made is None and self._done) or (made is not None and made.dtype.kind == "f")
        )
        values = as_values(column, floats=floats)
        if made is None:
            made = self._made[name] = self._create(name, (self._rows,), str if values.dtype == object else values.dtype)
        elif floats and made.dtype.kind != "f":  # the first missing number
            before = as_values(pa.array(made[: self._done]), floats=True)
            del self._group[name]
            made = self._made[name] = self._create(name, (self._rows,), np.dtype(np.float64))
            made[: self._done] = before
        made[self._done : self._done + len(column)] = values
