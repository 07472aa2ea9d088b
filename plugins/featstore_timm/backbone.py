"""A timm model, built with its weights and its transform as the user wants them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from featstore import Backbone, BackboneRequest, ImageTransform, SetupError, UsageError, seeded, unavailable
from featstore_timm.checkpoint import KEY_MODES, load_checkpoint
from featstore_timm.children import drop_last
from featstore_timm.library import import_timm
from featstore_timm.network import probe


def load(request: BackboneRequest) -> Backbone:
    """Build the model with its weights, and its transform with the user's settings.

    Without ``pretrained`` or a checkpoint being asked for, weights are pretrained. Random weights depend on
    the seed alone, and the caller's random state is left as it was.

    Raises:
        SetupError: the weights can't be had, or the model's output isn't understood.
        UsageError: options that contradict each other, or that the model doesn't have.
    """
    if request.in_chans is not None and request.in_chans < 1:
        raise UsageError(f"{request.name}: a network takes one channel at least, not {request.in_chans}.")
    if request.checkpoint is not None and request.pretrained:
        raise UsageError(f"{request.name}: take pretrained weights or --checkpoint, not both.")
    settings = dict(request.settings)
    keys = settings.pop("checkpoint_keys", "names")
    if keys not in KEY_MODES or (keys != "names" and request.checkpoint is None):
        raise UsageError(f"checkpoint_keys={keys} needs --checkpoint, and is one of {', '.join(KEY_MODES)}.")
    config = _data_config(request.rest)
    transform = _transform(config, request.in_chans, settings)  # a typing error is said before weights are fetched
    module = _create(request, pretrained=request.checkpoint is None and request.pretrained is not False)
    if request.checkpoint is not None:
        load_checkpoint(module, request.rest, request.checkpoint, keys, trust=request.trust_checkpoint)
    module.eval()
    if transform.image_size != tuple(config["input_size"][-2:]):
        _resize_input(module, transform.image_size, request.name)
    if request.drop_last:
        return drop_last(module, transform, request)
    return probe(module, transform, request)


def _create(request: BackboneRequest, pretrained: bool) -> Any:
    timm = import_timm()
    options = {} if request.in_chans is None else {"in_chans": request.in_chans}
    with seeded(request.seed), _no_random_weights(request.name, pretrained):
        try:
            return timm.create_model(request.rest, pretrained=pretrained, num_classes=0, **options)
        except (MemoryError, SetupError):
            raise
        except Exception as error:  # the hub's client, urllib and timm have no base class in common
            if not pretrained:
                raise UsageError(f"timm can't build {request.rest} with {options}: {error}") from error
            raise unavailable(request.name, error) from error


@contextmanager
def _no_random_weights(name: str, pretrained: bool) -> Iterator[None]:
    """timm only logs a warning where it leaves pretrained layers at random: make it an error."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("timm.models._builder")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    random = [text for text in said if "random init" in text.lower()]
    if pretrained and random:
        raise SetupError(
            f"{name} can't have all of its weights: {random[0]}",
            hint="choose another --in-chans or model, or --no-pretrained for untrained weights",
        )


def _data_config(name: str) -> dict[str, Any]:
    """What timm declares about the inputs that these weights were trained on."""
    timm = import_timm()
    config: dict[str, Any] = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    return config


def _transform(config: Mapping[str, Any], in_chans: int | None, settings: Mapping[str, str]) -> ImageTransform:
    """timm's evaluation transform, with the user's settings over it."""
    channels = config["input_size"][0] if in_chans is None else in_chans
    defaults: dict[str, Any] = {"image_size": tuple(config["input_size"][-2:]), "channels": channels}
    defaults |= {key: config[key] for key in ("interpolation", "crop_pct", "crop_mode")}
    for key in ("mean", "std"):
        defaults[key] = ImageTransform.per_channel(config[key], channels)
    return ImageTransform.from_settings(defaults, settings, others=("checkpoint_keys",))


def _resize_input(module: Any, size: tuple[int, int], name: str) -> None:
    """Resample a ViT's or Swin's positions; convolutional networks take any size as they are."""
    if not hasattr(module, "set_input_size"):
        return
    try:
        with warnings.catch_warnings():
            # timm's resampling indexes in a way that torch deprecates: once torch changes, shapes won't fit there
            warnings.simplefilter("ignore", UserWarning)
            module.set_input_size(img_size=size)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise UsageError(f"{name} can't take images of {size}: {error}") from error
