"""Decoded masks: which pixels are inside, and what share of each pixel of another raster that makes."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from featstore.errors import InputError

Size: TypeAlias = tuple[int, int]

_LABEL_HINT = "name the label: MASK#label=1,2"
_SHOWN = 8
#: Label maps have fewer values than this; a mask that was saved as JPEG has more.
_LABELS = 32


# ------------------------------------------------------------------------------------------------- what is inside
def split_labels(fragment: str | None) -> tuple[str | None, tuple[int, ...] | None]:
    """A mask's fragment → the part of the file that it names, and the labels that are inside.

    >>> split_labels("axis=2&slice=17&label=1,2"), split_labels("label=3"), split_labels(None)
    (('axis=2&slice=17', (1, 2)), (None, (3,)), (None, None))

    Raises:
        InputError: labels that are no whole numbers.
    """
    parts = (fragment or "").split("&")
    labels = [part.removeprefix("label=") for part in parts if part.startswith("label=")]
    rest = "&".join(part for part in parts if not part.startswith("label=")) or None
    try:
        return rest, tuple(int(label) for label in labels[0].split(",")) if labels else None
    except ValueError:
        raise InputError(f"#{fragment} of the mask names no label.", hint="give whole numbers: #label=1,2") from None


def to_labels(mask: object) -> npt.NDArray[Any]:
    """The one number of each pixel of a decoded mask, (H, W).

    Args:
        mask: (H, W), or with channels: equal ones, as of a grey image that was saved as RGB, and an opaque alpha.

    Raises:
        InputError: not an array of whole numbers, or channels that say more than one number.
    """
    if not isinstance(mask, np.ndarray):
        raise InputError(f"A mask is an array of pixels, not {type(mask).__name__}.")
    if mask.ndim not in (2, 3) or mask.size == 0 or (mask.ndim == 3 and mask.shape[2] > 4):
        raise InputError(f"A mask is (height, width), or a grey or RGB image, and this array is {mask.shape}.")
    if mask.dtype.kind not in "buif":
        raise InputError(f"The mask holds {mask.dtype}: only whole numbers are understood.")
    if mask.dtype.kind == "f" and not (np.isfinite(mask) & (mask == np.rint(mask))).all():
        raise InputError(
            f"The mask holds {mask.dtype} that aren't all whole numbers: a pixel is inside or outside.",
            hint="cut probabilities at a threshold, and save what is above it",
        )
    if mask.ndim == 2:
        return mask
    if mask.shape[2] in (2, 4):
        _check_opaque(mask[:, :, -1])
        mask = mask[:, :, :-1]
    if (mask != mask[:, :, :1]).any():
        raise InputError(
            "The mask is in colour, and a colour is no label.",
            hint="save it as a grey image, one number a label; a palette image stands for its colours",
        )
    labels: npt.NDArray[Any] = mask[:, :, 0]
    return labels


def _check_opaque(alpha: npt.NDArray[Any]) -> None:
    opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
    if (alpha != opaque).any():
        raise InputError(
            "The mask is partly transparent: is it what is drawn, or what is opaque?",
            hint="save it as a grey image, without transparency",
        )


def find_inside(values: npt.NDArray[Any], labels: Sequence[int] | None) -> npt.NDArray[np.bool_]:
    """Which pixels are inside: bool (H, W).

    Args:
        values: (H, W), of :func:`to_labels`.
        labels: the values that are inside; None: all but 0, of a mask that has two values at most.

    Raises:
        InputError: the mask doesn't say which pixels are inside, or none is.
    """
    if labels is not None:
        return _find_labels(values, labels)
    low, high = values.min(), values.max()
    if not ((values == low) | (values == high)).all():
        many = len(np.unique(values)) > _LABELS
        raise InputError(
            f"The mask has {_list(values)}, and doesn't say which are inside: it "
            + ("was saved with losses, as JPEG is." if many else "holds several labels."),
            hint="save it without losses, as PNG" if many else _LABEL_HINT,
        )
    if low != high and low != 0 and high != 0:
        raise InputError(
            f"The mask has {_list(values)}, and doesn't say which is inside: neither is 0.", hint=_LABEL_HINT
        )
    inside: npt.NDArray[np.bool_] = values != 0
    if not inside.any():
        raise InputError("Nothing is marked in the mask: all its pixels are 0.")
    return inside


def _find_labels(values: npt.NDArray[Any], labels: Sequence[int]) -> npt.NDArray[np.bool_]:
    if not labels or not all(isinstance(label, Integral) for label in labels):
        raise InputError(f"{list(labels)} are no labels of a mask: give whole numbers.", hint=_LABEL_HINT)
    inside = np.isin(values, [int(label) for label in labels])
    if not inside.any():
        asked = " or ".join(str(label) for label in labels)
        raise InputError(f"Nothing in the mask has the label {asked}: it has {_list(values)}.", hint=_LABEL_HINT)
    return inside


def _list(values: npt.NDArray[Any]) -> str:
    """``3 different values, 0, 1, 7``; the first few of many."""
    found = [str(int(value)) for value in np.unique(values)]
    if len(found) == 1:
        return f"{found[0]} everywhere"
    more = ", …" if len(found) > _SHOWN else ""
    return f"{len(found)} different values ({', '.join(found[:_SHOWN])}{more})"


# ------------------------------------------------------------------------------------------------------- geometry
def cover(inside: npt.NDArray[np.bool_], resized: Size, start: Size, size: Size) -> npt.NDArray[np.float32]:
    """What share of each pixel is inside, once the mask is resized and cropped: float32 ``size``, 0…1.

    It is the area itself, where a filter for images would do other than a share: bicubic and lanczos leave 0…1 and
    mark what lies outside, and with nearest small regions are lost. So the shares of two regions add up to those of
    both together, and no marked pixel is lost, however small.

    Args:
        inside: bool (H, W).
        resized: (height, width) of all of the mask when it is resized.
        start: (top, left) of the crop there; negative where it begins outside.
        size: (height, width) of the crop; what of it lies outside the mask is 0.
    """
    rows = _cover_rows(inside, resized[0], start[0], size[0])
    both = _cover_rows(rows.T, resized[1], start[1], size[1]).T
    return np.ascontiguousarray(both, dtype=np.float32)


def _cover_rows(values: npt.NDArray[Any], resized: int, start: int, count: int) -> npt.NDArray[np.float64]:
    """Rows ``start:start + count`` of ``values`` (H, W), once they are resized to ``resized``: (count, W)."""
    length = len(values)
    out = np.zeros((count, values.shape[1]))
    for row in range(max(start, 0), min(start + count, resized)):
        # The new row covers the old ones from top to bottom, the first and the last perhaps in part.
        top, bottom = row * length / resized, (row + 1) * length / resized
        first, past = row * length // resized, -(-(row + 1) * length // resized)
        old = np.arange(first, past)
        parts = np.minimum(old + 1, bottom) - np.maximum(old, top)
        out[row - start] = (parts / parts.sum()) @ values[first:past]
    return out
