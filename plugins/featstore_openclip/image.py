"""The image tower of an open_clip model as a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from featstore import Backbone, Tokens, UsageError, capture
from featstore.spec import Json
from featstore_openclip.conventions import Images
from featstore_openclip.library import import_open_clip


class ImageTower(Backbone):
    """The image tower, in evaluation mode. Its layers:

    ``image``: what ``encode_image`` gives, not normalized, for every architecture: (N, 1, D).

    ``0``, ``1``, …: the outputs of the residual blocks, of open_clip's own vision transformers (Dosovitskiy et al.
    2020, Radford et al. 2021): (N, 1 + H·W, width), as they are between the blocks, before the final norm.

    ``last``: all tokens of the last block through the final norm and the projection into the space that images share
    with texts: (N, 1 + H·W, D). Its class token is ``image``. It is the default where it is what the model does: in
    vision transformers that take the class token, or the mean of normed tokens, for the image's vector.

    In transformers that pool in another way, the class token is scratch space and is left out: H·W tokens, no prefix.
    """

    def __init__(self, visual: Any, transform: Images, recorded: Mapping[str, Json]) -> None:
        self.module = visual
        self.transform = transform
        self.input_shape = (transform.channels, *transform.image_size)
        self.preprocessing = {**recorded, **transform.settings}
        self._blocks: dict[str, str] = {}
        self._has_class_token = False
        self.layers = ("image",)
        if isinstance(visual, import_open_clip().transformer.VisionTransformer):
            count = len(visual.transformer.resblocks)
            self._blocks = {str(number): f"transformer.resblocks.{number}" for number in range(count)}
            self._has_class_token = visual.pool_type == "tok" and visual.attn_pool is None
            norm_then_mean = visual.pool_type == "avg" and not visual.final_ln_after_pool
            by_token = self._has_class_token or (norm_then_mean and visual.attn_pool is None)
            self.layers = (*self._blocks, "image", *(["last"] if by_token else []))

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        """Float32 (N, 3, height, width) → the layers asked for, in one pass. Raises UsageError for unknown ones."""
        unknown = set(layers) - set(self.layers)
        if unknown:
            raise UsageError(f"No layer {', '.join(sorted(unknown))}; there are {', '.join(self.layers)}.")
        assert self.module is not None
        inner = {layer: self._blocks[layer] for layer in layers if layer in self._blocks}
        if "last" in layers:
            inner["last"] = "transformer"
        with capture(self.module, inner) as outputs:
            image = self.module(batch)
        return {layer: self._tokens(layer, image, outputs) for layer in layers}

    def _tokens(self, layer: str, image: Any, outputs: Mapping[str, Any]) -> Tokens:
        if layer == "image":
            return Tokens.of(image[0] if isinstance(image, tuple) else image, "NC")  # CoCa gives its tokens as well
        visual: Any = self.module
        values = outputs[layer]
        if layer == "last":
            values = visual.ln_post(values) @ visual.proj
        prefix = int(self._has_class_token)
        return Tokens.of(values[:, 1 - prefix :], "NLC", prefix, tuple(visual.grid_size))
