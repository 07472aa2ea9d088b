"""Vectors that two patients share across splits: equal ones, and nearly equal ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader, codes, numbers
from featstore.catalog.leakage import MOST
from featstore.tables.leakage import Leak

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows ``start:stop``, float (n, width); a row with a NaN has no vector.
Read = Callable[[int, int], npt.NDArray[Any]]
_Codes = npt.NDArray[Any]
_Sums = npt.NDArray[np.uint64]

#: Bytes of rows that are held while all others go by, and of those that go by at once, each in both precisions.
_HELD_BYTES, _PASSING_BYTES = 128 << 20, 16 << 20
#: Rows whose products with those that go by are in memory at once.
_TILE = 1024
#: What a row has of an input.
_NOTHING, _VECTOR, _CONSTANT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class _Whose:
    """Whose the rows of a table are: ``patient_id, split``, and ``visit_id, sample_key`` where it has them."""

    rows: pa.Table
    everyone: bool

    @property
    def apart(self) -> _Codes:
        """int (rows,): rows with different codes are compared, those below 0 not at all."""
        names, of = codes(self.rows.column("patient_id" if self.everyone else "split"))
        if not names.null_count:
            return of
        return np.where(of == names.to_pylist().index(None), -1, of)

    @property
    def across(self) -> str:
        return "" if self.everyone else " in different splits"

    def told(self, alias: str, first: _Codes, second: _Codes) -> list[dict[str, Any]]:
        """Pairs of rows, one a line."""
        names = [n for n in ("patient_id", "visit_id", "sample_key", "split") if n in self.rows.column_names]
        one, other = (self.rows.select(names).take(at).to_pylist() for at in (first, second))
        return [{"input": alias} | a | {f"other_{k}": v for k, v in b.items()} for a, b in zip(one, other, strict=True)]


#: Gathers stored vectors: int (n,) segments and int (n,) rows in them → float (n, width).
Gather = Callable[[_Codes, _Codes], npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored vectors of an input.

    Attributes:
        pointers: ``position, segment, row, sample_key, content``: the table's row that a vector goes into; content is
            equal where samples have the same bytes, and null where nobody knows them.
    """

    pointers: pa.Table
    gather: Gather


def gathering(reader: FeatureReader) -> Gather:
    """Gathers stored vectors, and lets go of what was mapped for it: pages that were read count as memory."""

    def gather(segments: _Codes, rows: _Codes) -> npt.NDArray[Any]:
        values = reader.gather(segments, rows)
        reader.close()
        return values.reshape(len(rows), -1)

    return gather


def equal_leaks(rows: pa.Table, inputs: Mapping[str, Stored], *, everyone: bool = False) -> list[Leak]:
    """Equal vectors of two patients in different splits, one leak of the kind ``same-vectors`` an input.

    Each stored vector is compared, not what is pooled of several: one slice that two patients share is enough. Those of
    samples with the same bytes are left out: that is the kind ``same-content``.

    Two vectors are equal where they are so in float32. They are told by two sums of their bits, with random weights,
    modulo 2**64: others are taken for equal with a chance below 2**-64 a pair. 17 bytes a vector are held.

    Args:
        rows: whose they are: ``patient_id, split``.
        everyone: of any two patients, whatever their splits.
    """
    whose = _Whose(rows.select(["patient_id", "split"]), everyone)
    apart = whose.apart
    if len(np.unique(apart[apart >= 0])) < 2:
        return []  # all are of one split, or of none: nothing need be read
    once = {alias: _once(stored.pointers) for alias, stored in inputs.items()}
    with ThreadPoolExecutor(4) as pool:  # NumPy lets others work meanwhile
        sums = pool.map(_sums, inputs.values(), once.values())
        found = [_equal_leak(a, inputs[a], once[a], whose, apart, *s) for a, s in zip(inputs, sums, strict=True)]
    return [leak for leak in found if leak]


