"""timm's families lay their features out differently; here they are made equal, once.

ViTs give (N, L, C) with prefix tokens, convolutional networks (N, C, H, W), Swin and a few others (N, H, W,
C), and some give one vector. All become (N, L, C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from featstore import SetupError, Tokens
from featstore.spec import Format

if TYPE_CHECKING:
    import torch

_MAPS: tuple[Format, ...] = ("NCHW", "NHWC")


@dataclass(frozen=True, slots=True)
class Layout:
    """How one output of a network is to be read.

    Attributes:
        prefix: leading tokens that are no positions.
        dropped: how many of them to leave out, because none is a class token.
        grid: (H, W) of the positions of an ``NLC`` output, or None where they lie on none.
    """

    format: Format
    prefix: int = 0
    dropped: int = 0
    grid: tuple[int, int] | None = None

    def tokens(self, output: torch.Tensor) -> Tokens:
        """The network's output → tokens (N, L, C)."""
        if self.dropped:
            output = output[:, self.dropped :, :]
        return Tokens.of(output, self.format, self.prefix - self.dropped, self.grid)


def find_layout(model: Any, features: Any, size: tuple[int, int], name: str) -> Layout:
    """The layout of what ``forward_features`` gave for images of ``size``, by what the model says of itself.

    Where it doesn't name its format, timm means NCHW for four axes and NLC for three. The shape only confirms:
    a model whose channels aren't where its format has them is refused.

    Raises:
        SetupError: the output can't be read as tokens.
    """
    shape = _shape(features)
    format_ = said_format(model) or {4: "NCHW", 3: "NLC", 2: "NC"}.get(len(shape), "")
    if not shape or len(shape) != len(format_) or shape[format_.index("C")] != model.num_features:
        raise SetupError(
            f"{name} gives {shape or type(features).__name__} for its {model.num_features} features, which "
            "can't be read as tokens.",
            hint="choose another model of timm; nearly all others can be",
        )
    if format_ != "NLC":
        return Layout(cast(Format, format_))
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


def find_layouts(model: Any, outputs: Mapping[str, Any], features: Any, last: Layout) -> dict[str, Layout]:
    """The layouts of inner modules' outputs for one image; of all of them, or of none where one can't be told.

    Maps have their channels where the model's ``feature_info`` has as many. Token sequences must be as long as
    the network's own output, with or without its prefix: shorter and longer ones (levit, hiera) may be in an order
    that isn't the image's.

    Args:
        outputs: by the modules' names.
        features: what ``forward_features`` gave, and ``last``, its layout.
    """
    format_ = _map_format(model, outputs, last)
    layouts: dict[str, Layout] = {}
    for module, output in outputs.items():
        shape = _shape(output)
        if shape[:1] == (1,) and len(shape) == 4 and format_:
            layouts[module] = Layout(format_)
        elif shape[:1] == (1,) and len(shape) == 3 and last.format == "NLC" and shape[1] == features.shape[1]:
            layouts[module] = last
        elif len(shape) == 3 and last.format == "NLC" and shape[:2] == (1, features.shape[1] - last.prefix):
            layouts[module] = replace(last, prefix=0, dropped=0)  # the class token joins later, as in CaiT
        else:
            return {}
    return layouts


def said_format(model: Any) -> str:
    """The format that the model names itself, or an empty text."""
    said = getattr(model, "output_fmt", None)
    return str(getattr(said, "value", said)) if said else ""


def _map_format(model: Any, outputs: Mapping[str, Any], last: Layout) -> Format | None:
    """The one format of all the maps among ``outputs``, or None where it can't be told."""
    known = {entry.get("module"): entry["num_chs"] for entry in model.feature_info}
    maps = {module: _shape(output) for module, output in outputs.items() if len(_shape(output)) == 4}
    told = [(shape, known[module]) for module, shape in maps.items() if module in known]
    fitting = [f for f in _MAPS if told and all(shape[f.index("C")] == channels for shape, channels in told)]
    if len(fitting) == 1:
        return fitting[0]
    return last.format if last.format in fitting else None  # as high and wide as there are channels


def _shape(output: Any) -> tuple[int, ...]:
    return tuple(getattr(output, "shape", ()))


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
