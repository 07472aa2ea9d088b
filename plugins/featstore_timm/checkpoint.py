"""Local weight files → a timm model, strictly, and without running code that a file may hold."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from featstore import SetupError
from featstore_timm.library import import_timm

#: How a file's tensors find their places: by their names, or by their order.
KEY_MODES = ("names", "order")

# Where training scripts keep the weights in what they save, and what wrappers put in front of each name.
_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")

# How torch names what it refused to unpickle.
_GLOBAL = re.compile(r"unsupported (?:global: )?GLOBAL ([\w.]+)", re.IGNORECASE)

Weights = dict[str, torch.Tensor]


def load_checkpoint(module: Any, name: str, path: Path, keys: str) -> None:
    """Load ``path`` (.safetensors, or what ``torch.save`` wrote) into ``module``, built without a classifier.

    Every tensor of the backbone must be in the file, with its shape; the classifier's, as timm names it, may
    be. With ``keys="order"`` the file's names are ignored and its tensors taken in the model's own order, all
    shapes being equal: for the same network under another library's names.

    Raises:
        SetupError: the file can't be read, holds code, or doesn't fit.
    """
    weights = read_weights(path)
    weights = _by_order(weights, name, module) if keys == "order" else _by_name(weights, module)
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected and not _of_classifier(key, module)]
    shapes = [
        f"{key} is {tuple(weights[key].shape)} and should be {tuple(expected[key].shape)}"
        for key in expected
        if key in weights and weights[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        raise SetupError(
            f"The checkpoint doesn't fit timm:{name}: {len(missing)} tensors are missing{_some(missing)}, "
            f"{len(unexpected)} aren't the model's{_some(unexpected)}, {len(shapes)} have another shape"
            f"{_some(shapes)}.",
            hint="name the model that it was made with; where the same network has other names, "
            "--set checkpoint_keys=order",
        )
    module.load_state_dict({key: weights[key] for key in expected}, strict=True)


def read_weights(path: Path) -> Weights:
    """The tensors of a weights file by name, in the file's order, without wrappers and prefixes.

    Raises:
        SetupError: there is no such file, it can't be read, it holds pickled code, or anything but tensors.
    """
    if not path.is_file():
        raise SetupError(f"There is no weights file {path}.")
    found = _read(path)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    if not isinstance(found, Mapping) or not found or not all(torch.is_tensor(v) for v in found.values()):
        raise SetupError(
            f"{path.name} holds no state dict: it must be tensors by name, or have them under "
            f"{' or '.join(map(repr, _WRAPPERS))}."
        )
    weights = {str(key): value for key, value in found.items()}
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in weights):
            weights = {key.removeprefix(prefix): value for key, value in weights.items()}
    return weights


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # zip, pickle and safetensors readers have no base class in common
        if code := _GLOBAL.search(str(error)):
            raise SetupError(
                f"{path.name} isn't tensors alone, it wants {code[1]} to be built as well; featstore runs no code "
                "that comes in a file.",
                hint="where the file is trusted, save its state dict alone, best as .safetensors",
            ) from error
        raise SetupError(f"{path.name} is no weights file, or is damaged ({type(error).__name__}).") from error


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


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
