"""TIFF in every dtype, layout and compression, against tifffile and Pillow."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
from featstore_readers import featstore_readers
from PIL import Image

from featstore import InputError, Source


def read(path: Path) -> Any:
    reader, *_ = featstore_readers()
    return reader.read(Source(path))


def read_bytes(data: bytes, folder: Path) -> Any:
    (folder / "image.tif").write_bytes(data)
    return read(folder / "image.tif")


def saved(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "TIFF", **options)
    return file.getvalue()


def photo() -> Image.Image:
    return Image.fromarray(skimage.data.chelsea()[50:97, 100:161])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">u2", "i2", "u4", "i4", "i8", "f2", "f4", ">f4", "f8"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("shape", [(19, 31), (19, 31, 3), (19, 31, 4)])
def test_tiff_keeps_the_files_dtype(
    tmp_path: Path, dtype: str, compression: str | None, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    pixels = (rng.normal(size=shape) * 1000).astype(dtype)
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb" if len(shape) == 3 else "minisblack",
        compression=compression,
        byteorder=">" if dtype.startswith(">") else "<",
        extrasamples=["unassalpha"] if shape[-1] == 4 else None,
    )
    out = read(path)
    assert out.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(out, pixels)


def test_tiff_of_separate_planes_and_of_tiles_and_big(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (3, 64, 80), dtype=np.uint16)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read(path), np.moveaxis(pixels, 0, -1))
    tifffile.imwrite(path, np.moveaxis(pixels, 0, -1), photometric="rgb", tile=(32, 32), bigtiff=True)
    np.testing.assert_array_equal(read(path), np.moveaxis(pixels, 0, -1))


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_tiff_compressions_of_8_bits_are_pillows(tmp_path: Path, compression: str) -> None:
    data = saved(photo(), compression=compression)
    np.testing.assert_array_equal(read_bytes(data, tmp_path), np.asarray(Image.open(BytesIO(data))))


@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "f4"])
def test_tiff_of_one_deep_channel_is_read_from_lzw(tmp_path: Path, dtype: str) -> None:
    values = (np.arange(600).reshape(20, 30) * 90).astype(dtype)
    pixels = read_bytes(saved(Image.fromarray(values), compression="tiff_lzw"), tmp_path)
    assert pixels.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(pixels, values)


def test_tiff_compressed_in_a_way_that_nothing_here_reads_says_what_would(tmp_path: Path) -> None:
    floats = Image.fromarray(np.zeros((20, 30), np.float32))
    data = bytearray(saved(floats, compression="tiff_lzw"))
    bits = data.index(struct.pack("<HHI", 258, 3, 1)) + 8
    data[bits : bits + 2] = struct.pack("<H", 64)
    with pytest.raises(InputError, match="LZW, which needs the package imagecodecs"):
        read_bytes(bytes(data), tmp_path)


def test_tiff_whose_0_is_white_is_turned_or_refused(tmp_path: Path) -> None:
    grey = np.asarray(photo().convert("L"))
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, 255 - grey, photometric="miniswhite")
    np.testing.assert_array_equal(read(path), grey)
    tifffile.imwrite(path, grey.astype(np.uint16), photometric="miniswhite")
    with pytest.raises(InputError, match="16-bit grey whose 0 is white"):
        read(path)


def test_a_fourth_channel_without_a_meaning_is_not_left_out(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])
    np.testing.assert_array_equal(read(path), pixels)
