"""What the weights of an architecture expect beside their shapes: normalization, resizing, activation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from featstore import BackboneRequest, ImageTransform, InputError, SetupError, UsageError
from featstore_openclip.library import import_open_clip

_IMAGES = ("mean", "std", "interpolation", "resize_mode")
_CROP_MODES = {"shortest": "center", "squash": "squash"}


class Images(ImageTransform):
    """:class:`ImageTransform`, which also says what to do with a text."""

    def __call__(self, image: Any) -> Any:
        if isinstance(image, str):
            raise InputError(
                "The input is a text, and the model was loaded for images.", hint="--set input=text takes texts"
            )
        return super().__call__(image)


def find_conventions(request: BackboneRequest, architecture: str, tag: str) -> dict[str, Any]:
    """Mean, std, interpolation and resize mode of the images, and whether the activation is QuickGELU.

    With a tag, they are those of its weights, which may contradict the architecture: open_clip's own ``ViT-B-32``
    would run OpenAI's weights with another activation than they were trained with, and only warn. For a file of
    weights without a tag they are what all published weights of the architecture agree on.

    Raises:
        UsageError: the published weights don't agree, so that nothing says what the file's are.
    """
    open_clip = import_open_clip()
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag:
        return _of_tag(architecture, tag)
    found: dict[str, list[str]] = {}
    for known in tags:
        found.setdefault(repr(sorted(_of_tag(architecture, known).items())), []).append(known)
    if request.checkpoint is not None and len(found) > 1:
        examples = " or ".join(f"open_clip:{architecture}/{group[0]}" for group in found.values())
        raise UsageError(
            f"{request.name}: weights of this architecture were published with {len(found)} different "
            f"combinations of activation and normalization, and the file doesn't say which is its own.",
            hint=f"name the published weights that it follows, such as {examples}, and --checkpoint as before",
        )
    return _of_tag(architecture, tags[0] if len(found) == 1 else "")


def _of_tag(architecture: str, tag: str) -> dict[str, Any]:
    """The conventions of one tag; of open_clip itself, for no tag."""
    open_clip = import_open_clip()
    config = open_clip.get_model_config(architecture)
    published = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    images = asdict(open_clip.transform.PreprocessCfg()) | published
    quick_gelu = bool(config.get("quick_gelu")) or bool(published.get("quick_gelu"))
    return {key: images[key] for key in _IMAGES} | {"quick_gelu": quick_gelu}


def image_transform(
    request: BackboneRequest, architecture: str, conventions: Mapping[str, Any], settings: Mapping[str, str]
) -> Images:
    """open_clip's evaluation transform, with the user's settings over it.

    Raises:
        UsageError: a setting that there isn't, or a value out of its domain.
        SetupError: open_clip resizes for these weights in a way that ImageTransform hasn't.
    """
    if conventions["resize_mode"] not in _CROP_MODES:
        raise SetupError(f"{request.name} wants its images resized by {conventions['resize_mode']}, which isn't built.")
    return Images.from_settings(
        {
            "image_size": native_size(architecture),
            "interpolation": "bilinear" if conventions["interpolation"] == "bilinear" else "bicubic",
            "mean": tuple(conventions["mean"]),
            "std": tuple(conventions["std"]),
            "crop_pct": 1.0,
            "crop_mode": _CROP_MODES[conventions["resize_mode"]],
        },
        settings,
        others=("input",),
    )


def native_size(architecture: str) -> tuple[int, int]:
    """(height, width) of the images that an architecture is made for."""
    open_clip = import_open_clip()
    size = open_clip.CLIPVisionCfg(**open_clip.get_model_config(architecture)["vision_cfg"]).image_size
    return (size, size) if isinstance(size, int) else tuple(size)
