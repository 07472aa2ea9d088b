"""What stands in the brackets of a step."""

from __future__ import annotations

from featstore import UsageError


def whole_number(value: float | str, what: str, *, hint: str = "") -> int:
    """A whole number of at least 1.

    >>> whole_number(3.0, "k")
    3

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, str) or value < 1 or value != int(value):
        raise UsageError(f"{what} is a whole number of at least 1, not {shown(value)}.", hint=hint)
    return int(value)


def components_or_share(value: float | str) -> float:
    """How many principal components, or a share of the variance between 0 and 1.

    >>> components_or_share(32.0), components_or_share(0.95)
    (32, 0.95)

    Raises:
        UsageError: it is neither.
    """
    if not isinstance(value, str) and 0 < value < 1:
        return value
    what = "What pca keeps, other than a share of the variance between 0 and 1,"
    return whole_number(value, what, hint="pca(32), or pca(0.95)")


def shown(value: float | str) -> str:
    """An argument as the user wrote it."""
    return repr(value) if isinstance(value, str) else f"{value:g}"
