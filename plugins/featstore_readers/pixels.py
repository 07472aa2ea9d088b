"""A Pillow image → the array that its pixels mean, and the limit on how many there may be."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from featstore import InputError

#: Pillow's own limit (twice its warning level), 0.5 GB of RGB. A few bytes of header can claim far more.
MAX_PIXELS = 178_956_970

_AS_STORED = {"L", "LA", "RGB", "RGBA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}


def check_size(width: int, height: int) -> None:
    """Refuse what a header claims before memory is taken for it. Raises InputError."""
    if width < 1 or height < 1:
        raise InputError(f"The image has no pixels: its header says {width} × {height}.")
    if width * height > MAX_PIXELS:
        raise InputError(
            f"The header claims {width} × {height} pixels, and at most {MAX_PIXELS:,} are decoded: the file "
            "is a decompression bomb, or an image to be cut into tiles first."
        )


def to_array(image: Image.Image) -> npt.NDArray[Any]:
    """The pixels of an opened image, loading it.

    1 bit becomes uint8 0 and 255; a palette becomes the RGB or RGBA that it stands for; a transparent colour
    becomes an alpha channel.

    Raises:
        InputError: a colour space other than grey and RGB.
    """
    image.load()
    if image.mode == "PA" or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")
    elif image.mode == "P":
        image = image.convert("RGB")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("La", "RGBa"):  # colours were stored multiplied by alpha
        image = image.convert(image.mode.upper())
    if image.mode not in _AS_STORED:
        raise InputError(
            f"The image's colour mode is {image.mode}; grey and RGB, with or without alpha, are understood.",
            hint="convert it with a colour profile that fits, once, and ingest the result",
        )
    array = np.asarray(image)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
