"""One input's bytes, in a file or behind a URL: read whole, opened, or kept for the next of the file's parts."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from featstore import kept_open
from featstore.errors import InputError
from featstore.locations import is_url, open_file, stat_of

if TYPE_CHECKING:  # listing plugins must not cost an import of NumPy
    import numpy as np

T = TypeVar("T")


class Source:
    """One input's bytes. What a reader reads through it is what the content hash is taken of.

    Attributes:
        location: the file, or its URL.
        fragment: the part of the file (``/valid/42``, ``axis=2&slice=17``), or None for the whole.
        content_hash: SHA-256 of what was read, as hex; None until something was.
        size, mtime_ns: of the file, as it was when it was read.
    """

    def __init__(self, location: str | os.PathLike[str], fragment: str | None = None) -> None:
        self.location = os.fspath(location)
        self.fragment = fragment
        self.content_hash: str | None = None
        self.size: int | None = None
        self.mtime_ns: int | None = None
        self._opened: list[object] = []

    @property
    def path(self) -> Path:
        """The file, for libraries that take nothing but paths.

        Raises:
            InputError: it is a URL.
        """
        if is_url(self.location):
            raise InputError(f"{self.location} is a URL, and its reader takes files only.", hint="copy it here")
        return Path(self.location)

    @property
    def fault(self) -> Exception | None:
        """What broke on the way to the file, whatever the library that was reading made of it."""
        return next((fault for file in self._opened if (fault := getattr(file, "fault", None))), None)

    def open(self) -> BinaryIO:
        """Open the file, to be read at random; close it. Its size and time are taken of the very handle.

        Raises:
            FileNotFoundError: it isn't there. SetupError: it is a URL that can't be reached.
        """
        file = open_file(self.location)
        self._opened.append(file)
        self.size, self.mtime_ns = stat_of(file)
        return file

    def read_bytes(self, most: int | None = None) -> bytes:
        """The whole file, and its hash.

        Args:
            most: refuse a larger file, before memory is taken for it.

        Raises:
            InputError: it has more than ``most`` bytes. And as :meth:`open`.
        """
        with self.open() as file:
            assert self.size is not None
            if most is not None and self.size > most:
                raise InputError(f"The file has {self.size:,} bytes, and at most {most:,} are read.")
            data = file.read()
        self.hash(data)
        return data

    def kept(self, load: Callable[[BinaryIO], T]) -> T:
        """What ``load`` makes of the opened file, kept by this process for the next parts of the same file.

        The samples of one file come one after the other, in natural order: an opened HDF5 file or a decoded volume
        serves them all. The last few are kept, each until its file changes, then dropped by ``close()`` if it has that.

        Args:
            load: a function of a module (it is part of the key); takes the opened file, and may keep it.

        Raises:
            as ``load`` and :meth:`open` do; what raises is not kept.
        """
        value, file, stat = kept_open.get(self.location, load, self.open)
        self._opened.append(file)
        self.size, self.mtime_ns = stat
        return value

    def hash(self, *parts: bytes | memoryview) -> None:
        """Take the content hash of ``parts``: for containers, where one sample is not the whole file."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        self.content_hash = digest.hexdigest()

    def hash_array(self, array: np.ndarray[Any, Any]) -> None:
        """Take the content hash of an array: its dtype, its shape and its values in C order, little-endian."""
        import numpy as np

        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        self.hash(f"{little.dtype.str} {array.shape}".encode(), little.reshape(-1).view(np.uint8).data)
