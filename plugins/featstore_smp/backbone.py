"""An encoder of segmentation_models_pytorch as a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from featstore import Backbone, BackboneRequest, ImageTransform, Tokens, UsageError
from featstore.errors import did_you_mean
from featstore_smp.weights import build, load_checkpoint, preprocessing, published

_SETTINGS = ("output_stride", "weights")
_STRIDES = ("32", "16", "8")

# smp says nothing of sizes. A segmentation network sees the whole image: nothing is cropped away.
_GEOMETRY = {"image_size": (224, 224), "interpolation": "bilinear", "crop_pct": 1.0, "crop_mode": "squash"}


class SmpBackbone(Backbone):
    """The feature maps of one encoder, as smp's segmentation networks get them, in evaluation mode.

    Layers have the numbers of smp's own list, ``encoder(images)[5]`` is ``"5"``, and ``"last"`` is the deepest.
    What is no feature map has no layer: the input itself, which most encoders give as their map 0, and the map 1
    without channels that fills the place of stride 2 in transformers.

    An encoder is built with five stages, as U-Nets have it. In a checkpoint of a network with fewer
    (``encoder_depth``; PSPNet has 3) the deeper maps were never trained: ask for ``--layer 3`` there.
    """

    def __init__(self, module: Any, transform: ImageTransform, output_stride: int, maps: Sequence[int]) -> None:
        self.module = module
        self.transform = transform
        self.input_shape = (transform.channels, *transform.image_size)
        self.preprocessing = {**transform.settings, "output_stride": output_stride}
        self.layers = (*map(str, maps), "last")
        self._deepest = maps[-1]

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        unknown = [layer for layer in layers if layer not in self.layers]
        if unknown:
            raise UsageError(f"No layer {', '.join(unknown)}; there are {', '.join(self.layers)}.")
        assert self.module is not None
        maps = self.module(batch)
        numbers = {layer: self._deepest if layer == "last" else int(layer) for layer in layers}
        return {layer: Tokens.of(maps[number], "NCHW") for layer, number in numbers.items()}


def load(request: BackboneRequest) -> SmpBackbone:
    """Build the encoder with its weights, and its transform with the user's settings.

    Without ``pretrained`` or a checkpoint being asked for, weights are the published ones, ``imagenet`` where there
    are several (``--set weights=ssl``), and pixels are normalized as smp says for them. Otherwise the mean and
    standard deviation are ImageNet's. Random weights depend on the seed alone, and the caller's random state is left
    as it was. ``--set output_stride=16`` (or 8) dilates the last stages, as DeepLabV3 and PAN do.

    Raises:
        SetupError: the weights can't be had, or don't fit.
        UsageError: options that contradict each other, or that the encoder doesn't have.
    """
    if request.in_chans is not None and request.in_chans < 1:
        raise UsageError(f"{request.name}: a network takes one channel at least, not {request.in_chans}.")
    if request.checkpoint is not None and request.pretrained:
        raise UsageError(f"{request.name}: take pretrained weights or --checkpoint, not both.")
    settings = dict(request.settings)
    stride = settings.pop("output_stride", "32")
    if stride not in _STRIDES:
        raise UsageError(f"output_stride={stride} isn't one of {', '.join(_STRIDES)}.{did_you_mean(stride, _STRIDES)}")
    chosen = settings.pop("weights", None)
    channels = 3 if request.in_chans is None else request.in_chans
    imagenet = {"mean": ImageTransform.mean, "std": ImageTransform.std}
    transform = _transform(imagenet, channels, settings)  # a typing error is said before weights are fetched
    _check_size(request.name, transform.image_size, int(stride))
    if request.checkpoint is None and request.pretrained is not False:
        weights = published(request.rest, chosen)
        module = build(request, channels, int(stride), weights)
        transform = _transform(preprocessing(request.rest, weights), channels, settings)
    elif chosen is not None:
        raise UsageError(f"weights={chosen} names published weights: leave out --checkpoint and --no-pretrained.")
    else:
        module = build(request, channels, int(stride), None)
    if request.checkpoint is not None:
        load_checkpoint(module, request, dilated=stride != "32")
    module.eval()
    return SmpBackbone(module, transform, int(stride), _maps(module, transform, request.name))


def _transform(colours: Mapping[str, Sequence[float]], channels: int, settings: Mapping[str, str]) -> ImageTransform:
    defaults: dict[str, Any] = {**_GEOMETRY, "channels": channels}
    for key, values in colours.items():
        defaults[key] = ImageTransform.per_channel(values, channels)
    return ImageTransform.from_settings(defaults, settings, others=_SETTINGS)


def _check_size(name: str, size: tuple[int, int], stride: int) -> None:
    if any(side % stride for side in size):
        fitting = "x".join(str(max(round(side / stride), 1) * stride) for side in size)
        raise UsageError(
            f"{name}: {size[0]} × {size[1]} pixels can't be divided by the encoder's stride of {stride}.",
            hint=f"--set image_size={fitting}",
        )


def _maps(module: Any, transform: ImageTransform, name: str) -> list[int]:
    """The numbers of the feature maps, told by one image of noise."""
    size = (1, transform.channels, *transform.image_size)
    noise = torch.rand(size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            maps = module(noise)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{name} can't take {transform.channels} channels of {transform.image_size}: {error}"
        ) from error
    return [number for number, map_ in enumerate(maps) if map_.numel() and not torch.equal(map_, noise)]
