"""Chunk files as memory: mapped read-only, without an open descriptor, in one cache for the whole process.

The kernel limits the maps of a process (``vm.max_map_count``, 65,530 by default), and open files far sooner.
So a file is closed again as soon as it is mapped, and the maps that were used last are kept up to a bound.
Whoever shortens a mapped file in place crashes its readers (SIGBUS); featstore replaces files, always.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from featstore.arrays.metadata import RESTORE
from featstore.errors import CorruptError, SetupError

#: A quarter of the kernel's default: the rest is for what callers hold on to, and for the libraries' own.
DEFAULT_LIMIT = 16_384


class Chunk(NamedTuple):
    """The rows of one chunk, twice over the same memory.

    Attributes:
        values: (rows, *item_shape), read-only and C-contiguous.
        raw: the same as bytes; slicing and copying these costs half of what it costs with arrays.
    """

    values: npt.NDArray[Any]
    raw: memoryview

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Chunk:
        """Take ``values``, which must be C-contiguous, and make them read-only."""
        values.flags.writeable = False
        return cls(values, values.reshape(-1).view(np.uint8).data)


class MapCache:
    """The chunks that were used last, at most ``limit``. Threads may share it; forked children get it too.

    A chunk that was evicted lives on as long as someone holds its array.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        self.limit = limit
        self._chunks: OrderedDict[Hashable, Chunk] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._chunks)

    def get(self, key: Hashable) -> Chunk | None:
        """The chunk under ``key``, or None."""
        with self._lock:
            chunk = self._chunks.get(key)
            if chunk is not None:
                self._chunks.move_to_end(key)
        return chunk

    def add(self, key: Hashable, chunk: Chunk) -> None:
        """Keep ``chunk`` under ``key``, and let go of the least used beyond the limit."""
        with self._lock:
            self._chunks[key] = chunk
            self._chunks.move_to_end(key)
            while len(self._chunks) > self.limit:
                self._chunks.popitem(last=False)

    def discard(self, keys: Iterable[Hashable]) -> None:
        """Let go of these, where they are held."""
        with self._lock:
            for key in keys:
                self._chunks.pop(key, None)

    def renew_lock(self) -> None:
        """Forget who held the lock."""
        self._lock = threading.Lock()


#: The cache of this process.
SHARED = MapCache()
# A thread of the parent may hold the lock at the moment of a fork, and doesn't exist in the child.
os.register_at_fork(after_in_child=SHARED.renew_lock)


def map_file(path: Path, nbytes: int) -> memoryview | None:
    """Map a file of exactly ``nbytes`` bytes and close it again.

    Returns:
        its bytes, read-only, as a view that keeps the map alive; None where there is no such file.

    Raises:
        CorruptError: it has another size.
        SetupError: the kernel gives this process no more maps.
    """
    import pyarrow as pa  # 200 ms that no other verb should pay

    try:
        found = os.stat(path).st_size
    except FileNotFoundError:
        return None
    check_size(path, nbytes, found)
    try:
        with pa.memory_map(str(path)) as file:
            buffer = file.read_buffer()
    except OSError as error:
        if os.strerror(errno.ENOMEM) not in str(error):  # Arrow gives the text, but no number
            raise
        raise SetupError(
            f"The kernel refused to map {path}: this process holds too many maps, or too much address space.",
            hint="ask for fewer rows at a time, or raise the limit: sysctl -w vm.max_map_count=1048576",
        ) from error
    return memoryview(buffer)


def check_size(path: Path, expected: int, found: int) -> None:
    """Raise :class:`CorruptError` where a chunk file hasn't the size that its array gives it."""
    if found != expected:
        raise CorruptError(f"{path} has {found:,} bytes, where its chunk has {expected:,}.", hint=RESTORE)
