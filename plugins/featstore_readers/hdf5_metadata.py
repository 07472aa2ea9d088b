"""What ``<partition>_metadata`` says of the rows of its partition: columns of text, one value a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from featstore import ConflictError, InputError
from featstore.hdf5.rows import Rows
from featstore_readers.rows import MISSING

#: An attribute of this many values isn't one of column names.
_MAX_COLUMNS = 10_000
#: Decimal numbers can't be these: 7.0 was "007", "7" or 7, and nobody knows any more.
_IDENTIFIERS = ("patient_id", "visit_id", "site", "split", "modality")


def fields_of(metadata: Rows, rows: Rows) -> Callable[[int], Mapping[str, str]]:
    """Row number → what the metadata say of that row, without the missing values.

    Args:
        metadata: (n, columns), text or numbers, with the columns' names in the attribute ``columns``; or (n,) of a
            compound type, whose members are the columns.
        rows: what they describe.

    Raises:
        ConflictError: there are more or fewer of them than rows; or an identifier is a decimal number.
        InputError: they have no such form.
    """
    if metadata.shape[:1] != rows.shape[:1]:
        raise ConflictError(
            f"{metadata.name} describes {len(metadata):,} rows, and {rows.name} has {len(rows):,}.",
            hint="make them again together: which row each describes can't be known",
        )
    names, columns = _columns(metadata)
    texts: dict[str, Sequence[str | None]] = {}
    for name, column in zip(names, columns, strict=True):
        if column.dtype.kind == "f" and name in _IDENTIFIERS:
            raise ConflictError(
                f"The column {name!r} of {metadata.name} holds decimal numbers, which can't be identifiers.",
                hint="save it as text",
            )
        texts[name] = [_text(value, name, metadata.name) for value in column]

    def of_row(row: int) -> dict[str, str]:
        return {name: value for name, column in texts.items() if (value := column[row]) is not None}

    return of_row


def _columns(metadata: Rows) -> tuple[Sequence[str], Sequence[np.ndarray[Any, Any]]]:
    dtype = metadata.dtype
    if dtype is not None and dtype.names and len(metadata.shape) == 1:
        nested = [name for name in dtype.names if not _is_value(dtype[name])]
        if nested:
            raise InputError(f"{metadata.name} has members that are no single values: {', '.join(nested)}.")
        values = metadata.all()
        return _unique(dtype.names, metadata.name), [values[name] for name in dtype.names]
    if dtype is None or not _is_value(dtype) or len(metadata.shape) != 2:
        raise InputError(
            f"{metadata.name} is {dtype or 'of an odd type'} of shape {metadata.shape}: metadata are a table of text, "
            "or of a compound type.",
            hint="write it as (rows, columns) of text, with the names in its attribute 'columns'",
        )
    names = metadata.names("columns", _MAX_COLUMNS)
    if names is None:
        raise InputError(
            f"{metadata.name} has no attribute 'columns' that names its {metadata.shape[1]} columns.",
            hint=f"in h5py: file[{metadata.name!r}].attrs['columns'] = ['patient_id', …]",
        )
    if len(names) != metadata.shape[1]:
        raise ConflictError(f"{metadata.name} has {metadata.shape[1]} columns, and names {len(names)} in 'columns'.")
    values = metadata.all()
    return _unique([_decoded(name, metadata.name) for name in names], metadata.name), list(values.T)


def _is_value(dtype: np.dtype[Any]) -> bool:
    """Whether it is a number or a text: HDF5 has references and lists, too."""
    return (dtype.kind in "biuf" and dtype.subdtype is None) or h5py.check_string_dtype(dtype) is not None


def _unique(names: Sequence[str], of: str) -> Sequence[str]:
    if twice := sorted(name for name, count in Counter(names).items() if not name.strip() or count > 1):
        raise InputError(f"{of} has columns of one name, or without one: {', '.join(map(repr, twice))}.")
    return names


def _text(value: Any, column: str, of: str) -> str | None:
    """One value as text, or None for a missing one. Numbers as short as they can be told from others: 0.1."""
    text = _decoded(value, f"{of}, column {column!r},")
    return None if text in MISSING else text


def _decoded(value: Any, of: str) -> str:
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{of} holds text that isn't UTF-8: {value[:40]!r}.") from error
