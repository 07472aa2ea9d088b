"""Vectors as they lie in somebody's files: counted, streamed, and gathered in any order."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import InputError

if TYPE_CHECKING:
    from featstore.imports.columns import Columns

#: Bytes of vectors that are in memory at once.
BLOCK_BYTES = 64 << 20
#: No honest file is a thousandth of what it holds: deflate can't do more, and a header can claim anything.
_MOST_COMPRESSED = 1100


class Vectors(ABC):
    """The vectors of a source, in its own order.

    Attributes:
        count: of rows, at least 1.
        shape: of one row, (dim,) or (tokens, dim).
        dtype: float16, float32 or float64.
        random: whether :meth:`take` works.
    """

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    random = False

    @abstractmethod
    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        """All rows, in blocks (n, *shape) of some megabytes. Each call starts anew."""

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Some rows, in any order: (n, *shape)."""
        raise NotImplementedError

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return max(1, BLOCK_BYTES // (prod(self.shape) * self.dtype.itemsize))


def check(vectors: Vectors, what: str) -> None:
    """Raise :class:`InputError` for what no feature set could store."""
    if vectors.dtype.kind != "f" or vectors.dtype.itemsize > 8:
        raise InputError(
            f"{what} holds {vectors.dtype}, where vectors are float16, float32 or float64.",
            hint="convert it first: array.astype('float32')",
        )
    if len(vectors.shape) not in (1, 2) or min(vectors.shape, default=0) < 1:
        raise InputError(f"A row of {what} has the shape {vectors.shape}, where a vector has (dim,) or (tokens, dim).")
    if vectors.count < 1:
        raise InputError(f"{what} has no rows.")


def check_claim(what: str, claimed: int, file: int) -> None:
    """Raise :class:`InputError` where a header claims more bytes than the file could hold, however compressed."""
    if claimed > max(1 << 30, _MOST_COMPRESSED * file):
        raise InputError(f"{what} claims to hold {claimed:,} bytes, and takes {file:,} of the disk.")


class Streamed(Vectors):
    """Vectors that can be read from first to last only: ``start()`` begins anew."""

    def __init__(
        self, count: int, shape: Sequence[int], dtype: npt.DTypeLike, start: Callable[[], Iterator[npt.NDArray[Any]]]
    ) -> None:
        self.count, self.shape, self.dtype = count, tuple(shape), np.dtype(dtype)
        self._start = start

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        return self._start()


class NpyFile(Vectors):
    """A ``.npy`` file, mapped while it is read: (n, dim), (n, tokens, dim), or one vector (dim,).

    Raises:
        NotFoundError, InputError: it isn't there; it isn't such a file, or holds Python objects.
    """

    random = True

    def __init__(self, path: Path) -> None:
        self.path = path
        array = self._open()
        self.single = array.ndim == 1
        self.count = 1 if self.single else (array.shape[0] if array.ndim else 0)
        self.shape = tuple(array.shape if self.single else array.shape[1:])
        self.dtype = array.dtype
        check(self, path.name)

    def _open(self) -> npt.NDArray[Any]:
        try:
            # Maps the file: nothing is unpickled, and a header's claim is held against the file's size. A mapping
            # of no bytes isn't possible, and such a file has no vectors.
            return np.lib.format.open_memmap(self.path, mode="r")
        except (ValueError, EOFError, OverflowError, OSError, TypeError, SyntaxError, MemoryError) as error:
            raise InputError(
                f"{self.path} can't be read as .npy: {str(error).splitlines()[0] if str(error) else error!r}",
                hint="it must be written by numpy.save, as float16, float32 or float64",
            ) from error

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, self.count, self.block_rows):
            yield self.take(np.arange(start, min(start + self.block_rows, self.count)))

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        array = self._open().reshape(self.count, *self.shape) if self.single else self._open()
        if array.shape != (self.count, *self.shape):
            raise InputError(f"{self.path} was changed while it was read.", hint="run the import again")
        return np.array(array[rows], order="C")


