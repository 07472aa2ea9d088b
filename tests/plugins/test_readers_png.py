"""PNG at every depth, filter and interlacing, by an encoder of its own: Pillow can't write them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from featstore_readers import featstore_readers
from hypothesis import given
from hypothesis import strategies as st

from featstore import InputError, Source

GREY, RGB, PALETTE, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
_COLOUR = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGB_ALPHA}
# (first row, first column, row step, column step) of Adam7's passes
_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int, colour: int, interlaced: bool = False) -> bytes:
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))


def encode(pixels: np.ndarray, *, interlaced: bool = False, extra: Iterable[bytes] = ()) -> bytes:
    """uint8 or uint16 pixels (H, W) or (H, W, 1…4) → a PNG file; the five filters take turns, row by row."""
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    height, width, channels = pixels.shape
    passes = [pixels[r::rs, c::cs] for r, c, rs, cs in _ADAM7] if interlaced else [pixels]
    raw = b"".join(_filtered(part) for part in passes if part.size)
    head = header(width, height, 8 * pixels.itemsize, _COLOUR[channels], interlaced)
    return head + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def _filtered(pixels: np.ndarray) -> bytes:
    step = pixels.shape[2] * pixels.itemsize
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(len(pixels), -1).astype(int)
    above = np.zeros_like(rows[0])
    out = bytearray()
    for number, row in enumerate(rows):
        left, above_left = (np.concatenate([np.zeros(step, int), line[:-step]]) for line in (row, above))
        kind = number % 5
        predicted = [0 * row, left, above, (left + above) // 2, _paeth(left, above, above_left)][kind]
        out += bytes([kind]) + ((row - predicted) % 256).astype(np.uint8).tobytes()
        above = row
    return bytes(out)


def _paeth(left: np.ndarray, above: np.ndarray, above_left: np.ndarray) -> np.ndarray:
    guess = left + above - above_left
    distances = np.abs(np.stack([left, above, above_left]) - guess)
    return np.choose(distances.argmin(axis=0), [left, above, above_left])


def read_bytes(data: bytes, folder: Path) -> Any:
    reader, *_ = featstore_readers()
    (folder / "image.png").write_bytes(data)
    return reader.read(Source(folder / "image.png"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_keeps_every_bit(
    tmp_path: Path, channels: int, dtype: type, interlaced: bool, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, np.iinfo(dtype).max, (23, 37, channels), dtype=dtype, endpoint=True)
    pixels = pixels[:, :, 0] if channels == 1 else pixels
    out = read_bytes(encode(pixels, interlaced=interlaced), tmp_path)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, pixels)


@given(
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([2, 3, 4]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_png_keeps_every_bit_at_any_size(
    tmp_path_factory: pytest.TempPathFactory,
    height: int,
    width: int,
    channels: int,
    interlaced: bool,
    seed: int,
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 65536, (height, width, channels), dtype=np.uint16)
    out = read_bytes(encode(pixels, interlaced=interlaced), tmp_path_factory.mktemp("png"))
    np.testing.assert_array_equal(out, pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_becomes_alpha(
    tmp_path: Path, channels: int, dtype: type, rng: np.random.Generator
) -> None:
    top = np.iinfo(dtype).max
    pixels = rng.integers(0, top, (9, 11, channels), dtype=dtype)
    pixels[4, 5] = key = pixels[2, 3]
    key_chunk = chunk(b"tRNS", struct.pack(f">{channels}H", *key.tolist()))
    out = read_bytes(encode(pixels, extra=[key_chunk]), tmp_path)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[:, :, :-1], pixels)
    np.testing.assert_array_equal(out[:, :, -1] == 0, (pixels == key).all(axis=2))
    assert set(np.unique(out[:, :, -1])) == {0, top}


@pytest.mark.parametrize("place", [0.3, 0.6, 0.999])
def test_png_damage_is_always_found(tmp_path: Path, place: float) -> None:
    data = bytearray(encode(np.arange(900, dtype=np.uint16).reshape(30, 30)))
    data[int(place * len(data))] ^= 1
    with pytest.raises(InputError, match="checksum"):
        read_bytes(bytes(data), tmp_path)


def test_what_a_header_claims_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    data = header(60_000, 60_000, 8, RGB) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    with pytest.raises(InputError, match="claims 60000 × 60000"):
        read_bytes(data, tmp_path)


def test_a_transparent_colour_below_8_bits_is_refused(tmp_path: Path) -> None:
    data = header(4, 1, 2, GREY) + chunk(b"tRNS", b"\0\1") + chunk(b"IDAT", zlib.compress(b"\0\x1b"))
    with pytest.raises(InputError, match="one grey of 2 bits transparent"):
        read_bytes(data + chunk(b"IEND", b""), tmp_path)
