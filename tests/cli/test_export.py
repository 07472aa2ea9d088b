"""export on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXTRACT = ("--backbone", "timm:test_resnet", "--no-pretrained", "--device", "cpu", "--num-workers", "0")


def test_export_says_what_it_wrote(
    run: Callable[..., Any], make_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATSTORE_STORE", "./store")
    make_tree(tmp_path / "data", patients=2, slices=2, external=None, folds=0)
    run("init", "./store")
    assert run("ingest", "data", "--layout", "{site}/grade{label:int}/{patient_id}/{modality}/*.png").code == 0
    assert run("extract", "--name", "r18", *EXTRACT, "--dtype", "float16").code == 0

    done = run("export", "r18", "--out", "r18.npy", "--modality", "A")
    assert (done.code, done.out) == (0, "")
    array = np.load("r18.npy")
    assert f"r18@v1: 4 rows of {array.shape[1]} float16." in done.err
    size = sum(path.stat().st_size for path in tmp_path.glob("r18.*"))
    assert f"Exported to r18.npy (npy): 2 files, {size:,} bytes." in done.err

    done = run(
        "export", "r18", "--format", "tree", "--out", "tree", "--layout", "grade{label}/{patient_id}.npy", "--json"
    )
    assert done.json["contents"] == [{"name": "r18", "version": 1, "shape": [8, array.shape[1]], "dtype": "float16"}]
    assert done.json["files"] == 3
    assert sorted(path.name for path in Path("tree/grade0").iterdir()) == ["JM001.npy"]

    done = run("export", "r18", "--format", "tree", "--out", "tree")
    assert done.code == 1
    assert "never written over" in done.err
    done = run("export", "r18", "--out", "r18.csv", "--layout", "{split}")
    assert done.code == 2
    assert "next: --format h5 or tree or zarr" in done.err
    assert run("export", "--out", "x.npy").code == 2
