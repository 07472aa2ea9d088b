"""PNG (https://www.w3.org/TR/png-3/), at all of its bits.

Pillow has no mode for 16-bit colour and reduces it to 8 bits without a word. Its PNG decoder can be told,
though, which bytes of a sample to keep: decoding twice, for the high and the low ones, gives all 16 bits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL.PngImagePlugin import PngImageFile

from featstore import InputError
from featstore_readers.pixels import check_size, to_array

SIGNATURE = b"\x89PNG\r\n\x1a\n"

Pixels = npt.NDArray[Any]

_GREY, _RGB, _PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6


def decode(data: bytes) -> Pixels:
    """A PNG file's bytes → uint8 or uint16 pixels, as deep as the file. Raises InputError."""
    kinds: set[bytes] = set()
    depth = colour = -1
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            width, height, depth, colour = struct.unpack(">IIBB", body[:10])
            check_size(width, height)
        kinds.add(kind)
    if b"acTL" in kinds:
        raise InputError("The image is animated (APNG), and one frame is needed.")
    colour_key = b"tRNS" in kinds and colour != _PALETTE
    with PngImageFile(BytesIO(data)) as image:
        if depth == 16 and colour != _GREY:
            pixels = _sixteen_bits(data, colour)
        else:
            pixels = np.array(to_array(image))
            if depth == 16:
                pixels = pixels.astype(np.uint16, copy=False)  # older Pillow has 16-bit grey in 32-bit integers
        return _with_alpha(pixels, image.info["transparency"], depth) if colour_key else pixels


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Every chunk, checked against its CRC-32. Pillow checks neither the pixels' nor the end of the file."""
    view = memoryview(data)
    at = len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise InputError(f"The PNG file is truncated: it ends after {len(data)} bytes without an IEND chunk.")
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = data[at + 4 : at + 8], at + 12 + length
        if end > len(data):
            raise InputError(f"The PNG file is truncated within its {_name(kind)} chunk, after {len(data)} bytes.")
        (crc,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != crc:
            raise InputError(f"The PNG file is corrupt: its {_name(kind)} chunk fails its checksum.")
        yield kind, view[at + 8 : end - 4]
        at = end
        if kind == b"IEND":
            break
    if any(view[at:]):
        raise InputError(f"The PNG file goes on for {len(data) - at} bytes after its end: two files in one?")


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


def _sixteen_bits(data: bytes, colour: int) -> Pixels:
    """16-bit grey + alpha, RGB or RGBA: (H, W, C) uint16."""
    if colour == _GREY_ALPHA:  # four bytes a pixel: for the decoder the same as 8-bit RGBA
        return _raw(data, "RGBA").view(">u2").astype(np.uint16)
    mode = "RGB" if colour == _RGB else "RGBA"
    high, low = _raw(data, f"{mode};16B"), _raw(data, f"{mode};16L")  # the high byte of either byte order
    return high.astype(np.uint16) << 8 | low


def _raw(data: bytes, raw_mode: str) -> npt.NDArray[np.uint8]:
    """Decode with another interpretation of the bytes of a pixel (Pillow's "raw mode") than PNG's own."""
    with PngImageFile(BytesIO(data)) as image:
        codec, extents, offset, _ = image.tile[0]
        image.tile = [(codec, extents, offset, raw_mode)]  # type: ignore[list-item]  # a plain tuple in older Pillow
        return np.array(image)


def _with_alpha(pixels: Pixels, key: int | tuple[int, int, int], depth: int) -> Pixels:
    """Add the alpha channel that a tRNS chunk means: pixels of the colour ``key`` are transparent."""
    if depth not in (8, 16):
        raise InputError(f"The PNG file makes one grey of {depth} bits transparent, which isn't supported.")
    colours = pixels if pixels.ndim == 3 else pixels[:, :, None]
    alpha = (colours != np.asarray(key)).any(axis=2, keepdims=True) * np.iinfo(pixels.dtype).max
    return np.concatenate([colours, alpha.astype(pixels.dtype)], axis=2)