class RawFile(Vectors):
    """Plain bytes that an import keeps for itself."""

    random = True

    def __init__(self, path: Path, like: Vectors) -> None:
        self.count, self.shape, self.dtype = like.count, like.shape, like.dtype.newbyteorder("=")
        self._array = np.memmap(path, self.dtype, "r", shape=(self.count, *self.shape))

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, self.count, self.block_rows):
            yield np.array(self._array[start : start + self.block_rows])

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        return np.array(self._array[rows])


class Joined(Vectors):
    """The rows of several files, one after the other.

    Raises:
        InputError: their rows have other shapes or dtypes, with the files.
    """

    def __init__(self, parts: Sequence[Vectors], names: Sequence[str]) -> None:
        first = parts[0]
        for part, name in zip(parts, names, strict=True):
            if (part.shape, part.dtype) != (first.shape, first.dtype):
                raise InputError(
                    f"The rows of {name} are {part.dtype} {part.shape}, those of {names[0]} "
                    f"{first.dtype} {first.shape}.",
                    hint="import them as two feature sets",
                )
        self._parts = parts
        self._starts = np.cumsum([0, *(part.count for part in parts)])
        self.count, self.shape, self.dtype = int(self._starts[-1]), first.shape, first.dtype
        self.random = all(part.random for part in parts)

    def blocks(self) -> Iterator[npt.NDArray[Any]]:
        for part in self._parts:
            yield from part.blocks()

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        found = np.empty((len(rows), *self.shape), self.dtype)
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owner).tolist():  # each file is opened once
            mine = np.flatnonzero(owner == number)
            found[mine] = self._parts[number].take(rows[mine] - self._starts[number])
        return found


def shaped(vectors: Vectors, shape: Sequence[int], what: str) -> Vectors:
    """The same vectors, whose rows were flat and have a shape.

    Raises:
        InputError: it isn't that of as many values.
    """
    shape = tuple(shape)
    if shape == vectors.shape:
        return vectors
    if min(shape, default=0) < 1 or prod(shape) != prod(vectors.shape):
        raise InputError(f"A row of {what} has {prod(vectors.shape):,} values, which the shape {shape} doesn't have.")
    found = Streamed(
        vectors.count, shape, vectors.dtype, lambda: (block.reshape(len(block), *shape) for block in vectors.blocks())
    )
    check(found, what)
    return found


def spill(vectors: Vectors, path: Path) -> Vectors:
    """Copy vectors that can only be streamed to a plain file, so that they can be gathered in any order.

    Raises:
        InputError: the source ends before its rows do.
    """
    rows = 0
    with open(path, "wb") as file:
        for block in vectors.blocks():
            rows += len(block)
            if rows > vectors.count or block.shape[1:] != vectors.shape:
                break
            file.write(np.ascontiguousarray(block, vectors.dtype.newbyteorder("=")).data)
    if rows != vectors.count:
        raise InputError(f"The source has {rows:,} rows, where it said {vectors.count:,}.", hint="is it still written?")
    return RawFile(path, vectors)


@dataclass(slots=True)
class Contents:
    """What a source holds: vectors, and what it says itself of their rows.

    Attributes:
        columns: what the source itself says of its rows; None where it says nothing.
        key: the column of these that names the rows by the source's own definition; None where it defines none.
        names: what to call the rows where no column names them: ``x.npy#row=3``.
        named: these names are told by the source itself (a file of a tree, coordinates), not by a row's place alone.
        partitions: data set → its first row, where the source has several.
        files: all that was read, for provenance.
        coordinates: these names are coordinates.
        alone: the data know no patients: each sample stands for itself where nothing says otherwise.
        stems: the name of each row's file, for --patient-id '{file}'.
        text_values: the vectors were text.
    """

    vectors: Vectors
    files: list[Path]
    names: Sequence[str]
    columns: Columns | None = None
    key: str | None = None
    named: bool = False
    partitions: dict[str, int] = field(default_factory=dict)
    coordinates: bool = False
    alone: bool = False
    stems: Sequence[str] = ()
    text_values: bool = False
    unmatched: list[str] = field(default_factory=list)
