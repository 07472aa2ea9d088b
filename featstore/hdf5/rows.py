"""The rows of a data set of HDF5, and what is refused of them before memory is taken."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from featstore.errors import InputError
from featstore.hdf5.filters import check_filters, check_stored
from featstore.hdf5.limits import check_bytes, check_row
from featstore.hdf5.texts import Stored, unpacked
from featstore.hdf5.whole import Whole

#: A row in more pieces than this takes seconds to gather.
MAX_CHUNKS = 65_536
#: So many texts that lie one after the other are looked at together.
_TEXTS = 1024
_RECHUNK = "h5repack -l NAME:CHUNK=1xHxW IN.h5 OUT.h5 writes one row a chunk"


class Rows:
    """The rows of a data set, along its first axis.

    Attributes:
        kind: ``numbers`` with at least two axes, ``texts`` with one, or None: rows that are no inputs.
        shape, dtype: of the data set; dtype None where NumPy has none like it.
        data: the data set itself, whose values are to be read after a check only.
    """

    def __init__(self, file: h5py.File, name: str, stored: Whole) -> None:
        self.name = name
        self._bytes = stored
        self._size = file.id.get_filesize()
        ident = h5py.h5d.open(_parent(file, name), _bytes(name.rpartition("/")[2]))
        self._plist = ident.get_create_plist()
        # Before its shape is asked for, which a virtual data set has from its sources.
        if self._plist.get_layout() == h5py.h5d.VIRTUAL or self._plist.get_external_count():
            raise InputError(
                f"The values of {name} are in other data sets or files, which aren't read.",
                hint="h5repack IN.h5 OUT.h5 copies them into one file",
            )
        self.data = h5py.Dataset(ident)
        self.shape: tuple[int, ...] = self.data.shape or ()
        self._stored = Stored(ident.get_type())
        self._item = self._stored.size
        try:
            self.dtype: np.dtype[Any] | None = self.data.dtype
        except TypeError:
            self.dtype = None
        self.kind = self._kind()
        self._checked = False
        self._block = -1

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def is_text(self) -> bool:
        """Whether its values are text."""
        return self.dtype is not None and h5py.check_string_dtype(self.dtype) is not None

    def _kind(self) -> str | None:
        if self.dtype is None:
            return None
        if self.is_text:
            return "texts" if len(self.shape) == 1 else None
        numbers = self.dtype.kind in "biuf" and self.dtype.subdtype is None
        return "numbers" if numbers and len(self.shape) > 1 else None

    def check(self) -> None:
        """Refuse a data set whose header claims what can't be there, or whose rows can't be read in bounded memory.

        Raises:
            InputError: what it claims, or how it is compressed.
        """
        if self._checked:
            return
        row = math.prod(self.shape[1:]) * self._item
        check_bytes(row, f"A row of {self.name}")
        if self.data.chunks is None:
            self._check_contiguous()
        else:
            self._check_chunks()
        self._checked = True

    def _check_contiguous(self) -> None:
        total, stored = math.prod(self.shape) * self._item, self.data.id.get_storage_size()
        start = self.data.id.get_offset() or 0  # none: its values stand in its header
        if stored < total or start + total > self._size:
            raise InputError(
                f"{self.name} claims {len(self):,} rows, {total:,} bytes, and at most {min(stored, self._size):,} "
                "are there: it was never written, or the file is corrupt."
            )

    def _check_chunks(self) -> None:
        chunks = self.data.chunks
        size = math.prod(chunks) * self._item
        of_row = math.prod(-(-n // c) for n, c in zip(self.shape[1:], chunks[1:], strict=True))
        if of_row > MAX_CHUNKS:
            raise InputError(f"A row of {self.name} lies in {of_row:,} chunks.", hint=_RECHUNK)
        check_bytes(of_row * size, f"The chunks of a row of {self.name}, {chunks}, are decompressed as a whole; they")
        check_filters(self._plist, self.name)
        self._check_written(-(-len(self) // chunks[0]) * of_row)
        # All chunks of a row at once, or each of the rows would decompress them again.
        access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
        access.set_chunk_cache(max(521, 4 * of_row + 1), max(of_row * size, 1 << 20), 0.75)
        self.data = h5py.Dataset(h5py.h5d.open(self.data.file.id, _bytes(self.name), access))

    def _check_written(self, needed: int) -> None:
        # The first is asked first: counting the chunks of an absurd header may take as long as it is absurd.
        if needed > self._size or 2 * self.data.id.get_num_chunks() < needed:
            raise InputError(
                f"{self.name} claims {len(self):,} rows, and not half of them were ever written: "
                "its writer was interrupted, or the file is corrupt."
            )

    def check_streamed(self) -> None:
        """Look at every stored chunk of a data set that is then read in parts, of a row or of less.

        Raises:
            InputError: what it claims, how it is compressed, or what a chunk becomes.
        """
        if self.data.chunks is None:
            self._check_contiguous()
            return
        size = math.prod(self.data.chunks) * self._item
        check_bytes(size, f"A chunk of {self.name}, {self.data.chunks}, is decompressed as a whole; it")
        check_filters(self._plist, self.name)
        self._check_written(math.prod(-(-n // c) for n, c in zip(self.shape, self.data.chunks, strict=True)))
        for row in range(0, len(self), self.data.chunks[0]):
            self._check_block(row)

    def read(self, row: int) -> Any:
        """One row: an array in the file's own dtype and byte order, or the bytes of a text.

        Raises:
            InputError: there is no such row, or it was never written; and as :meth:`check` does.
        """
        if self.kind is None:
            raise InputError(
                f"{self.name} holds {self.data.id.get_type().__class__.__name__} of {self.shape}: no rows."
            )
        self.check()
        check_row(row, len(self), self.name)
        self._check_block(row)
        value = self.data[row]
        return value if self.kind == "numbers" else bytes(value)

    def all(self) -> Any:
        """Every value, as h5py gives them; for what describes the rows. Raises as :meth:`read` does."""
        self.check_all()
        return self.data[()]

    def check_all(self) -> None:
        """Refuse values that can't be read at once. Raises as :meth:`read` does."""
        self.check()
        check_bytes(math.prod(self.shape) * self._item, self.name)
        step = self.data.chunks[0] if self.data.chunks else _TEXTS
        texts = 0
        for row in range(0, len(self), step):
            texts += self._check_block(row)
            check_bytes(texts, self.name)

    def names(self, name: str, most: int) -> list[Any] | None:
        """The texts of an attribute of the data set, in order; None where it has none of that name.

        Raises:
            InputError: it has more than ``most`` values, or they are no texts.
        """
        attributes = self.data.attrs
        if name not in attributes:
            return None
        ident = attributes.get_id(name)
        if math.prod(ident.shape) > most or not isinstance(ident.get_type(), h5py.h5t.TypeStringID):
            raise InputError(f"The attribute {name!r} of {self.name} is no list of texts.")
        return list(np.atleast_1d(attributes[name]))

    def _check_block(self, row: int) -> int:
        """Look at a row's chunks before HDF5 does: it decompresses whatever comes, and makes up what is missing.

        Returns:
            the bytes of the texts that these rows refer to; 0 where they were looked at just before.
        """
        chunks = self.data.chunks
        if row // (chunks[0] if chunks else _TEXTS) == self._block:
            return 0
        if chunks is None:
            texts = self._check_texts(row - row % _TEXTS)
            self._block = row // _TEXTS
            return texts
        texts = 0
        starts = (range(0, n, c) for n, c in zip(self.shape[1:], chunks[1:], strict=True))
        for start in itertools.product((row - row % chunks[0],), *starts):
            info = self.data.id.get_chunk_info_by_coord(start)
            if info.byte_offset is None:
                raise InputError(f"Row {row} of {self.name} was never written: the file has a gap there.")
            size = math.prod(chunks) * self._item
            check_stored(self.data.id, self._plist, info, size)
            if self._stored.texts:
                data = unpacked(self.data.id, self._plist, info, size, self.name)
                texts += self._stored.check_lengths(data, self.name)
        self._block = row // chunks[0]
        return texts

    def _check_texts(self, row: int) -> int:
        start = self.data.id.get_offset()
        if start is None or not self._stored.texts:  # a few, in the header; or none
            return 0
        size = math.prod(self.shape[1:]) * self._item
        self._bytes.seek(start + row * size)
        return self._stored.check_lengths(self._bytes.read(min(_TEXTS, len(self) - row) * size), self.name)


def _parent(file: h5py.File, name: str) -> Any:
    """The group that holds a data set, reached by no link that may lead elsewhere."""
    group = file.id
    for link, last in _steps(name):
        if not group.links.exists(link):
            raise InputError(f"The file has no data set {name}.")
        if group.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            raise InputError(
                f"{name} is a link, and links aren't followed: they can lead to other files.",
                hint="name the data set itself, or copy it into this file: h5repack, h5copy",
            )
        if h5py.h5g.get_objinfo(group, link).type != (h5py.h5g.DATASET if last else h5py.h5g.GROUP):
            raise InputError(f"The file has no data set {name}.")
        if not last:
            group = h5py.h5g.open(group, link)
    return group


def _steps(name: str) -> Iterator[tuple[bytes, bool]]:
    parts = name.split("/")[1:]
    for number, part in enumerate(parts):
        yield _bytes(part), number == len(parts) - 1


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
