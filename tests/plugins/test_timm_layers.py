"""Layers and facets of timm's models, against plain timm with forward hooks of this file's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from featstore_poolers import featstore_poolers
from featstore_timm import featstore_resolve_backbone
from featstore_timm.facets import find_projections, why_not
from featstore_timm.library import import_timm
from featstore_timm.network import TimmBackbone, probe

from featstore import Backbone, BackboneRequest, ImageTransform, Tokens, UsageError

POOL = {spec.name: spec.load for spec in featstore_poolers()}
TINY = import_timm().list_models("test_*")  # its own test models, of a dozen families
FACETS = ("query", "key", "value")


@functools.cache  # nothing here changes a network
def load(name: str, size: int | str | None = None) -> Backbone:
    spec = featstore_resolve_backbone(f"timm:{name}")
    assert spec is not None
    settings = {} if size is None else {"image_size": str(size)}
    return spec.load(BackboneRequest(f"timm:{name}", pretrained=False, settings=settings, seed=5))


def plain(name: str, backbone: Backbone, **options: Any) -> Any:
    """timm's own model, with the same weights."""
    model = import_timm().create_model(name, pretrained=False, num_classes=0, **options).eval()
    assert backbone.module is not None
    model.load_state_dict(backbone.module.state_dict())
    return model


def noise(shape: Sequence[int], n: int = 2) -> torch.Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(11))


