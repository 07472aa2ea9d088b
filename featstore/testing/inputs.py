"""Inputs to test with: images of many kinds, texts, and what no transform may take for either."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

SEED = 20240607


def images(channels: int | None = None) -> list[npt.NDArray[Any]]:
    """Decoded images as readers give them: grey, RGB and their alpha forms, 8 and 16 bits, of several sizes.

    Args:
        channels: of a network that takes neither grey nor RGB: then (H, W, channels) as well.
    """
    rng = np.random.default_rng(SEED)
    found: list[npt.NDArray[Any]] = [
        rng.integers(0, 256, (64, 64, 3), np.uint8),
        _smooth(97, 41, 3),
        rng.integers(0, 256, (48, 64), np.uint8),
        _smooth(40, 131, 1)[:, :, 0],
        rng.integers(0, 65536, (56, 40), np.uint16),
        rng.integers(0, 65536, (56, 40, 3), np.uint16),
        np.dstack([rng.integers(0, 256, (32, 48, 3), np.uint8), np.full((32, 48), 255, np.uint8)]),
        np.dstack([rng.integers(0, 256, (33, 31, 1), np.uint8), np.full((33, 31), 255, np.uint8)]),
        np.zeros((50, 30), np.uint8),  # a slice beside the body
    ]
    if channels is not None and channels > 4:
        found += [rng.integers(0, 256, (size, 48, channels), np.uint8) for size in (40, 48, 72)]
    return found


def texts() -> list[str]:
    """Decoded texts: short, long, of several lines, beyond ASCII."""
    return [
        "No focal lesion.",
        "The liver is of normal size and contour. There is a lesion of 23 mm in segment VI.\n\nImpression: LI-RADS 4.",
        "Größe 3 × 4 cm, T1 hypointens – naïve; 肝臓, печень.",
        " ".join(f"Slice {number} shows nothing new." for number in range(300)),
        "7",
    ]


#: What default inputs are drawn from, by kind.
KINDS: Mapping[str, Callable[[int | None], Sequence[Any]]] = {"images": images, "texts": lambda channels: texts()}


def bad(good: Any) -> dict[str, Any]:
    """What a transform that takes ``good`` must refuse, by what it is."""
    found: dict[str, Any] = {"None": None}
    if isinstance(good, str):
        return found | {"an array of pixels": np.zeros((8, 8), np.uint8), "bytes": b"text", "a number": 7.0}
    found["a text"] = "text"
    if isinstance(good, np.ndarray):
        holed = good.astype(np.float32)
        holed.flat[holed.size // 2] = np.nan
        endless = good.astype(np.float32)
        endless.flat[0] = np.inf
        found |= {
            "an array with a NaN": holed,
            "an array with an infinity": endless,
            "an array without values": good[:0],
            "an array of objects": np.full(good.shape, None),
        }
        if good.ndim > 1:
            found["an array of one axis"] = good.ravel()
    return found


def describe(value: Any) -> str:
    """What an input is, in a few words.

    >>> describe(np.zeros((4, 5, 3), np.uint8)), describe("abc")
    ('(4, 5, 3) uint8', 'text of 3 characters')
    """
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    return f"text of {len(value)} characters" if isinstance(value, str) else type(value).__name__


def _smooth(height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """A picture with structure, which noise hasn't: waves whose length grows across it."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127.5 + 127.5 * np.sin((y + c * x) * (x + 8) / (20 + 15 * c)) for c in range(channels)]
    return np.stack(waves, axis=2).astype(np.uint8)
