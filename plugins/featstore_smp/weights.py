"""Where an encoder's weights come from: the hub where smp's authors publish them, the seed, or a local file."""

from __future__ import annotations

import warnings
from typing import Any

from featstore import BackboneRequest, SetupError, UsageError, load_weights, read_weights, seeded, unavailable
from featstore.errors import did_you_mean
from featstore_smp.library import import_smp

# The classifiers that encoders were trained with, by the names that smp itself leaves out.
_CLASSIFIERS = ("fc.", "_fc.", "classifier.", "last_linear.", "linear.", "head.")

# Decoders (DeepLabV3 and DeepLabV3+, PAN) that have their encoders dilated: the same tensors, other features.
_DILATED = ("decoder.aspp.", "decoder.fpa.")


def published(encoder: str, chosen: str | None) -> str:
    """The name of the published weights: the one chosen, else ``imagenet``, else the only one.

    Raises:
        UsageError: there are no such weights, or several and none is chosen.
    """
    if encoder.startswith("tu-"):
        if chosen is not None:
            raise UsageError(f"timm's weights are part of the name: smp:{encoder.partition('.')[0]}.{chosen}")
        return "timm"
    known = list(import_smp().encoders.encoders[encoder]["pretrained_settings"])
    if chosen is None:
        chosen = "imagenet" if "imagenet" in known else known[0] if len(known) == 1 else None
    if chosen is None or chosen not in known:
        raise UsageError(
            f"smp:{encoder} has several weights: {', '.join(known)}."
            if chosen is None
            else f"smp:{encoder} has no weights {chosen!r}; there is {', '.join(known)}.{did_you_mean(chosen, known)}",
            hint=f"--set weights={known[0]}",
        )
    return chosen


def build(request: BackboneRequest, channels: int, output_stride: int, weights: str | None) -> Any:
    """The encoder with published weights, or with random ones by the request's seed.

    Raises:
        SetupError: the weights can't be had. UsageError: smp can't build it so.
    """
    smp = import_smp()
    with seeded(request.seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of smp's own names that begin with timm-
        try:
            return smp.encoders.get_encoder(
                request.rest,
                in_channels=channels,
                weights=True if weights == "timm" else weights,
                output_stride=output_stride,
            )
        except (MemoryError, SetupError):
            raise
        except Exception as error:  # smp, timm and the hub's client have no base class in common
            if weights is None or not isinstance(error, (OSError, RuntimeError)):
                raise UsageError(
                    f"smp can't build {request.rest} for {channels} channels at stride {output_stride}: {error}"
                ) from error
            raise unavailable(request.name, error) from error


def preprocessing(encoder: str, weights: str) -> dict[str, list[float]]:
    """The mean and standard deviation, of values in 0…1, that published weights were trained with.

    Raises:
        SetupError: they can't be had, or are for channels in another order than RGB.
    """
    try:
        params = import_smp().encoders.get_preprocessing_params(encoder, weights)
    except (OSError, ValueError) as error:
        raise unavailable(f"smp:{encoder}", error) from error
    if params["input_space"] != "RGB":
        raise SetupError(f"smp:{encoder}: its weights {weights} want {params['input_space']}, and images are RGB.")
    white = params["input_range"][1]  # some weights want 0…255
    return {key: [value / white for value in params[key]] for key in ("mean", "std")}


def load_checkpoint(module: Any, request: BackboneRequest, *, dilated: bool) -> None:
    """Load a local file: an encoder's own weights, or those of a whole network that has it under ``encoder.``.

    Every tensor of the encoder must be there, with its shape. A whole network's other parts are left out, also where
    training wrapped it once more (``model.encoder.…``), as is the classifier of an encoder's own file.

    Raises:
        SetupError: the file can't be read, holds code and isn't trusted, or doesn't fit.
    """
    assert request.checkpoint is not None
    weights = read_weights(request.checkpoint, trust=request.trust_checkpoint)
    roots = sorted({root for key in weights if (root := _root(key)) is not None})
    if len(roots) > 1:
        raise SetupError(
            f"{request.checkpoint.name} holds {len(roots)} encoders: {', '.join(f'{root}encoder' for root in roots)}.",
            hint="save the wanted encoder's state dict alone",
        )
    if roots:
        root = roots[0]
        if not dilated and any(key.removeprefix(root).startswith(_DILATED) for key in weights):
            raise SetupError(
                f"{request.checkpoint.name} is of a network that dilates its encoder (DeepLabV3, PAN): as it is, the "
                "same weights would give other features.",
                hint="--set output_stride=16, or 8 (of DeepLabV3)",
            )
        start = f"{root}encoder."
        weights = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
    load_weights(module, weights, request.name, spare=lambda key: key.startswith(_CLASSIFIERS))


def _root(key: str) -> str | None:
    """What stands before ``encoder.`` in a tensor's name: ``model.`` of ``model.encoder.conv1.weight``."""
    before, found, _ = f".{key}".partition(".encoder.")
    return f"{before}.".lstrip(".") if found else None
