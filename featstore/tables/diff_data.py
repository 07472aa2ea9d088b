"""The rows and values of two versions of a table, side by side: matched by key, never by position."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from featstore.errors import CorruptError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

Positions = npt.NDArray[np.int64]
#: Of one column, that are held at once.
BLOCK_NBYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ColumnDiff:
    """One column whose values differ, among the rows that both versions have.

    Attributes:
        fold: ``fold0``, …; empty where there are none.
        rows: how many rows differ.
        gaps: in how many of them one version has a value and the other has none, or NaN.
        largest: the greatest absolute difference of two numbers; None where there is none to take, as of text.
        row: the key of the row that has it, or else of the first that differs.
    """

    fold: str
    column: str
    rows: int
    gaps: int
    largest: float | None
    row: dict[str, str | None]


def read(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Some columns of a Parquet file, whole.

    Raises:
        CorruptError: it is gone or damaged.
    """
    with open_file(path) as file:
        return file.read(columns)


def open_file(path: Path) -> pq.ParquetFile:
    """A Parquet file.

    Raises:
        CorruptError: it is gone or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise CorruptError(
            f"{path} can't be read: {str(error).splitlines()[0]}", hint="restore it from a backup"
        ) from error


def match(a: pa.Table, b: pa.Table, names: tuple[Path, Path]) -> tuple[Positions, Positions]:
    """Where the rows of ``a`` are in ``b``, and the other way round: int64, −1 where there is none.

    Args:
        a, b: the key columns, by the same names; a key may be null.
        names: what to blame where a key stands twice.

    Raises:
        CorruptError: a key stands twice in one of them.
    """
    import pyarrow as pa

    codes = np.zeros(len(a) + len(b), np.int64)
    for name in a.column_names:
        chunks = [*a.column(name).chunks, *b.column(name).chunks]
        both = pa.chunked_array(chunks, a.schema.field(name).type).cast(pa.large_string()).combine_chunks()
        encoded = both.dictionary_encode(null_encoding="encode")
        codes = np.unique(
            codes * (len(encoded.dictionary) + 1) + encoded.indices.to_numpy(zero_copy_only=False), return_inverse=True
        )[1].astype(np.int64)
    sides = codes[: len(a)], codes[len(a) :]
    for side, keys, path in zip(sides, (a, b), names, strict=True):
        order = np.argsort(side, kind="stable")
        twice = np.flatnonzero(side[order][1:] == side[order][:-1])
        if len(twice):
            key = keys.slice(int(order[twice[0]]), 1).to_pylist()[0]
            raise CorruptError(f"{path} has two rows of {key}.", hint="restore it from a backup")
    return _places(*sides), _places(sides[1], sides[0])


def _places(wanted: npt.NDArray[np.int64], among: npt.NDArray[np.int64]) -> Positions:
    if not len(among):
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(among, kind="stable")
    place = np.minimum(np.searchsorted(among[order], wanted), len(among) - 1)
    return np.where(among[order][place] == wanted, order[place], -1).astype(np.int64)


def unequal(a: pa.Array, b: pa.Array) -> npt.NDArray[np.bool_]:
    """Where two columns of one type, without vectors, differ. What is missing, null or NaN, equals what is missing."""
    import pyarrow.compute as pc

    gaps = pc.xor(pc.is_null(a, nan_is_null=True), pc.is_null(b, nan_is_null=True))
    there = pc.invert(pc.is_null(a, nan_is_null=True))
    different = pc.and_(there, pc.fill_null(pc.not_equal(a, b), False))
    return np.asarray(pc.or_(different, gaps).to_numpy(zero_copy_only=False), np.bool_)


def compare(
    files: tuple[pq.ParquetFile, pq.ParquetFile], column: str, places: Positions, keys: pa.Table, fold: str
) -> ColumnDiff | None:
    """Compare one column, a block at a time.

    Args:
        places: int64 (rows of the first file,): where each is in the second, or −1.
        keys: of the first file's rows.

    Returns:
        None where it is equal in every row that both have.
    """
    first, second = files
    values = _Column(second, column)
    rows = gaps = start = 0
    largest, where = -math.inf, -1
    for block in _blocks(first, column):
        here = places[start : start + len(block)]
        common = np.flatnonzero(here >= 0)
        if len(common):
            found = _differences(_take(block, common), values.take(here[common]))
            rows += int(found.rows.sum())
            gaps += int(found.gaps.sum())
            if len(found.largest) and (top := float(found.largest.max())) > largest:
                largest, where = top, start + int(common[found.largest.argmax()])
            elif where < 0 and found.rows.any():
                where = start + int(common[found.rows.argmax()])
        start += len(block)
    if not rows:
        return None
    key = keys.slice(where, 1).to_pylist()[0]
    return ColumnDiff(fold, column, rows, gaps, largest if largest >= 0 else None, key)


@dataclass(frozen=True, slots=True)
class _Found:
    """Of each row: whether it differs, whether by a gap, and by how much: −inf where that can't be told or it is 0."""

    rows: npt.NDArray[np.bool_]
    gaps: npt.NDArray[np.bool_]
    largest: npt.NDArray[np.float64]


