"""Vectors that two patients share across splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader, numbers
from featstore.catalog.alignment_inputs import VectorInput
from featstore.catalog.leakage import MOST
from featstore.tables.compared import PASSING_BYTES, Codes, Whose, pairs_of
from featstore.tables.leakage import Leak
from featstore.tables.made_of import reader_of

if TYPE_CHECKING:
    import pyarrow as pa

Gather = Callable[[Codes, Codes], npt.NDArray[Any]]
_Sums = npt.NDArray[np.uint64]
#: What a row has of an input.
_NOTHING, _VECTOR, _CONSTANT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Stored:
    """The stored vectors of one feature set that go into a table.

    Attributes:
        pointers: ``position, alias, segment, row, sample_key, content`` of all inputs that take them: the table's row
            that a vector goes into; content is equal where samples have the same bytes, and null where nobody knows.
        gather: int (n,) segments and int (n,) rows in them → their vectors, float (n, width).
    """

    pointers: pa.Table
    gather: Gather


def stored(
    store: Path, sets: Sequence[VectorInput], pointers: Mapping[str, pa.Table], paths: Mapping[str, Mapping[int, str]]
) -> list[Stored]:
    """The stored vectors of a table, to be compared.

    Args:
        pointers: alias → its own.
        paths: alias → segment → its path below the store's.
    """
    import pyarrow as pa

    aliases: dict[int, list[str]] = {}
    for item in sets:
        aliases.setdefault(item.feature_set.id, []).append(item.alias)
    found = []
    for names in aliases.values():
        mine = pa.concat_tables([pointers[name] for name in names])
        found.append(Stored(mine, gathering(reader_of(store, paths[names[0]], mine, names[0]))))
    return found


def gathering(reader: FeatureReader) -> Gather:
    """Gathers stored vectors, and lets go of what was mapped for it: pages that were read count as memory."""

    def gather(segments: Codes, rows: Codes) -> npt.NDArray[Any]:
        values = reader.gather(segments, rows)
        reader.close()
        return values.reshape(len(rows), -1)

    return gather


def equal_leaks(rows: pa.Table, sets: Sequence[Stored], *, everyone: bool = False) -> list[Leak]:
    """Equal vectors of two patients in different splits, one leak of the kind ``same-vectors`` a feature set.

    Each stored vector is compared with all others of its feature set, whatever input it goes into, and not what is
    pooled of several: one slice that two patients share is enough. Those of samples with the same bytes are left out:
    that is the kind ``same-content``.

    Two vectors are equal where they are so in float32. They are told by two sums of their bits, with random weights,
    modulo 2**64: others are taken for equal with a chance below 2**-64 a pair. Some 60 bytes a vector are held.

    Args:
        rows: whose they are: ``patient_id, split``.
        everyone: of any two patients, whatever their splits.
    """
    whose = Whose(rows.select(["patient_id", "split"]), everyone)
    apart = whose.apart
    if len(np.unique(apart[apart >= 0])) < 2:
        return []  # all are of one split, or of none: nothing need be read
    once = [_once(each.pointers) for each in sets]
    with ThreadPoolExecutor(4) as pool:  # NumPy lets others work meanwhile
        sums = pool.map(_sums, sets, once)
        found = [
            _equal_leak(each, places, whose, apart, *made) for each, places, made in zip(sets, once, sums, strict=True)
        ]
    return [leak for leak in found if leak]


def _once(pointers: pa.Table) -> Codes:
    """The first places of vectors, in their order: a patient's goes into each of its visits."""
    segments, rows = (numbers(pointers.column(name)) for name in ("segment", "row"))
    _, of = np.unique(segments, return_inverse=True)
    _, first = np.unique(of * (int(rows.max(initial=0)) + 1) + rows, return_index=True)
    return np.sort(first)


def _equal_leak(
    stored: Stored, once: Codes, whose: Whose, apart: Codes, sums: _Sums, has: npt.NDArray[np.uint8]
) -> Leak | None:
    position = numbers(stored.pointers.column("position"))[once]
    apart = apart[position]
    first, second = _equal(sums, apart, (has != _NOTHING) & (apart >= 0))
    content = stored.pointers.column("content")
    other = ~_same_content(content, once[first], once[second])
    first, second = first[other], second[other]
    if not len(first):
        return None

    def told(at: Codes) -> pa.Table:
        own = stored.pointers.select(["alias", "sample_key"]).take(once[at])
        found = whose.told(position[at]).add_column(0, "input", own.column("alias"))
        return found.add_column(2, "sample_key", own.column("sample_key"))

    aliases = stored.pointers.column("alias").take(once[np.concatenate([first, second])]).unique().to_pylist()
    names = " and ".join(map(repr, aliases))
    message = f"Patients{whose.across} have the same vector of {names}, {len(first):,} time(s)"
    constant = int((has[first] == _CONSTANT).sum())
    message += f"; {constant:,} of them are one number throughout, such as all zeros." if constant else "."
    hint = "if they are one person, give them one patient_id and split anew; else keep one of them: --where"
    return Leak("same-vectors", message, pairs_of(told(first[:MOST]), told(second[:MOST])), len(first), hint)


def _sums(stored: Stored, places: Codes) -> tuple[_Sums, npt.NDArray[np.uint8]]:
    """uint64 (rows, 2): what equal vectors have equal; uint8 (rows,): what each row has."""
    segments, rows_of = (numbers(stored.pointers.column(name)) for name in ("segment", "row"))

    def read(start: int, stop: int) -> npt.NDArray[Any]:
        return stored.gather(segments[places[start:stop]], rows_of[places[start:stop]])

    rows = len(places)
    hashes, has = np.zeros((rows, 2), np.uint64), np.full(rows, _NOTHING, np.uint8)
    width = read(0, 1).shape[1] if rows else 1
    raw = np.asarray(np.random.PCG64(0).random_raw(2 * width), np.uint64)
    weights = raw.reshape(2, width) | np.uint64(1)
    size = max(64, PASSING_BYTES // (8 * max(width, 1)))
    for start in range(0, rows, size):
        at = slice(start, min(start + size, rows))
        with np.errstate(over="ignore"):  # beyond float32: infinite, as it is stored
            values = np.ascontiguousarray(read(at.start, at.stop), np.float32) + np.float32(0)  # -0 is 0
        hashes[at] = np.einsum("ij,kj->ik", values.view(np.uint32), weights)
        constant = np.where((values == values[:, :1]).all(axis=1), _CONSTANT, _VECTOR)
        has[at] = np.where(np.isnan(values).any(axis=1), _NOTHING, constant)
    return hashes, has


def _same_content(content: pa.ChunkedArray, first: Codes, second: Codes) -> npt.NDArray[np.bool_]:
    if not len(first):
        return np.zeros(0, np.bool_)
    one, other = (content.take(at).to_pylist() for at in (first, second))
    return np.array([a is not None and a == b for a, b in zip(one, other, strict=True)], np.bool_)


def _equal(hashes: _Sums, apart: Codes, compared: npt.NDArray[np.bool_]) -> tuple[Codes, Codes]:
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
