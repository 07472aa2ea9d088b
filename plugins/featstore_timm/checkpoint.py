"""Local weight files → a timm model: under timm's names, the original authors', or by their order."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from featstore import SetupError, load_weights, read_weights
from featstore_timm.library import import_timm

#: How a file's tensors find their places: by their names, or by their order.
KEY_MODES = ("names", "order")

Weights = dict[str, torch.Tensor]


def load_checkpoint(module: Any, name: str, path: Path, keys: str, *, trust: bool) -> None:
    """Load ``path`` into ``module``, built without a classifier.

    Every tensor of the backbone must be in the file, with its shape; the classifier's, as timm names it, may
    be. With ``keys="order"`` the file's names are ignored and its tensors taken in the model's own order, all
    shapes being equal: for the same network under another library's names.

    Raises:
        SetupError: the file can't be read, holds code and isn't trusted, or doesn't fit.
    """
    weights = read_weights(path, trust=trust)
    weights = _by_order(weights, name, module) if keys == "order" else _by_name(weights, module)
    try:
        load_weights(module, weights, f"timm:{name}", spare=lambda key: _of_classifier(key, module))
    except SetupError as error:
        also = "where the same network has other names, --set checkpoint_keys=order"
        raise SetupError(error.message, hint=f"{error.hint}; {also}") from None


def _by_name(weights: Weights, module: Any) -> Weights:
    """Where names don't fit, let timm's translation of the original authors' files try."""
    if all(key in weights for key in module.state_dict()):
        return weights
    translate = getattr(sys.modules[type(module).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return weights
    try:
        return dict(translate(dict(weights), module))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return weights  # not such a file: the names are compared, and reported, as they are


def _by_order(weights: Weights, name: str, module: Any) -> Weights:
    """Give the file's tensors the names of the model with its classifier, one after the other."""
    with torch.device("meta"):  # names and shapes alone
        model = import_timm().create_model(name, pretrained=False, in_chans=module.in_chans)
    full = model.state_dict()
    names = list(full) if len(full) == len(weights) else list(module.state_dict())
    if len(names) != len(weights):
        raise SetupError(
            f"checkpoint_keys=order: the file has {len(weights)} tensors, and timm:{name} has {len(full)} "
            f"({len(module.state_dict())} without its classifier)."
        )
    return dict(zip(names, weights.values(), strict=True))


def _of_classifier(key: str, module: Any) -> bool:
    heads = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    return any(key.startswith(f"{head}.") for head in heads)
