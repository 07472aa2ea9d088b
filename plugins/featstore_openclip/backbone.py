"""Build an open_clip model, and hand out the tower that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from featstore import Backbone, BackboneRequest, UsageError, seeded, unavailable
from featstore.errors import did_you_mean
from featstore_openclip.checkpoint import load_checkpoint
from featstore_openclip.conventions import find_conventions, image_transform, native_size
from featstore_openclip.image import ImageTower
from featstore_openclip.library import import_open_clip, quiet
from featstore_openclip.text import TextTower, text_transform

_INPUTS = ("image", "text")


def load(request: BackboneRequest) -> Backbone:
    """Build one tower with its weights, and its transform with the user's settings.

    Random weights depend on the seed alone, and the caller's random state is left as it was. The other tower is built
    and checked too, then dropped: it takes no memory, and no part in the weights' digest.

    Raises:
        SetupError: the weights or the tokenizer can't be had.
        UsageError: options that contradict each other, or that the model doesn't have.
    """
    architecture, _, tag = request.rest.partition("/")
    settings = dict(request.settings)
    reads = settings.pop("input", "image")
    if reads not in _INPUTS:
        raise UsageError(f"input={reads} isn't one of {', '.join(_INPUTS)}.{did_you_mean(reads, _INPUTS)}")
    if request.checkpoint is not None and request.pretrained:
        raise UsageError(f"{request.name}: take pretrained weights or --checkpoint, not both.")
    if not tag and request.checkpoint is None and request.pretrained is not False:
        raise _no_tag(request.name, architecture)
    conventions = find_conventions(request, architecture, tag)
    recorded = {"input": reads, "quick_gelu": conventions["quick_gelu"]}
    if reads == "text":  # typing errors are said before weights are fetched
        tokens, facts = text_transform(request, architecture, settings)
        return TextTower(_build(request, architecture, tag, conventions), tokens, recorded | facts)
    transform = image_transform(request, architecture, conventions, settings)
    model = _build(request, architecture, tag, conventions)
    if transform.image_size != native_size(architecture):
        model = _resized(model, request.name, architecture, conventions, transform.image_size)
    return ImageTower(model.visual, transform, recorded)


def _no_tag(name: str, architecture: str) -> UsageError:
    tags = import_open_clip().list_pretrained_tags_by_model(architecture)
    known = f"{', '.join(tags[:5])}{', …' if len(tags) > 5 else ''}" if tags else "none, to open_clip's knowledge"
    return UsageError(
        f"{name}: it isn't said which weights. Those published for it are {known}.",
        hint=(f"open_clip:{architecture}/{tags[0]}, or " if tags else "")
        + "--checkpoint FILE for local weights, --no-pretrained for untrained ones",
    )


def _build(request: BackboneRequest, architecture: str, tag: str, conventions: Mapping[str, Any]) -> Any:
    """The whole model with the weights that were asked for, on the CPU, in evaluation mode."""
    published = request.checkpoint is None and request.pretrained is not False
    with seeded(request.seed):
        try:
            model = _create(architecture, conventions, tag if published else None)
        except (MemoryError, UsageError):
            raise
        except Exception as error:  # the hub's client, urllib and open_clip have no base class in common
            if published:
                raise unavailable(request.name, error) from error
            raise unavailable(request.name, error, instead="") from error
    if request.checkpoint is not None:
        quick_gelu = bool(conventions["quick_gelu"])
        load_checkpoint(model, request.name, request.checkpoint, trust=request.trust_checkpoint, quick_gelu=quick_gelu)
    return model.eval()


def _create(architecture: str, conventions: Mapping[str, Any], tag: str | None, **options: Any) -> Any:
    with quiet():
        return import_open_clip().create_model(
            architecture,
            pretrained=tag,
            pretrained_hf=False,  # the text tower's weights come from here too, not from another model
            force_quick_gelu=conventions["quick_gelu"],
            **options,
        )


def _resized(model: Any, name: str, architecture: str, conventions: Mapping[str, Any], size: tuple[int, int]) -> Any:
    """The model for images of another size, its position embeddings resampled as open_clip does it.

    Raises:
        UsageError: the tower can't take them.
    """
    open_clip = import_open_clip()
    patch = getattr(model.visual, "patch_size", None)
    if patch is not None and (size[0] % patch[0] or size[1] % patch[1]):
        raise UsageError(
            f"{name}: image_size={size} isn't a multiple of its patches of {patch[0]} × {patch[1]} pixels."
        )
    try:
        if hasattr(model.visual, "set_input_size"):  # timm's towers
            model.visual.set_input_size(size)
        else:
            weights = model.state_dict()
            model = _create(architecture, conventions, None, force_image_size=size).eval()
            open_clip.model.resize_pos_embed(weights, model)
            model.load_state_dict(weights)
        with torch.inference_mode():
            model.visual(torch.zeros(1, 3, *size))
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{name} can't take images of {size}: {error}") from error
    return model