def forward(backbone: Backbone, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
    with torch.inference_mode():
        return backbone.forward(batch, layers)


def hooked(model: Any, batch: torch.Tensor, modules: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the modules give in one pass, and the pass itself under ``""``."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, args, output: found.__setitem__(name, output.clone())

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in modules]
    with torch.inference_mode():
        found[""] = model.forward_features(batch)
    for hook in hooks:
        hook.remove()
    return found


def rows(output: torch.Tensor, format_: str) -> torch.Tensor:
    """(N, L, D) of any format, position by position."""
    if format_ == "NLC":
        return output
    last = output if format_ == "NHWC" else output.permute(0, 2, 3, 1)
    return torch.stack([last[:, y, x] for y in range(last.shape[1]) for x in range(last.shape[2])], dim=1)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- layers
@pytest.mark.parametrize(
    ("name", "size", "modules", "format_"),
    [
        ("resnet18", 64, [f"layer{i}" for i in range(1, 5)], "NCHW"),
        ("efficientnet_b0", 64, [f"blocks.{i}" for i in range(7)], "NCHW"),
        ("convnext_atto", 64, [f"stages.{i}" for i in range(4)], "NCHW"),
        ("regnetx_002", 64, [f"s{i}" for i in range(1, 5)], "NCHW"),
        ("swin_tiny_patch4_window7_224", 224, [f"layers.{i}" for i in range(4)], "NHWC"),
        ("mambaout_femto", 64, [f"stages.{i}" for i in range(4)], "NHWC"),
        ("vit_tiny_patch16_224", 64, [f"blocks.{i}" for i in range(12)], "NLC"),
        ("mixer_s32_224", 224, [f"blocks.{i}" for i in range(8)], "NLC"),
    ],
)
def test_stages_are_what_hooks_see(name: str, size: int, modules: list[str], format_: str) -> None:
    backbone = load(name, size)
    batch = noise(backbone.input_shape)
    options = {"img_size": size} if name.startswith("vit") else {}
    expected = hooked(plain(name, backbone, **options), batch, modules)
    numbers = [str(i) for i in range(len(modules))]
    assert backbone.layers == (*numbers, "head", "last")
    found = forward(backbone, batch, backbone.layers)
    for number, module in zip(numbers, modules, strict=True):
        assert_close(found[number].values, rows(expected[module], format_))
    assert_close(found["last"].values, rows(expected[""], format_))


@pytest.mark.parametrize("name", TINY)
def test_every_layer_of_every_family_is_its_module_on_its_grid(name: str) -> None:
    backbone = load(name, "96x64")
    batch = noise(backbone.input_shape)
    found = forward(backbone, batch, backbone.layers)
    model: Any = backbone.module
    container = getattr(model, "blocks", getattr(model, "stages", None))
    stages = [*container] if container else [model.layer1, model.layer2, model.layer3, model.layer4]
    numbers = [str(i) for i in range(len(stages))]
    assert backbone.layers == (*numbers, "head", "last")
    names = {module: module_name for module_name, module in model.named_modules()}
    expected = hooked(model, batch, [names[stage] for stage in stages])
    # Registers without a class token are no tokens of the image.
    dropped = 0 if getattr(model, "has_class_token", True) else model.num_prefix_tokens
    for number, stage in zip(numbers, stages, strict=True):
        tokens, output = found[number], expected[names[stage]]
        format_ = {3: "NLC", 4: "NHWC" if name == "test_mambaout" else "NCHW"}[output.ndim]
        assert_close(tokens.values, rows(output, format_)[:, dropped:])
        assert tokens.grid is not None
        assert tokens.prefix + tokens.grid[0] * tokens.grid[1] == tokens.values.shape[1]
        assert tokens.grid[0] * 64 == tokens.grid[1] * 96  # as high and as wide as the image
    for tokens in found.values():
        assert torch.isfinite(tokens.values).all()
        assert len(tokens.values) == 2
    alone = forward(backbone, batch[1:], backbone.layers)  # a row depends on its own input alone
    for layer in backbone.layers:
        torch.testing.assert_close(alone[layer].values[0], found[layer].values[1], rtol=1e-4, atol=1e-5)


def test_pooled_layers_of_a_vision_transformer() -> None:
    backbone = load("vit_tiny_patch16_224", 64)
    batch = noise(backbone.input_shape)
    model = plain("vit_tiny_patch16_224", backbone, img_size=64)
    expected = hooked(model, batch, ["blocks.3"])
    found = forward(backbone, batch, ["3", "last"])
    for layer, output in (("3", expected["blocks.3"]), ("last", expected[""])):
        tokens = found[layer]
        assert (tokens.prefix, tokens.grid, tuple(tokens.values.shape)) == (1, (4, 4), (2, 17, 192))
        cls = POOL["cls"]()(tokens.values, prefix=tokens.prefix, grid=tokens.grid)
        mean = POOL["mean"]()(tokens.values, prefix=tokens.prefix, grid=tokens.grid)
        assert_close(cls, output[:, 0])
        assert_close(mean, output[:, 1:].mean(dim=1))
    with torch.inference_mode():
        assert_close(found["last"].values, model.norm(forward(backbone, batch, ["11"])["11"].values))


def test_a_map_as_high_as_it_has_channels_is_still_read_right() -> None:
    backbone = load("resnet18", 256)
    batch = noise(backbone.input_shape, 1)
    output = hooked(backbone.module, batch, ["layer1"])["layer1"]
    assert output.shape == (1, 64, 64, 64)
    assert_close(forward(backbone, batch, ["0"])["0"].values, rows(output, "NCHW"))


def test_a_class_token_that_joins_late_is_no_prefix_before() -> None:
    backbone = load("xcit_nano_12_p16_224", 64)
    batch = noise(backbone.input_shape)
    found = forward(backbone, batch, ["0", "11", "last"])
    assert [(t.prefix, t.grid, t.values.shape[1]) for t in found.values()] == [
        (0, (4, 4), 16), (0, (4, 4), 16), (1, (4, 4), 17),
    ]  # fmt: skip
    assert_close(found["11"].values, hooked(backbone.module, batch, ["blocks.11"])["blocks.11"])


def test_registers_without_a_class_token_are_left_out_everywhere() -> None:
    name = "vit_wee_patch16_reg1_gap_256"
    backbone = load(name, 64)
    batch = noise(backbone.input_shape, 1)
    expected = hooked(plain(name, backbone, img_size=64), batch, ["blocks.2", "blocks.2.attn.qkv"])
    for layer, output in forward(backbone, batch, ["2", "2.key"]).items():
        assert (output.prefix, output.grid) == (0, (4, 4))
        wanted = expected["blocks.2"] if layer == "2" else expected["blocks.2.attn.qkv"][:, :, 256:512]
        assert_close(output.values, wanted[:, 1:])


@pytest.mark.parametrize(
    "name",
    [
        "hiera_tiny_224",  # its tokens are in another order than the image's until the last stage
        "levit_128s",  # token sequences of three lengths
    ],
)
def test_stages_that_can_not_be_told_are_not_offered(name: str) -> None:
    assert load(name).layers == ("head", "last")


# --------------------------------------------------------------------------------------------------------- head
@pytest.mark.parametrize("name", [*TINY, "mobilenetv3_small_050"])
def test_the_head_is_what_the_classifier_sees(name: str) -> None:
    backbone = load(name, "96x64")
    batch = noise(backbone.input_shape)
    found = forward(backbone, batch, ["head"])["head"]
    assert (found.prefix, found.grid) == (0, None)
    model: Any = backbone.module
    with torch.inference_mode():
        assert_close(found.values[:, 0], model(batch))  # whose classifier does nothing
    if classifier := {"test_resnet": "fc", "mobilenetv3_small_050": "classifier"}.get(name):
        whole = import_timm().create_model(name, pretrained=False).eval()
        whole.load_state_dict(model.state_dict(), strict=False)
        with torch.inference_mode():
            assert_close(whole.get_submodule(classifier)(found.values[:, 0]), whole(batch))


def test_the_head_of_pooled_transformers_is_after_their_last_norm() -> None:
    name = "vit_wee_patch16_reg1_gap_256"
    backbone = load.__wrapped__(name, 64)
    model = backbone.module
    assert model is not None
    torch.manual_seed(2)
    torch.nn.init.normal_(model.fc_norm.weight)  # otherwise it hardly changes a thing
    batch = noise(backbone.input_shape)
    found = forward(backbone, batch, ["head", "last"])
    with torch.inference_mode():
        pooled = model.forward_features(batch)[:, 1:].mean(dim=1)
        assert_close(found["last"].values.mean(dim=1), pooled)
        assert_close(found["head"].values[:, 0], model.fc_norm(pooled))


# ------------------------------------------------------------------------------------------------------- facets
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "test_vit"])
def test_facets_are_thirds_of_the_projection(name: str) -> None:
    backbone = load(name, 64)
    assert backbone.facets == FACETS
    batch = noise(backbone.input_shape)
    last = int([layer for layer in backbone.layers if layer.isdecimal()][-1])
    model = plain(name, backbone, img_size=64)
    expected = hooked(model, batch, [f"blocks.{i}.attn.qkv" for i in (3, last)])
    found = forward(backbone, batch, [f"{i}.{facet}" for i in (3, last) for facet in FACETS])
    width = model.embed_dim
    for block in (3, last):
        for i, facet in enumerate(FACETS):
            tokens = found[f"{block}.{facet}"]
            output = expected[f"blocks.{block}.attn.qkv"][:, :, i * width : (i + 1) * width]
            assert_close(tokens.values, output)
            assert tuple(tokens.values.shape) == (2, model.num_prefix_tokens + 16, width)
            assert (tokens.prefix, tokens.grid) == (model.num_prefix_tokens, (4, 4))


