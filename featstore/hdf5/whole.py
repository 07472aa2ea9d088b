"""What HDF5 reads from: whole reads, and heaps of texts that were looked at."""

from __future__ import annotations

from typing import BinaryIO

from featstore.errors import InputError
from featstore.hdf5.texts import check_heap


class Whole:
    """A file for HDF5 to read from: it takes short reads for whole ones, and the rest for what was in memory before."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        while 0 < len(data) < size and (more := self._file.read(size - len(data))):
            data += more
        if len(data) < size:
            raise InputError(f"The HDF5 file is truncated: {size:,} bytes were asked for, and {len(data):,} are there.")
        check_heap(data)
        return data

    def flush(self) -> None:
        """Nothing was written; HDF5 asks all the same."""
