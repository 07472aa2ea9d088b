"""segmentation_models_pytorch's encoders as backbones, against segmentation_models_pytorch itself."""

from __future__ import annotations

import json
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from featstore_poolers import featstore_poolers
from featstore_smp import featstore_resolve_backbone
from featstore_smp.library import import_smp

from featstore import Backbone, BackboneRequest, NotFoundError, SetupError, Tokens, UsageError
from featstore.testing import check_backbone

smp = import_smp()
MEANSTD = next(spec for spec in featstore_poolers() if spec.name == "meanstd").load()


def load(name: str = "resnet18", **options: Any) -> Backbone:
    spec = featstore_resolve_backbone(f"smp:{name}")
    assert spec is not None
    settings = {"image_size": "64", **options.pop("settings", {})}
    if "checkpoint" not in options:
        options = {"pretrained": False, **options}
    return spec.load(BackboneRequest(f"smp:{name}", settings=settings, **options))


def forward(backbone: Backbone, inputs: torch.Tensor, *layers: str) -> dict[str, Tokens]:
    with torch.inference_mode():
        return dict(backbone.forward(inputs, layers or ("last",)))


def unet(in_channels: int = 1, encoder: str = "resnet18", kind: Any = smp.Unet) -> torch.nn.Module:
    """A whole segmentation network, with batch statistics as if it had been trained."""
    network = kind(encoder, encoder_weights=None, in_channels=in_channels).train()
    with torch.no_grad():
        network.encoder(torch.rand(4, in_channels, 64, 64, generator=torch.Generator().manual_seed(1)) * 3)
    return network.eval()


@pytest.fixture
def slices(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, 64, 64), dtype=np.uint8)


# --------------------------------------------------------------------------------------- equal to smp by itself
def test_grey_slices_through_a_unets_encoder_give_means_and_deviations(slices: np.ndarray, tmp_path: Path) -> None:
    network = unet()
    torch.save(network.state_dict(), tmp_path / "unet.pth")
    backbone = load(checkpoint=tmp_path / "unet.pth", in_chans=1)
    batch = torch.from_numpy(np.stack([backbone.transform(image) for image in slices]))
    tokens = forward(backbone, batch)["last"]
    vectors = MEANSTD(tokens.values, prefix=tokens.prefix, grid=tokens.grid)

    pixels = (slices[:, None].astype(np.float32) / 255 - np.mean([0.485, 0.456, 0.406])) / np.mean(
        [0.229, 0.224, 0.225]
    )
    with torch.inference_mode():
        maps = network.encoder(torch.from_numpy(pixels.astype(np.float32)))[-1].numpy().astype(np.float64)
    expected = np.concatenate([maps.mean(axis=(2, 3)), maps.std(axis=(2, 3))], axis=1)
    assert vectors.shape == (3, 1024)
    np.testing.assert_allclose(vectors.numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ("1", "2", "3", "4", "5", "last")),
        ("mobilenet_v2", ("1", "2", "3", "4", "5", "last")),
        ("timm-tf_efficientnet_lite0", ("1", "2", "3", "4", "5", "last")),
        ("vgg11", ("0", "1", "2", "3", "4", "5", "last")),  # its map 0 is no copy of the input
        ("mit_b0", ("2", "3", "4", "5", "last")),  # its map 1 is empty
        ("tu-test_resnet", ("1", "2", "3", "4", "5", "last")),
        ("tu-test_convnext", ("2", "3", "4", "5", "last")),
    ],
)
def test_layers_are_smps_feature_maps(name: str, layers: tuple[str, ...], rng: np.random.Generator) -> None:
    backbone = load(name)
    assert backbone.module is not None
    assert backbone.layers == layers
    batch = torch.from_numpy(rng.normal(size=(2, 3, 64, 64)).astype(np.float32))
    found = forward(backbone, batch, *layers)
    with torch.inference_mode():
        maps = backbone.module(batch)
    for layer in layers:
        map_ = maps[-1 if layer == "last" else int(layer)]
        tokens = found[layer]
        assert (tokens.prefix, tokens.grid) == (0, tuple(map_.shape[2:]))
        torch.testing.assert_close(tokens.values.reshape(2, *map_.shape[2:], -1).permute(0, 3, 1, 2), map_)
    alone = forward(backbone, batch[1:])["last"]  # a row depends on its own input alone
    torch.testing.assert_close(alone.values[0], found["last"].values[1], rtol=1e-4, atol=1e-5)


