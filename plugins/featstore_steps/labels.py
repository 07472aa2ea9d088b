"""Labels, for what learns from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from featstore import ConflictError, UsageError


def read_labels(labels: npt.NDArray[Any] | None, what: str, *, hint: str) -> npt.NDArray[Any]:
    """Labels of some train rows, (rows,): float64 are numbers, everything else is classes.

    Raises:
        UsageError: there are none, or they are times and events. ConflictError: a row without a label.
    """
    if labels is None:
        raise UsageError(f"{what} learns from labels, and this table has none.", hint=hint)
    if labels.dtype.names is not None:
        raise UsageError(f"{what} can't learn from times and events, only from classes or numbers.", hint=hint)
    if labels.dtype.kind == "f":
        missing = int(np.isnan(labels).sum())
    else:
        missing = sum(label is None for label in labels) if labels.dtype.kind == "O" else 0
    if missing:
        raise ConflictError(f"{what} learns from labels, and {missing} train row(s) have none.", hint=hint)
    return labels
