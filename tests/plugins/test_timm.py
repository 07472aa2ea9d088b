"""timm's models as backbones, against timm itself."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch
from featstore_poolers import featstore_poolers
from featstore_timm import featstore_resolve_backbone
from featstore_timm.layout import find_layout
from featstore_timm.library import import_timm
from PIL import Image

from featstore import Backbone, BackboneRequest, NotFoundError, SetupError, Tokens, UsageError

POOL = {spec.name: spec.load for spec in featstore_poolers()}
PHOTOS = [
    Path(skimage.data.__file__).parent / "retina.jpg",
    Path(sklearn.datasets.__file__).parent / "images" / "china.jpg",
]
TINY = import_timm().list_models("test_*")  # its own test models, of a dozen families


def load(name: str, **options: Any) -> Backbone:
    spec = featstore_resolve_backbone(f"timm:{name}")
    assert spec is not None
    return spec.load(BackboneRequest(f"timm:{name}", **{"pretrained": False, **options}))


def batch(backbone: Backbone) -> torch.Tensor:
    images = [np.asarray(Image.open(photo)) for photo in PHOTOS]
    return torch.from_numpy(np.stack([backbone.transform(image) for image in images]))


def forward(backbone: Backbone, inputs: torch.Tensor) -> Tokens:
    with torch.inference_mode():
        return backbone.forward(inputs, ["last"])["last"]


def pooled(tokens: Tokens, pooler: str) -> torch.Tensor:
    return POOL[pooler]()(tokens.values, prefix=tokens.prefix, grid=tokens.grid)


# -------------------------------------------------------------------------------------- equal to timm by itself
@pytest.mark.parametrize(
    ("name", "pooler"),
    [
        ("resnet18", "mean"),
        ("vit_tiny_patch16_224", "cls"),
        ("swin_tiny_patch4_window7_224", "mean"),
    ],
)
def test_features_are_timms(name: str, pooler: str) -> None:
    timm = import_timm()
    backbone = load(name)
    assert backbone.module is not None
    config = timm.data.resolve_model_data_config(backbone.module)
    transform = timm.data.create_transform(**config, is_training=False)
    inputs = torch.stack([transform(Image.open(photo)) for photo in PHOTOS])
    with torch.inference_mode():
        expected = backbone.module(inputs)  # timm's own forward and pooling
    tokens = forward(backbone, batch(backbone))
    torch.testing.assert_close(pooled(tokens, pooler), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_every_family_gives_the_same_layout(name: str) -> None:
    backbone = load(name, settings={"image_size": "96x64"})
    inputs = batch(backbone)
    tokens = forward(backbone, inputs)
    assert backbone.module is not None
    n, length, channels = tokens.values.shape
    assert (n, channels) == (2, backbone.module.num_features)
    assert tokens.grid is not None
    assert tokens.prefix + tokens.grid[0] * tokens.grid[1] == length
    assert inputs.shape[1:] == backbone.input_shape
    assert not backbone.module.training
    alone = forward(backbone, inputs[1:])  # a row depends on its own input alone
    torch.testing.assert_close(alone.values[0], tokens.values[1], rtol=1e-4, atol=1e-5)


def test_tokens_are_in_row_major_order() -> None:
    for name in ("test_resnet", "test_vit", "test_mambaout"):  # NCHW, NLC, NHWC
        backbone = load(name, seed=3)
        blank = torch.zeros(1, *backbone.input_shape)
        marked = blank.clone()
        marked[:, :, -16:, :16] = 5  # the lower left corner
        change = (forward(backbone, marked).values - forward(backbone, blank).values).abs().sum(-1)[0]
        tokens = forward(backbone, blank)
        assert tokens.grid is not None
        map_ = change[tokens.prefix :].reshape(tokens.grid)
        row, column = divmod(int(map_.argmax()), tokens.grid[1])
        assert row >= tokens.grid[0] - 2
        assert column <= 1


@pytest.mark.parametrize(
    ("name", "prefix", "grid", "length"),
    [
        ("vit_small_patch14_dinov2", 1, (37, 37), 1370),
        ("vit_small_patch14_reg4_dinov2", 5, (37, 37), 1374),
        ("vit_wee_patch16_reg1_gap_256", 0, (16, 16), 256),  # a register and no class token: it is dropped
        ("deit_tiny_distilled_patch16_224", 2, (14, 14), 198),
        ("cait_xxs24_224", 1, (14, 14), 197),
        ("xcit_nano_12_p16_224", 1, (14, 14), 197),
        ("volo_d1_224", 1, (14, 14), 197),
        ("coat_lite_tiny", 1, (7, 7), 50),
        ("pit_ti_distilled_224", 2, None, 2),
        ("mixer_s32_224", 0, (7, 7), 49),
        ("hiera_tiny_224", 0, (7, 7), 49),
        ("mvitv2_tiny", 0, (7, 7), 49),
        ("levit_128s", 0, (4, 4), 16),
        ("efficientformer_l1", 0, (7, 7), 49),
        ("swin_tiny_patch4_window7_224", 0, (7, 7), 49),
        ("tf_efficientnet_lite0", 0, (7, 7), 49),
        ("vgg11", 0, (7, 7), 49),
    ],
)
def test_layouts_of_the_families(name: str, prefix: int, grid: tuple[int, int] | None, length: int) -> None:
    timm = import_timm()
    with torch.device("meta"):  # shapes alone, nothing is computed
        model = timm.create_model(name, num_classes=0).eval()
        size = timm.data.resolve_model_data_config(model)["input_size"]
        features = model.forward_features(torch.zeros(2, *size))
    tokens = find_layout(model, features, size[1:], name).tokens(features)
    assert (tokens.prefix, tokens.grid, tokens.values.shape) == (prefix, grid, (2, length, model.num_features))


def test_a_network_of_several_outputs_is_refused() -> None:
    timm = import_timm()
    with torch.device("meta"):
        model = timm.create_model("crossvit_tiny_240", num_classes=0).eval()
        features = model.forward_features(torch.zeros(1, 3, 240, 240))
    with pytest.raises(SetupError, match="gives list for its 288 features"):
        find_layout(model, features, (240, 240), "timm:crossvit_tiny_240")


# ----------------------------------------------------------------------------------------------------- options
def test_random_weights_depend_on_the_seed_alone() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = load("test_vit", seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    torch.manual_seed(12345)
    again, other = load("test_vit", seed=1), load("test_vit", seed=2)
    weights = [b.module.state_dict() for b in (first, again, other) if b.module is not None]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_preprocessing_is_recorded_and_pickles() -> None:
    backbone = load("test_vit", settings={"range": "0,100", "mean": "0"})
    assert backbone.preprocessing == {
        "image_size": [160, 160],
        "interpolation": "bicubic",
        "mean": [0.0, 0.0, 0.0],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 0.95,
        "crop_mode": "center",
        "channels": 3,
        "range": "0.0,100.0",
        "grey": "repeat",
        "colour": "rec601",
        "alpha": "opaque",
    }
    assert pickle.loads(pickle.dumps(backbone.transform)) == backbone.transform
    assert backbone.layers[-1] == "last"


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("test_resnet", "96x128", (3, 4)), ("test_vit", "96x128", (6, 8)), ("test_mambaout", "96x128", (3, 4))],
)
def test_another_image_size(name: str, size: str, grid: tuple[int, int]) -> None:
    backbone = load(name, settings={"image_size": size})
    tokens = forward(backbone, batch(backbone))
    assert tokens.grid == grid


def test_swin_takes_another_size_too() -> None:
    backbone = load("swin_tiny_patch4_window7_224", settings={"image_size": "224x448"})
    assert forward(backbone, torch.zeros(1, 3, 224, 448)).grid == (7, 14)


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_channel_counts(in_chans: int, rng: np.random.Generator) -> None:
    backbone = load("test_resnet", in_chans=in_chans)
    assert backbone.input_shape[0] == in_chans
    assert backbone.preprocessing["mean"] == [0.5] * in_chans
    image = rng.integers(0, 256, (200, 180, in_chans), dtype=np.uint8)
    assert forward(backbone, torch.from_numpy(backbone.transform(image))[None]).values.shape == (1, 25, 96)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("test_vit", {"settings": {"imagesize": "96"}}, "Did you mean 'image_size'"),
        ("test_vit", {"settings": {"checkpoint_key": "order"}}, "Did you mean 'checkpoint_keys'"),
        ("test_vit", {"settings": {"checkpoint_keys": "order"}}, "needs --checkpoint"),
        ("test_vit", {"settings": {"checkpoint_keys": "alphabet"}, "checkpoint": Path("x")}, "names, order"),
        ("test_vit", {"in_chans": 0}, "one channel at least"),
        ("test_vit", {"pretrained": True, "checkpoint": Path("x")}, "not both"),
        ("test_vit", {"settings": {"image_size": "100"}}, "can't take"),
        ("test_resnet", {"settings": {"mean": "0.1,0.2"}}, "2 values and the network takes 3"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(name, **options)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="No layer blocks"):
        load("test_resnet").forward(torch.zeros(1, 3, 160, 160), ["blocks"])


def test_names() -> None:
    assert featstore_resolve_backbone("openclip:ViT-B-32") is None
    with pytest.raises(NotFoundError, match=r"no model 'resnet19'. Did you mean 'resnet18'"):
        featstore_resolve_backbone("timm:resnet19")
    with pytest.raises(NotFoundError, match=r"no weights 'resnet18.a4_in1k'. Did you mean 'resnet18.a3_in1k'"):
        featstore_resolve_backbone("timm:resnet18.a4_in1k")
    assert featstore_resolve_backbone("timm:resnet18.a3_in1k") is not None
