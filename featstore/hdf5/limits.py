"""How much of an array file is read at a time, and which rows it has."""

from __future__ import annotations

from featstore.errors import InputError

#: The most that one input may take in memory, and the most that is decompressed at a time to get at it: 1 GiB.
MAX_BYTES = 1 << 30


def check_row(row: int, rows: int, what: str) -> None:
    """Raise :class:`~featstore.errors.InputError` for a row that isn't there."""
    if row >= rows:
        raise InputError(f"{what} has {rows:,} rows, counted from 0, and row {row:,} was asked for.")


def check_bytes(size: int, what: str) -> None:
    """Refuse what a header claims before memory is taken for it."""
    if size > MAX_BYTES:
        raise InputError(f"{what} would take {size:,} bytes, and at most {MAX_BYTES:,} are read at a time.")
