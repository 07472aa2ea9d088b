"""The backbone: settings, layers, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import featstore
from texture_stats.statistics import FIRST_ORDER, GLCM, first_order, glcm

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Texture:
    """One grey image (H, W) → float32 (17,). Picklable: the loader's workers get a copy.

    Attributes:
        levels: how many grey levels the pixels are sorted into.
        range: ``dtype``, ``minmax`` or ``LO,HI``.
    """

    levels: int = 32
    range: str = "dtype"

    def __call__(self, image: Any) -> NDArray[np.float32]:
        """Raises InputError for what is no grey image."""
        if not isinstance(image, np.ndarray) or image.dtype.kind not in "uif":
            raise featstore.InputError(f"A grey image is an array of numbers, not {type(image).__name__}.")
        if image.ndim != 2 or min(image.shape) < 2:
            raise featstore.InputError(f"A grey image has two axes of two pixels at least, and this is {image.shape}.")
        if not np.isfinite(image).all():
            raise featstore.InputError("Some pixels are NaN or infinite.")
        pixels = image.astype(np.float64)
        low, high = self._window(image)
        scaled = (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)
        binned = np.clip(scaled * self.levels, 0, self.levels - 1).astype(np.intp)
        return np.concatenate([first_order(pixels, binned, self.levels), glcm(binned, self.levels)]).astype(np.float32)

    def _window(self, image: NDArray[Any]) -> tuple[float, float]:
        if self.range == "minmax":
            return float(image.min()), float(image.max())
        if self.range != "dtype":
            return window(self.range)
        if image.dtype in (np.uint8, np.uint16):
            return 0.0, float(np.iinfo(image.dtype).max) + 1.0
        raise featstore.InputError(
            f"The range of {image.dtype} pixels says nothing about the picture.",
            hint="--set range=minmax, or --set range=LO,HI",
        )


class TextureStats(featstore.Backbone):
    """Hands on what the transform computed."""

    layers = ("firstorder", "glcm", "last")

    def __init__(self, request: featstore.BackboneRequest) -> None:
        self.transform = Texture(**_settings(request.settings))
        self.input_shape = (len(FIRST_ORDER) + len(GLCM),)
        self.preprocessing = {"levels": self.transform.levels, "range": self.transform.range}

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, featstore.Tokens]:
        """(N, 17) → one token an input."""
        split = len(FIRST_ORDER)
        parts = {"firstorder": batch[:, :split], "glcm": batch[:, split:], "last": batch}
        if unknown := set(layers) - set(parts):
            raise featstore.UsageError(f"There is no layer {', '.join(unknown)}; there is {', '.join(parts)}.")
        return {layer: featstore.Tokens.of(parts[layer], "NC") for layer in layers}


def window(text: str) -> tuple[float, float]:
    """``LO,HI`` as numbers. Raises UsageError."""
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise featstore.UsageError(f"range={text} is none of dtype, minmax and LO,HI.") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise featstore.UsageError(f"range={text}: LO must be below HI, and both finite.")
    return low, high


def _settings(given: Mapping[str, str]) -> dict[str, Any]:
    """What the user said with ``--set``, checked."""
    if unknown := set(given) - {"levels", "range"}:
        raise featstore.UsageError(f"texture:stats has no setting {', '.join(sorted(unknown))}: levels, range.")
    settings: dict[str, Any] = {}
    if "levels" in given:
        if not given["levels"].isdecimal() or not 2 <= int(given["levels"]) <= 256:
            raise featstore.UsageError(f"levels={given['levels']} isn't a whole number from 2 to 256.")
        settings["levels"] = int(given["levels"])
    if "range" in given:
        plain = given["range"] in ("dtype", "minmax")
        # One spelling, because it is part of the fingerprint.
        settings["range"] = given["range"] if plain else ",".join(map(str, window(given["range"])))
    return settings
