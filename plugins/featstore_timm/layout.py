"""timm's families lay their features out differently; here they are made equal, once.

ViTs give (N, L, C) with prefix tokens, convolutional networks (N, C, H, W), Swin and a few others (N, H, W,
C), and some give one vector. All become (N, L, C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore import SetupError, Tokens

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Layout:
    """How one network's ``forward_features`` output is to be read.

    Attributes:
        format: ``NCHW``, ``NHWC``, ``NLC`` or ``NC``.
        prefix: leading tokens that are no positions.
        dropped: how many of them to leave out, because none is a class token.
        grid: (H, W) of the positions of an ``NLC`` output, or None where they lie on none.
    """

    format: str
    prefix: int = 0
    dropped: int = 0
    grid: tuple[int, int] | None = None

    def tokens(self, features: torch.Tensor) -> Tokens:
        """``forward_features``' output → tokens (N, L, C)."""
        if self.format == "NC":
            return Tokens(features[:, None, :])
        if self.format == "NLC":
            return Tokens(features[:, self.dropped :, :], self.prefix - self.dropped, self.grid)
        if self.format == "NCHW":
            features = features.permute(0, 2, 3, 1)
        return Tokens(features.flatten(1, 2), 0, (features.shape[1], features.shape[2]))


def find_layout(model: Any, features: Any, size: tuple[int, int], name: str) -> Layout:
    """The layout of what ``forward_features`` gave for images of ``size``, by what the model says of itself.

    Where it doesn't name its format, timm means NCHW for four axes and NLC for three. The shape only confirms:
    a model whose channels aren't where its format has them is refused.

    Raises:
        SetupError: the output can't be read as tokens.
    """
    shape = tuple(getattr(features, "shape", ()))
    said = getattr(model, "output_fmt", None)
    format_ = str(getattr(said, "value", said)) if said else {4: "NCHW", 3: "NLC", 2: "NC"}.get(len(shape), "")
    if not shape or len(shape) != len(format_) or shape[format_.index("C")] != model.num_features:
        raise SetupError(
            f"{name} gives {shape or type(features).__name__} for its {model.num_features} features, which "
            "can't be read as tokens.",
            hint="choose another model of timm; nearly all others can be",
        )
    if format_ != "NLC":
        return Layout(format_)
    prefix, has_class_token = _prefix(model)
    grid = _grid(model, shape[1] - prefix, size)
    if grid is None and getattr(model, "num_prefix_tokens", None) is None and shape[1] != prefix:
        raise SetupError(
            f"{name} gives {shape[1]} tokens and doesn't say which of them are positions of the image.",
            hint="choose another model of timm; nearly all others do",
        )
    # Registers without a class token are scratch space (Darcet et al. 2023, https://arxiv.org/abs/2309.16588):
    # left in, the pooler cls would take one of them for the image's vector.
    return Layout("NLC", prefix, 0 if has_class_token else prefix, grid)


def _prefix(model: Any) -> tuple[int, bool]:
    """How many prefix tokens there are, and whether the first is a class token."""
    class_token = getattr(model, "cls_token", getattr(model, "cls_token1", None))  # numbered in CoaT, one a stage
    declared = getattr(model, "num_prefix_tokens", None)
    if declared is None:  # PiT and VOLO only have the parameter: (1, tokens, C)
        declared = 0 if class_token is None else class_token.shape[1]
    return declared, bool(getattr(model, "has_class_token", class_token is not None))


def _grid(model: Any, positions: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(H, W) of the positions, where the stride that the model declares accounts for all of them."""
    stride = model.feature_info[-1]["reduction"]
    height, width = (math.ceil(side / stride) for side in size)
    return (height, width) if positions == height * width else None
