"""Texts of any length in HDF5: what their headers claim, looked at before HDF5 takes memory for it, or never returns.

Such a text is kept as a reference, (length, address, number), to an object in a "global heap"
(https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, III.E and VIII). HDF5 takes the claimed length, up
to 4 GiB, before it looks at the object; and a heap with an object of no length keeps it busy for ever.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from featstore.errors import InputError

#: More than this is no text that a reader gives (text.MAX_BYTES), and no value of a column.
MAX_LENGTH = 1_000_000

_HEAP = struct.Struct("<4s4xQ")
#: Bytes of a text's place: where it is stored, and in memory.
_REFERENCE, _POINTER = 16, 8
_OBJECT = struct.Struct("<H6xQ")
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3


def check_heap(data: bytes) -> None:
    """Refuse a global heap, as far as it was read, whose objects don't fill it one after the other.

    Raises:
        InputError: it is corrupt.
    """
    if not data.startswith(b"GCOL") or len(data) < _HEAP.size:
        return
    end = min(len(data), _HEAP.unpack_from(data)[1])
    at = _HEAP.size
    while at + _OBJECT.size <= end:
        number, size = _OBJECT.unpack_from(data, at)
        # The one without a number is free space, and counts its own header.
        taken = size if number == 0 else _OBJECT.size + -(-size // 8) * 8
        if taken < _OBJECT.size:
            raise InputError("The HDF5 file is corrupt: an object of its heap of texts has no length.")
        at += taken


class Stored:
    """How values of an HDF5 type are stored: told by the type in memory, where a text is a pointer.

    Attributes:
        size: of one value, in bytes.
        texts: where in a value the references to texts stand.
    """

    def __init__(self, kind: Any) -> None:
        pointers = _pointers(kind)
        self.size = kind.get_size() + (_REFERENCE - _POINTER) * len(pointers)
        self.texts = [at + (_REFERENCE - _POINTER) * before for before, at in enumerate(sorted(pointers))]

    def check_lengths(self, data: bytes, what: str) -> int:
        """Refuse stored values whose texts claim to be longer than texts are.

        Returns:
            the bytes of all of them.

        Raises:
            InputError: one text is too long.
        """
        values: npt.NDArray[np.uint8] = np.frombuffer(data, np.uint8)[: len(data) // self.size * self.size]
        lengths = [values.reshape(-1, self.size)[:, at : at + 4].copy().view("<u4") for at in self.texts]
        longest = max((int(column.max(initial=0)) for column in lengths), default=0)
        if longest > MAX_LENGTH:
            raise InputError(f"{what} claims a text of {longest:,} bytes, and at most {MAX_LENGTH:,} are read as one.")
        return sum(int(column.sum(dtype=np.uint64)) for column in lengths)


def _pointers(kind: Any) -> list[int]:
    if isinstance(kind, h5py.h5t.TypeStringID):
        return [0] if kind.is_variable_str() else []
    if isinstance(kind, h5py.h5t.TypeCompoundID):
        members = range(kind.get_nmembers())
        return [kind.get_member_offset(i) + at for i in members for at in _pointers(kind.get_member_type(i))]
    return []


def unpacked(ident: Any, plist: Any, info: Any, size: int, what: str) -> bytes:
    """A stored chunk of references, as it is before any filter; it was checked to become no more than ``size``.

    Raises:
        InputError: its compression is one that isn't used for them.
    """
    mask, data = ident.read_direct_chunk(info.chunk_offset)
    for number in reversed(range(plist.get_nfilters())):
        code, _, values, _ = plist.get_filter(number)
        if mask >> number & 1:
            continue
        if code == _FLETCHER32:
            data = data[:-4]
        elif code == _DEFLATE:
            data = zlib.decompressobj().decompress(data, size + 4)
        elif code == _SHUFFLE:
            width = values[0]
            whole = len(data) // width * width
            data = np.frombuffer(data[:whole], np.uint8).reshape(width, -1).T.tobytes() + data[whole:]
        else:
            raise InputError(f"{what} is text with compression {code}.", hint="h5repack -f GZIP=4 IN.h5 OUT.h5")
    return bytes(data[:size])
