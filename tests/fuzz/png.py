"""PNG, with checksums that fit; and the pixels that all images here are made of."""

from __future__ import annotations

import struct
import zlib
from functools import partial
from io import BytesIO

import numpy as np
from PIL import Image

from . import zeros
from .seeds import Format, Odd, Rng, Seed, integer, pick, put

#: Fragments that no image has.
PARTS = ("/0", "slice=0", "frame=0", "axis=2&slice=1", "/valid/-1")
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def pixels_of(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    """Smooth and noisy at once: lossy compression has something to do."""
    rng = np.random.default_rng(len(shape))
    values = np.add.outer(np.linspace(0, 0.6, shape[0]), np.linspace(0, 0.3, shape[1]))
    values = values.reshape(*shape[:2], *(1 for _ in shape[2:])) + rng.random(shape) * 0.1
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (values * np.iinfo(dtype).max).astype(dtype)


def saved(array: np.ndarray, format_: str, mode: str | None = None, **options: object) -> bytes:
    file = BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(file, format_, **options)
    return file.getvalue()


GREY, RGB, RGBA = pixels_of((24, 20)), pixels_of((24, 20, 3)), pixels_of((24, 20, 4))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _header(width: int, height: int, depth: int, colour: int, interlaced: int = 0) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width % 2**32, height % 2**32, depth, colour, 0, 0, interlaced))


def png(pixels: np.ndarray) -> bytes:
    """A PNG of 8 or 16 bits, which Pillow can't write of colours."""
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2] if pixels.ndim == 3 else 1]
    big = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(len(pixels), -1)
    raw = b"".join(b"\0" + row.tobytes() for row in big)
    head = _header(pixels.shape[1], pixels.shape[0], 8 * pixels.dtype.itemsize, colour)
    return _SIGNATURE + head + _chunk(b"IDAT", zlib.compress(raw)) + _chunk(b"IEND", b"")


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _absurd_png(seed: Seed, rng: Rng) -> bytes:
    chunks = _chunks(seed.data)
    which = int(rng.integers(8))
    if which <= 3:  # IHDR, with a checksum that fits
        body = chunks[0][1]
        for _ in range(1 + int(rng.integers(2))):
            place, width = [(0, 4), (4, 4), (8, 1), (9, 1), (10, 1), (11, 1), (12, 1)][int(rng.integers(7))]
            body = put(body, place, integer(rng), width, "big")
        chunks[0] = b"IHDR", body
    elif which == 4:
        del chunks[int(rng.integers(len(chunks)))]
    elif which == 5:
        chunks.insert(int(rng.integers(len(chunks) + 1)), chunks[int(rng.integers(len(chunks)))])
    elif which == 6:
        kind = pick(
            rng, [b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA", b"iCCP", b"zTXt", b"tEXt", b"eXIf", b"\0\xff\x1b\n"]
        )
        chunks.insert(1, (kind, rng.bytes(int(rng.integers(40)))))
    else:  # pixels that were packed with others: too few, too many, other filters
        raw = rng.bytes(int(rng.integers(1, 4000)))
        chunks = [(kind, zlib.compress(raw) if kind == b"IDAT" else body) for kind, body in chunks]
    data = _SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks)
    if which == 3:
        data = put(data, 8, integer(rng), 4, "big")
    return data


def _png_bomb(rng: Rng, *, side: int, depth: int, colour: int, claimed: int | None = None) -> Odd:
    """Zeros, but for one pixel where the image is small enough to be decoded."""
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    row = 1 + side * samples * depth // 8
    body = zeros.zlibbed(row * side - 2, b"\0\xff")
    head = _header(claimed or side, claimed or side, depth, colour)
    return Odd(_SIGNATURE + head + _chunk(b"IDAT", body) + _chunk(b"IEND", b""))


def _text_bomb(rng: Rng) -> Odd:
    chunks = _chunks(png(GREY))
    kind = pick(rng, [b"zTXt", b"iTXt", b"iCCP"])
    head = b"a\0\0" if kind != b"iTXt" else b"a\0\1\0\0\0"
    chunks.insert(1, (kind, head + zeros.zlibbed(1 << 31)))
    return Odd(_SIGNATURE + b"".join(_chunk(*chunk) for chunk in chunks))


def _odd_png(rng: Rng) -> Odd:
    shape = pick(rng, [(1, 100_000), (100_000, 1), (1, 1), (2, 70_000, 3), (1, 2, 4)])
    return Odd(png(pixels_of(shape, pick(rng, [np.uint8, np.uint16]))))


def _constant(rng: Rng) -> Odd:
    return Odd(png(np.full((8, 8), int(rng.integers(256)), np.uint8)))


def format() -> Format:
    """Seeds of a few hundred bytes to a few thousand."""
    transparent = {"transparency": 3}
    pngs = [
        Seed("grey", ".png", png(GREY)),
        Seed("rgb", ".png", saved(RGB, "PNG")),
        Seed("rgba", ".png", saved(opaque(RGBA), "PNG")),
        Seed("palette", ".png", saved(RGB, "PNG", "P")),
        Seed("bits", ".png", saved(GREY, "PNG", "1")),
        Seed("grey16", ".png", png(pixels_of((24, 20), np.uint16))),
        Seed("rgb16", ".png", png(pixels_of((24, 20, 3), np.uint16))),
        Seed("rgba16", ".png", png(opaque(pixels_of((24, 20, 4), np.uint16)))),
        Seed("key", ".png", saved(GREY // 2 + 100, "PNG", **transparent)),
    ]
    png_bombs = [
        partial(_png_bomb, side=30_000, depth=8, colour=2),
        partial(_png_bomb, side=2_000, depth=16, colour=6, claimed=13_000),
        partial(_png_bomb, side=40_000, depth=8, colour=0, claimed=100),
        partial(_png_bomb, side=2_500, depth=16, colour=2),
        _text_bomb,
    ]
    return Format("PNG", ".png", pngs, _absurd_png, [_odd_png, _constant], png_bombs, PARTS)


def opaque(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.copy()
    pixels[..., 3] = np.iinfo(pixels.dtype).max
    return pixels
