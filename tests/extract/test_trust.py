"""A store is data: what its runs name is no reason to run code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from featstore import UsageError


def tampered(lab: Any, **request: Any) -> Any:
    """A store with a failed input, whose run says that it was made otherwise."""
    lab.write(9, "nan")
    lab.ingest()
    lab.extract()
    (run,) = (lab.root / "store" / "runs").glob("*-extract-*/run.json")
    facts = json.loads(run.read_text())
    facts["request"].update(request)
    run.write_text(json.dumps(facts))
    return lab


def test_retry_runs_no_code_that_a_run_names(make_lab: Callable[..., Any], tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    network = tmp_path / "net.py"
    network.write_text(f"import pathlib, torch\npathlib.Path({str(marker)!r}).touch()\nNet = torch.nn.Identity\n")
    lab = tampered(make_lab(2), backbone=f"torch:{network}:Net")
    with pytest.raises(UsageError, match="names code"):
        lab.store.retry()
    assert not marker.exists()


def test_retry_trusts_no_checkpoint_because_a_run_did(make_lab: Callable[..., Any], tmp_path: Path) -> None:
    marker = tmp_path / "it ran"

    class Planted:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    torch.save({"model": Planted()}, tmp_path / "w.pt")
    lab = tampered(make_lab(2), backbone="timm:test_resnet", checkpoint=str(tmp_path / "w.pt"), trust_checkpoint=True)
    with pytest.raises(UsageError, match="a store's word isn't enough"):
        lab.store.retry()
    assert not marker.exists()


def test_retry_of_ones_own_network_is_asked_for(make_lab: Callable[..., Any], tmp_path: Path, monkeypatch: Any) -> None:
    """By its path as typed, from another folder."""
    (tmp_path / "net.py").write_text("import torch\nNet = torch.nn.Identity\n")
    monkeypatch.chdir(tmp_path)
    lab = make_lab(2)
    lab.path(1).write_bytes(b"short")
    same = {"backbone": "torch:net.py:Net", "in_chans": 1, "settings": {"image_size": "8", "range": "dtype"}}
    assert lab.extract(**same).failed == 1
    lab.write(1)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="names code"):
        lab.store.retry()
    (result,) = lab.store.retry(trust_run=True)
    assert (result.done, result.failed) == (1, 0)
