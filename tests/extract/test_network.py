"""The network: its digest, its device, and what it refuses."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from featstore import Backbone, SetupError, Tokens, UsageError
from featstore.errors import ConflictError, PluginError
from featstore.extract.network import Network, Way, choose_device, weights_digest


class Fixed(Backbone):
    """Gives what it was made with."""

    input_shape = (3,)

    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        return {"last": self.tokens(batch)}


def mean(values: Any, *, prefix: int, grid: Any) -> Any:
    return values.mean(1)


def run(tokens: Any, pool: Any = mean) -> list[Any]:
    network = Network.place(Fixed(tokens), "cpu", "off", None, True)
    return network.pooled(torch.ones(2, 3), [Way("last", pool)])


def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3))


def test_the_digest_is_of_the_weights_alone() -> None:
    one, other = module(), module().to(memory_format=torch.channels_last)
    assert weights_digest(one) == weights_digest(other)
    backwards = torch.nn.Module()
    backwards.state_dict = lambda: OrderedDict(reversed(one.state_dict().items()))  # type: ignore[method-assign,assignment]
    assert weights_digest(backwards) == weights_digest(one)
    # Pinned: the same weights are the same version for ever.
    assert weights_digest(None) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    tiny = torch.nn.Linear(1, 1)
    with torch.no_grad():
        tiny.weight.fill_(1)
        tiny.bias.fill_(2)
    parts = [b"bias\0torch.float32\0(1,)\0", b"\0\0\0\x40", b"weight\0torch.float32\0(1, 1)\0", b"\0\0\x80\x3f"]
    assert weights_digest(tiny) == hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m[0].weight.data[0, 0, 0, 0].nextafter_(torch.tensor(9.0)),
        lambda m: m[1].num_batches_tracked.add_(1),
        lambda m: m.to(torch.float64),
        lambda m: setattr(m[0], "weight", torch.nn.Parameter(m[0].weight.reshape(2, 3, 3, 3))),
    ],
)
def test_any_change_of_the_weights_changes_the_digest(change: Any) -> None:
    one = module()
    before = weights_digest(one)
    change(one)
    assert weights_digest(one) != before


def test_odd_tensors_have_a_digest() -> None:
    odd = torch.nn.Module()
    odd.register_buffer("scalar", torch.tensor(3))
    odd.register_buffer("empty", torch.empty(0, 4))
    odd.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16))
    assert len(weights_digest(odd)) == 64


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in {"cpu", "cuda", "mps"}
    with pytest.raises(UsageError, match="abacus"):
        choose_device("abacus")
    with pytest.raises(SetupError, match="no device 'cuda:99'"):
        choose_device("cuda:99")


@pytest.mark.parametrize(
    "tokens",
    [
        lambda x: Tokens(x),
        lambda x: Tokens(x[:1, None]),
        lambda x: Tokens(x.reshape(2, 3, 1), 1, (2, 2)),
    ],
)
def test_tokens_of_another_shape_are_a_broken_plugin(tokens: Any) -> None:
    with pytest.raises(PluginError, match=r"\(N, L, D\)"):
        run(tokens)


@pytest.mark.parametrize("pool", [lambda v, **_: v[:1, 0], lambda v, **_: v[:, 0, :0], lambda v, **_: v.sum()])
def test_pooled_arrays_of_another_shape_are_a_broken_plugin(pool: Any) -> None:
    with pytest.raises(PluginError, match="pooler"):
        run(lambda x: Tokens(x[:, None]), pool)


def test_a_pooler_that_refuses_is_a_clear_error() -> None:
    def refuse(values: Any, *, prefix: int, grid: Any) -> Any:
        raise ValueError("I want a class token")

    with pytest.raises(ConflictError, match="I want a class token"):
        run(lambda x: Tokens(x[:, None]), refuse)


def test_half_precision_is_pooled_in_single() -> None:
    """2,049 ones: a sum in half precision stops at 2,048."""

    def total(values: Any, *, prefix: int, grid: Any) -> Any:
        return values.sum(1)

    (found,) = run(lambda x: Tokens(torch.ones(2, 2049, 1, dtype=torch.float16)), total)
    assert found.dtype == "float32"
    assert found.tolist() == [[2049], [2049]]


def test_placing_keeps_the_weights_and_stops_learning() -> None:
    one = module().train()
    backbone = Fixed(lambda x: Tokens(x[:, None]))
    backbone.module = one
    before = weights_digest(one)
    for channels_last in (True, False):
        Network.place(backbone, "cpu", "off", 1, channels_last)
        assert one[0].weight.is_contiguous(memory_format=torch.channels_last) is channels_last  # type: ignore[index]
    assert not one.training
    assert not any(p.requires_grad for p in one.parameters())
    assert weights_digest(one) == before


def test_networks_of_volumes_run() -> None:
    backbone = Fixed(lambda x: Tokens(x[:, None]))
    backbone.module = torch.nn.Conv3d(1, 2, 3)
    Network.place(backbone, "cpu", "off", None, True)
    assert backbone.module(torch.ones(1, 1, 3, 3, 3)).shape == (1, 2, 1, 1, 1)