def _differences(a: pa.Array, b: pa.Array) -> _Found:
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = pa.types.is_floating(a.type) or pa.types.is_integer(a.type)
    if not numbers and not pa.types.is_fixed_size_list(a.type):
        rows = unequal(a, b)
        gaps = np.asarray(pc.xor(pc.is_null(a), pc.is_null(b)).to_numpy(zero_copy_only=False), np.bool_)
        return _Found(rows, gaps, np.full(len(rows), -np.inf))
    x, y = _matrix(a), _matrix(b)
    gone = np.isnan(x) != np.isnan(y)
    with np.errstate(invalid="ignore"):  # inf - inf
        distance = np.where((x == y) | np.isnan(x) | np.isnan(y), 0.0, np.abs(x - y))
    # Whole numbers above 2⁵³ may differ where their floats don't.
    rows = unequal(a, b) if numbers else ((distance > 0) | gone).any(1)
    largest = distance.max(1, initial=0.0)
    return _Found(rows, gone.any(1), np.where(largest > 0, largest, -np.inf))


def _matrix(column: pa.Array) -> npt.NDArray[np.float64]:
    """(rows, width) of a vector column, (rows, 1) of numbers; NaN where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_fixed_size_list(column.type):
        floats = pc.cast(column, pa.float64(), safe=False)
        return np.asarray(floats.to_numpy(zero_copy_only=False), np.float64)[:, None]
    width = column.type.list_size
    values = column.values.slice(column.offset * width, len(column) * width)
    flat: npt.NDArray[np.float64] = values.to_numpy(zero_copy_only=False).astype(np.float64)
    matrix = flat.reshape(len(column), width)
    matrix[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
    return matrix


def _blocks(file: pq.ParquetFile, column: str) -> Iterator[pa.Array]:
    for batch in file.iter_batches(_block_rows(file, column), columns=[column]):
        yield batch.column(0)


def _block_rows(file: pq.ParquetFile, column: str) -> int:
    import pyarrow as pa

    type_ = file.schema_arrow.field(column).type
    width = type_.list_size if pa.types.is_fixed_size_list(type_) else 16
    return max(1, BLOCK_NBYTES // (8 * max(1, width)))


class _Column:
    """Any rows of one column, a row group at a time; the last one read is kept, for rows that come in order."""

    def __init__(self, file: pq.ParquetFile, column: str) -> None:
        self._file, self._name = file, column
        sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self._kept: tuple[int, pa.Array] | None = None

    def take(self, rows: Positions) -> pa.Array:
        """The values of some rows, in their order."""
        import pyarrow as pa

        groups = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(groups, kind="stable")
        parts = [
            _take(self._group(int(group)), rows[groups == group] - self._starts[group]) for group in np.unique(groups)
        ]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return _take(pa.concat_arrays(parts), back)

    def _group(self, number: int) -> pa.Array:
        if self._kept is None or self._kept[0] != number:
            column = self._file.read_row_group(number, columns=[self._name]).column(0)
            self._kept = number, column.combine_chunks()
        return self._kept[1]


def _take(column: pa.Array, rows: Positions) -> pa.Array:
    """Some rows; without a copy where they stand together."""
    import pyarrow as pa

    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return column.slice(int(rows[0]), len(rows))
    return column.take(pa.array(rows))
