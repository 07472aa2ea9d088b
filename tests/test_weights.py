"""Weight files of every form, damaged ones, and what a file may not do unless it is trusted."""

from __future__ import annotations

import argparse
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from featstore import SetupError, load_weights, read_weights, unavailable

Weights = dict[str, torch.Tensor]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.fixture
def trained() -> Weights:
    return dict(network(7).state_dict())


def as_torch(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def as_old_torch(content: Any, path: Path) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def as_safetensors(weights: Weights, path: Path) -> Path:
    save_file(weights, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def renamed(weights: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def assert_same(found: Weights, expected: Weights) -> None:
    assert list(found) == list(expected)  # in the file's order too
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


# -------------------------------------------------------------------------------------------------------- forms
@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"state_dict": weights, "epoch": 3},
        lambda weights: {"model": weights, "optimizer": {"lr": 0.1}},
        lambda weights: {"model_state_dict": weights},
        lambda weights: {"model": {"state_dict": weights, "epoch": 3}},
        lambda weights: {"model": "resnet18", "state_dict": weights},  # a name under one of the keys
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("save", [as_torch, as_old_torch])
def test_keys_and_prefixes_of_every_usual_form(
    tmp_path: Path, trained: Weights, wrap: Any, prefix: str, save: Callable[[Any, Path], Path]
) -> None:
    path = save(wrap(renamed(trained, prefix)), tmp_path / "weights.pth")
    assert_same(read_weights(path), trained)
    assert_same(read_weights(path, trust=True), trained)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["weights.safetensors", "WEIGHTS.SAFETENSORS"])
def test_safetensors(tmp_path: Path, trained: Weights, prefix: str, name: str) -> None:
    save_file(renamed(trained, prefix), tmp_path / name)
    found = read_weights(tmp_path / name)
    assert found.keys() == trained.keys()
    assert all(torch.equal(found[key], trained[key]) for key in trained)


def test_what_data_parallel_saves(tmp_path: Path) -> None:
    own = network(7)
    path = as_torch({"model": nn.DataParallel(own).state_dict(), "epoch": 90}, tmp_path / "checkpoint.pth.tar")
    assert_same(read_weights(path), dict(own.state_dict()))


def test_weights_under_two_names_are_ambiguous(tmp_path: Path, trained: Weights) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in trained.items()}
    with pytest.raises(SetupError, match="holds weights under 'state_dict' and 'model', and doesn't say which"):
        read_weights(as_torch({"model": trained, "state_dict": zeros}, tmp_path / "weights.pth"))
    options = {"depth": 3, "name": "resnet18"}
    path = as_torch({"model": options, "state_dict": trained}, tmp_path / "weights.pth")
    assert_same(read_weights(path), trained)


def test_a_prefix_that_only_some_names_have_belongs_to_them(tmp_path: Path) -> None:
    weights = {"module.a": torch.zeros(2), "b": torch.ones(2)}
    assert_same(read_weights(as_torch(weights, tmp_path / "weights.pth")), weights)


def test_the_file_is_read_onto_the_cpu_as_it_is(tmp_path: Path) -> None:
    weights = {"half": torch.ones(3, dtype=torch.float16), "count": torch.tensor(4)}
    found = read_weights(as_torch(weights, tmp_path / "weights.pth"))
    assert [(value.dtype, value.device.type) for value in found.values()] == [
        (torch.float16, "cpu"),
        (torch.int64, "cpu"),
    ]


# ------------------------------------------------------------------------------------------------ code in files
class Planted:
    """What unpickling would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [as_torch, as_old_torch])
def test_code_is_refused_and_not_run(tmp_path: Path, trained: Weights, save: Callable[[Any, Path], Path]) -> None:
    marker = tmp_path / "marker"
    for content in (Planted(marker), {"model": {"hook": Planted(marker)}}):
        with pytest.raises(
            SetupError, match=r"wants posix.mkdir to be built as well; featstore runs no code"
        ) as caught:
            read_weights(save(content, tmp_path / "weights.pth"))
        assert "--trust-checkpoint" in caught.value.hint
        assert ".safetensors" in caught.value.hint
    assert not marker.exists()


def test_a_bare_pickle_is_no_weights_file_and_its_code_is_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (tmp_path / "weights.pkl").write_bytes(pickle.dumps(Planted(marker)))
    with pytest.raises(SetupError, match="is no weights file"):
        read_weights(tmp_path / "weights.pkl")
    assert not marker.exists()


def test_code_beside_weights_is_refused_and_runs_only_where_it_is_trusted(tmp_path: Path, trained: Weights) -> None:
    marker = tmp_path / "marker"
    path = as_torch({"model": trained, "hook": Planted(marker)}, tmp_path / "weights.pth")
    with pytest.raises(SetupError, match=r"wants posix\.mkdir"):
        read_weights(path)
    assert not marker.exists()
    assert_same(read_weights(path, trust=True), trained)
    assert marker.is_dir()


@pytest.mark.parametrize("save", [as_torch, as_old_torch])
def test_options_and_numbers_of_a_training_script_need_no_trust(
    tmp_path: Path, trained: Weights, save: Callable[[Any, Path], Path]
) -> None:
    options = argparse.Namespace(lr=0.1, loss=np.float64(0.3), data=Path("/data"), seen=np.int64(4), best=np.float32(1))
    content = {"opt": options, "model": renamed(trained, "module."), "epoch": np.uint8(3)}
    assert_same(read_weights(save(content, tmp_path / "weights.pth")), trained)
    marker = tmp_path / "marker"
    options.hook = Planted(marker)
    with pytest.raises(SetupError, match=r"wants posix\.mkdir"):
        read_weights(save(content, tmp_path / "weights.pth"))
    assert not marker.exists()


class Options:
    """Some code's own class."""


