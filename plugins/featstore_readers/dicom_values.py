"""Stored DICOM pixels → the values that they mean: rescaled, looked up, and the window to show them in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.multival import MultiValue

from featstore import InputError
from featstore_readers.dicom_file import Opened, items, whole_number

Pixels = npt.NDArray[Any]


def rescale(pixels: Pixels, opened: Opened, frame: int) -> Pixels:
    """Apply the Modality LUT, or slope and intercept, of one frame (DICOM PS3.3 C.11.1).

    Whole slopes and intercepts keep integers: in the stored dtype where nothing changes, else in the first of 16, 32
    and 64 bits that holds all that the stored bits can become, so that all slices of a series have one dtype. Others
    give float64. One that is missing beside the other is 1 or 0.

    Raises:
        InputError: no numbers, or a slope of 0.
    """
    if lut := items(opened.header, "ModalityLUTSequence"):
        return _modality_lut(pixels, opened, lut[0])
    where = _of_frame(opened, "PixelValueTransformationSequence", "RescaleSlope", frame)
    slope = number(where, "RescaleSlope", 1.0)
    intercept = number(where, "RescaleIntercept", 0.0)
    assert slope is not None
    assert intercept is not None
    if slope == 0:
        raise InputError("The RescaleSlope is 0: every pixel would be the same.")
    if (slope, intercept) == (1, 0):
        return pixels
    whole = slope.is_integer() and intercept.is_integer() and abs(slope) < 2**31
    if whole and pixels.dtype.kind in "ui" and pixels.dtype.itemsize <= 4:  # their products fit 64 bits
        ends = [value * int(slope) + int(intercept) for value in _stored_range(pixels, opened)]
        for dtype in (np.int16, np.int32, np.int64) if min(ends) < 0 else (np.uint16, np.uint32, np.int64):
            if np.iinfo(dtype).min <= min(ends) and max(ends) <= np.iinfo(dtype).max:
                return (pixels.astype(np.int64) * int(slope) + int(intercept)).astype(dtype)
    values: Pixels = pixels.astype(np.float64) * slope
    values += intercept
    return values


def _stored_range(pixels: Pixels, opened: Opened) -> tuple[int, int]:
    """What the stored bits can hold, or the dtype where the pixels don't keep to it."""
    bits, signed = opened.number("BitsStored", 8 * pixels.dtype.itemsize), pixels.dtype.kind == "i"
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if low <= int(pixels.min()) and int(pixels.max()) <= high:
        return low, high
    return int(np.iinfo(pixels.dtype).min), int(np.iinfo(pixels.dtype).max)


def window(opened: Opened, frame: int) -> tuple[float, float] | None:
    """The values that become black and white by the first window of a frame (DICOM PS3.3 C.11.2.1), or None.

    LINEAR: ``c - 0.5 ± (w - 1) / 2``, LINEAR_EXACT: ``c ± w / 2``. SIGMOID has no such values: it is taken for its
    tangent at the centre, ``c ± w / 2``. A VOI LUT Sequence is no window, and isn't applied.

    Raises:
        InputError: another function, or a width that the function doesn't allow.
    """
    where = _of_frame(opened, "FrameVOILUTSequence", "WindowCenter", frame)
    centre, width = number(where, "WindowCenter"), number(where, "WindowWidth")
    if centre is None or width is None:
        return None
    function = str(where.get("VOILUTFunction") or "LINEAR").strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise InputError(f"The VOILUTFunction is {function!r}: LINEAR, LINEAR_EXACT and SIGMOID are understood.")
    if width < 1 if function == "LINEAR" else width <= 0:
        raise InputError(f"The WindowWidth is {width:g}, and a {function} window has none so small.")
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    low, high = centre - width / 2, centre + width / 2
    # A LINEAR window of width 1 is a threshold: what is above its centre is white.
    return low, high if high > low else math.nextafter(low, math.inf)


