"""Columns that are the label under another name."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import codes
from featstore.tables.spelling import spelled

if TYPE_CHECKING:
    import pyarrow as pa

#: A column that would fit the label by luck once in fewer ways to shuffle it than this is no other name of it.
WAYS = 200
#: Rows from which numbers that are proportional are no chance.
FEW = 10
#: Rows from which other words for the label are looked for.
MANY = 20
#: |Pearson's r| above which a number is another one in other units.
SAME = 0.999999


def same_columns(columns: pa.Table, labels: pa.Table) -> list[dict[str, Any]]:
    """The columns that are the label (or, of survival, its time) under another name, on the rows that have both.

    - ``the same values``: as text, but for case, spaces, characters that look the same, and ``1.0`` for ``1``;
    - ``one-to-one``: on 20 rows or more, each value stands for one class and each class for one value: recoded,
      negated, the logarithm;
    - ``proportional``: numbers on 10 rows or more, with |Pearson's r| > 0.999999: other units.

    The first two where luck can't explain it: shuffled, the column would fit once in 200 times or less. Ten rows of two
    even classes can be shuffled in 252 ways; a column of ids, each once, is one-to-one with anything that is so too.
    A label of one value is nobody's other name.

    Args:
        columns: one row a row of the table.
        labels: ``label, label_type, time`` of the same rows: text, ``int``, ``float`` or ``str``, and float64.

    Returns:
        ``column, how, rows``: the rows that have both.
    """
    found = []
    targets = [t for t in (_label(labels), labels.column("time").combine_chunks()) if t.null_count < len(t)]
    for name in columns.column_names:
        for target in targets:
            how, rows = _how(columns.column(name).combine_chunks(), target)
            if how:
                found.append({"column": name, "how": how, "rows": rows})
                break
    return found


def _label(labels: pa.Table) -> pa.Array:
    """The labels as they are meant: numbers where all of them are."""
    import pyarrow as pa

    values = labels.column("label").combine_chunks()
    kinds = set(labels.column("label_type").to_pylist()) - {None}
    return values.cast(pa.float64()) if kinds and kinds <= {"int", "float"} else values


def _how(column: pa.Array, label: pa.Array) -> tuple[str, int]:
    import pyarrow as pa

    known = _known(column) & _known(label)
    rows = int(known.sum())
    keep = pa.array(known)
    column, label = column.filter(keep), label.filter(keep)
    numbers = _numbers(column), _numbers(label)
    ours, theirs = _Values.of_column(column), _Values.of_column(label)
    for one, other in ((ours, theirs), (ours.spelled(), theirs.spelled())):
        if how := _other_name(one, other, in_order=_same_order(*numbers)):
            return how, rows
    if rows >= FEW and len(theirs.texts) > 2 and _proportional(*numbers):
        return "proportional", rows
    return "", rows


@dataclass(frozen=True, slots=True)
class _Values:
    """The different values of a column, as texts, and int (n,), which each row has."""

    texts: list[str]
    of: npt.NDArray[np.integer[Any]]

    @classmethod
    def of_column(cls, column: pa.Array) -> _Values:
        values, of = codes(column)
        return cls([_text(value) for value in values.to_pylist()], of)

    def spelled(self) -> _Values:
        """Those that people take for one are one: a cell in capitals, or with two spaces, is no class of its own."""
        texts, of = np.unique(np.array([spelled(text) for text in self.texts], object), return_inverse=True)
        return _Values(texts.tolist(), of[self.of])


def _other_name(ours: _Values, theirs: _Values, *, in_order: bool) -> str:
    classes, rows = len(theirs.texts), len(ours.of)
    if classes < 2:
        return ""
    pairs, counts = np.unique(ours.of.astype(np.int64) * classes + theirs.of, return_counts=True)
    if not len(ours.texts) == classes == len(pairs):
        return ""  # not each value with one class, and each class with one value
    ways = _ways(counts)
    if ways >= math.log(WAYS) and all(ours.texts[p // classes] == theirs.texts[p % classes] for p in pairs):
        return "the same values"
    # Other words for k classes fit in k! times as many ways; numbers in order, or the other way round, in two.
    names = math.log(2) if in_order else math.lgamma(classes + 1)
    return "one-to-one" if rows >= MANY and ways - names >= math.log(WAYS) else ""


def _ways(counts: npt.NDArray[np.int64]) -> float:
    """The logarithm of in how many orders rows of these classes can stand."""
    return math.lgamma(int(counts.sum()) + 1) - sum(math.lgamma(n + 1) for n in counts.tolist())


def _known(values: pa.Array) -> npt.NDArray[np.bool_]:
    import pyarrow.compute as pc

    return np.asarray(pc.invert(pc.is_null(values, nan_is_null=True)))


def _numbers(values: pa.Array) -> npt.NDArray[np.float64] | None:
    import pyarrow as pa

    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return np.asarray(values.cast(pa.float64(), safe=False))
    return None


def _text(value: Any) -> str:
    """What a value says, however it is written."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool):
        value = int(value)
    text = str(value).strip().casefold()
    try:
        number = float(text)
    except ValueError:
        return text
    return repr(number)


def _same_order(one: npt.NDArray[np.float64] | None, other: npt.NDArray[np.float64] | None) -> bool:
    if one is None or other is None or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    order = np.argsort(other, kind="stable")
    steps = np.diff(one[order])[np.diff(other[order]) > 0]
    return bool((steps > 0).all() or (steps < 0).all())


def _proportional(one: npt.NDArray[np.float64] | None, other: npt.NDArray[np.float64] | None) -> bool:
    if one is None or other is None or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return False
    a, b = (x / np.abs(x).max(initial=1e-300) for x in (one, other))  # squares of huge numbers would be infinite
    a, b = (x - x.mean() for x in (a, b))
    norm = float(np.sqrt(a @ a) * np.sqrt(b @ b))
    return norm > 0 and abs(float(a @ b)) / norm > SAME