def test_classes_of_other_peoples_code_need_trust(tmp_path: Path, trained: Weights) -> None:
    path = as_torch({"model": trained, "args": Options()}, tmp_path / "weights.pth")
    with pytest.raises(SetupError, match=r"wants \S+Options to be built"):
        read_weights(path)
    assert_same(read_weights(path, trust=True), trained)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda module: module,
        lambda module: {"model": module, "epoch": 3},
        lambda module: {"model": {"state_dict": module}},
        nn.DataParallel,
    ],
)
def test_a_whole_network_is_understood_where_it_is_trusted(tmp_path: Path, trained: Weights, wrap: Any) -> None:
    path = as_torch(wrap(network(7)), tmp_path / "weights.pth")
    with pytest.raises(SetupError, match=r"wants torch.nn\.\S+ to be built"):
        read_weights(path)
    assert_same(read_weights(path, trust=True), trained)


def test_a_torchscript_program_is_understood_where_it_is_trusted(tmp_path: Path, trained: Weights) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would have it no longer made; files remain
        torch.jit.trace(network(7).eval(), torch.zeros(1, 4)).save(str(tmp_path / "program.pt"))
    with pytest.raises(SetupError, match="it is a program"):
        read_weights(tmp_path / "program.pt")
    assert_same(read_weights(tmp_path / "program.pt", trust=True), trained)


# ---------------------------------------------------------------------------------------------- not such a file
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\3\4" + bytes(99), bytes(99)])
def test_what_is_no_weights_file_says_so(tmp_path: Path, name: str, content: bytes, trust: bool) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupError, match=rf"{name} is no weights file, or is damaged \(\w+"):
        read_weights(tmp_path / name, trust=trust)


@pytest.mark.parametrize("save", [as_torch, as_old_torch, as_safetensors])
@pytest.mark.parametrize("kept", [0, 0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, trained: Weights, save: Callable[[Any, Path], Path], kept: float) -> None:
    path = save(trained, tmp_path / "weights.pth")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(SetupError, match="damaged"):
        read_weights(path)


@pytest.mark.parametrize("where", ["nowhere.pth", "."])
def test_no_file(tmp_path: Path, where: str) -> None:
    with pytest.raises(SetupError, match="There is no weights file"):
        read_weights(tmp_path / where)


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3}, [torch.zeros(2)], torch.zeros(2), None, {"model": {}}, {"model": {"a": 1}, "b": torch.ones(1)}],
)
@pytest.mark.parametrize("trust", [False, True])
def test_what_is_no_state_dict_says_so(tmp_path: Path, content: Any, trust: bool) -> None:
    with pytest.raises(SetupError, match="holds no state dict: it must be tensors by name, or have them under 'state"):
        read_weights(as_torch(content, tmp_path / "weights.pth"), trust=trust)


# ------------------------------------------------------------------------------------------------------ loading
def test_loading_gives_the_network_the_weights(trained: Weights) -> None:
    module = network(1)
    load_weights(module, trained, "my:network")
    assert_same(dict(module.state_dict()), trained)


def test_spare_tensors_may_be_left_over_and_others_not(trained: Weights) -> None:
    module = network(1)
    more = {**trained, "fc.weight": torch.zeros(2), "fc.bias": torch.zeros(1)}
    load_weights(module, more, "my:network", spare=lambda key: key.startswith("fc."))
    assert_same(dict(module.state_dict()), trained)
    with pytest.raises(SetupError, match=r"0 tensors are missing, 2 aren't the model's \(fc.weight, fc.bias\), 0 have"):
        load_weights(module, more, "my:network")


def test_what_does_not_fit_is_named_and_nothing_is_loaded(trained: Weights) -> None:
    module = network(1)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    del trained["0.weight"]
    trained["2.weight"] = torch.zeros(5)
    with pytest.raises(SetupError) as caught:
        load_weights(module, trained, "my:network")
    assert str(caught.value).startswith("The checkpoint doesn't fit my:network: 1 tensors are missing (0.weight), 0 ")
    assert "1 have another shape (2.weight is (5,) and should be (2, 3))" in str(caught.value)
    assert_same(dict(module.state_dict()), before)


def test_of_many_names_the_first_few_are_said() -> None:
    module = network(1)
    with pytest.raises(SetupError, match=r"9 tensors are missing \(0.weight, 0.bias, 1.weight, …\)"):
        load_weights(module, {}, "my:network")


# ------------------------------------------------------------------------------------------ what can't be fetched
def test_what_cant_be_had_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert str(unavailable("lab:net", ConnectionError("refused"))) == (
        "lab:net can't be had: what it needs isn't in the local cache, and the model hub can't be reached.\n"
        "  next: --checkpoint FILE takes local weights, and --no-pretrained untrained ones; a machine with internet "
        "fills the cache ($HF_HOME) that this one can use"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "reached (HF_HUB_OFFLINE is set)." in unavailable("lab:net", FileNotFoundError()).message
    error = unavailable("lab:net", ValueError("bad name\nin two lines"), instead="another name")
    assert error.message == "lab:net can't be had: ValueError: bad name"
    assert error.hint.startswith("another name; a machine with internet")
    assert unavailable("lab:net", ValueError("x"), instead="").hint.startswith("a machine with internet")


def test_a_librarys_own_error_about_the_network_is_the_networks() -> None:
    error = RuntimeError("download failed")
    error.__context__ = ConnectionError()  # it was raised while that was handled
    assert "the model hub can't be reached" in unavailable("lab:net", error).message
