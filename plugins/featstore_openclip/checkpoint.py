"""Local weight files → an open_clip model, strictly."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore import SetupError, load_weights, read_weights

if TYPE_CHECKING:
    import torch

# What OpenAI's files hold beside weights.
_OPENAI = {"input_resolution", "context_length", "vocab_size"}


def load_checkpoint(model: Any, name: str, path: Path, *, trust: bool, quick_gelu: bool) -> None:
    """Load ``path`` (.safetensors, what ``torch.save`` wrote, or OpenAI's TorchScript) into the whole model.

    Both towers must be in the file, though one is used: a file of another model doesn't pass for this one.

    Raises:
        SetupError: the file can't be read, holds code and isn't trusted, doesn't fit, or is OpenAI's and would run
            with another activation than it was trained with.
    """
    weights = _read_script(path, trust) if _is_script(path) else read_weights(path, trust=trust)
    if weights.keys() >= _OPENAI and not quick_gelu:
        raise SetupError(
            f"{path.name} is of OpenAI, who trained with QuickGELU, and {name} has another activation.",
            hint="name the model with the tag openai, such as open_clip:ViT-B-32/openai",
        )
    load_weights(model, _translated(weights, model), name, spare=lambda key: key in _OPENAI or _is_buffer(key))


def _translated(weights: dict[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """Names and shapes as this open_clip has them, where older versions had others."""
    custom_text = any(key.startswith("text.") for key in model.state_dict())
    if custom_text and "text_projection" in weights:
        weights = {key if _is_shared(key) else f"text.{key}": value for key, value in weights.items()}
    for key in ("logit_scale", "logit_bias"):  # a number, or a list of one
        if key in weights and weights[key].numel() == 1 and getattr(model, key, None) is not None:
            weights[key] = weights[key].reshape(getattr(model, key).shape)
    return weights


def _is_shared(key: str) -> bool:
    return key.startswith(("visual.", "text.", "logit_")) or key in _OPENAI


def _is_buffer(key: str) -> bool:
    """What older versions saved though it is computed."""
    return key.endswith((".position_ids", "attn_mask"))


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _read_script(path: Path, trust: bool) -> dict[str, torch.Tensor]:
    """The tensors of a TorchScript archive, in which OpenAI published CLIP."""
    import torch

    if not trust:
        raise SetupError(
            f"{path.name} is a TorchScript archive, which holds code beside its weights; featstore runs no code that "
            "comes in a file.",
            hint="where you trust whoever made the file, --trust-checkpoint",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch has no other reader for them
        try:
            return dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise SetupError(f"{path.name} is a damaged TorchScript archive ({type(error).__name__}).") from error
