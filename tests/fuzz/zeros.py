"""Any number of zeros, deflated in no time: one flushed block of them, again and again."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

_BLOCK = 1 << 24


@lru_cache
def deflated(count: int, head: bytes = b"") -> bytes:
    """``head`` and ``count`` zeros as a raw deflate stream, whole."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = stream.compress(head) + stream.flush(zlib.Z_FULL_FLUSH)
    block = stream.compress(bytes(_BLOCK)) + stream.flush(zlib.Z_FULL_FLUSH)
    end = stream.compress(bytes(count % _BLOCK)) + stream.flush(zlib.Z_FINISH)
    return begin + block * (count // _BLOCK) + end


@lru_cache
def crc(count: int, head: bytes = b"") -> int:
    found = zlib.crc32(head)
    for _ in range(count // _BLOCK):
        found = zlib.crc32(bytes(_BLOCK), found)
    return zlib.crc32(bytes(count % _BLOCK), found)


def zlibbed(count: int, head: bytes = b"") -> bytes:
    """The same as a zlib stream. Zeros add nothing to the first half of Adler-32, and that half each to the second."""
    adler = zlib.adler32(head)
    low, high = adler & 0xFFFF, adler >> 16
    high = (high + count * low) % 65_521
    return b"\x78\xda" + deflated(count, head) + struct.pack(">I", high << 16 | low)


def gzipped(count: int, head: bytes = b"") -> bytes:
    """The same as a gzip file."""
    size = (count + len(head)) % (1 << 32)
    return b"\x1f\x8b\x08" + bytes(5) + b"\0\xff" + deflated(count, head) + struct.pack("<II", crc(count, head), size)
