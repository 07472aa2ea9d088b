"""The user's network: built, unwrapped, with its weights, and without its last children where so asked."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from featstore import BackboneRequest, FeatstoreError, SetupError, UsageError, capture, seeded
from featstore.errors import did_you_mean
from featstore_torch.source import Factory


def parse_argument(text: str) -> Any:
    """A JSON literal where it is one, else the text itself.

    >>> [parse_argument(text) for text in ("3", "[1, 2]", "true", "gelu", "NaN")]
    [3, [1, 2], True, 'gelu', 'NaN']
    """
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)  # it must survive in a fingerprint
        return value
    except ValueError:
        return text


def build(factory: Factory, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the factory: a network on the CPU, in evaluation mode, out of DataParallel and ``torch.compile``.

    Raises:
        UsageError: the arguments aren't the factory's, or it gives no network.
        SetupError: it fails.
    """
    if isinstance(factory.call, nn.Module):
        raise UsageError(
            f"torch:{factory.name} is a network already, made when its module was imported: its random weights would "
            "not be the seed's.",
            hint="name its class, or a function that makes it",
        )
    _check_arguments(factory, arguments)
    try:
        network = factory.call(**copy.deepcopy(dict(arguments)))
    except (FeatstoreError, MemoryError):
        raise
    except Exception as error:
        raise SetupError(f"torch:{factory.name} makes no network: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise UsageError(f"torch:{factory.name} gives {type(network).__name__}, and must give a torch.nn.Module.")
    return _unwrap(network).cpu().eval()


def _check_arguments(factory: Factory, arguments: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(factory.call)
    except (TypeError, ValueError):  # some callables written in C have none
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = list(signature.parameters)
        suggestion = "".join(did_you_mean(name, known) for name in arguments if name not in known)
        raise UsageError(
            f"torch:{factory.name}{signature}: {error}.{suggestion}", hint="--set arg.NAME=VALUE, for each argument"
        ) from error


def _unwrap(network: nn.Module) -> nn.Module:
    while True:
        if isinstance(network, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):  # of torch.compile
            network = inner
        else:
            return network


def digest_buffers(network: nn.Module) -> dict[str, str]:
    """SHA-256, as hex, over the buffers that the state dict lacks, as ``buffers``; nothing where there are none."""
    kept = network.state_dict()
    left = {
        name: buffer.detach().to_dense().resolve_conj().resolve_neg().contiguous()
        for name, buffer in network.named_buffers(remove_duplicate=False)
        if name not in kept and not nn.parameter.is_lazy(buffer)
    }
    digest = hashlib.sha256()
    for name, buffer in sorted(left.items()):
        digest.update(f"{name}\0{buffer.dtype}\0{tuple(buffer.shape)}\0".encode())
        digest.update(buffer.reshape(-1).view(torch.uint8).numpy().data)
    return {"buffers": digest.hexdigest()} if left else {}


def run(network: nn.Module, batch: torch.Tensor, name: str) -> Any:
    """One forward pass whose failure is explained.

    Raises:
        UsageError: the network can't take such a batch.
    """
    try:
        with torch.inference_mode():
            return network(batch.clone())  # it may write into what it gets
    except (FeatstoreError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # somebody's code
        raise UsageError(
            f"{name} can't take a batch of shape {tuple(batch.shape)}: {type(error).__name__}: {error}",
            hint="--set image_size=… and --in-chans say what it gets; --set arg.NAME=… how it is made",
        ) from error


def refuse_random(
    factory: Factory, arguments: Mapping[str, Any], batch: torch.Tensor, request: BackboneRequest
) -> None:
    """Raise UsageError where the factory's weights are random: where two seeds give two networks."""
    states = []
    for seed in (request.seed, request.seed + 1):
        with seeded(seed):
            network = build(factory, arguments)
            run(network, batch, request.name)  # lazy modules get their shapes here
            states.append({key: value.contiguous().reshape(-1) for key, value in network.state_dict().items()})
    first, second = states
    same = first.keys() == second.keys() and all(
        torch.equal(value.view(torch.uint8), second[key].view(torch.uint8)) for key, value in first.items()
    )
    if not same:
        raise UsageError(
            f"{request.name} draws its weights at random, and no checkpoint was given.",
            hint="--checkpoint FILE, or --no-pretrained if random ones are meant",
        )


def drop_last(network: nn.Module, count: int, batch: torch.Tensor, name: str) -> nn.Module:
    """The network's children one after the other, without the last ``count``.

    That is what the network itself computes on its way only if its ``forward`` does nothing else up to there. So the
    result is compared with what the last child kept gives inside the network's own pass over ``batch``.

    Raises:
        UsageError: there are too few children, or the network isn't such a chain up to there.
    """
    children = list(network.named_children())
    if not 0 < count < len(children):
        raise UsageError(
            f"{name} has {len(children)} children: {', '.join(child for child, _ in children)}; {count} of them can't "
            "be dropped with something left over."
        )
    kept = nn.Sequential(OrderedDict(children[:-count])).eval()
    last = children[-count - 1][0]
    reason = ""
    try:
        with torch.inference_mode():
            with capture(network, {last: last}) as outputs:
                network(batch.clone())
            found, expected = kept(batch.clone()), outputs[last]
        if not torch.is_tensor(found) or not torch.is_tensor(expected):
            reason = f"{last} gives {type(expected).__name__}"
        elif found.shape != expected.shape:
            reason = f"they give {tuple(found.shape)}, and inside the network {last} gives {tuple(expected.shape)}"
        elif not torch.allclose(found, expected, rtol=1e-5, atol=1e-5):
            reason = f"what they give differs from {last}'s output inside the network"
    except UsageError as error:
        reason = error.message
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # somebody's modules, called in an order that isn't theirs
        reason = f"{type(error).__name__}: {error}"
    if reason:
        raise UsageError(
            f"{name} can't be cut before its last {count}: its first {len(children) - count} children, run one after "
            f"the other, don't do what its forward does ({reason}).",
            hint=f"--layer {last} takes that child's output from the whole network",
        )
    return kept
