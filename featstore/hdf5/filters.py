"""What compressed chunks of HDF5 may become, looked at before HDF5 decompresses them.

Its filters take what a chunk itself claims, or double their memory for as long as more comes: a few bytes can stand for
any number. Only chunks that become what the data set says are handed to them.
"""

from __future__ import annotations

import zlib
from typing import Any

import h5py

from featstore.errors import InputError
from featstore.hdf5.limits import MAX_BYTES

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF = 1, 2, 3, 32000
#: HDF5's own others trust their parameters and their data.
_UNSAFE = {4: "szip", 5: "nbit", 6: "scaleoffset"}
_REPACK = "h5repack -f GZIP=4 IN.h5 OUT.h5"
#: The most that one stored byte can become.
_DEFLATE_RATIO, _LZF_RATIO = 1032, 88
#: What a chunk may become without a look at it.
_UNSEEN = 1 << 26


def check_filters(plist: Any, name: str) -> None:
    """Refuse a data set whose filters aren't installed, or can't be trusted with damaged data.

    Raises:
        InputError: what is wrong, and what to install.
    """
    compressors = 0
    for number in range(plist.get_nfilters()):
        code, _, _, label = plist.get_filter(number)
        compressors += code not in (_SHUFFLE, _FLETCHER32)
        if code in _UNSAFE:
            raise InputError(
                f"{name} is compressed with {_UNSAFE[code]}, whose decoder writes over memory where a file is damaged.",
                hint=_REPACK,
            )
        if not h5py.h5z.filter_avail(code):
            # Of the input, not of the machine: a damaged file can claim any filter, and must not stop the run.
            called = label.decode("utf-8", "replace") or "filter"
            raise InputError(
                f"{name} is compressed with {called} ({code}), which isn't installed.",
                hint="pip install hdf5plugin, and set HDF5_PLUGIN_PATH to its folder plugins; or h5repack -f GZIP=4",
            )
    if compressors > 1:
        raise InputError(f"{name} is compressed {compressors} times over.", hint=_REPACK)


def check_stored(ident: Any, plist: Any, info: Any, size: int) -> None:
    """Refuse one stored chunk that would become more than ``size`` bytes, or never was.

    Args:
        ident: the data set's id. plist: how it was made. info: where the chunk is.

    Raises:
        InputError: it is corrupt, or a decompression bomb.
    """
    if info.size > size + size // 8 + 65_536:  # what doesn't compress grows a little
        raise InputError(f"The file is corrupt: a chunk of {size:,} bytes is stored in {info.size:,}.")
    for number in range(plist.get_nfilters()):
        code = plist.get_filter(number)[0]
        if info.filter_mask >> number & 1:  # this chunk went without
            continue
        if code == _DEFLATE and info.size * _DEFLATE_RATIO > max(size, _UNSEEN):
            _check_deflated(ident.read_direct_chunk(info.chunk_offset)[1], size)
        elif code == _LZF and info.size * _LZF_RATIO > max(size, MAX_BYTES):
            raise InputError(
                f"A chunk of {info.size:,} bytes is compressed with LZF, and so large a one can become anything.",
                hint=_REPACK,
            )


def _check_deflated(data: bytes, size: int) -> None:
    """Decompress piece by piece, keeping none."""
    stream, total = zlib.decompressobj(), 0
    while data and not stream.eof:
        total += len(stream.decompress(data, 1 << 20))
        data = stream.unconsumed_tail
        if total > size + 4:  # a checksum may be inside
            raise InputError(
                f"The file is a decompression bomb, or corrupt: a chunk of {size:,} bytes becomes {total:,} or more."
            )
