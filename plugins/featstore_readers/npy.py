"""Arrays of NumPy's own format (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html), row by row.

Its versions 1 to 3; arrays of plain numbers only. What would have to be unpickled is never loaded.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from featstore import InputError
from featstore.hdf5.limits import check_bytes, check_row
from featstore_readers.quiet import quiet

#: The longest header that is parsed, in bytes: shape and dtype of plain numbers take a tenth of it.
MAX_HEADER = 4096
#: No side of an array is longer, and no array has more axes.
_MAX_SIDE, _MAX_AXES = 1 << 48, 32


@dataclass(slots=True)
class Stored:
    """An array in a file: what its header says, and where its values begin.

    Attributes:
        name: what messages call it.
        file: where it is, open. It may hold more than this array.
        start: the offset of the first value.
        rows_apart: whether each row's values lie together: C order.
        numbers: whether it holds plain numbers. Others can't be read, and are only known to be there.
    """

    name: str
    file: BinaryIO
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    rows_apart: bool
    numbers: bool
    _whole: npt.NDArray[Any] | None = None

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def row(self, row: int) -> npt.NDArray[Any]:
        """One row along the first axis, in the file's own dtype and byte order. Reads no other row, in C order.

        Raises:
            InputError: there is no such row, or it takes too much memory.
        """
        self._require_numbers()
        if len(self.shape) < 2:
            raise InputError(f"{self.name} is of shape {self.shape}: it has no rows of values.")
        check_row(row, self.shape[0], self.name)
        if not self.rows_apart:
            if self._whole is None:
                self._whole = self.whole()
            values: npt.NDArray[Any] = self._whole[row]
            return values
        check_bytes(self.row_bytes, f"A row of {self.name}")
        return self._values(self.start + row * self.row_bytes, self.shape[1:], "C")

    def whole(self) -> npt.NDArray[Any]:
        """The whole array. Raises InputError as :meth:`row` does."""
        self._require_numbers()
        check_bytes(math.prod(self.shape) * self.dtype.itemsize, self.name)
        return self._values(self.start, self.shape, "C" if self.rows_apart else "F")

    def _require_numbers(self) -> None:
        if not self.numbers:
            kind = "Python objects, which aren't unpickled" if self.dtype.hasobject else str(self.dtype)
            raise InputError(f"{self.name} holds {kind}: only arrays of numbers are read.")

    def _values(self, start: int, shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
        self.file.seek(start)
        size = math.prod(shape) * self.dtype.itemsize
        data = read_exactly(self.file, size, self.name)
        return np.frombuffer(data, self.dtype).reshape(shape, order=order)


def read_header(file: BinaryIO, name: str, length: int) -> Stored:
    """Read the header of an array that begins where the file stands, and check it against what follows.

    Args:
        length: how many bytes the array has in all, with its header.

    Raises:
        InputError: it is no such array, or of numbers and has other bytes than its header says.
    """
    if not length:
        raise InputError(f"{name} is empty (0 bytes).")
    begin = file.tell()
    shape, fortran, dtype = _parse(file, name)
    numbers = dtype.kind in "biuf" and dtype.subdtype is None
    if numbers and min(shape, default=1) < 1:
        raise InputError(f"{name} holds no values: its shape is {shape}.")
    claimed, there = math.prod(shape) * dtype.itemsize, begin + length - file.tell()
    if numbers and claimed != there:
        what = "is truncated" if claimed > there else "goes on after its end"
        raise InputError(f"{name} {what}: {shape} of {dtype} take {claimed:,} bytes, and {there:,} are there.")
    return Stored(name, file, file.tell(), shape, dtype, not fortran, numbers)


def _parse(file: BinaryIO, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    magic = file.read(len(npy_format.MAGIC_PREFIX) + 2)
    version = tuple(magic[-2:])
    if not magic.startswith(npy_format.MAGIC_PREFIX) or version not in ((1, 0), (2, 0), (3, 0)):
        raise InputError(
            f"{name} isn't an array as NumPy writes it, in versions 1 to 3: it begins with {magic.hex(' ')}."
        )
    width = 2 if version == (1, 0) else 4
    prefix = file.read(width)
    size = int.from_bytes(prefix, "little")
    if len(prefix) < width or size > MAX_HEADER:
        raise InputError(f"{name} is corrupt: its header claims {size:,} bytes, and at most {MAX_HEADER:,} are read.")
    header = io.BytesIO(prefix + read_exactly(file, size, name))
    # Version 3 differs from 2 only where members have names in other scripts, and those aren't read.
    parse = npy_format.read_array_header_1_0 if width == 2 else npy_format.read_array_header_2_0
    try:
        with quiet():
            shape, fortran, dtype = parse(header, max_header_size=MAX_HEADER)
    except (Exception, RecursionError, MemoryError) as error:  # the parser of Python's literals raises all of them
        why = str(error)[:100].splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{name} is corrupt: its header can't be read: {why}") from error
    if len(shape) > _MAX_AXES or any(type(side) is not int or not 0 <= side < _MAX_SIDE for side in shape):
        raise InputError(f"{name} is corrupt: its header claims a shape that no array has: {str(shape[:4])[:100]}.")
    return shape, fortran, dtype


def read_exactly(file: BinaryIO, size: int, name: str) -> bytes:
    """Read ``size`` bytes, or raise InputError where the file ends before."""
    data = file.read(size)
    while 0 < len(data) < size and (more := file.read(size - len(data))):
        data += more
    if len(data) < size:
        raise InputError(f"{name} is truncated: {size:,} bytes were asked for, and {len(data):,} are there.")
    return data