def test_facets_are_what_the_block_attends_with() -> None:
    backbone = load("vit_tiny_patch16_224", 64)
    batch = noise(backbone.input_shape)
    model = plain("vit_tiny_patch16_224", backbone, img_size=64)
    found = forward(backbone, batch, [f"3.{facet}" for facet in FACETS])
    heads = {facet: found[f"3.{facet}"].values.unflatten(2, (3, 64)).transpose(1, 2) for facet in FACETS}
    shares = (heads["query"] @ heads["key"].mT / 64**0.5).softmax(dim=-1)
    with torch.inference_mode():
        attended = model.blocks[3].attn.proj((shares @ heads["value"]).transpose(1, 2).flatten(2))
    assert_close(attended, hooked(model, batch, ["blocks.3.attn"])["blocks.3.attn"])


def small_eva(**options: Any) -> TimmBackbone:
    """EVA, which has its projection in one or in three, found out as any model of timm is."""
    torch.manual_seed(1)
    eva = import_timm().models.eva.Eva
    model = eva(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=0, **options).eval()
    return probe(model, ImageTransform(image_size=(32, 32)), BackboneRequest("timm:small_eva"))


@pytest.mark.parametrize("use_rot_pos_emb", [False, True])
def test_separate_projections(use_rot_pos_emb: bool) -> None:
    backbone = small_eva(qkv_fused=False, use_rot_pos_emb=use_rot_pos_emb)
    assert backbone.facets == FACETS
    batch = noise(backbone.input_shape)
    names = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}
    expected = hooked(backbone.module, batch, [f"blocks.1.attn.{name}" for name in names.values()])
    for facet, name in names.items():
        tokens = forward(backbone, batch, [f"1.{facet}"])[f"1.{facet}"]
        assert_close(tokens.values, expected[f"blocks.1.attn.{name}"])
        assert (tokens.prefix, tokens.grid) == (1, (4, 4))


def test_biases_beside_the_projection_are_no_part_of_its_output() -> None:
    with_biases = small_eva(qkv_fused=True)
    assert with_biases.facets == ()
    assert with_biases.layers == ("0", "1", "head", "last")
    with pytest.raises(UsageError, match="its attention adds the biases outside of the projection"):
        forward(with_biases, noise(with_biases.input_shape), ["1.query"])
    assert small_eva(qkv_fused=True, qkv_bias=False).facets == FACETS