def colour(indices: Pixels, opened: Opened) -> Pixels:
    """Look up a palette: (H, W) → (H, W, 3), uint8 or uint16 as the palette's entries are (DICOM PS3.3 C.7.6.3.1.5-6).

    Raises:
        InputError: no palette, or a segmented one.
    """
    header = opened.header
    if header.get("RedPaletteColorLookupTableData") is None:
        segmented = "SegmentedRedPaletteColorLookupTableData" in header
        raise InputError(
            f"The image's colours are looked up in a palette that is {'segmented' if segmented else 'not there'}.",
            hint="convert it to RGB once, with dcmdjpeg or another tool" if segmented else "",
        )
    bands = []
    for name in ("Red", "Green", "Blue"):
        descriptor = header.get(f"{name}PaletteColorLookupTableDescriptor")
        data = header.get(f"{name}PaletteColorLookupTableData")
        table, first = _table(descriptor, data, opened)
        bands.append(_look_up(indices, table, first))
    return np.stack(bands, axis=-1)


def _modality_lut(pixels: Pixels, opened: Opened, item: Any) -> Pixels:
    if pixels.dtype.kind not in "ui":
        raise InputError("A Modality LUT is for whole numbers, and the pixels are floats.")
    table, first = _table(item.get("LUTDescriptor"), item.get("LUTData"), opened)
    return _look_up(pixels, table, first)


def _table(descriptor: Any, data: Any, opened: Opened) -> tuple[Pixels, int]:
    """A lookup table, and the stored value that its first entry is for."""
    try:
        count, first, bits = (int(value) for value in descriptor)
    except (TypeError, ValueError):
        raise InputError(f"A lookup table's descriptor is {descriptor!r}, and not three numbers.") from None
    count = count % (1 << 16) or 1 << 16  # 16 unsigned bits, of which 0 stands for 65,536
    if opened.header.get("PixelRepresentation") == 0:
        first %= 1 << 16
    little = opened.syntax != uid.ExplicitVRBigEndian
    if isinstance(data, bytes):
        table = _from_bytes(data, count, "<" if little else ">")
    else:
        table = np.atleast_1d(np.asarray(data, np.uint16))
    if not 8 <= bits <= 16 or len(table) < count:
        raise InputError(f"A lookup table should have {count} entries of {bits} bits, and has {len(table)}.")
    table = table[:count]
    if bits == 8 and table.max() < 256:
        table = table.astype(np.uint8)
    return table, first


def _from_bytes(data: bytes, count: int, order: str) -> Pixels:
    words = np.frombuffer(data[: len(data) // 2 * 2], f"{order}u2").astype(np.uint16)
    if len(words) >= count:
        return words
    # Entries of 8 bits are packed two to a word, the first one in its lower half.
    return words.astype("<u2").view(np.uint8)


def _look_up(pixels: Pixels, table: Pixels, first: int) -> Pixels:
    """Values below the first entry get the first, those above the last get the last (DICOM PS3.3 C.11.1.1)."""
    wide = np.int32 if pixels.dtype.itemsize <= 2 else np.int64
    places = np.subtract(pixels, first, dtype=wide)
    found: Pixels = table[np.clip(places, 0, len(table) - 1, out=places)]
    return found


def _of_frame(opened: Opened, sequence: str, keyword: str, frame: int) -> Any:
    """Where an element of a frame stands: in its own functional group, the one of all frames, or in the header."""
    own = items(opened.header, "PerFrameFunctionalGroupsSequence")
    if own and frame >= len(own):
        raise InputError(f"The header describes {len(own)} frames, and frame {frame} isn't one of them.")
    groups = [own[frame]] if own else []
    groups += items(opened.header, "SharedFunctionalGroupsSequence")[:1]
    for group in groups:
        found = items(group, sequence)
        if found and found[0].get(keyword) is not None:
            return found[0]
    return opened.header


def number(where: Any, keyword: str, otherwise: float | None = None) -> float | None:
    """A number of the header, the first where there are several.

    Raises:
        InputError: it is no finite number.
    """
    value = where.get(keyword)
    if isinstance(value, MultiValue):
        value = value[0] if value else None
    if value is None or value == "":
        return otherwise
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"The {keyword} is {value!r}, and no number.")
    return found


def shown_range(pixels: Pixels, opened: Opened) -> tuple[float, float] | None:
    """The range of masks and of other pixels that use a few bits of a byte: as 8-bit images they would be black."""
    bits = whole_number(opened.header, "BitsStored", 8)
    return (0.0, float((1 << bits) - 1)) if pixels.dtype == np.uint8 and bits < 8 else None
