"""The example's tokens are those of timm and open_clip, in the files' order, and come back one sample at a time."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

import featstore

EXAMPLE = Path(__file__).parents[2] / "examples" / "s2_brain_tokens"
MODULES = ("inprocess", "make_images", "models", "run", "shared", "tokens")
SUBJECTS, PARTITIONS, IMAGES = ("subj01", "subj02"), ("train", "synt"), 2
#: Of float16: 11 bits.
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


@pytest.fixture(scope="module")
def example() -> Iterator[dict[str, ModuleType]]:
    """The example's modules by name; examples are no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE.parent)
        patch.syspath_prepend(EXAMPLE)
        for name in MODULES:
            patch.delitem(sys.modules, name, raising=False)  # another example's
        yield {name: importlib.import_module(name) for name in ("run", "tokens")}
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def tokens(example: dict[str, ModuleType]) -> ModuleType:
    return example["tokens"]


@pytest.fixture(scope="module")
def demo(example: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What the example leaves, made with small networks, and what it says."""
    out = tmp_path_factory.mktemp("brain") / "demo"
    with redirect_stdout(io.StringIO()) as said:
        example["run"].main(["--small", "--out", str(out), "--images", str(IMAGES)])
    return out, said.getvalue()


@pytest.fixture(scope="module")
def store(demo: tuple[Path, str]) -> featstore.Store:
    return featstore.open(demo[0] / "store")


def images(out: Path) -> Iterator[tuple[str, int, PIL.Image.Image]]:
    """``subject/partition``, the row there, and the image."""
    for subject in SUBJECTS:
        for partition in PARTITIONS:
            files = sorted((out / "images" / subject / partition).iterdir())
            assert len(files) == IMAGES
            for row, file in enumerate(files):
                with PIL.Image.open(file) as image:
                    assert image.size == (425, 425)
                    yield f"{subject}/{partition}", row, image.convert("RGB")


def plain_dino(name: str, size: int) -> tuple[Any, Any]:
    """timm's model with the seed's weights, and timm's transform."""
    featstore.import_torchvision()
    import timm

    with featstore.seeded(0), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch deprecates what timm does to resample positions
        model = timm.create_model(name, pretrained=False, num_classes=0).eval()
        model.set_input_size(img_size=(size, size))
    config = timm.data.resolve_data_config(model=model) | {"input_size": (3, size, size)}
    return model, timm.data.create_transform(**config)


def plain_tokens(model: Any, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Final tokens, and the query of the last block, each (N, tokens, channels)."""
    projected: list[torch.Tensor] = []
    hook = model.blocks[-1].attn.qkv.register_forward_hook(lambda *call: projected.append(call[-1]))
    with torch.inference_mode():
        final = model.forward_features(batch)
    hook.remove()
    width = final.shape[-1]
    return final, projected[0][:, :, :width]


def test_the_files_are_named_as_the_original_has_them(demo: tuple[Path, str]) -> None:
    features = demo[0] / "features"
    for backbone in ("dinov2_last", "dinov2_q_last", "clip_last"):
        found = {
            path.relative_to(features / backbone).as_posix() for path in features.joinpath(backbone).rglob("*.npy")
        }
        assert found == {f"{subject}/{partition}.npy" for subject in SUBJECTS for partition in PARTITIONS}
        for path in (features / backbone).rglob("*.npy"):
            assert np.load(path).dtype == np.float16
            assert np.load(path).shape == (IMAGES, 50, 384)


def test_dinov2_tokens_are_timms(demo: tuple[Path, str]) -> None:
    model, transform = plain_dino("vit_small_patch14_dinov2", 98)
    for place, row, image in images(demo[0]):
        final, query = plain_tokens(model, transform(image)[None])
        for folder, expected in (("dinov2_last", final), ("dinov2_q_last", query)):
            found = np.load(demo[0] / "features" / folder / f"{place}.npy")[row]
            np.testing.assert_allclose(found.astype(np.float32), expected[0].numpy(), **CLOSE)


def test_clip_tokens_go_through_the_visual_projection(demo: tuple[Path, str]) -> None:
    featstore.import_torchvision()
    import open_clip

    with featstore.seeded(0):
        model, _, transform = open_clip.create_model_and_transforms("ViT-S-32", pretrained=None)
    normed: list[torch.Tensor] = []
    model.eval().visual.ln_post.register_forward_hook(lambda *call: normed.append(call[-1]))
    for place, row, image in images(demo[0]):
        with torch.inference_mode():
            vector = model.encode_image(transform(image)[None])
            expected = normed.pop() @ model.visual.proj
        np.testing.assert_allclose(expected[:, 0].numpy(), vector.numpy(), rtol=1e-5, atol=1e-5)
        found = np.load(demo[0] / "features" / "clip_last" / f"{place}.npy")[row]
        np.testing.assert_allclose(found.astype(np.float32), expected[0].numpy(), **CLOSE)


def test_one_sample_at_random_is_its_row_without_cls_as_a_map(
    demo: tuple[Path, str], store: featstore.Store, tokens: ModuleType
) -> None:
    where = "attributes['partition'] = 'train' and patient_id = 'subj02'"
    maps = tokens.TokenMaps(store, ["dinov2.query"], where)
    stored = np.load(demo[0] / "features" / "dinov2_q_last" / "subj02" / "train.npy")
    assert len(maps) == IMAGES
    for number in reversed(range(IMAGES)):
        assert maps[number].shape == (384, 7, 7)
        assert maps[number].dtype == torch.float32
        expected = stored[number].astype(np.float32)
        for row, column in ((0, 0), (2, 5), (6, 6)):
            np.testing.assert_array_equal(maps[number][:, row, column], expected[1 + 7 * row + column])


def test_a_loader_gets_every_sample_of_all_subjects_once(store: featstore.Store, tokens: ModuleType) -> None:
    maps = tokens.TokenMaps(store, ["dinov2.query", "clip"])
    batches = list(torch.utils.data.DataLoader(maps, batch_size=3, shuffle=True))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    found = {batch[row].numpy().tobytes() for batch in batches for row in range(len(batch))}
    assert found == {maps[number].numpy().tobytes() for number in range(len(maps))}
    assert len(found) == len(SUBJECTS) * len(PARTITIONS) * IMAGES


def test_maps_of_other_grids_are_resampled_to_the_first(tokens: ModuleType) -> None:
    dino = torch.arange(768 * 961, dtype=torch.float32).reshape(768, 31, 31)
    ramp = torch.linspace(0, 1, 16).expand(768, 16, 16)
    both = tokens.stacked([dino, ramp])
    assert both.shape == (1536, 31, 31)
    torch.testing.assert_close(both[:768], dino)
    # Pixel centres of 31 over 16 lie at (i + 0.5) · 16 / 31 - 0.5; beyond the outer ones the border goes on.
    at = np.clip((np.arange(31) + 0.5) * 16 / 31 - 0.5, 0, 15) / 15
    np.testing.assert_allclose(both[1000, 7], at, atol=1e-6)
    with pytest.raises(ValueError, match="no square"):
        tokens.as_map(torch.zeros(51, 4))


def test_samples_without_tokens_are_named(store: featstore.Store, tokens: ModuleType) -> None:
    view = store.features("clip")
    with pytest.raises(KeyError, match=r"1 samples have no clip, such as images/subj03"):
        tokens.Places(view, [view.rows.column("sample_key")[0].as_py(), "images/subj03/train/0001.png"])


def test_it_measures_an_epoch_both_ways(demo: tuple[Path, str]) -> None:
    stored, backbone = (json.loads(line) for line in demo[1].splitlines() if line.startswith('{"samples"'))
    assert stored["samples"] == backbone["samples"] == len(SUBJECTS) * len(PARTITIONS) * IMAGES
    assert 0 < stored["seconds"] < backbone["seconds"]
    assert 0 < stored["peak_mib"] < backbone["peak_mib"]


def test_it_is_a_script() -> None:
    done = subprocess.run([sys.executable, EXAMPLE / "run.py", "--help"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert "from images to random reads" in done.stdout


@pytest.mark.trial
def test_at_the_originals_size(tmp_path: Path, tokens: ModuleType, rng: np.random.Generator) -> None:
    image = PIL.Image.fromarray(rng.integers(0, 256, (425, 425, 3), np.uint8))
    (tmp_path / "images/subj01/train").mkdir(parents=True)
    image.save(tmp_path / "images/subj01/train/0001.png")
    store = featstore.init(tmp_path / "store")
    store.ingest(tmp_path / "images", layouts=["{patient_id}/{partition}/*.png"], modality="image")
    common: dict[str, Any] = {"poolers": ("tokens",), "dtype": "float16", "pretrained": False, "batch_size": 1}
    model, transform = plain_dino("vit_base_patch14_dinov2", 434)
    final, query = plain_tokens(model, transform(image)[None])
    dino = {"backbone": "timm:vit_base_patch14_dinov2", "settings": {"image_size": "434"}}
    store.extract(name="dinov2", facets=("token", "query"), **dino, **common)
    for name, expected in (("dinov2.token", final), ("dinov2.query", query)):
        found = store.features(name).arrays()[0]
        assert found.shape == (1, 962, 768)
        np.testing.assert_allclose(found.astype(np.float32), expected.numpy(), **CLOSE)
    store.extract(name="clip", backbone="open_clip:ViT-L-14", **common)
    clip = store.features("clip").arrays()[0]
    assert clip.shape == (1, 257, 768)
    assert np.isfinite(clip).all()
    assert tokens.TokenMaps(store, ["dinov2.query"])[0].shape == (768, 31, 31)
    assert tokens.TokenMaps(store, ["dinov2.query", "clip"])[0].shape == (1536, 31, 31)
