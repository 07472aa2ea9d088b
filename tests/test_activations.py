"""What inner modules give, against what the network's own steps give one by one."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from featstore import UsageError, capture


class Net(nn.Module):
    """Runs ``once`` once, ``twice`` twice, ``never`` never, ``linear`` without its forward, and writes in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.once = nn.Linear(4, 4)
        self.twice = nn.Linear(4, 4)
        self.never = nn.Linear(4, 4)
        self.linear = nn.Linear(4, 4)
        self.several = Several()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        values = self.once(batch)
        values.relu_()
        values = self.twice(self.twice(values))
        values = nn.functional.linear(values, self.linear.weight, self.linear.bias)
        several = self.several(values)
        for value in (several["pair"][0], several["list"][0], several["alone"]):
            value.zero_()
        return values


class Several(nn.Module):
    def forward(self, values: torch.Tensor) -> dict[str, Any]:
        return {"pair": (values + 1, "word"), "list": [values + 2], "alone": values + 3, "none": None}


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in network.modules())


def test_what_is_captured_is_what_the_module_gave_and_not_what_became_of_it(batch: torch.Tensor) -> None:
    network = Net()
    with torch.inference_mode():
        expected = network.once(batch)
        with capture(network, {"first": "once"}) as outputs:
            last = network(batch)
        assert (expected < 0).any()  # the ReLU had something to do
        assert list(outputs) == ["first"]
        assert torch.equal(outputs["first"], expected)
        assert torch.equal(last, network(batch))
    assert hooks_of(network) == 0


def test_tensors_inside_other_things_are_copied_too(batch: torch.Tensor) -> None:
    network = Net()
    with torch.inference_mode(), capture(network, {"s": "several"}) as outputs:
        values = network(batch)
    found = outputs["s"]
    assert torch.equal(found["pair"][0], values + 1)
    assert found["pair"][1] == "word"
    assert torch.equal(found["list"][0], values + 2)
    assert torch.equal(found["alone"], values + 3)
    assert found["none"] is None


def test_one_module_under_two_names_and_a_module_with_its_parent(batch: torch.Tensor) -> None:
    network = nn.Sequential(OrderedDict(a=nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True)), b=nn.Linear(3, 2)))
    with torch.inference_mode(), capture(network, {"x": "a", "y": "a", "linear": "a.0", "all": ""}) as outputs:
        last = network(batch)
    with torch.inference_mode():
        assert torch.equal(outputs["linear"], network.a[0](batch))
    assert torch.equal(outputs["x"], outputs["linear"].relu())
    assert torch.equal(outputs["x"], outputs["y"])
    assert torch.equal(outputs["all"], last)


def test_nested_captures_of_one_pass(batch: torch.Tensor) -> None:
    network = Net()
    with capture(network, {"0": "once"}) as outer:
        with capture(network, {"0": "once"}) as inner:
            network(batch)
        assert torch.equal(outer["0"], inner["0"])


@pytest.mark.parametrize(
    ("module", "says"),
    [("twice", "layer L is run 2 times"), ("never", "layer L isn't run"), ("linear", "L isn't run .* as a module")],
)
def test_modules_that_do_not_run_exactly_once_are_refused(module: str, says: str, batch: torch.Tensor) -> None:
    network = Net()
    with pytest.raises(UsageError, match=says), capture(network, {"first": "once", "L": module}):
        network(batch)
    assert hooks_of(network) == 0


def test_a_block_that_runs_the_network_twice_is_refused(batch: torch.Tensor) -> None:
    network = Net()
    with pytest.raises(UsageError, match="run 2 times"), capture(network, {"0": "once"}):
        network(network(batch))


@pytest.mark.parametrize("module", ["nowhere", "once.weight", "once.0", "twice."])
def test_unknown_modules_are_refused_before_anything_runs(module: str, batch: torch.Tensor) -> None:
    network = Net()
    with pytest.raises(UsageError, match="no module"), capture(network, {"0": "once", "1": module}):
        raise AssertionError("the block must not be entered")
    assert hooks_of(network) == 0


def test_nothing_to_capture(batch: torch.Tensor) -> None:
    with capture(Net(), {}) as outputs:
        pass
    assert outputs == {}


def test_hooks_go_when_the_network_fails_and_its_error_comes_through(batch: torch.Tensor) -> None:
    network = Net()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), capture(network, {"0": "once"}):
        network(batch[:, :3])
    assert hooks_of(network) == 0
    with capture(network, {"0": "once"}) as outputs:  # as good as new
        network(batch)
    assert torch.equal(outputs["0"], network.once(batch))
