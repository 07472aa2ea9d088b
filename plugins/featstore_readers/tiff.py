"""TIFF: Pillow up to 8 bits, tifffile for the rest (16-bit RGB, signed, half and double floats).

Pillow alone would reduce 16-bit RGB to 8 bits, read signed 8-bit as unsigned, and swap the bytes of
compressed big-endian floats, all without a word; tifffile alone can't decompress LZW or JPEG.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import lzma
import math
import zlib
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import _imaging
from PIL.TiffImagePlugin import TiffImageFile
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from featstore import InputError
from featstore_readers.pixels import MAX_PIXELS, check_size, to_array
from featstore_readers.quiet import quiet

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF

Pixels = npt.NDArray[Any]

_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3
# (bits, sample format) that Pillow's modes hold as they are; the deep ones for a single channel only.
_SHALLOW = {(bits, _UNSIGNED) for bits in (1, 2, 4, 8)}
_DEEP = {(12, _UNSIGNED), (16, _UNSIGNED), (32, _SIGNED), (32, _FLOAT)}

#: What the pixels may take, and one strip or tile of them: as many of 64 bits as of others.
_MAX_BYTES = 8 * MAX_PIXELS


def _lzma() -> Any:
    """LZMA takes memory for what its header says: it is given that of its highest preset."""
    return lzma.LZMADecompressor(memlimit=1 << 27)


# Compressions that are unpacked as a whole; what they become at most, for each byte; and how much that may be unseen.
_STREAMS: dict[int, Callable[[], Any]] = {
    COMPRESSION.ADOBE_DEFLATE: zlib.decompressobj,
    COMPRESSION.DEFLATE: zlib.decompressobj,
    COMPRESSION.LZMA: _lzma,
}
_RATIO, _UNSEEN = 10_000, 1 << 26

# What these log about a malformed file they also raise, or it doesn't matter: keep it off the terminal.
for _name in ("tifffile", "PIL.TiffImagePlugin"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

# And libtiff's own, which Pillow raises as well: its functions are found through Pillow's, where they are linked so.
with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def decode(data: bytes) -> Pixels:
    """A TIFF file's bytes → pixels in the file's own dtype. Raises InputError."""
    with TiffFile(BytesIO(data)) as file:
        pages = _count(file)
        if pages != 1:
            raise InputError(f"The TIFF file has {pages} pages, and one image is needed.")
        page = file.pages[0]
        assert isinstance(page, TiffPage)
        check_size(page.imagewidth, page.imagelength)
        ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True))
        if max(ends, default=0) > len(data):  # tifffile would fill the missing strips with zeros
            raise InputError(f"The TIFF file is truncated: it ends after {len(data)} bytes, before its pixels do.")
        sample = (page.bitspersample, int(page.sampleformat))
        if page.photometric == PHOTOMETRIC.MINISWHITE and page.bitspersample > 8:
            raise InputError(f"The TIFF file has {sample[0]}-bit grey whose 0 is white, which isn't supported.")
        pixels = _with_pillow(data, page.samplesperpixel) if sample in _SHALLOW else None
        return _with_tifffile(page, data) if pixels is None else pixels


def _count(file: TiffFile) -> int:
    metadata = file.imagej_metadata or {}  # ImageJ writes stacks of over 4 GB as one page and a note
    return max(len(file.pages), int(metadata.get("images", 1)))


def _with_pillow(data: bytes, samples: int) -> Pixels | None:
    """None where Pillow doesn't know the layout, or would leave out a channel that it doesn't understand."""
    with quiet():  # about odd tags; what matters here raises
        try:
            image = TiffImageFile(BytesIO(data))
        except SyntaxError:
            return None
        with image:
            return np.array(to_array(image)) if len(image.getbands()) == samples else None


def _with_tifffile(page: TiffPage, data: bytes) -> Pixels:
    if page.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB):
        raise InputError(
            f"The TIFF file's colour space is {PHOTOMETRIC(page.photometric).name}, in {page.dtype}; grey "
            "and RGB, with or without alpha, are understood."
        )
    _check_memory(page, data)
    try:
        pixels = page.asarray()
    except (ValueError, ImportError) as error:  # some of its decoders it takes from newer Pythons, if they are there
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        if _pillow_has_it(page) and (decompressed := _with_pillow(data, 1)) is not None:
            return decompressed
        # Of the input, not of the machine: a damaged file can claim any compression, and must not stop the run.
        raise InputError(
            f"The TIFF file's {page.dtype} samples are compressed with {COMPRESSION(page.compression).name}, "
            "which needs the package imagecodecs.",
            hint="pip install imagecodecs",
        ) from error
    if page.samplesperpixel > 1 and page.axes.startswith("S"):  # one plane after the other
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim not in (2, 3) or page.samplesperpixel > 4:
        raise InputError(
            f"The TIFF file holds an array of {pixels.shape}, axes {page.axes}: no single grey or RGB image."
        )
    return np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("="))


def _check_memory(page: TiffPage, data: bytes) -> None:
    """Refuse what would take more memory than any image here: tifffile believes tags, and unpacks whatever comes.

    Raises:
        InputError: it would.
    """
    segment = math.prod(page.chunks) * page.bitspersample // 8
    if max(page.nbytes, segment) > _MAX_BYTES:
        raise InputError(
            f"The TIFF file claims {page.nbytes:,} bytes of pixels, in pieces of {segment:,}, and at most "
            f"{_MAX_BYTES:,} are decoded: the file is a decompression bomb, or an image to be cut into tiles first."
        )
    make = _STREAMS.get(int(page.compression))
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if make is None or count * _RATIO <= _UNSEEN:
            continue
        stream = make()
        found = len(stream.decompress(data[start : start + count], segment + 1))
        if found > segment or (stream.unused_data and make is _lzma):  # tifffile unpacks the LZMA streams behind, too
            raise InputError(f"The TIFF file is a decompression bomb: {count:,} bytes become more than {segment:,}.")


def _pillow_has_it(page: TiffPage) -> bool:
    """One deep channel, except for the 32-bit big-endian ones, whose bytes Pillow swaps once too often."""
    swapped = page.bitspersample == 32 and page.parent.byteorder == ">"
    return page.samplesperpixel == 1 and (page.bitspersample, int(page.sampleformat)) in _DEEP and not swapped
