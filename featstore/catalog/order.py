"""The order of rows: that of sample keys, with their last numbers as numbers."""

from __future__ import annotations


def natural(key: str) -> str:
    """The ORDER BY of a column of sample keys: :func:`featstore.keys.natural_order`, in SQL.

    Two numbers after the same text are compared by their lengths, then as text: that is cheap for millions of keys.
    """
    last = f"regexp_extract({key}, '0*([0-9]+)[^0-9]*$', 1)"
    return f"regexp_replace({key}, '[0-9]+[^0-9]*$', ''), length({last}), {key}"
