"""Vectors of two patients that are nearly equal, across splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.catalog.leakage import MOST
from featstore.tables.compared import PASSING_BYTES, Codes, Read, Whose, pairs_of
from featstore.tables.leakage import Leak

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of rows that are held while all others go by, in both precisions.
_HELD_BYTES = 128 << 20
#: Rows whose products with those that go by are in memory at once.
_TILE = 1024


@dataclass(frozen=True, slots=True)
class Pairs:
    """Rows that are nearly the same, by descending cosine: the first 1,000.

    Attributes:
        first, second: int64 (n,), ``first < second``.
        cosine: float64 (n,).
        found: how many there are.
    """

    first: Codes
    second: Codes
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
    whose = Whose(rows, everyone)
    found = []
    for alias, read in inputs.items():
        pairs = near_pairs(_centred(read, rows.num_rows), whose.apart, threshold)
        if pairs.found:
            message = (
                f"Patients{whose.across} have nearly the same vector of {alias!r} (cosine {threshold:g} or more), "
                f"{pairs.found:,} time(s)."
            )
            both = pairs_of(whose.told(pairs.first), whose.told(pairs.second))
            told = [{"input": alias} | row | {"cosine": c} for row, c in zip(both, pairs.cosine.tolist(), strict=True)]
            hint = "if they are one person, give them one patient_id and split anew; or raise the threshold"
            found.append(Leak("near-duplicates", message, told, pairs.found, hint))
    return found


def _centred(read: Read, rows: int) -> Read:
    """The same rows, the mean of those that have a vector subtracted; of two that would leave one direction alone."""
    width = read(0, 1).shape[1] if rows else 0
    size = max(64, PASSING_BYTES // (8 * max(width, 1)))
    total, count = np.zeros(width), 0
    for start in range(0, rows, size):
        block = np.asarray(read(start, min(start + size, rows)), np.float64)
        block = block[np.isfinite(block).all(axis=1)]
        total, count = total + block.sum(axis=0), count + len(block)
    if count < 3 or not np.isfinite(total).all():
        return read
    mean = total / count
    return lambda start, stop: np.asarray(read(start, stop), np.float64) - mean


def near_pairs(read: Read, apart: Codes, threshold: float, *, most: int = MOST) -> Pairs:
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
    held, passing = (max(64, size // (12 * max(width, 1))) for size in (_HELD_BYTES, PASSING_BYTES))
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
    apart: Codes

    @classmethod
    def of(cls, rows: npt.NDArray[Any], apart: Codes) -> _Unit:
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
    ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], one: Codes, other: Codes
) -> npt.NDArray[np.float64]:
    """The cosines of pairs of unit rows, in float64; in parts, so that memory doesn't depend on how many there are."""
    found = np.empty(len(one))
    size = max(1, PASSING_BYTES // (16 * max(ours.shape[1], 1)))
    for start in range(0, len(one), size):
        at = slice(start, start + size)
        found[at] = np.einsum("ij,ij->i", ours[one[at]], theirs[other[at]])
    return np.clip(found, -1, 1)


class _Top:
    """The pairs of the highest cosines, and how many there are."""

    def __init__(self, most: int) -> None:
        self.most, self.found = most, 0
        self._parts: list[tuple[Codes, Codes, npt.NDArray[np.float64]]] = []

    def add(self, first: Codes, second: Codes, cosine: npt.NDArray[np.float64]) -> None:
        if len(first):
            self.found += len(first)
            self._parts.append((first, second, cosine))
            if sum(len(part[0]) for part in self._parts) > 4 * self.most:
                self._parts = [self._best()]

    def _best(self) -> tuple[Codes, Codes, npt.NDArray[np.float64]]:
        first, second, cosine = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        best = np.lexsort((second, first, -cosine))[: self.most]
        return first[best], second[best], cosine[best]

    def pairs(self) -> Pairs:
        empty = np.zeros(0, np.int64)
        first, second, cosine = self._best() if self._parts else (empty, empty, np.zeros(0))
        return Pairs(first, second, cosine, self.found)
