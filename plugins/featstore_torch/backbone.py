"""A user's own network as a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from featstore import (
    Backbone,
    BackboneRequest,
    ImageTransform,
    Tokens,
    UsageError,
    capture,
    load_weights,
    read_weights,
    seeded,
)
from featstore.errors import did_you_mean
from featstore_torch.network import build, digest_buffers, drop_last, parse_argument, refuse_random, run
from featstore_torch.outputs import LAST, Layout, survey
from featstore_torch.source import Factory, importable

_ARGUMENT = "arg."


class TorchBackbone(Backbone):
    """A network and its inner modules, in evaluation mode.

    Layers are the modules by their names in ``named_modules()``, in that order, and ``last``: what the network
    itself gives (also where it has a module of that name). Modules are left out that don't run exactly once, or
    don't give one tensor with one row an input.

    Outputs of two axes are (N, C), of three (N, L, C) with ``prefix`` leading tokens that are no positions, of four
    (N, C, H, W); the setting ``layout`` says otherwise. Tokens of an (N, L, C) output lie on no grid.
    """

    def __init__(
        self, module: nn.Module, transform: ImageTransform, layout: Layout, settings: Mapping[str, Any]
    ) -> None:
        self.module: nn.Module = module
        self.transform = transform
        self.input_shape = (transform.channels, *transform.image_size)
        self.preprocessing = {**transform.settings, "network": settings}
        noise = _noise(self.input_shape)
        self._layout = layout
        self._faults = survey(module, noise, layout)
        self.layers = (*(layer for layer, fault in self._faults.items() if layer != LAST and not fault), LAST)
        takes_any = _takes_channels_last(module, noise)
        self._memory_format = torch.preserve_format if takes_any else torch.contiguous_format

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        for layer in layers:
            if layer not in self._faults:
                raise UsageError(
                    f"No layer {layer!r}.{did_you_mean(layer, self.layers)} There are {', '.join(self.layers)}."
                )
            if fault := self._faults[layer]:
                raise UsageError(
                    f"The layer {layer} can't be taken: {fault}.",
                    hint=f"choose another --layer: {', '.join(self.layers[:-1]) or 'but none can be taken'}",
                )
        if self._memory_format is torch.contiguous_format:
            _make_contiguous(self.module)
        with capture(self.module, {layer: layer for layer in layers if layer != LAST}) as inner:
            # A copy: somebody's network may write into what it gets.
            output = self.module(batch.clone(memory_format=self._memory_format))
        return {layer: self._layout.tokens(output if layer == LAST else inner[layer]) for layer in layers}


def load(factory: Factory, request: BackboneRequest) -> TorchBackbone:
    """Make the network and its transform.

    The weights are a checkpoint's, all of them, or what the factory made. Where it draws them at random,
    ``--no-pretrained`` must say that they are meant; they depend on the seed alone, and the caller's random state is
    left as it was. Settings: ``arg.NAME`` for the factory, ``layout`` and ``prefix``
    for its outputs, and those of :class:`~featstore.ImageTransform`, whose defaults hold (224 × 224, ImageNet's mean
    and standard deviation). ``in_chans`` is what the network gets; the factory isn't told.

    Raises:
        UsageError: options that contradict each other, or that the network can't follow.
        SetupError: the factory fails, or the checkpoint doesn't fit.
    """
    if request.pretrained:
        raise UsageError(
            f"{request.name}: the factory decides whether its weights are pretrained, not --pretrained.",
            hint="--checkpoint FILE, or an argument of the factory: --set arg.NAME=VALUE",
        )
    if request.in_chans is not None and request.in_chans < 1:
        raise UsageError(f"{request.name}: a network takes one channel at least, not {request.in_chans}.")
    settings = dict(request.settings)
    arguments = {
        key.removeprefix(_ARGUMENT): parse_argument(settings.pop(key))
        for key in list(settings)
        if key.startswith(_ARGUMENT)
    }
    layout = Layout.parse(settings.pop("layout", None), settings.pop("prefix", "0"))
    transform = _transform(3 if request.in_chans is None else request.in_chans, settings)
    noise = _noise((transform.channels, *transform.image_size))
    if request.checkpoint is None and request.pretrained is None:
        with importable(factory.folder):
            refuse_random(factory, arguments, noise[:1], request)
    with importable(factory.folder), seeded(request.seed):
        network = build(factory, arguments)
        buffers = digest_buffers(network)  # before a pass: what that writes into them comes of the rest
        run(network, noise[:1], request.name)  # lazy modules get their shapes here
        run(network, noise, request.name)
        if request.checkpoint is not None:
            weights = read_weights(request.checkpoint, trust=request.trust_checkpoint)
            load_weights(network, weights, request.name)
        if request.drop_last:
            network = drop_last(network, request.drop_last, noise, request.name)
        # What changes the features and not the weights is part of the fingerprint; drop_last is, by featstore itself.
        made = {"arguments": arguments, "layout": layout.format, "prefix": layout.prefix, **buffers}
        return TorchBackbone(network, transform, layout, made)


def _transform(channels: int, settings: Mapping[str, str]) -> ImageTransform:
    defaults: dict[str, Any] = {"channels": channels}
    for key, values in (("mean", ImageTransform.mean), ("std", ImageTransform.std)):
        defaults[key] = ImageTransform.per_channel(values, channels)
    return ImageTransform.from_settings(defaults, settings, others=("layout", "prefix", f"{_ARGUMENT}NAME"))


def _noise(shape: tuple[int, ...]) -> torch.Tensor:
    """Two inputs that differ."""
    return torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))


def _takes_channels_last(network: nn.Module, batch: torch.Tensor) -> bool:
    """Whether the network works in the memory format that featstore runs on a CPU: ``x.view(n, -1)`` doesn't."""
    try:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.inference_mode():
            network(batch.clone(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    finally:
        _make_contiguous(network)
    return True


def _make_contiguous(network: nn.Module) -> None:
    """Undo ``channels_last``; nothing to do in all but the first batch."""
    if not all(parameter.is_contiguous() for parameter in network.parameters()):
        with torch.inference_mode(False):
            network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
