"""PNG, JPEG, TIFF, BMP and WebP."""

from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import tifffile
from PIL import Image

from . import png, zeros
from .png import GREY, PARTS, RGB, RGBA, opaque, pixels_of, saved
from .seeds import ABSURD, Format, Odd, Rng, Seed, integer, pick, put


# ----------------------------------------------------------------------------------------------------- JPEG
def _segments(data: bytes) -> list[tuple[int, int]]:
    """(place, length) of each segment up to the pixels."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        (length,) = struct.unpack_from(">H", data, at + 2)
        found.append((at, length + 2))
        if data[at + 1] == 0xDA:
            break
        at += length + 2
    return found


def _absurd_jpeg(seed: Seed, rng: Rng) -> bytes:
    data, segments = seed.data, _segments(seed.data)
    place, length = segments[int(rng.integers(len(segments)))]
    which = int(rng.integers(6))
    if which <= 1:
        frame = next(at for at, _ in segments if data[at + 1] in (0xC0, 0xC1, 0xC2))
        where, width = [(4, 1), (5, 2), (7, 2), (9, 1), (10, 1), (11, 1), (12, 1)][int(rng.integers(7))]
        return put(data, frame + where, integer(rng), width, "big")
    if which == 2:
        return put(data, place + 2, integer(rng), 2, "big")
    if which == 3:
        return put(data, place + 1, int(rng.integers(0xC0, 0x100)), 1)
    if which == 4:
        return data[:place] + data[place + length :]
    return put(data, place + 4 + int(rng.integers(max(length - 4, 1))), integer(rng), 1)


def _jpeg_claims(rng: Rng) -> Odd:
    """A few bytes that claim the most that a JPEG can be, or just less than is refused."""
    data = saved(RGB, "JPEG", progressive=bool(rng.integers(2)))
    frame = next(at for at, _ in _segments(data) if data[at + 1] in (0xC0, 0xC1, 0xC2))
    sides = pick(rng, [(65_500, 65_500), (14_000, 14_000), (2_500, 2_500), (65_500, 90), (1, 65_535)])
    return Odd(data[: frame + 5] + struct.pack(">HH", *sides) + data[frame + 9 :])


def _odd_jpeg(rng: Rng) -> Odd:
    if rng.random() < 0.5:
        return Odd(saved(RGB, "JPEG", "CMYK"))
    return Odd(saved(pixels_of((1, 60_000)), "JPEG"))


# ----------------------------------------------------------------------------------------------------- TIFF
_TAGS = (256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 338, 339, 347)
_CODES = (0, 1, 2, 3, 4, 5, 6, 7, 8, 32_773, 32_946, 33_003, 34_661, 34_887, 34_925, 50_000, 50_001)


def _entries(data: bytes) -> tuple[str, list[int], int]:
    """Byte order, the place of each entry of the first directory, and the width of counts and values."""
    order = "little" if data[:2] == b"II" else "big"
    big = int.from_bytes(data[2:4], order) == 43
    start = int.from_bytes(data[8:16] if big else data[4:8], order)
    width, head, size = (8, 8, 20) if big else (4, 2, 12)
    count = int.from_bytes(data[start : start + head], order)
    return order, [start + head + size * number for number in range(count)], width


def _absurd_tiff(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    order, places, width = _entries(data)
    for _ in range(1 + int(rng.integers(2))):
        place = places[int(rng.integers(len(places)))]
        which = int(rng.integers(8))
        if which <= 3:
            data = put(data, place + 4 + width, integer(rng), pick(rng, [2, width]), order)
        elif which == 4:
            data = put(data, place + 4, integer(rng), width, order)
        elif which == 5:
            data = put(data, place + 2, int(rng.integers(20)), 2, order)
        elif which == 6:
            data = put(data, place, pick(rng, _TAGS), 2, order)
        else:  # what says how the pixels are packed
            packed = [at for at in places if int.from_bytes(data[at : at + 2], order) == 259]
            data = put(data, (packed or places)[0] + 4 + width, pick(rng, _CODES), 2, order)
    if rng.random() < 0.1:  # a directory that is the next one of itself
        first = 4 if width == 4 else 8
        data = (
            data[: places[-1] + 8 + width * 2 - 4]
            + data[first : first + width]
            + data[places[-1] + 4 + 2 * width + width :]
        )
    return data


def _tiff(array: np.ndarray, **options: object) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


def _odd_tiff(rng: Rng) -> Odd:
    makers = [
        lambda: _tiff(pixels_of((24, 20, 7), np.uint16), photometric="minisblack", planarconfig="contig"),
        lambda: _tiff(np.zeros((5, 8, 9), np.uint8), photometric="minisblack"),
        lambda: _tiff(np.zeros((2, 3, 5, 8, 9), np.uint8), imagej=True),
        lambda: _tiff(np.full((9, 9), pick(rng, [np.nan, np.inf, -np.inf]), np.float32)),
        lambda: _tiff(pixels_of((9, 9), np.float64) * 1e308),
        lambda: _tiff(np.zeros((9, 9), np.complex64)),
        lambda: _tiff(pixels_of((1, 100_000), np.uint16)),
        lambda: _tiff(pixels_of((9, 9), np.int64)),
        lambda: saved(RGB, "TIFF", "CMYK"),
        lambda: saved(RGB, "TIFF", "LAB"),
        lambda: _tiff(pixels_of((16, 16))) + _tiff(pixels_of((16, 16))),
    ]
    return Odd(makers[int(rng.integers(len(makers)))]())


def _tiff_bomb(rng: Rng) -> Odd:
    """One strip of deflated zeros, as many as are claimed, more, or fewer; or a claim alone."""
    side = pick(rng, [60_000, 14_000, 3_000])
    bits = pick(rng, [8, 16, 32])
    body = zeros.zlibbed(pick(rng, [1 << 31, side * side * bits // 8 - 2]), b"\x01\xff")
    tags = [
        (256, side), (257, side), (258, bits), (259, pick(rng, [8, 32_946, 5, 32_773, 1])), (262, 1),
        (273, 8 + 2 + 10 * 12 + 4), (277, 1), (278, side), (279, len(body)), (339, 1),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return Odd(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + body)


# ---------------------------------------------------------------------------------------------- BMP and WebP
_BMP = ((2, 4), (10, 4), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 4), (34, 4), (38, 4), (46, 4), (50, 4))


def _absurd_bmp(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    for _ in range(1 + int(rng.integers(3))):
        data = put(data, *(lambda place, width: (place, integer(rng), width))(*_BMP[int(rng.integers(len(_BMP)))]))
    return data


def _claimed_bmp(rng: Rng, sides: tuple[int, int] | None = None) -> Odd:
    data = saved(pick(rng, [GREY, RGB]), "BMP")
    sides = sides or (int(rng.choice(ABSURD[:14])), int(rng.choice(ABSURD[:14])))
    return Odd(data[:18] + struct.pack("<ii", *sides) + data[26:])


def _bmp_bomb(rng: Rng) -> Odd:
    return _claimed_bmp(rng, pick(rng, [(60_000, 60_000), (4_000, 4_000), (1, 2**31 - 1), (14_000, -14_000)]))


def _absurd_webp(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    which = int(rng.integers(4))
    if which == 0:
        return put(data, pick(rng, [4, 16]), integer(rng), 4)
    if which == 1:  # an extended file: flags and sizes of a canvas
        size = struct.pack("<I", int(rng.integers(2**24)))[:3] + struct.pack("<I", int(rng.integers(2**24)))[:3]
        body = b"VP8X" + struct.pack("<I", 10) + bytes([int(rng.integers(256)), 0, 0, 0]) + size + data[12:]
        return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
    return put(data, 20 + int(rng.integers(12)), integer(rng), pick(rng, [1, 2, 4]))


def _webp_bomb(rng: Rng) -> Odd:
    data = saved(RGB, "WEBP")
    start = data.index(b"\x9d\x01\x2a")
    return Odd(data[: start + 3] + struct.pack("<HH", 16_383, pick(rng, [16_383, 2_000])) + data[start + 7 :])


def _odd_webp(rng: Rng) -> Odd:
    if rng.random() < 0.5:
        return Odd(saved(RGB, "WEBP", save_all=True, append_images=[Image.fromarray(RGB[::-1])]))
    return Odd(saved(pixels_of((1, pick(rng, [3_000, 16_383]), 3)), "WEBP"))


def formats() -> list[Format]:
    """All of them. A seed is a few hundred bytes to a few thousand."""
    jpegs = [
        Seed("rgb", ".jpg", saved(RGB, "JPEG")),
        Seed("grey", ".jpeg", saved(GREY, "JPEG")),
        Seed("progressive", ".jpg", saved(RGB, "JPEG", progressive=True, subsampling=0)),
        Seed("restarts", ".jpg", saved(RGB, "JPEG", restart_marker_blocks=2)),
    ]
    packed = {name: saved(RGB, "TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")}
    tiffs = [
        Seed("raw", ".tif", saved(RGB, "TIFF")),
        *(Seed(name, ".tiff", data) for name, data in packed.items()),
        Seed("fax", ".tif", saved(GREY, "TIFF", "1", compression="group4")),
        Seed("grey16", ".tif", _tiff(pixels_of((24, 20), np.uint16))),
        Seed("rgb16", ".tif", _tiff(pixels_of((24, 20, 3), np.uint16), photometric="rgb")),
        Seed("planes16", ".tif", _tiff(pixels_of((24, 20, 3), np.uint16).transpose(2, 0, 1), photometric="rgb")),
        Seed("float32", ".tif", _tiff(pixels_of((24, 20), np.float32))),
        Seed("float16", ".tif", _tiff(pixels_of((24, 20), np.float16))),
        Seed("int16", ".tif", _tiff(pixels_of((24, 20), np.int16))),
        Seed("bigendian", ".tif", _tiff(pixels_of((24, 20), np.uint16), byteorder=">")),
        Seed("bigtiff", ".tif", _tiff(pixels_of((24, 20), np.uint16), bigtiff=True)),
        Seed("tiles", ".tif", _tiff(pixels_of((40, 40), np.uint16), tile=(16, 16))),
        Seed("deflate16", ".tif", _tiff(pixels_of((24, 20), np.uint16), compression="zlib", rowsperstrip=5)),
    ]
    bmps = [Seed("rgb", ".bmp", saved(RGB, "BMP")), Seed("grey", ".bmp", saved(GREY, "BMP"))]
    bmps.append(Seed("bits", ".bmp", saved(GREY, "BMP", "1")))
    webps = [
        Seed("lossy", ".webp", saved(RGB, "WEBP")),
        Seed("lossless", ".webp", saved(RGB, "WEBP", lossless=True)),
        Seed("alpha", ".webp", saved(opaque(RGBA), "WEBP", lossless=True, exact=True)),
    ]
    return [
        png.format(),
        Format("JPEG", ".jpg", jpegs, _absurd_jpeg, [_odd_jpeg], [_jpeg_claims], PARTS),
        Format("TIFF", ".tif", tiffs, _absurd_tiff, [_odd_tiff], [_tiff_bomb], PARTS),
        Format("BMP", ".bmp", bmps, _absurd_bmp, [_claimed_bmp], [_bmp_bomb], PARTS),
        Format("WebP", ".webp", webps, _absurd_webp, [_odd_webp], [_webp_bomb], PARTS),
    ]
