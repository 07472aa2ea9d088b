"""Inputs in loader workers: forked or spawned, good and bad."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featstore import SetupError
from featstore.extract.inputs import Inputs, file_state
from featstore.plugins import Plugins

LAB = str(Path(__file__).with_name("lab.py"))


@pytest.fixture
def inputs(tmp_path: Path, make_lab: Callable[..., Any]) -> Inputs:
    lab = make_lab(10)
    lab.write(3, "bad_transform")
    lab.path(6).write_bytes(b"short")
    plugins = Plugins.load([LAB])
    from featstore.spec import BackboneRequest

    backbone = plugins.backbone("lab:stats").load(BackboneRequest("lab:stats"))
    uris = pa.chunked_array([[str(lab.path(n)) for n in some] for some in (range(7), range(7, 10))])
    return Inputs(uris, backbone.transform, (8, 8), plugins, (str(lab.data),))


def collected(inputs: Inputs, **options: Any) -> list[Any]:
    rows = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    return [(b.values.numpy().tobytes(), b.read, b.fault) for b in inputs.batches(rows, pin=False, **options)]


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (2, "fork"), (2, "spawn")])
def test_workers_give_what_the_process_itself_gives(inputs: Inputs, workers: int, context: str) -> None:
    """Spawned ones have nothing of this process: the plugin that was given by path is loaded anew."""
    expected = collected(inputs, num_workers=0)
    assert collected(inputs, num_workers=workers, context=context) == expected
    (first, read, fault), _, _ = expected
    values = np.frombuffer(first, np.float32).reshape(4, 8, 8)
    assert fault is None
    assert values[:3, 0, 1].tolist() == [0, 1, 2]
    assert not values[3].any()  # a failed input keeps its slot, as zeros
    assert [item.failure and item.failure.stage for item in read] == [None, None, None, "transform"]
    assert all(item.failure or len(item.content_hash) == 64 for item in read)


def test_a_worker_that_dies_is_a_fault_of_the_environment(inputs: Inputs) -> None:
    inputs.transform = die
    with pytest.raises(SetupError, match="worker died"):
        collected(inputs, num_workers=1, context="fork")


def die(pixels: Any) -> Any:
    os.kill(os.getpid(), 9)


def test_out_of_memory_is_no_bad_input(inputs: Inputs) -> None:
    inputs.transform = starve
    (_, _, fault), *_ = collected(inputs, num_workers=0)
    assert isinstance(fault, SetupError)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_package_that_is_missing_is_no_bad_input(inputs: Inputs, workers: int) -> None:
    inputs.transform = lack
    (_, read, fault), *_ = collected(inputs, num_workers=workers)
    assert isinstance(fault, SetupError)
    assert "no_such_package" in fault.message
    assert not any(item.failure for item in read)


def lack(pixels: Any) -> Any:
    import no_such_package  # type: ignore[import-not-found]  # noqa: F401


def starve(pixels: Any) -> Any:
    return np.zeros(2**60, np.uint8)


def test_the_state_of_a_file_tells_mended_ones(tmp_path: Path) -> None:
    file = tmp_path / "x"
    assert file_state(file) == "missing"
    file.write_bytes(b"one")
    first = file_state(file)
    assert file_state(file) == first
    os.utime(file, ns=(5, 5))
    assert file_state(file) != first
    again = file_state(file)
    file.chmod(0o600)
    file.chmod(0o644)  # as when a file couldn't be read: the mode alone changes
    assert file_state(file) != again
