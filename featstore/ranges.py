"""Ranges: which pixel values are black and white, as people write it, and as an image's file says it."""

from __future__ import annotations

import math

import numpy as np

from featstore.errors import InputError, UsageError
from featstore.spec import Picture

#: Ranges that the image or its file gives.
OWN = ("dtype", "minmax", "volume")
# 16-bit pixels that are all below this use 12 bits at most, as scanners do: taken for 16, they are nearly constant.
_FAINT = 4096


def spelt(text: str) -> str:
    """The one spelling of a range, because it enters the fingerprint.

    >>> spelt("-1000, 400"), spelt("minmax")
    ('-1000.0,400.0', 'minmax')

    Raises:
        UsageError: it is none.
    """
    if text in OWN:
        return text
    low, high = _parse(text)
    return f"{low},{high}"


def of_window(text: str) -> str:
    """DICOM's window, its centre and width, as a range: the function LINEAR of DICOM PS3.3 C.11.2.1.2.

    >>> of_window("40,400")
    '-160.0,239.0'

    Raises:
        UsageError: not two finite numbers, or a width of 1 or less.
    """
    try:
        centre, width = (float(part) for part in text.split(","))
    except ValueError:
        centre = width = math.nan
    if not (math.isfinite(centre) and math.isfinite(width) and width > 1):
        raise UsageError(f"window={text} can't be read: give CENTRE,WIDTH, such as 40,400; the width is above 1.")
    return f"{centre - 0.5 - (width - 1) / 2},{centre - 0.5 + (width - 1) / 2}"


def limits(range: str, picture: Picture) -> tuple[float, float]:
    """The values of an image that become 0 and 1 (1 and 0 where it is inverted).

    Args:
        range: of :class:`~featstore.ImageTransform`, in the spelling of :func:`spelt`.

    Raises:
        InputError: the image doesn't say.
    """
    pixels = picture.pixels
    if range == "minmax":
        low, high = float(pixels.min()), float(pixels.max())
        if low == high:
            raise InputError(
                f"Every pixel is {low:g}: an image without contrast has no range to scale by.",
                hint="--set range=LO,HI gives a fixed window",
            )
        return low, high
    if range == "volume":
        return _extent(picture)
    if range != "dtype":
        return _parse(range)
    if picture.window is not None:
        return picture.window
    if pixels.dtype == np.uint8:
        return 0.0, 255.0
    if pixels.dtype == np.uint16:
        if 0 < (brightest := int(pixels.max())) < _FAINT:
            raise InputError(
                f"The pixels have 16 bits, and the brightest is {brightest}: all of the image would be black, as "
                "10- or 12-bit data in 16-bit files are.",
                hint="--set range=0,4095 (12 bits), range=minmax (each image's own), or range=0,65535 (as it is)",
            )
        return 0.0, 65535.0
    raise InputError(
        f"The pixels are {pixels.dtype}, whose range says nothing about what is black and white.",
        hint="--set range=LO,HI or --window CENTRE,WIDTH (one for all), --set range=volume (each volume's own) or "
        "range=minmax (each image's own)",
    )


def _extent(picture: Picture) -> tuple[float, float]:
    if picture.extent is None:
        raise InputError(
            "The image is no slice of a volume, so that there is no volume's range.",
            hint="--set range=minmax (the image's own), or range=LO,HI (a fixed window)",
        )
    low, high = picture.extent
    if not low < high:
        raise InputError(f"Every value of the volume is {low:g}: it has no range to scale by.")
    return low, high


def _parse(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"range={text} can't be read: give dtype, minmax, volume, or LO,HI such as -1000,400."
        ) from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise UsageError(f"range={text} isn't a window: LO must be below HI, and both finite.")
    return low, high