@pytest.mark.parametrize(
    ("name", "size", "says"),
    [
        ("resnet18", 64, "its blocks have no projections"),
        ("swin_tiny_patch4_window7_224", 64, "its blocks have no projections"),
        ("eva02_tiny_patch14_224", 56, "adds the biases outside of the projection"),
        ("xcit_nano_12_p16_224", 64, "doesn't hold query, key and value side by side"),
        ("test_coatnet", "96x64", "its blocks have no projections"),
    ],
)
def test_facets_that_can_not_be_had_are_refused_with_the_reason(name: str, size: int | str, says: str) -> None:
    backbone = load(name, size)
    assert backbone.facets == ()
    with pytest.raises(UsageError, match=f"No layer 3.query; there is 0, .*, head, last, and facets there .* {says}"):
        forward(backbone, noise(backbone.input_shape, 1), ["3.query"])


class Attention(torch.nn.Module):
    """Self-attention whose projection gives query, key and value in any order of its parts and heads."""

    def __init__(self, order: str, heads_first: bool) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(8, 24)
        self.order, self.heads_first = order, heads_first

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        sizes = (2, 3, 4) if self.heads_first else (3, 2, 4)
        parts = self.qkv(tokens).unflatten(2, sizes).permute(0, *((2, 3) if self.heads_first else (3, 2)), 1, 4)
        part = {facet: parts[:, :, i] for i, facet in enumerate(self.order)}
        attended = (part["q"] @ part["k"].mT / 2).softmax(dim=-1) @ part["v"]
        return attended.transpose(1, 2).flatten(2)


class Block(torch.nn.Module):
    def __init__(self, attention: torch.nn.Module) -> None:
        super().__init__()
        self.attn = attention


@pytest.mark.parametrize("heads_first", [False, True])
@pytest.mark.parametrize("order", ["qkv", "qvk", "kqv", "kvq", "vqk", "vkq"])
def test_other_orders_of_the_projection_are_found_out(order: str, heads_first: bool) -> None:
    block = Block(Attention(order, heads_first))
    tokens = {"blocks.0": torch.zeros(1, 10, 8)}
    projections = find_projections([block])
    reason = why_not([block], projections, tokens, {"blocks.0.attn.qkv": torch.zeros(1, 10, 24)})
    assert (reason == "") == (order == "qkv" and not heads_first)
    windows = why_not([block], projections, tokens, {"blocks.0.attn.qkv": torch.zeros(2, 5, 24)})
    assert "doesn't run on the blocks' own tokens" in windows
    assert "doesn't run the projection" in why_not([block], projections, tokens, {})


# ---------------------------------------------------------------------------------------------------- all at once
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_nfnet", "test_mambaout", "test_efficientnet"])
def test_several_layers_and_facets_of_one_pass_equal_separate_ones(name: str) -> None:
    backbone = load(name)
    batch = noise(backbone.input_shape)
    layers = [*backbone.layers, *(f"{i}.{facet}" for i in (0, 5) for facet in backbone.facets)]
    passes = []
    assert backbone.module is not None
    child = next(backbone.module.children())
    hook = child.register_forward_hook(lambda module, args, output: passes.append(1))
    together = forward(backbone, batch, layers)
    hook.remove()
    assert len(passes) == 1
    assert sorted(together) == sorted(layers)
    for layer in layers:
        alone = forward(backbone, batch, [layer])
        assert list(alone) == [layer]
        assert torch.equal(alone[layer].values, together[layer].values)
        assert (alone[layer].prefix, alone[layer].grid) == (together[layer].prefix, together[layer].grid)


def test_unknown_layers_and_facets_list_what_there_is() -> None:
    backbone = load("test_vit")
    batch = noise(backbone.input_shape, 1)
    for wrong in ("6", "-1", "3.qury", "last.query", "head.query", "blocks.0"):
        with pytest.raises(UsageError) as caught:
            backbone.forward(batch, ["0", wrong])
        says = f"No layer {wrong}; there is 0, 1, 2, 3, 4, 5, head, last, and facets of blocks are query, key, value"
        assert says in str(caught.value)
        assert "as in 5.value" in str(caught.value)


# -------------------------------------------------------------------------------------------------- input sizes
@pytest.mark.parametrize(("size", "side"), [(None, 37), (434, 31)])
def test_dinov2_tokens(size: int | None, side: int) -> None:
    backbone = load("vit_small_patch14_dinov2", size)
    batch = noise(backbone.input_shape, 1)
    assert batch.shape[2:] == (14 * side, 14 * side)
    found = forward(backbone, batch, ["last", "11.query"])
    expected = hooked(backbone.module, batch, ["blocks.11.attn.qkv"])
    assert_close(found["last"].values, expected[""])
    assert_close(found["11.query"].values, expected["blocks.11.attn.qkv"][:, :, :384])
    for tokens in found.values():
        assert tuple(tokens.values.shape) == (1, 1 + side**2, 384)
        assert (tokens.prefix, tokens.grid) == (1, (side, side))
