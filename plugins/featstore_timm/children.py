"""A network without its last children: ``--drop-last N``, only where the children in sequence are the network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from featstore import Backbone, BackboneRequest, ImageTransform, SetupError, Tokens, UsageError
from featstore.spec import Format
from featstore_timm.layout import Layout, said_format
from featstore_timm.library import import_timm

_INSTEAD = "leave --drop-last out; --layer gives inner layers of networks of any shape"


class Children(Backbone):
    """The first children of a network, in sequence; the layer ``last`` is what the last of them gives."""

    layers = ("last",)

    def __init__(self, module: torch.nn.Sequential, transform: ImageTransform, layout: Layout) -> None:
        self.module = module
        self.transform = transform
        self.input_shape = (transform.channels, *transform.image_size)
        self.preprocessing = transform.settings
        self._layout = layout

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        if unknown := set(layers) - set(self.layers):
            raise UsageError(f"No layer {', '.join(sorted(unknown))}; with --drop-last there is last alone.")
        assert self.module is not None
        return {"last": self._layout.tokens(self.module(batch))}


def drop_last(module: Any, transform: ImageTransform, request: BackboneRequest) -> Children:
    """``module`` without its last ``request.drop_last`` children; the classifier is one of them.

    Raises:
        UsageError: there are too few children, or they in sequence aren't the network: tried on random pixels.
        SetupError: what is left gives neither a map nor a vector.
    """
    children = OrderedDict(module.named_children())
    if not 0 < request.drop_last < len(children):
        raise UsageError(
            f"--drop-last {request.drop_last}: {request.name} has {len(children)} children ({', '.join(children)}), "
            "and one at least must stay."
        )
    with torch.device("meta"):  # names alone: is the classifier still a child, now that it does nothing?
        whole = import_timm().create_model(request.rest, pretrained=False)
    if list(children) != [name for name, _ in whole.named_children()]:
        raise UsageError(f"{request.name} has other children without its classifier.", hint=_INSTEAD)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, transform.channels, *transform.image_size, generator=generator)
    first = torch.nn.Sequential(OrderedDict(list(children.items())[: -request.drop_last]))
    with torch.inference_mode():
        _check_sequence(module, torch.nn.Sequential(children), pixels, request.name)
        output = first(pixels)
    axes = output.ndim if torch.is_tensor(output) else 0
    format_ = {2: "NC", 4: said_format(module) or "NCHW"}.get(axes, "")
    if len(format_) != axes or len(output) != len(pixels):
        raise SetupError(
            f"{request.name} without its last {request.drop_last} children gives "
            f"{tuple(output.shape) if axes else type(output).__name__}, which is neither a map nor a vector.",
            hint="another number of children",
        )
    return Children(first.eval(), transform, Layout(cast(Format, format_)))


def _check_sequence(module: Any, sequence: torch.nn.Sequential, pixels: torch.Tensor, name: str) -> None:
    """Raise UsageError unless the network takes such pixels, and its children in sequence give what it gives."""
    try:
        expected = module(pixels)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(f"{name} can't take images of {tuple(pixels.shape[1:])}: {error}") from error
    try:
        found = sequence(pixels)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        reason = f"they don't even fit together ({type(error).__name__})"
    else:
        fits = torch.is_tensor(found) and found.shape == expected.shape
        if fits and (found - expected).abs().max() <= 1e-5 * expected.abs().max():  # False for NaN
            return
        reason = "they give something else"
    raise UsageError(f"{name} isn't its children one after the other: in sequence {reason}.", hint=_INSTEAD)
