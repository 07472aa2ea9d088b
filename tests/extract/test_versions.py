"""Whatever makes a vector what it is makes a version; whatever doesn't, doesn't."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import featstore
from featstore import ConflictError
from featstore.cli.extract import report
from featstore.store import Store

LAB = str(Path(__file__).with_name("lab.py"))


@pytest.fixture
def images(store: Store, tmp_path: Path) -> Store:
    """A store with six small PNGs of two patients."""
    rng = np.random.default_rng(0)
    for n in range(6):
        path = tmp_path / "images" / f"p{n // 3}" / "A" / f"{n}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(path)
    store.ingest(tmp_path / "images", layouts=["{patient_id}/{modality}/*.png"])
    return store


BASE: dict[str, Any] = {
    "name": "r", "backbone": "timm:test_resnet", "pretrained": False, "batch_size": 4, "device": "cpu",
}  # fmt: skip


def version(store: Store, **fields: Any) -> int:
    return int(store.extract(**{**BASE, **fields}).feature_sets["r"])


def test_versions_of_a_real_network(images: Store, tmp_path: Path) -> None:
    featstore.import_torchvision()
    import timm

    model = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    state = model.state_dict()
    next(iter(state.values())).view(-1)[0] += 1e-3  # one weight
    torch.save(state, tmp_path / "b.pt")

    assert version(images) == 1
    values, _, keys = images.features("r@v1").arrays()
    digests = images.sql("SELECT DISTINCT model_version FROM features").num_rows
    assert digests == 1
    # What is no part of the function is no part of the fingerprint.
    default = {"settings": {"mean": "0.5,0.5,0.5"}}
    for same in ({"threads": 1}, {"batch_size": 3}, {"num_workers": 2}, {"chunk_rows": 2}, default):
        result = images.extract(**{**BASE, **same})
        assert (result.feature_sets, result.pending) == ({"r": 1}, 0)
    changes: list[dict[str, Any]] = [
        {"seed": 1},
        {"pretrained": None, "checkpoint": str(tmp_path / "a.pt")},
        {"pretrained": None, "checkpoint": str(tmp_path / "b.pt")},
        {"poolers": ("max",)},
        {"settings": {"image_size": "64"}},
        {"settings": {"mean": "0.4,0.5,0.5"}},
        {"dtype": "float16"},
        {"amp": "bf16"},
        {"in_chans": 1},
    ]
    for number, change in enumerate(changes, 2):
        result = images.extract(**{**BASE, **change})
        assert (result.feature_sets, result.done, result.new_versions) == ({"r": number}, 6, ["r"]), change
    # Going back finds the old version, and its vectors as they were.
    for number, change in enumerate([{}, *changes], 1):
        result = images.extract(**{**BASE, **change})
        assert (result.feature_sets, result.pending, result.new_versions) == ({"r": number}, 0, [])
    again, _, same_keys = images.features("r@v1").arrays()
    np.testing.assert_array_equal(again, values)
    assert list(keys) == list(same_keys)
    # A version has vectors of its own run only, and no two versions share any.
    rows = images.sql("SELECT version, count(*) n, count(DISTINCT run_id) runs FROM features GROUP BY 1").to_pylist()
    assert sorted((row["version"], row["n"], row["runs"]) for row in rows) == [(v, 6, 1) for v in range(1, 11)]
    seen = {images.features(f"r@v{v}").arrays()[0].astype(np.float32).tobytes() for v in range(1, 11)}
    assert len(seen) == 10
    # The same bytes in another file are the same weights.
    (tmp_path / "a.pt").rename(tmp_path / "moved.pt")
    assert version(images, pretrained=None, checkpoint=str(tmp_path / "moved.pt")) == 3


def test_a_changed_checkpoint_never_serves_the_old_vectors(images: Store, tmp_path: Path) -> None:
    featstore.import_torchvision()
    import timm

    model = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "w.pt")
    fields = {"pretrained": None, "checkpoint": str(tmp_path / "w.pt")}
    assert version(images, **fields) == 1
    old = images.features("r").arrays()[0]
    state = {k: v + 0.01 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    # For one patient only: the other has no vector of the new version, and is not given its old one.
    assert version(images, **fields, where="patient_id = 'p0'") == 2
    new, _, keys = images.features("r").arrays()
    assert [key.split("/")[1] for key in keys] == ["p0"] * 3
    assert not np.isclose(new, old[:3], atol=1e-6).all(axis=1).any()


def test_revisions_of_plugins(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(3)
    assert lab.extract().feature_sets == {"s": 1}
    lab.environment["LAB_REVISION"] = "2"
    assert lab.extract().feature_sets == {"s": 2}
    lab.environment["LAB_REVISION"] = "1"
    result = lab.extract()
    assert (result.feature_sets, result.pending) == ({"s": 1}, 0)


def test_a_pooler_without_arguments_is_the_one_with_its_defaults(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(3)
    assert lab.extract(poolers=("gem",)).done == 3
    result = lab.extract(poolers=("gem(3)",))
    assert (result.feature_sets, result.pending) == ({"s": 1}, 0)
    assert lab.extract(poolers=("gem(2)",)).feature_sets == {"s": 2}


def test_the_revision_of_a_reader(make_lab: Callable[..., Any]) -> None:
    """The first says nothing, so that a reader more makes no version; another one makes a version of its own."""
    lab = make_lab(3)
    lab.extract()
    (config,) = (json.loads(row["config"]) for row in lab.sql("SELECT config FROM feature_sets"))
    assert "readers" not in config
    lab.environment["LAB_READER_REVISION"] = "2"
    result = lab.extract()
    assert (result.feature_sets, result.new_versions, result.done) == ({"s": 2}, ["s"], 3)
    lab.environment["LAB_READER_REVISION"] = "3"
    assert lab.extract().feature_sets == {"s": 3}


def test_going_back_says_that_there_is_a_later_version(
    make_lab: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(3)
    assert lab.extract().later_versions == {}
    lab.environment["LAB_REVISION"] = "2"
    assert lab.extract().later_versions == {}
    lab.environment["LAB_REVISION"] = "1"
    result = lab.extract()
    assert (result.feature_sets, result.later_versions) == ({"s": 1}, {"s": 2})
    report([result], quiet=False)
    assert "s@v1 is not the latest version (v2): name it s@v1 in --input." in capsys.readouterr().err


def test_names_that_differ_in_case_only_are_refused(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(2)
    lab.extract("Set")
    with pytest.raises(ConflictError, match="case only"):
        lab.extract("set")
    assert lab.run_states() == {"done": 1}
    assert [p.name for p in (lab.root / "store" / "features").iterdir()] == ["Set"]


def test_the_group_says_what_it_is(make_lab: Callable[..., Any]) -> None:
    import hashlib

    import zarr

    lab = make_lab(2)
    lab.extract(settings={"scale": "3"})
    said = zarr.open_group(lab.root / "store/features/s/v1.zarr", mode="r").attrs["featstore"]
    assert (said["name"], said["version"]) == ("s", 1)
    assert said["config"]["preprocessing"] == {"scale": 3.0}
    text = json.dumps(said["config"], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert said["fingerprint"] == hashlib.sha256(text.encode()).hexdigest()
    (row,) = lab.sql("SELECT fingerprint FROM feature_sets")
    assert row["fingerprint"] == said["fingerprint"]


def test_an_edited_plugin_file_is_another_function(make_lab: Any, tmp_path: Path) -> None:
    """Files given by hand are edited from run to run; a package says by its revision what changed."""
    lab = make_lab(2)
    code = (
        "import featstore\n\n\nclass Fill(featstore.Backbone):\n"
        "    transform, input_shape = staticmethod(lambda image: image.astype('float32').ravel()[:4]), (4,)\n\n"
        "    def forward(self, batch, layers):\n"
        "        return {{'last': featstore.Tokens(0 * batch[:, None, :] + {number})}}\n\n\n"
        "@featstore.hookimpl\ndef featstore_backbones():\n"
        "    yield featstore.BackboneSpec('own:fill', load=lambda request: Fill())\n"
    )
    script = (
        "import sys, featstore\n"
        "store = featstore.open(sys.argv[1], plugins=sys.argv[2:])\n"
        "done = store.extract(name='f', backbone='own:fill', device='cpu').done\n"
        "print(done, store.features('f').arrays()[0][0, 0])\n"
    )
    plugin = tmp_path / "fill.py"
    told = []
    for number in (1, 1, 2):
        plugin.write_text(code.format(number=number))
        command = [sys.executable, "-c", script, str(lab.root / "store"), str(plugin), LAB]
        told.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert told == [["2", "1.0"], ["0", "1.0"], ["2", "2.0"]]