def test_the_laws_of_backbones() -> None:
    check_backbone("smp:tu-test_resnet", pretrained=False, in_chans=1, settings={"image_size": "64"})


def test_dilated_encoders(rng: np.random.Generator, tmp_path: Path) -> None:
    network = unet(in_channels=3, kind=smp.DeepLabV3Plus)
    torch.save(network.state_dict(), tmp_path / "deeplab.pth")
    with pytest.raises(SetupError, match=r"other features(.|\n)*output_stride=16"):
        load(checkpoint=tmp_path / "deeplab.pth")
    backbone = load(checkpoint=tmp_path / "deeplab.pth", settings={"output_stride": "16"})
    batch = torch.from_numpy(rng.normal(size=(1, 3, 64, 64)).astype(np.float32))
    tokens = forward(backbone, batch)["last"]
    with torch.inference_mode():
        expected = network.encoder(batch)[-1]
    assert tokens.grid == (4, 4)
    torch.testing.assert_close(tokens.values, expected.flatten(2).permute(0, 2, 1))
    assert backbone.preprocessing["output_stride"] == 16


# ------------------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
def test_checkpoints_of_whole_networks(prefix: str, tmp_path: Path) -> None:
    network = unet()
    weights = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": weights | ({"mean": torch.zeros(3)} if prefix else {})}, tmp_path / "lightning.ckpt")
    module = load(checkpoint=tmp_path / "lightning.ckpt", in_chans=1).module
    assert module is not None
    for key, value in network.encoder.state_dict().items():
        assert torch.equal(module.state_dict()[key], value)


