"""A backbone whose vectors are the very pixels that a network sees: (1, 16, 16) → 256 values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import featstore
from featstore import Backbone, BackboneRequest, BackboneSpec, ImageTransform, Tokens

SIDE = 16


class Pixels(Backbone):
    input_shape = (1, SIDE, SIDE)

    def __init__(self, request: BackboneRequest) -> None:
        defaults = {"image_size": (SIDE, SIDE), "crop_pct": 1.0, "channels": 1, "mean": (0.0,), "std": (1.0,)}
        self.transform = ImageTransform.from_settings(defaults, request.settings)
        self.preprocessing = self.transform.settings

    def forward(self, batch: Any, layers: Sequence[str]) -> Mapping[str, Tokens]:
        return {"last": Tokens(batch.reshape(len(batch), 1, SIDE * SIDE))}


@featstore.hookimpl
def featstore_backbones() -> Iterable[BackboneSpec]:
    yield BackboneSpec("pixels:grey", Pixels)
