"""How far where and with what a sample was made predicts the label: a model may have learned no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import codes, numbers
from featstore.catalog import confounders as catalog

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_Codes = npt.NDArray[np.int32]


def confounders(connection: duckdb.DuckDBPyConnection, inputs: int, *, classes: bool = False) -> list[dict[str, Any]]:
    """How far site, data set and what tells of a scanner predict the label, over all rows of an aligned table.

    A row's value is that of its samples, several joined by ``+``; ``(none)`` is a value of its own.

    Args:
        inputs: how many ``used_<n>`` there are.
        classes: labels that are numbers are names of classes.

    Returns:
        by descending value: ``column, levels, rows`` (labelled ones), ``measure``, ``value``, ``accuracy`` and
        ``baseline`` (None for numbers). Columns of one value, or of one for each row, tell nothing and are left out.

        - ``cramers_v``: of classes, corrected for bias (Bergsma 2013): 0 where nothing is told, 1 where everything is.
          ``accuracy`` is that of guessing a row's class by the others of its level, see :func:`leave_one_out`,
          ``baseline`` that of guessing the most frequent class.
        - ``eta2``: of numbers, the share of the variance that lies between levels.
    """
    alike = catalog.values(connection, inputs)
    labels, counts = alike.column("label"), numbers(alike.column("rows"))
    rows, found = int(counts.sum()), []
    of_numbers = not classes and set(alike.column("label_type").to_pylist()) == {"float"}
    for column in alike.column_names[3:]:
        words, levels = codes(alike.column(column))
        if 1 < len(words) < rows:
            one = (_numbers if of_numbers else _classes)(levels, labels, counts)
            found.append({"column": column, "levels": len(words), "rows": rows} | one)
    return sorted(found, key=lambda entry: (-entry["value"], entry["column"]))


def _numbers(levels: _Codes, labels: pa.ChunkedArray, counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    values = numbers(labels.cast("float64"))
    value = eta_squared(np.repeat(levels, counts), np.repeat(values, counts))
    return {"measure": "eta2", "value": value, "accuracy": None, "baseline": None}


def _classes(levels: _Codes, labels: pa.ChunkedArray, counts: npt.NDArray[np.int64]) -> dict[str, Any]:
    _, classes = codes(labels)
    table = np.zeros((levels.max() + 1, classes.max() + 1), np.int64)
    np.add.at(table, (levels, classes), counts)
    return {
        "measure": "cramers_v",
        "value": cramers_v(table),
        "accuracy": leave_one_out(table),
        "baseline": float(table.sum(axis=0).max() / table.sum()),
    }


def cramers_v(table: npt.NDArray[np.int64] | Sequence[Sequence[int]]) -> float:
    """Cramér's V of a table of counts without empty rows and columns, corrected for bias; 0 where one side is constant.

    Bergsma, "A bias-correction for Cramér's V and Tschuprow's T", Journal of the Korean Statistical Society 42 (2013).

    >>> cramers_v([[50, 0], [0, 50]]), cramers_v([[25, 25], [25, 25]])
    (1.0, 0.0)
    """
    counts = np.asarray(table, np.float64)
    n, (r, c) = counts.sum(), counts.shape
    if min(r, c) < 2 or n < 2:
        return 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / n
    phi2 = float(((counts - expected) ** 2 / expected).sum() / n)
    corrected = max(0.0, phi2 - (r - 1) * (c - 1) / (n - 1))
    most = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    return float(min(1.0, np.sqrt(corrected / most))) if most > 0 else 0.0


def leave_one_out(table: npt.NDArray[np.int64]) -> float:
    """How often the others of a row's level tell its class: int (levels, classes) → a share of the rows.

    Their most frequent class is guessed where it leads by two rows or more, else the most frequent of all: without this
    a level of two even classes would be wrong each time, for each row leaves its own class one short.

    >>> leave_one_out(np.array([[5, 0], [0, 4]])), leave_one_out(np.array([[5, 5], [1, 1]]))
    (1.0, 0.5)
    """
    usual, right = int(table.sum(axis=0).argmax()), 0
    for level, times in zip(*np.unique(table, axis=0, return_counts=True), strict=True):
        for mine in np.flatnonzero(level):
            others = level.copy()
            others[mine] -= 1
            second, most = np.sort(others)[-2:] if len(others) > 1 else (0, others[0])
            guess = int(others.argmax()) if most - second > 1 else usual
            right += int(times * level[mine]) if guess == mine else 0
    return float(right / table.sum())


def eta_squared(levels: npt.NDArray[np.integer[Any]], values: npt.NDArray[np.float64]) -> float:
    """The share of the variance of ``values`` that lies between levels; 0 where they don't vary.

    >>> eta_squared(np.array([0, 0, 1, 1]), np.array([1.0, 1.0, 3.0, 3.0]))
    1.0
    """
    centred = values - values.mean()
    all_of_it = float((centred**2).sum())
    if all_of_it == 0:
        return 0.0
    sums, counts = np.bincount(levels, weights=centred), np.bincount(levels)
    return float(min(1.0, (sums[counts > 0] ** 2 / counts[counts > 0]).sum() / all_of_it))
