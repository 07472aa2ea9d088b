"""Decoded pixels → what an image network takes. The transform *is* its recorded settings.

On 8-bit images, resizing, cropping and normalizing give what timm's own evaluation transform gives. What
timm leaves to a silent ``convert("RGB")`` is a setting here: how grey becomes RGB, how RGB becomes grey, what
an alpha channel may hold, and which pixel values are black and white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from featstore import ranges
from featstore.errors import InputError, UsageError, did_you_mean
from featstore.masks import cover, find_inside, to_labels
from featstore.pixels import Pixels, Size, as_image, crop, crop_start, resize, scale, to_grey
from featstore.spec import Json, Picture

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
_CHOICES = {
    "interpolation": tuple(_FILTERS),
    "crop_mode": ("center", "squash", "border"),
    "grey": ("repeat", "refuse"),
    "colour": ("rec601", "refuse"),
    "alpha": ("opaque", "drop"),
}


@dataclass(frozen=True)
class ImageTransform:
    """One decoded image → float32 (channels, height, width), C-contiguous. Picklable.

    Images are (H, W) grey, (H, W, 2) grey + alpha, (H, W, 3) RGB or (H, W, 4) RGBA, as readers give them, or a
    :class:`~featstore.Picture` of those: an inverted one is turned so that bright is bright.
    Where ``channels`` is neither 1 nor 3, an image must be (H, W, channels) and is taken as it is.

    Attributes:
        image_size: (height, width) of the output.
        interpolation: nearest, bilinear, bicubic, lanczos, box or hamming; Pillow's, with its antialiasing.
        mean, std: one per channel, of values in 0…1: the output is ``(value - mean) / std``.
        crop_pct: the output's share of the resized image, which is ``int(image_size / crop_pct)``.
        crop_mode: timm's. ``center`` brings the shorter side to size and loses the ends of the longer one;
            ``squash`` resizes both sides and loses the aspect ratio; ``border`` brings the longer side to
            size and pads with ``mean``.
        channels: what the network takes.
        range: which pixel values become 0 and 1. ``dtype``: what the file itself calls black and white, where it
            does (a DICOM's window); else 0…255 for uint8, 0…65535 for uint16 (an image whose
            brightest pixel is below 4096 is refused: it is 12-bit data, and would be all but black), refused
            for other dtypes; ``minmax``: the image's own darkest and brightest pixel, over all channels (a
            constant image has none, and is refused); ``volume``: those of the whole volume that it is a slice of;
            ``LO,HI``: a fixed window, clipped, such as one of Hounsfield units for all scanners alike.
        grey: how a grey image becomes RGB: ``repeat`` or ``refuse``.
        colour: how RGB becomes grey: ``rec601`` (0.299 R + 0.587 G + 0.114 B) or ``refuse``.
        alpha: ``opaque`` drops an alpha channel that is fully opaque and refuses others; ``drop`` drops any.

    Raises:
        UsageError: a setting is out of its domain.
    """

    image_size: Size = (224, 224)
    interpolation: str = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    crop_pct: float = 0.875
    crop_mode: str = "center"
    channels: int = 3
    range: str = "dtype"
    grey: str = "repeat"
    colour: str = "rec601"
    alpha: str = "opaque"

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(
                    f"{name}={value} isn't one of {', '.join(choices)}.{did_you_mean(str(value), choices)}"
                )
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UsageError(f"image_size={self.image_size} isn't a height and a width of at least one pixel.")
        if not 0 < self.crop_pct <= min(self.image_size):  # timm has models above 1: they pad
            raise UsageError(f"crop_pct={self.crop_pct} isn't a share such as 0.875.")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise UsageError(
                    f"{name} has {len(values)} values and the network takes {self.channels} channels: "
                    "give one finite number a channel."
                )
        if min(self.std) <= 0:
            raise UsageError(f"std={self.std} must be above 0.")
        object.__setattr__(self, "range", ranges.spelt(self.range))

    # -------------------------------------------------------------------------------------------- settings
    @property
    def settings(self) -> dict[str, Json]:
        """Every setting, as JSON: for ``Backbone.preprocessing``; :meth:`from_settings` takes it back."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_settings(
        cls,
        defaults: Mapping[str, Any],
        overrides: Mapping[str, str] | None = None,
        *,
        others: Iterable[str] = (),
    ) -> Self:
        """Build from a model's own settings and what the user typed over them.

        Args:
            defaults: any of the attributes, with their types (lists will do for tuples).
            overrides: ``--set key=value``, as text: ``image_size=224`` or ``224x320`` (height x width),
                ``mean=0.5,0.5,0.5`` (one number stands for all channels), ``range=-1000,400``, …, and
                ``window=CENTRE,WIDTH``, which is DICOM's way of saying a range (:func:`featstore.ranges.of_window`).
            others: settings that the caller understands itself, to be suggested for a misspelt one.

        Raises:
            UsageError: an unknown setting, or a value that isn't one.

        >>> ImageTransform.from_settings({}, {"image_size": "32x48"}).image_size
        (32, 48)
        """
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in defaults.items()}
        overrides = dict(overrides or {})
        if "window" in overrides:
            if "range" in overrides:
                raise UsageError("window and range are two words for one thing: give one of them.")
            overrides["range"] = ranges.of_window(overrides.pop("window"))
        for key, text in overrides.items():
            parse = _PARSERS.get(key)
            if parse is None:
                known = sorted({*_PARSERS, "window", *others})
                raise UsageError(
                    f"{key!r} isn't a setting of this backbone.{did_you_mean(key, known)} "
                    f"The settings are {', '.join(known)}."
                )
            try:
                values[key] = parse(text)
            except ValueError:
                raise UsageError(f"{key}={text} can't be read: {_FORMS[key]}") from None
        channels = values.get("channels", cls.channels)
        for key in ("mean", "std"):
            if len(values.get(key, ())) == 1:
                values[key] = values[key] * channels
        return cls(**values)

    @staticmethod
    def per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
        """A model's mean or std, for another number of channels than its own.

        Libraries sum or repeat the RGB kernels then: RGB's average is fair to each channel.

        >>> ImageTransform.per_channel((1.0, 2.0, 3.0), 2)
        (2.0, 2.0)
        """
        return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels

    # ------------------------------------------------------------------------------------------- transform
    def __call__(self, image: Any) -> npt.NDArray[np.float32]:
        """Transform one image.

        Raises:
            InputError: not an image array, no pixels, a value that isn't finite, channels or a dtype that the
                settings don't cover, or a constant image under ``range=minmax`` (it has no range).
        """
        picture = image if isinstance(image, Picture) else Picture(image)
        pixels = self._select_channels(as_image(picture.pixels))
        if pixels.dtype == np.uint8 and self.range == "dtype" and picture.window is None:
            # timm's own path: 8-bit in Pillow, which rounds and clips to 8 bits, then / 255.
            pixels = 255 - pixels if picture.inverted else pixels
            fill = [round(255 * value) for value in self.mean]
            values: Pixels = self._fit(pixels, fill).astype(np.float32) / np.float32(255)
        else:
            # The window comes before the resizing: a metal artefact must not ring into its neighbours.
            unit = scale(pixels, *ranges.limits(self.range, replace(picture, pixels=pixels)))
            unit = 1 - unit if picture.inverted else unit
            values = np.clip(self._fit(unit, self.mean), 0, 1)
        values = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1), dtype=np.float32)

    def mask(self, mask: Any, *, size: Size, labels: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Bring the mask of an image where the image's own pixels go: float32 (height, width) of 0…1.

        A value is the share of the pixel's area that is inside, whatever the filter for images is; padding is
        outside.

        Args:
            mask: decoded, in whole numbers: (H, W), or an image whose channels are equal and whose alpha is opaque.
            size: (H, W) of the decoded image. A mask of another size is refused, never resampled.
            labels: the values that are inside. None: all but 0, where the mask has two values at most.

        Raises:
            InputError: not a mask, one of another size, one that doesn't say what is inside, or nothing is, be it
                of the mask or of what the crop leaves.
        """
        values = to_labels(mask)
        if values.shape != tuple(size):
            raise InputError(
                f"The mask has {values.shape[0]} × {values.shape[1]} pixels and its image {size[0]} × {size[1]}: "
                "which pixel belongs to which isn't known.",
                hint="make the mask on the image as it is ingested, or resample it there yourself",
            )
        resized = self._resized(*values.shape)
        top, left = (crop_start(have, want) for have, want in zip(resized, self.image_size, strict=True))
        shares = cover(find_inside(values, labels), resized, (top, left), self.image_size)
        if not shares.any():
            raise InputError(
                "Nothing of what the mask marks is left after the crop.",
                hint="--set crop_mode=squash --set crop_pct=1 keeps all of the image",
            )
        return shares

    def _select_channels(self, pixels: Pixels) -> Pixels:
        """(H, W, any) → (H, W, channels), or (H, W, 1) where grey is to be repeated; the dtype stays."""
        found = pixels.shape[2]
        if self.channels not in (1, 3):
            if found != self.channels:
                raise InputError(f"The image has {found} channels and the network takes {self.channels}.")
            return pixels
        if found in (2, 4):
            self._check_alpha(pixels[:, :, -1])
            pixels, found = pixels[:, :, :-1], found - 1
        if found not in (1, 3):
            raise InputError(f"The image has {found} channels; grey, RGB and their alpha forms are understood.")
        if found == 1 and self.channels == 3 and self.grey == "refuse":
            raise InputError("The image is grey and the network takes RGB.", hint="--set grey=repeat")
        if found == 3 and self.channels == 1:
            if self.colour == "refuse":
                raise InputError("The image is RGB and the network takes grey.", hint="--set colour=rec601")
            return to_grey(pixels)
        return pixels

    def _check_alpha(self, alpha: Pixels) -> None:
        if self.alpha == "drop":
            return
        opaque = 1.0 if alpha.dtype.kind == "f" else np.iinfo(alpha.dtype).max
        if (alpha != opaque).any():
            raise InputError(
                f"The image is partly transparent: its alpha goes down to {alpha.min()} of {opaque}, and the "
                "pixels below have no agreed colour.",
                hint="--set alpha=drop takes the colours as stored",
            )

    def _fit(self, pixels: Pixels, fill: Iterable[float]) -> Pixels:
        """Resize and crop: (H, W, 1 or channels) → (height, width, channels)."""
        height, width = pixels.shape[:2]
        pixels = resize(pixels, self._resized(height, width), _FILTERS[self.interpolation])
        pixels = np.broadcast_to(pixels, (*pixels.shape[:2], self.channels))
        border = list(fill) if self.crop_mode == "border" else [0] * self.channels
        return crop(pixels, self.image_size, border)

    def _resized(self, height: int, width: int) -> Size:
        """The size before the crop, with timm's and torchvision's roundings."""
        target = [math.floor(side / self.crop_pct) for side in self.image_size]
        if self.crop_mode == "squash":
            return target[0], target[1]
        if self.crop_mode == "center" and target[0] == target[1]:  # torchvision's Resize(int) truncates
            short = target[0]
            if height <= width:
                return short, int(short * width / height)
            return int(short * height / width), short
        # timm's ResizeKeepRatio rounds
        ratios = height / target[0], width / target[1]
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(round(height / ratio), 1), max(round(width / ratio), 1)


# ----------------------------------------------------------------------------------------- settings as text
def _parse_size(text: str) -> Size:
    height, x, width = text.partition("x")
    return int(height), int(width if x else height)


def _parse_numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


_PARSERS: dict[str, Callable[[str], Any]] = {
    field.name: str for field in fields(ImageTransform) if field.name != "channels"
}
_PARSERS |= {"image_size": _parse_size, "mean": _parse_numbers, "std": _parse_numbers, "crop_pct": float}
_FORMS = {
    "image_size": "give pixels, such as 224, or HEIGHTxWIDTH, such as 224x320.",
    "mean": "give one number a channel, such as 0.5,0.5,0.5.",
    "std": "give one number a channel, such as 0.5,0.5,0.5.",
    "crop_pct": "give a share, such as 0.875.",
}
