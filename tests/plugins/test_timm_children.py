"""A network without its last children, against ``torch.nn.Sequential`` over plain timm's children."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from featstore_timm import featstore_resolve_backbone
from featstore_timm.library import import_timm

from featstore import Backbone, BackboneRequest, UsageError


def load(name: str, **options: Any) -> Backbone:
    spec = featstore_resolve_backbone(f"timm:{name}")
    assert spec is not None
    return spec.load(BackboneRequest(f"timm:{name}", **options))


def children(name: str, count: int) -> tuple[torch.nn.Module, torch.nn.Sequential]:
    """A whole model of other weights than any seed's, and the sequence of its children without the last ones."""
    torch.manual_seed(77)
    model = import_timm().create_model(name, pretrained=False).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value += 0.01 * torch.rand_like(value)
    return model, torch.nn.Sequential(*list(model.children())[:-count])


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(11))


@pytest.mark.parametrize(
    ("name", "count", "shape", "grid"),
    [
        ("resnet18", 1, (2, 1, 512), None),  # the classifier: the pooled vector is left
        ("resnet18", 2, (2, 49, 512), (7, 7)),
        ("resnet18", 3, (2, 196, 256), (14, 14)),
        ("resnet18", 9, (2, 112 * 112, 64), (112, 112)),
        ("tf_efficientnet_lite0", 1, (2, 1, 1280), None),
        ("tf_efficientnet_lite0", 4, (2, 49, 320), (7, 7)),
        ("test_convnext", 1, (2, 25, 64), (5, 5)),
        ("test_mambaout", 1, (2, 25, 64), (5, 5)),  # its maps have their channels last
    ],
)
def test_the_rest_of_the_children_in_sequence(
    tmp_path: Path, name: str, count: int, shape: tuple[int, ...], grid: tuple[int, int] | None
) -> None:
    model, sequence = children(name, count)
    torch.save({"model": torch.nn.DataParallel(model).state_dict(), "epoch": 90}, tmp_path / "model.pth.tar")
    backbone = load(name, checkpoint=tmp_path / "model.pth.tar", drop_last=count)
    assert backbone.layers == ("last",)
    assert backbone.facets == ()
    batch = noise(2, *backbone.input_shape)
    with torch.inference_mode():
        found = backbone.forward(batch, ["last"])["last"]
        expected = sequence(batch)
    if expected.ndim == 4 and name != "test_mambaout":
        expected = expected.permute(0, 2, 3, 1)
    assert tuple(found.values.shape) == shape
    assert (found.prefix, found.grid) == (0, grid)
    torch.testing.assert_close(found.values, expected.reshape(shape), rtol=1e-5, atol=1e-5)


def test_swin_too_is_its_children_in_sequence() -> None:
    name = "swin_tiny_patch4_window7_224"
    backbone = load(name, pretrained=False, drop_last=1, settings={"image_size": "64"})
    whole = load(name, pretrained=False, settings={"image_size": "64"}).module
    batch = noise(2, *backbone.input_shape)
    with torch.inference_mode():
        found = backbone.forward(batch, ["last"])["last"]
        expected = whole.forward_features(batch)  # type: ignore[union-attr, operator]
    assert found.grid == (2, 2)
    torch.testing.assert_close(found.values, expected.flatten(1, 2), rtol=1e-5, atol=1e-5)


def test_children_that_go_with_the_classifier_are_refused() -> None:
    with pytest.raises(UsageError, match=r"timm:volo_d1_224 has other children without its classifier"):
        load("volo_d1_224", pretrained=False, drop_last=1)


def test_only_the_weights_that_are_used_are_the_backbones() -> None:
    one, two, three = (load("resnet18", pretrained=False, drop_last=count).module for count in (1, 2, 3))
    whole = load("resnet18", pretrained=False).module
    assert one is not None
    assert two is not None
    assert three is not None
    assert whole is not None
    assert one.state_dict().keys() == two.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in two.state_dict().items())
    assert {key.partition(".")[0] for key in three.state_dict()} == {"conv1", "bn1", "layer1", "layer2", "layer3"}
    assert not one.training


def test_channels_size_and_settings_are_followed() -> None:
    backbone = load("test_resnet", pretrained=False, drop_last=2, in_chans=1, settings={"image_size": "96x64"})
    assert backbone.input_shape == (1, 96, 64)
    with torch.inference_mode():
        assert backbone.forward(noise(3, 1, 96, 64), ["last"])["last"].grid == (3, 2)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "test_vit", "deit_tiny_distilled_patch16_224"])
def test_networks_that_are_not_their_children_in_sequence_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=rf"timm:{name} isn't its children one after the other") as caught:
        load(name, pretrained=False, drop_last=1)
    assert "--layer" in caught.value.hint


@pytest.mark.parametrize("count", [10, 11, 99])
def test_one_child_must_stay(count: int) -> None:
    with pytest.raises(UsageError, match=r"has 10 children \(conv1, bn1, .*, global_pool, fc\)"):
        load("resnet18", pretrained=False, drop_last=count)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match=r"test_maxvit can't take images of \(3, 100, 100\): height"):
        load("test_maxvit", pretrained=False, drop_last=1, settings={"image_size": "100"})


def test_there_is_one_layer() -> None:
    backbone = load("test_resnet", pretrained=False, drop_last=1)
    with pytest.raises(UsageError, match="No layer 0; with --drop-last there is last alone"):
        backbone.forward(noise(1, *backbone.input_shape), ["0"])
