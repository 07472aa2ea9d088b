"""One image file → (H, W), (H, W, 2), (H, W, 3) or (H, W, 4), in the file's own dtype and range.

The format is taken from the bytes, not from the name. Pixels come as they are stored: neither EXIF
orientation nor colour profiles are applied, as torchvision and timm don't apply them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import BmpImagePlugin, ImageFile, JpegImagePlugin, WebPImagePlugin

from featstore import InputError, SetupError, Source
from featstore_readers import png, tiff
from featstore_readers.pixels import check_size, to_array

Pixels = npt.NDArray[Any]


def read(source: Source) -> Pixels:
    """Read and decode one image file.

    Raises:
        InputError: the file is empty, truncated, corrupt, no image, of a colour space other than grey and
            RGB, animated or of several pages, or claims more pixels than are decoded into memory.
        SetupError: this process told Pillow to make up the missing part of truncated images.
    """
    if source.fragment is not None:
        raise InputError(f"An image file has no parts, and #{source.fragment} was asked for.")
    return decode(source.read_bytes())


def decode(data: bytes) -> Pixels:
    """Decode one image file's bytes; raises as :func:`read` does."""
    if not data:
        raise InputError("The file is empty (0 bytes).")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SetupError(
            "Pillow was told to make up the missing part of truncated images.",
            hint="find what sets PIL.ImageFile.LOAD_TRUNCATED_IMAGES in this process, and take it out",
        )
    name, decoder = _decoder(data)
    try:
        return decoder(data)
    except (InputError, SetupError, MemoryError, ImportError):  # but for the first, the machine's fault: no bad input
        raise
    except Exception as error:  # decoders raise anything from struct.error to SyntaxError on malformed bytes
        raise InputError(f"The {name} file can't be decoded, it is truncated or corrupt: {error}") from error


def _decoder(data: bytes) -> tuple[str, Callable[[bytes], Pixels]]:
    if data.startswith(png.SIGNATURE):
        return "PNG", png.decode
    if data.startswith(tiff.SIGNATURES):
        return "TIFF", tiff.decode
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG", _simple(JpegImagePlugin.JpegImageFile)
    if data.startswith(b"BM"):
        return "BMP", _simple(BmpImagePlugin.BmpImageFile)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP", _webp
    raise InputError(f"The file isn't PNG, JPEG, TIFF, BMP or WebP: it begins with {data[:4].hex(' ')}.")


def _simple(kind: type[ImageFile.ImageFile]) -> Callable[[bytes], Pixels]:
    """Decode with Pillow alone, which has these formats at their full depth (8 bits).

    Its classes are used directly, because ``Image.open`` reports large images through the process-wide
    warnings, and would take a phone's multi-picture JPEG for a container of several.
    """

    def decode(data: bytes) -> Pixels:
        with kind(BytesIO(data)) as image:
            check_size(*image.size)
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise InputError(f"The image is animated: it has {frames} frames, and one is needed.")
            return np.array(to_array(image))

    return decode


def _webp(data: bytes) -> Pixels:
    (length,) = struct.unpack_from("<I", data, 4)
    if any(data[length + 8 :]):
        raise InputError(f"The WebP file goes on for {len(data) - length - 8} bytes after its end: two files in one?")
    return _simple(WebPImagePlugin.WebPImageFile)(data)