def test_an_encoders_own_weights(tmp_path: Path) -> None:
    encoder = unet().encoder
    weights = {**encoder.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    safetensors.torch.save_file(weights, tmp_path / "encoder.safetensors")
    module = load(checkpoint=tmp_path / "encoder.safetensors", in_chans=1).module
    assert module is not None
    assert all(torch.equal(module.state_dict()[key], value) for key, value in encoder.state_dict().items())


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    weights = unet().state_dict()
    torch.save(weights, tmp_path / "grey.pth")
    with pytest.raises(SetupError, match=r"conv1.weight is \(64, 1, 7, 7\) and should be \(64, 3, 7, 7\)"):
        load(checkpoint=tmp_path / "grey.pth")
    with pytest.raises(SetupError, match=r"doesn't fit smp:resnet34: 96 tensors are missing"):
        load("resnet34", checkpoint=tmp_path / "grey.pth", in_chans=1)
    torch.save({f"{eye}.{key}": value for key, value in weights.items() for eye in "ab"}, tmp_path / "two.pth")
    with pytest.raises(SetupError, match=r"2 encoders: a.encoder, b.encoder"):
        load(checkpoint=tmp_path / "two.pth", in_chans=1)
    torch.save({k: v for k, v in weights.items() if k != "encoder.bn1.weight"}, tmp_path / "less.pth")
    with pytest.raises(SetupError, match=r"1 tensors are missing \(bn1.weight\)"):
        load(checkpoint=tmp_path / "less.pth", in_chans=1)


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_a_checkpoint_runs_only_where_it_is_trusted(tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "hostile.pth"
    torch.save({"model": unet().state_dict(), "extra": Hostile(marker)}, path)
    with pytest.raises(SetupError, match="runs no code"):
        load(checkpoint=path, in_chans=1)
    assert not marker.exists()
    load(checkpoint=path, in_chans=1, trust_checkpoint=True)
    assert marker.exists()


# ----------------------------------------------------------------------------------------------------- options
def test_random_weights_depend_on_the_seed_alone() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = load(seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    torch.manual_seed(12345)
    again, other = load(seed=1), load(seed=2)
    weights = [b.module.state_dict() for b in (first, again, other) if b.module is not None]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["conv1.weight"], weights[2]["conv1.weight"])
    assert first.module is not None
    assert not first.module.training


def test_the_defaults_are_declared_and_pickle() -> None:
    spec = featstore_resolve_backbone("smp:resnet18")
    assert spec is not None
    backbone = spec.load(BackboneRequest("smp:resnet18", pretrained=False, in_chans=1))
    assert backbone.input_shape == (1, 224, 224)
    assert backbone.preprocessing == {
        "image_size": [224, 224],
        "interpolation": "bilinear",
        "mean": [pytest.approx(0.449)],
        "std": [pytest.approx(0.226)],
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "channels": 1,
        "range": "dtype",
        "grey": "repeat",
        "colour": "rec601",
        "alpha": "opaque",
        "output_stride": 32,
    }
    assert pickle.loads(pickle.dumps(backbone.transform)) == backbone.transform


@pytest.mark.parametrize(
    ("chosen", "white", "mean"), [("imagenet", 1, [0.4, 0.5, 0.6]), ("ssl", 255, [102, 127.5, 153])]
)
def test_published_weights_in_the_cache(
    chosen: str, white: int, mean: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"][chosen]
    folder = tmp_path / f"models--{settings['repo_id'].replace('/', '--')}" / "snapshots" / settings["revision"]
    folder.mkdir(parents=True)
    encoder = unet(in_channels=3).encoder
    safetensors.torch.save_file(encoder.state_dict(), folder / "model.safetensors")
    config = {"input_space": "RGB", "input_range": [0, white], "mean": mean, "std": [white / 4] * 3}
    (folder / "config.json").write_text(json.dumps(config))

    chosen_settings = {} if chosen == "imagenet" else {"weights": chosen}
    backbone = load(pretrained=None, in_chans=1, settings=chosen_settings)
    assert backbone.module is not None
    # smp sums the RGB kernels for one channel
    summed = encoder.state_dict()["conv1.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(backbone.module.state_dict()["conv1.weight"], summed)
    assert torch.equal(backbone.module.state_dict()["bn1.running_mean"], encoder.state_dict()["bn1.running_mean"])
    assert backbone.preprocessing["mean"] == [pytest.approx(0.5)]
    assert backbone.preprocessing["std"] == [pytest.approx(0.25)]

    (folder / "config.json").write_text(json.dumps(config | {"input_space": "BGR"}))
    with pytest.raises(SetupError, match="want BGR"):
        load(pretrained=True, settings=chosen_settings)


def test_published_weights_need_a_hub() -> None:
    for name, options in (
        ("resnet18", {}),
        ("tu-resnet18.a1_in1k", {}),
        ("resnet18", {"settings": {"weights": "ssl"}}),
    ):
        with pytest.raises(SetupError, match=r"can't be reached \(HF_HUB_OFFLINE is set\)(.|\n)*--no-pretrained"):
            load(name, pretrained=None, **options)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet18", {"settings": {"imagesize": "96"}}, "Did you mean 'image_size'"),
        ("resnet18", {"settings": {"output_strid": "16"}}, "Did you mean 'output_stride'"),
        ("resnet18", {"settings": {"output_stride": "12"}}, "isn't one of 32, 16, 8"),
        ("resnet18", {"settings": {"image_size": "100x64"}}, r"stride of 32(.|\n)*image_size=96x64"),
        ("resnet18", {"settings": {"image_size": "10"}}, "image_size=32x32"),
        ("resnet18", {"settings": {"weights": "ssl"}}, "names published weights"),
        ("resnet18", {"settings": {"weights": "sll"}, "pretrained": True}, "Did you mean 'ssl'"),
        ("resnext101_32x4d", {"pretrained": True}, "several weights: ssl, swsl"),
        ("tu-resnet18", {"settings": {"weights": "a1_in1k"}, "pretrained": True}, "smp:tu-resnet18.a1_in1k"),
        ("resnet18", {"in_chans": 0}, "one channel at least"),
        ("resnet18", {"pretrained": True, "checkpoint": Path("x")}, "not both"),
        ("vgg11", {"settings": {"output_stride": "16"}}, "do not support dilated mode"),
        ("tu-test_vit", {}, "Unsupported model downsampling pattern"),
        ("tu-swin_tiny_patch4_window7_224", {}, r"can't take 3 channels of \(64, 64\)"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(name, **options)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="No layer 0; there are 1, 2, 3, 4, 5, last"):
        forward(load(), torch.zeros(1, 3, 64, 64), "0")


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert featstore_resolve_backbone("timm:resnet18") is None
    assert featstore_resolve_backbone("smp:tu-resnet18.a1_in1k") is not None
    with pytest.raises(NotFoundError, match=r"no encoder 'resnet19'. Did you mean 'resnet18'"):
        featstore_resolve_backbone("smp:resnet19")
    with pytest.raises(NotFoundError, match="Did you mean 'tu-regnetx_002'"):
        featstore_resolve_backbone("smp:timm-regnetx_002")
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(SetupError, match=r"pip install 'featstore\[smp\]'"):
        featstore_resolve_backbone("smp:resnet18")
