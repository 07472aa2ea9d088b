"""Decoded pixels: checked, made grey, scaled, resized and cropped, with the roundings of Pillow and torchvision."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from featstore.errors import InputError

Pixels: TypeAlias = npt.NDArray[Any]
Size: TypeAlias = tuple[int, int]

# ITU-R BT.601 luma, which Pillow and torchvision use for RGB → grey.
_REC601 = (0.299, 0.587, 0.114)
# A 1 × 100,000 strip, its short side brought to 256, would need 6.5 gigapixels.
_MAX_RESIZED = 2**25
# Values that are scaled in one go.
_AT_ONCE = 2**20


def as_image(image: object) -> Pixels:
    """Check one decoded image and give it three axes: (H, W, C) of a native numeric dtype."""
    if not isinstance(image, np.ndarray):
        raise InputError(f"An image network needs an array of pixels, not {type(image).__name__}.")
    if image.ndim not in (2, 3):
        raise InputError(
            f"An image has 2 or 3 axes, and this array has {image.ndim}: {image.shape}.",
            hint="a volume is ingested slice by slice with --expand axis=2" if image.ndim == 4 else "",
        )
    if image.size == 0:
        raise InputError(f"The image has no pixels: its shape is {image.shape}.")
    if image.dtype.kind not in "uif":
        raise InputError(f"The pixels are {image.dtype}: only integers and floats are understood.")
    if image.dtype.kind == "f" and not (finite := np.isfinite(image)).all():
        raise InputError(f"{finite.size - np.count_nonzero(finite)} of {image.size} values are NaN or infinite.")
    pixels: Pixels = image.astype(image.dtype.newbyteorder("="), copy=False)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def to_grey(pixels: Pixels) -> Pixels:
    """RGB → (H, W, 1); 8-bit as Pillow does it, other integers rounded back to their own dtype."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[:, :, None]
    luma: Pixels = (pixels.astype(np.float64) * _REC601).sum(axis=2, keepdims=True)
    return (luma if pixels.dtype.kind == "f" else np.rint(luma)).astype(pixels.dtype)


def scale(pixels: Pixels, low: float, high: float) -> npt.NDArray[np.float32]:
    """Bring ``low``…``high`` to 0…1, in float64 until the end: 32-bit integers don't fit float32.

    Raises:
        InputError: they are further apart than a float can tell.
    """
    if not math.isfinite(high - low):
        raise InputError(f"The values go from {low:g} to {high:g}: no float holds their difference.")
    scaled = np.empty(pixels.shape, np.float32)
    longer = int(pixels.shape[1] > pixels.shape[0])
    source, target = pixels.swapaxes(0, longer), scaled.swapaxes(0, longer)
    step = max(1, _AT_ONCE * len(source) // source.size)
    for start in range(0, len(source), step):  # all at once would take eight times the memory of a byte's pixels
        values = source[start : start + step].astype(np.float64)
        values -= low
        values /= high - low
        target[start : start + step] = np.clip(values, 0, 1, out=values)
    return scaled


def resize(pixels: Pixels, size: Size, resample: Image.Resampling) -> Pixels:
    """Resize uint8 or float32 (H, W, C) to ``size`` = (height, width) in Pillow's modes RGB, L and F."""
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    if height * width > _MAX_RESIZED:
        raise InputError(
            f"{pixels.shape[0]} × {pixels.shape[1]} pixels would become {height} × {width} before the crop: "
            "the sides are too unequal.",
            hint="--set crop_mode=squash, or crop_mode=border",
        )
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        return np.asarray(image.resize((width, height), resample))
    resized = np.empty((height, width, pixels.shape[2]), pixels.dtype)
    for band in range(pixels.shape[2]):  # one at a time: a band of a large image is as large as others' whole
        image = Image.fromarray(np.ascontiguousarray(pixels[:, :, band]))
        resized[:, :, band] = image.resize((width, height), resample)
    return resized


def crop_start(have: int, want: int) -> int:
    """Where the centre of a side begins, with torchvision's roundings; below 0 where the side is padded."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def crop(pixels: Pixels, size: Size, fill: Iterable[float]) -> Pixels:
    """Take the centre; where the image is smaller, pad with ``fill``."""
    starts = [crop_start(have, want) for have, want in zip(pixels.shape[:2], size, strict=True)]
    top, left = (slice(max(start, 0), start + want) for start, want in zip(starts, size, strict=True))
    centre = pixels[top, left]
    if centre.shape[:2] == size:
        return centre
    padded = np.empty((*size, pixels.shape[2]), pixels.dtype)
    padded[:] = np.asarray(list(fill), pixels.dtype)
    above, before = (max(-start, 0) for start in starts)
    padded[above : above + centre.shape[0], before : before + centre.shape[1]] = centre
    return padded