def _once(pointers: pa.Table) -> _Codes:
    """The first places of vectors, in their order: a patient's goes into each of its visits."""
    segments, rows = (numbers(pointers.column(name)) for name in ("segment", "row"))
    _, of = np.unique(segments, return_inverse=True)
    _, first = np.unique(of * (int(rows.max(initial=0)) + 1) + rows, return_index=True)
    return np.sort(first)


def _equal_leak(
    alias: str, stored: Stored, once: _Codes, whose: _Whose, apart: _Codes, sums: _Sums, has: npt.NDArray[np.uint8]
) -> Leak | None:
    pointers = stored.pointers
    position = numbers(pointers.column("position"))[once]
    apart = apart[position]
    first, second = _equal(sums, apart, (has != _NOTHING) & (apart >= 0))
    if not len(first):
        return None
    own = pointers.select(["sample_key", "content"]).take(once)
    other = ~_same_content(own.column("content"), first, second)
    first, second = first[other], second[other]
    if not len(first):
        return None
    vectors = whose.rows.take(position).append_column("sample_key", own.column("sample_key"))
    constant = int((has[first] == _CONSTANT).sum())
    return _same_vectors(alias, _Whose(vectors, whose.everyone), first, second, constant)


def _sums(stored: Stored, places: _Codes) -> tuple[_Sums, npt.NDArray[np.uint8]]:
    """uint64 (rows, 2): what equal vectors have equal; uint8 (rows,): what each row has."""
    segments, rows_of = (numbers(stored.pointers.column(name)) for name in ("segment", "row"))

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        return stored.gather(segments[places[start:stop]], rows_of[places[start:stop]])

    rows = len(places)
    hashes, has = np.zeros((rows, 2), np.uint64), np.full(rows, _NOTHING, np.uint8)
    width = read(0, 1).shape[1] if rows else 1
    raw = np.asarray(np.random.PCG64(0).random_raw(2 * width), np.uint64)
    weights = raw.reshape(2, width) | np.uint64(1)
    size = max(64, _PASSING_BYTES // (8 * max(width, 1)))
    for start in range(0, rows, size):
        at = slice(start, min(start + size, rows))
        with np.errstate(over="ignore"):  # beyond float32: infinite, as it is stored
            values = np.ascontiguousarray(read(at.start, at.stop), np.float32) + np.float32(0)  # -0 is 0
        hashes[at] = np.einsum("ij,kj->ik", values.view(np.uint32), weights)
        constant = np.where((values == values[:, :1]).all(axis=1), _CONSTANT, _VECTOR)
        has[at] = np.where(np.isnan(values).any(axis=1), _NOTHING, constant)
    return hashes, has


def _same_content(content: pa.ChunkedArray, first: _Codes, second: _Codes) -> npt.NDArray[np.bool_]:
    one, other = (content.take(at).to_pylist() for at in (first, second))
    return np.array([a is not None and a == b for a, b in zip(one, other, strict=True)], np.bool_)


def _equal(hashes: _Sums, apart: _Codes, compared: npt.NDArray[np.bool_]) -> tuple[_Codes, _Codes]:
    """Pairs of rows with equal hashes and other codes: of n such rows n − 1 pairs, so that each stands in one."""
    rough = np.sort(hashes[compared, 0])  # of most tables this is all: no two are equal
    members = np.flatnonzero(compared & np.isin(hashes[:, 0], rough[1:][rough[1:] == rough[:-1]]))
    order = members[np.lexsort((members, apart[members], hashes[members, 1], hashes[members, 0]))]
    begins = np.ones(len(order), np.bool_)
    begins[1:] = (hashes[order[1:]] != hashes[order[:-1]]).any(axis=1)
    starts = np.flatnonzero(begins)
    lengths = np.diff(np.append(starts, len(order)))
    first, last = (np.repeat(order[at], lengths) for at in (starts, starts + lengths - 1))
    shared = (apart[first] != apart[last]) & (order != first)
    order, first, last = order[shared], first[shared], last[shared]
    other = np.where(apart[order] == apart[first], last, first)
    pairs = np.stack([np.minimum(order, other), np.maximum(order, other)])
    pairs = pairs[:, np.lexsort(pairs[::-1])]
    return pairs[0], pairs[1]


def _same_vectors(alias: str, whose: _Whose, first: _Codes, second: _Codes, constant: int) -> Leak:
    message = f"Patients{whose.across} have the same vector of {alias!r}, {len(first):,} time(s)"
    message += f"; {constant:,} of them are one number throughout, such as all zeros." if constant else "."
    hint = "if they are one person, give them one patient_id and split anew; else keep one of them: --where"
    return Leak("same-vectors", message, whose.told(alias, first[:MOST], second[:MOST]), len(first), hint)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows that are nearly the same, by descending cosine: the first 1,000.

    Attributes:
        first, second: int64 (n,), ``first < second``.
        cosine: float64 (n,).
        found: how many there are.
    """

    first: _Codes
    second: _Codes
    cosine: npt.NDArray[np.float64]
    found: int


def near_leaks(inputs: Mapping[str, Read], rows: pa.Table, threshold: float, *, everyone: bool = False) -> list[Leak]:
    """Nearly equal vectors of two patients in different splits, one leak of the kind ``near-duplicates`` an input.

    Args:
        inputs: alias → reads its vectors.
        rows: whose they are: ``patient_id, split``, and ``visit_id, sample_key`` where the table has them.
        everyone: of any two patients, whatever their splits.
        threshold: the cosine from which two vectors are nearly the same. It is taken of what sets them apart, the mean
            of all rows being subtracted: features of networks are mostly positive, and all of them alike without it.
    """
    whose = _Whose(rows, everyone)
    found = []
    for alias, read in inputs.items():
        pairs = near_pairs(_centred(read, rows.num_rows), whose.apart, threshold)
        if pairs.found:
            message = (
                f"Patients{whose.across} have nearly the same vector of {alias!r} (cosine {threshold:g} or more), "
                f"{pairs.found:,} time(s)."
            )
            told = whose.told(alias, pairs.first, pairs.second)
            told = [row | {"cosine": c} for row, c in zip(told, pairs.cosine.tolist(), strict=True)]
            hint = "if they are one person, give them one patient_id and split anew; or raise the threshold"
            found.append(Leak("near-duplicates", message, told, pairs.found, hint))
    return found


def _centred(read: Read, rows: int) -> Read:
    """The same rows, the mean of those that have a vector subtracted; of two that would leave one direction alone."""
    width = read(0, 1).shape[1] if rows else 0
    size = max(64, _PASSING_BYTES // (8 * max(width, 1)))
    total, count = np.zeros(width), 0
    for start in range(0, rows, size):
        block = np.asarray(read(start, min(start + size, rows)), np.float64)
        block = block[np.isfinite(block).all(axis=1)]
        total, count = total + block.sum(axis=0), count + len(block)
    if count < 3 or not np.isfinite(total).all():
        return read
    mean = total / count
    return lambda start, stop: np.asarray(read(start, stop), np.float64) - mean


def near_pairs(read: Read, apart: _Codes, threshold: float, *, most: int = MOST) -> Pairs:
    """All pairs of rows with different codes whose cosine is at least ``threshold``.

    All are compared with all, in blocks: n²/2 products, memory by the size of a block. float32 finds the candidates
    with a margin for its error; float64 decides. Rows with a NaN, and of zeros, have no direction and are left out.

    Args:
        read: it is asked for the same rows several times.
        apart: int64 (rows,): only rows with different codes are compared, those below 0 not at all.
        most: pairs that are given one by one; all are counted.
    """
    count = len(apart)
    width = read(0, 1).shape[1] if count else 0
    held, passing = (max(64, size // (12 * max(width, 1))) for size in (_HELD_BYTES, _PASSING_BYTES))
    passing = min(passing, 8 * _TILE)
    margin = (width + 8) * 2.0**-23  # of the rounding of a float32 product of two unit vectors
    top = _Top(most)
    for i in range(0, count, held):
        ours = _Unit.of(read(i, min(i + held, count)), apart[i : i + held])
        for j in range(i, count, passing):
            theirs = _Unit.of(read(j, min(j + passing, count)), apart[j : j + passing])
            for k in range(0, min(len(ours.apart), j + passing - i), _TILE):
                tile = ours.part(k, k + _TILE)
                if not tile.could_match(theirs):
                    continue
                near = tile.narrow @ theirs.narrow.T >= threshold - margin
                near &= (tile.apart[:, None] != theirs.apart) & (tile.apart >= 0)[:, None] & (theirs.apart >= 0)
                one, other = np.nonzero(near)
                before = one + (i + k) < other + j
                one, other = one[before], other[before]
                cosine = _cosines(tile.exact, theirs.exact, one, other)
                near_enough = cosine >= threshold - 1e-12
                top.add(one[near_enough] + (i + k), other[near_enough] + j, cosine[near_enough])
    return top.pairs()


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows of length 1, in both precisions; those without a direction have a code below 0."""

    exact: npt.NDArray[np.float64]
    narrow: npt.NDArray[np.float32]
    apart: _Codes

    @classmethod
    def of(cls, rows: npt.NDArray[Any], apart: _Codes) -> _Unit:
        exact = np.array(rows, np.float64)
        peak = np.abs(exact).max(axis=1, initial=0)
        lost = ~np.isfinite(peak) | (peak == 0)
        exact[lost] = 0
        exact /= np.where(lost, 1, peak)[:, None]  # squares of huge or tiny numbers would be infinite, or 0
        exact /= np.where(lost, 1, np.sqrt(np.einsum("ij,ij->i", exact, exact)))[:, None]
        return cls(exact, exact.astype(np.float32), np.where(lost, -1, apart))

    def part(self, start: int, stop: int) -> _Unit:
        return _Unit(self.exact[start:stop], self.narrow[start:stop], self.apart[start:stop])

    def could_match(self, other: _Unit) -> bool:
        """Whether there are two rows with other codes: not where all are of one split."""
        ours, theirs = (side.apart[side.apart >= 0] for side in (self, other))
        return bool(len(ours) and len(theirs)) and bool(
            ours.min() != ours.max() or theirs.min() != theirs.max() or ours[0] != theirs[0]
        )


def _cosines(
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], one: _Codes, other: _Codes
) -> npt.NDArray[np.float64]:
    """The cosines of pairs of unit rows, in float64; in parts, so that memory doesn't depend on how many there are."""
    found = np.empty(len(one))
    size = max(1, _PASSING_BYTES // (16 * max(ours.shape[1], 1)))
    for start in range(0, len(one), size):
        at = slice(start, start + size)
        found[at] = np.einsum("ij,ij->i", ours[one[at]], theirs[other[at]])
    return np.clip(found, -1, 1)


class _Top:
    """The pairs of the highest cosines, and how many there are."""

    def __init__(self, most: int) -> None:
        self.most, self.found = most, 0
        self._parts: list[tuple[_Codes, _Codes, npt.NDArray[np.float64]]] = []

    def add(self, first: _Codes, second: _Codes, cosine: npt.NDArray[np.float64]) -> None:
        if len(first):
            self.found += len(first)
            self._parts.append((first, second, cosine))
            if sum(len(part[0]) for part in self._parts) > 4 * self.most:
                self._parts = [self._best()]

    def _best(self) -> tuple[_Codes, _Codes, npt.NDArray[np.float64]]:
        first, second, cosine = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        best = np.lexsort((second, first, -cosine))[: self.most]
        return first[best], second[best], cosine[best]

    def pairs(self) -> Pairs:
        empty = np.zeros(0, np.int64)
        first, second, cosine = self._best() if self._parts else (empty, empty, np.zeros(0))
        return Pairs(first, second, cosine, self.found)
