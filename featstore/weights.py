"""Weight files → tensors by name → a network, strictly, and without running code that a file may hold.

For plugins whose users bring ``--checkpoint FILE``, or have what is published fetched.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path, PosixPath, PurePosixPath
from typing import TYPE_CHECKING, Any

from featstore.errors import SetupError

if TYPE_CHECKING:
    import torch

# Where training scripts keep the weights in what they save, and what wrappers put in front of each name.
_KEYS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")

_INSTEAD = "--checkpoint FILE takes local weights, and --no-pretrained untrained ones"

# How torch names what it refused to unpickle.
_GLOBAL = re.compile(r"unsupported (?:global: )?GLOBAL ([\w.]+)", re.IGNORECASE)


def read_weights(path: Path, *, trust: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name, in the file's order.

    They may lie under ``state_dict``, ``model_state_dict`` or ``model``, and their names may begin with the
    ``module.`` of DataParallel or the ``_orig_mod.`` of ``torch.compile``: neither is part of the result.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote.
        trust: load pickled objects too, and with them whatever code the file holds: ``--trust-checkpoint``.

    Raises:
        SetupError: there is no such file, it can't be read, it needs pickled code and isn't trusted, or it holds
            anything but tensors.
    """
    import torch

    if not path.is_file():
        raise SetupError(f"There is no weights file {path}.")
    found = _read(path, trust)
    for _ in range(2):  # such as {"model": {"state_dict": …}}
        inner = {key: found[key] for key in _KEYS if _holds(found, key)} if isinstance(found, Mapping) else {}
        if len(inner) > 1:
            raise SetupError(
                f"{path.name} holds weights under {' and '.join(map(repr, inner))}, and doesn't say which are meant.",
                hint="save those that are meant alone, best as .safetensors",
            )
        found = next(iter(inner.values()), found)
    if isinstance(found, torch.nn.Module):  # a whole network was pickled
        found = found.state_dict()
    if not isinstance(found, Mapping) or not found or not all(torch.is_tensor(v) for v in found.values()):
        raise SetupError(
            f"{path.name} holds no state dict: it must be tensors by name, or have them under "
            f"{' or '.join(map(repr, _KEYS))}."
        )
    weights = {str(key): value for key, value in found.items()}
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in weights):
                weights = {key.removeprefix(prefix): value for key, value in weights.items()}
                stripped = True
    return weights


def _holds(found: Mapping[str, Any], key: str) -> bool:
    """Whether weights lie under a key: tensors, a pickled network, or either one level deeper."""
    import torch

    value = found.get(key)
    if isinstance(value, Mapping):
        return any(torch.is_tensor(inner) for inner in value.values()) or any(inner in value for inner in _KEYS)
    return isinstance(value, torch.nn.Module)


def load_weights(
    module: torch.nn.Module,
    weights: Mapping[str, torch.Tensor],
    what: str,
    *,
    spare: Callable[[str], bool] = lambda key: False,
) -> None:
    """Load ``weights`` into ``module``: every tensor of the module must be there, with its shape.

    Args:
        what: the network, for the message: ``timm:resnet18``.
        spare: names that may be left over, such as a classifier's.

    Raises:
        SetupError: tensors are missing, left over, or of another shape.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in weights]
    unexpected = [key for key in weights if key not in expected and not spare(key)]
    shapes = [
        f"{key} is {tuple(weights[key].shape)} and should be {tuple(expected[key].shape)}"
        for key in expected
        if key in weights and weights[key].shape != expected[key].shape
    ]
    if missing or unexpected or shapes:
        raise SetupError(
            f"The checkpoint doesn't fit {what}: {len(missing)} tensors are missing{_some(missing)}, "
            f"{len(unexpected)} aren't the model's{_some(unexpected)}, {len(shapes)} have another shape"
            f"{_some(shapes)}.",
            hint="name the model that it was made with",
        )
    module.load_state_dict({key: weights[key] for key in expected}, strict=True)


def unavailable(name: str, error: Exception, *, instead: str = _INSTEAD) -> SetupError:
    """The error to raise where something published can't be had: weights, or a model's configuration.

    Libraries have no base class for what they raise then: give whatever they did.

    Args:
        name: the backbone's, for the message: ``timm:resnet18``.
        instead: what else the user can do.
    """
    # Some raise an error of their own while they handle the network's.
    if isinstance(error, OSError) or isinstance(error.__context__, OSError):
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        reason = f"what it needs isn't in the local cache, and the model hub can't be reached{offline}."
    else:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    cache = "a machine with internet fills the cache ($HF_HOME) that this one can use"
    return SetupError(f"{name} can't be had: {reason}", hint=f"{instead}; {cache}" if instead else cache)


def _read(path: Path, trust: bool) -> Any:
    import torch

    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # What torch warns of, such as an old pickle protocol, is decided below.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_harmless()):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except MemoryError:
        raise
    except Exception as error:  # zip, pickle and safetensors readers have no base class in common
        code = _GLOBAL.search(str(error))
        if not trust and (code or "TorchScript" in str(error)):
            more = f"it wants {code[1]} to be built as well" if code else "it is a program (TorchScript)"
            raise SetupError(
                f"{path.name} isn't tensors alone, {more}; featstore runs no code that comes in a file.",
                hint="where you trust whoever made the file, --trust-checkpoint; or save its state dict alone, "
                "best as .safetensors",
            ) from error
        reason = f"{type(error).__name__}: {error}" if trust else type(error).__name__
        raise SetupError(f"{path.name} is no weights file, or is damaged ({reason}).") from error


def _harmless() -> list[Any]:
    """What training scripts keep beside the weights, and what does nothing when it is built: options, numbers, paths.

    Without these, the owners of ordinary checkpoints would be taught to trust every file.
    """
    import numpy as np

    numbers = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    scalar = np.float64(0).__reduce__()[0]
    # As files name it that were written with NumPy 2, and with NumPy 1.
    names = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")]
    return [argparse.Namespace, np.dtype, *numbers, *names, PosixPath, PurePosixPath]


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
