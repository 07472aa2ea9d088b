"""The laws of backbones: a proper one keeps all of them, and each way of being wrong is found."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import featstore
from featstore import Backbone, BackboneRequest, BackboneSpec, InputError, SetupError, Tokens, UsageError
from featstore.plugins import Plugins
from featstore.testing import ConformanceError, check_backbone
from featstore.testing.backbones import LAWS
from featstore.testing.case import BackboneCase
from featstore.testing.laws import Laws

#: These start processes: tried on plugin files, further down.
OWN_PROCESS = {"is-the-same-in-workers", "loads-the-same-in-a-new-process", "costs-nothing-to-list"}


class Proper(Backbone):
    """A convolution with two layers and a facet."""

    layers: Sequence[str] = ("0", "last")
    facets: Sequence[str] = ("half",)
    transform: Any = featstore.ImageTransform(image_size=(16, 16))
    input_shape: tuple[int, ...] = (3, 16, 16)
    preprocessing: Mapping[str, Any] = transform.settings

    def __init__(self, request: BackboneRequest | None = None) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.module = self.network()

    @staticmethod
    def network() -> torch.nn.Module:
        return torch.nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        if unknown := set(layers) - {"0", "last", "0.half"}:
            raise UsageError(f"no layer {unknown}")
        found = self.run(batch)
        given = {"0": found, "last": found.relu(), "0.half": found / 2}
        return {layer: Tokens.of(given[layer], "NCHW") for layer in layers}

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return self.module(batch)


def broken(make: Callable[[BackboneRequest], Any], inputs: Sequence[Any] | None = None) -> dict[str, str]:
    """The broken laws, by name, with what was seen; those that start processes aside."""
    laws = Laws([law for law in LAWS.laws if law.name not in OWN_PROCESS])
    request = BackboneRequest("lab:x")
    case = BackboneCase(BackboneSpec("lab:x", load=make), request, Plugins.load(), inputs, 1e-5)
    return {finding.law: finding.seen for finding in laws.findings(case) if not finding.ok}


def test_a_proper_one_keeps_every_law() -> None:
    assert broken(Proper) == {}


# ---------------------------------------------------------------------------------------- what forward does wrong
class Turned(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return self.module(batch).flip(0)


class Sorted(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        found = self.module(batch)
        return found[found.sum(dim=(1, 2, 3)).argsort()]


class LeaningOnItsMates(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        found = self.module(batch)
        return found - 0.01 * found.mean(dim=0)


class Training(Proper):
    @staticmethod
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 6, 4, stride=4), torch.nn.BatchNorm2d(6, momentum=0.0))

    def run(self, batch: torch.Tensor) -> torch.Tensor:
        self.module.train()  # such as a wrapper that forgets eval()
        return self.module(batch)


class Dropping(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(self.module(batch), 0.1)


class WritingIntoItsBatch(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return self.module(batch.mul_(0.5))


class Constant(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return self.module(torch.ones_like(batch))


class NotFinite(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        contrast = batch.amax((2, 3)) - batch.amin((2, 3))  # 0 for a black slice
        return self.module(batch) / contrast.amax(1)[:, None, None, None]


class InventingRows(Proper):
    def run(self, batch: torch.Tensor) -> torch.Tensor:
        return self.module(batch if len(batch) else batch.new_zeros(1, 3, 16, 16))


class OtherBesideOthers(Proper):
    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        found = dict(super().forward(batch, layers))
        if len(layers) > 1:  # as an in-place ReLU does to what was recorded before it
            found["0"] = Tokens(found["0"].values.relu(), 0, (4, 4))
        return found


class OtherFacets(Proper):
    facets = ("half", "third")

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        known = [layer for layer in layers if not layer.endswith("third")]
        return {
            **super().forward(batch, known),
            **{k: Tokens(torch.rand(len(batch), 2, 2)) for k in set(layers) - {*known}},
        }


class TakingAnyLayer(Proper):
    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        return {layer: Tokens.of(self.module(batch), "NCHW") for layer in layers}


class KeyErrorForLayers(Proper):
    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        given = {"0": self.module(batch), "last": self.module(batch).relu(), "0.half": self.module(batch) / 2}
        return {layer: Tokens.of(given[layer], "NCHW") for layer in layers}


class MoreThanAsked(Proper):
    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        return super().forward(batch, ["0", "last"])


class Untokened(Proper):
    tokens: ClassVar[Callable[[torch.Tensor], Any]]

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        values = super().forward(batch, ["last"])["last"].values
        return {layer: type(self).tokens(values) for layer in layers}


def untokened(give: Callable[[torch.Tensor], Any]) -> type[Backbone]:
    return type("Untokened", (Untokened,), {"tokens": staticmethod(give)})


@pytest.mark.parametrize(
    ("backbone", "law", "seen"),
    [
        (Turned, "looks-at-each-input-alone", "differ"),
        (Sorted, "keeps-order", "differ"),
        (LeaningOnItsMates, "looks-at-each-input-alone", "differ"),
        (Training, "looks-at-each-input-alone", "differ"),
        (Dropping, "is-deterministic", "differ"),
        (WritingIntoItsBatch, "leaves-its-batch-as-it-is", "changed"),
        (Constant, "tells-inputs-apart", "one vector"),
        (NotFinite, "gives-tokens", "1 of 9 inputs have values that aren't finite"),
        (InventingRows, "makes-up-no-rows", r"shape \(1, 16, 6\)"),
        (OtherBesideOthers, "gives-every-layer-in-one-pass", "0, alone and with the others"),
        (OtherFacets, "gives-facets", "0.third, alone"),
        (TakingAnyLayer, "refuses-unknown-layers", "'no-such-layer' is accepted"),
        (KeyErrorForLayers, "refuses-unknown-layers", "KeyError"),
        (MoreThanAsked, "gives-tokens", "asked for last, forward gave 0, last"),
        (untokened(lambda values: values), "gives-tokens", "must be featstore.Tokens"),
        (untokened(lambda values: Tokens(values.numpy())), "gives-tokens", "must be a tensor"),
        (untokened(lambda values: Tokens(values.long())), "gives-tokens", "must be floats"),
        (untokened(lambda values: Tokens(values[:, 0])), "gives-tokens", r"must be \(N, L, D\)"),
        (untokened(lambda values: Tokens(values[:1])), "gives-tokens", "9 inputs gave"),
        (untokened(lambda values: Tokens(values[:, :0])), "gives-tokens", "empty"),
        (untokened(lambda values: Tokens(values, 1, (4, 4))), "gives-tokens", r"prefix 1 and grid \(4, 4\)"),
        (untokened(lambda values: Tokens(values, 99)), "gives-tokens", "prefix 99 of 16"),
    ],
)  # fmt: skip
def test_wrong_forward(backbone: type[Backbone], law: str, seen: str) -> None:
    found = broken(backbone)
    assert law in found
    with pytest.raises(AssertionError, match=seen):
        raise AssertionError(found[law])


# -------------------------------------------------------------------------------------------------- wrong weights
def test_random_weights_are_found() -> None:
    class Random(Proper):
        def __init__(self, request: BackboneRequest) -> None:
            self.module = self.network()

    assert "the weights differ" in broken(Random)["loads-the-same-again"]


def test_a_random_part_beside_the_weights_is_found() -> None:
    class Projected(Proper):
        def __init__(self, request: BackboneRequest) -> None:
            super().__init__(request)
            self.head = torch.randn(6)

        def run(self, batch: torch.Tensor) -> torch.Tensor:
            return self.module(batch) * self.head[:, None, None]

    assert "loaded again: they differ" in broken(Projected)["loads-the-same-again"]


@pytest.mark.parametrize("hide", [lambda net: net, lambda net: [net], lambda net: {"net": net}])
def test_a_network_that_isnt_declared_is_found(hide: Callable[[Any], Any]) -> None:
    class Hiding(Proper):
        def __init__(self, request: BackboneRequest) -> None:
            super().__init__(request)
            self.hidden, self.module, self.net = hide(self.module), None, lambda: self.hidden

        def run(self, batch: torch.Tensor) -> torch.Tensor:
            hidden = self.hidden
            net = hidden["net"] if isinstance(hidden, dict) else hidden[0] if isinstance(hidden, list) else hidden
            return net(batch)

    assert "the attribute 'hidden' holds a network" in broken(Hiding)["declares-its-weights"]


def test_options_that_it_never_looks_at_are_refused() -> None:
    with pytest.raises(UsageError, match="takes no --set"):
        check_backbone(BackboneSpec("lab:x", load=lambda request: Proper()), settings={"image_size": "8"})


def test_missing_weights_are_the_environments_fault() -> None:
    def load(request: BackboneRequest) -> Backbone:
        raise SetupError("There are no weights.")

    with pytest.raises(SetupError, match="no weights"):
        check_backbone(BackboneSpec("lab:x", load=load))


# ------------------------------------------------------------------------------------------------ wrong transforms
def wrap(function: Callable[[Any], Any], **attributes: Any) -> Callable[[BackboneRequest], Backbone]:
    """The proper backbone with another transform, given the proper one's."""

    def make(request: BackboneRequest) -> Backbone:
        backbone = Proper()
        backbone.transform = function
        for name, value in attributes.items():
            setattr(backbone, name, value)
        return backbone

    return make


RESIZE = Proper.transform
CALLS: list[int] = []


def doubled(image: Any) -> Any:
    return RESIZE(image).astype(np.float64)


def larger(image: Any) -> Any:
    return np.zeros((3, 17, 16), np.float32)


def scribbled(image: Any) -> Any:
    made = RESIZE(image)
    image[0, 0] = 0
    return made


def noisy(image: Any) -> Any:
    CALLS.append(0)
    return RESIZE(image) + np.float32(len(CALLS))


def filled(image: Any) -> Any:
    floats = featstore.ImageTransform(image_size=(16, 16), range="0,255")
    return floats(np.nan_to_num(image) if isinstance(image, np.ndarray) and image.dtype.kind == "f" else image)


def unchecked(image: Any) -> Any:
    return RESIZE(image) if image is not None else image.shape


class Carrying:
    def __init__(self) -> None:
        self.net = torch.nn.Linear(2, 2)

    def __call__(self, image: Any) -> Any:
        return RESIZE(image)


class ChangedMask:
    def __init__(self, change: Any, size: int = 16) -> None:
        self.resize = featstore.ImageTransform(image_size=(size, size))
        self.change = change

    def __call__(self, image: Any) -> Any:
        return self.resize(image)

    def mask(self, mask: Any, *, size: tuple[int, int], labels: Any = None) -> Any:
        return self.change(self.resize.mask(mask, size=size, labels=labels))


def shifted(pixels: int, axis: int) -> Any:
    return functools.partial(np.roll, shift=pixels, axis=axis)


@pytest.mark.parametrize(
    ("transform", "law", "seen"),
    [
        (doubled, "transforms-its-inputs", "float64, not float32"),
        (larger, "transforms-its-inputs", r"\(3, 17, 16\), not \(3, 16, 16\)"),
        (len, "transforms-its-inputs", r"gives \(\), not"),
        (scribbled, "leaves-its-inputs-as-they-are", "wrote into its input"),
        (noisy, "leaves-its-inputs-as-they-are", "the second time"),
        (filled, "refuses-bad-inputs", "an array with an infinity is accepted|an array with a NaN is accepted"),
        (unchecked, "refuses-bad-inputs", "None gives AttributeError"),
        (lambda image: RESIZE(image), "can-be-sent-to-workers", "PicklingError|AttributeError"),
        (Carrying(), "can-be-sent-to-workers", "carries a network along"),
        (ChangedMask(shifted(8, axis=1)), "masks-by-the-same-geometry", "overlap by"),
        (ChangedMask(shifted(2, axis=0)), "masks-by-the-same-geometry", "2.. pixels away"),
        (ChangedMask(np.transpose), "masks-by-the-same-geometry", "overlap by"),
        (ChangedMask(np.flipud), "masks-by-the-same-geometry", "overlap by"),
        (ChangedMask(lambda mask: np.ones_like(mask)), "masks-by-the-same-geometry", "overlap by"),
    ],
)
def test_wrong_transforms(transform: Any, law: str, seen: str) -> None:
    found = broken(wrap(transform))
    assert law in found
    with pytest.raises(AssertionError, match=seen):
        raise AssertionError(found[law])


@pytest.mark.parametrize(("pixels", "axis"), [(16, 1), (-16, 1), (14, 0), (2, 1)])
def test_a_mask_moved_by_a_patch_of_a_vit(pixels: int, axis: int) -> None:
    found = broken(wrap(ChangedMask(shifted(pixels, axis), size=224), input_shape=(3, 224, 224)))
    assert found["masks-by-the-same-geometry"].startswith(f"the mask of a small spot is {abs(pixels)}.")


@pytest.mark.parametrize(
    ("attributes", "law", "seen"),
    [
        ({"input_shape": [3, 16, 16]}, "loads", "must be a tuple"),
        ({"layers": ()}, "names-its-layers", "no layer"),
        ({"layers": ("last", "last")}, "names-its-layers", "twice"),
        ({"layers": "last"}, "names-its-layers", "one text"),
        ({"layers": ("0", 1)}, "names-its-layers", "no name"),
        ({"facets": ("a.b",)}, "names-its-layers", "dot"),
        ({"preprocessing": {"mean": np.zeros(3)}}, "tells-its-preprocessing", "isn't JSON"),
        ({"preprocessing": {"mean": float("nan")}}, "tells-its-preprocessing", "isn't JSON"),
        ({"transform": "resize"}, "loads", "can't be called"),
    ],
)
def test_wrong_attributes(attributes: dict[str, Any], law: str, seen: str) -> None:
    found = broken(wrap(RESIZE, **attributes))
    assert seen in found[law]


def test_what_comes_after_a_closed_gate_isnt_tried() -> None:
    found = broken(lambda request: 7)
    assert "load gave int" in found["loads"]
    assert set(found) == {law.name for law in LAWS.laws} - OWN_PROCESS
    assert found["keeps-order"] == "not tried, because of loads"


# ---------------------------------------------------------------------------------------------------------- inputs
class Lengths(Backbone):
    """A backbone of texts."""

    input_shape = (2,)

    @staticmethod
    def transform(text: Any) -> Any:
        if not isinstance(text, str):
            raise InputError("no text")
        return np.array([len(text), len(text.split())], np.float32)

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        if set(layers) - {"last"}:
            raise UsageError("there is one layer: last")
        return {"last": Tokens(batch[:, None])}


def test_texts_are_tried_where_images_arent_taken() -> None:
    assert broken(lambda request: Lengths()) == {}


def test_own_inputs() -> None:
    assert broken(lambda request: Lengths(), ["a", "b c", "d e f"]) == {}
    assert "1 of 2 test inputs are taken" in broken(lambda request: Lengths(), ["a", 7])["transforms-its-inputs"]


class Volumes(Lengths):
    """A backbone of volumes, which can't be guessed."""

    input_shape = (1,)

    @staticmethod
    def transform(volume: Any) -> Any:
        if not isinstance(volume, np.ndarray) or volume.ndim != 3 or volume.shape[2] < 5 or not np.size(volume):
            raise InputError("no volume")
        if volume.dtype.kind not in "uif" or not np.isfinite(volume).all():
            raise InputError("no numbers")
        return volume.mean(keepdims=True, dtype=np.float32).ravel()


def test_other_inputs_must_be_given() -> None:
    assert "give inputs that it takes" in broken(lambda request: Volumes())["transforms-its-inputs"]
    rng = np.random.default_rng(3)
    assert broken(lambda request: Volumes(), [rng.normal(size=(6, 7, 8)) for _ in range(3)]) == {}


# --------------------------------------------------------------------------------------------- in other processes
PLUGIN = """
import functools, os
import numpy as np
import featstore

def image(value):
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim < 2 or not value.size:
        raise featstore.InputError("no 8-bit image")
    return np.float32([value.mean(), value.std(), {extra}])

class Moments(featstore.Backbone):
    transform, input_shape, preprocessing = staticmethod(image), (3,), {preprocessing}

    @staticmethod
    @functools.cache  # the same object in this process, whatever it draws
    def head():
        return np.float32({head})

    def forward(self, batch, layers):
        if set(layers) - {{"last"}}:
            raise featstore.UsageError("There is one layer: last.")
        return {{"last": featstore.Tokens(batch[:, None, :] * float(self.head()))}}

@featstore.hookimpl
def featstore_backbones():
    yield featstore.BackboneSpec("lab:moments", load=lambda request: Moments())
"""


def plugin(folder: Path, *, extra: str = "7", head: str = "1", preprocessing: str = "{}") -> str:
    path = folder / "moments.py"
    path.write_text(PLUGIN.format(extra=extra, head=head, preprocessing=preprocessing))
    return str(path)


def test_a_proper_plugin_file_keeps_every_law(tmp_path: Path) -> None:
    findings = check_backbone("lab:moments", plugins=[plugin(tmp_path)])
    assert {finding.law for finding in findings} == {law.name for law in LAWS.laws}
    assert all(finding.rule for finding in findings)


def test_other_processes_are_looked_into(tmp_path: Path) -> None:
    path = plugin(tmp_path, extra="os.getpid() % 999", head="np.random.default_rng().uniform()")
    with pytest.raises(
        ConformanceError, match="The backbone lab:moments breaks 2 of 23 laws:\n  is-the-same"
    ) as caught:
        check_backbone("lab:moments", plugins=[path])
    assert {finding.law for finding in caught.value.findings if not finding.ok} == {
        "is-the-same-in-workers",
        "loads-the-same-in-a-new-process",
    }


def test_a_hash_that_changes_with_the_process_is_found(tmp_path: Path) -> None:
    path = plugin(tmp_path, preprocessing="{'labels': hash('liver')}")
    case = BackboneCase(
        Plugins.load([path]).backbone("lab:moments"), BackboneRequest("lab:moments"), Plugins.load([path]), None, 1e-5
    )
    kept = Laws([law for law in LAWS.laws if law.gate or law.name == "loads-the-same-in-a-new-process"])
    (finding,) = (finding for finding in kept.findings(case) if not finding.ok)
    assert finding.seen.startswith("preprocessing is {'labels': ")


def test_a_name_that_isnt_registered() -> None:
    with pytest.raises(featstore.NotFoundError):
        check_backbone("lab:nowhere")


def test_a_spec_that_no_plugin_registers_is_checked_in_this_process() -> None:
    findings = {
        f.law: f for f in check_backbone(BackboneSpec("own:lengths", load=functools.partial(lengths)), strict=False)
    }
    assert findings["loads-the-same-in-a-new-process"].seen == "not tried: no plugin registers own:lengths"
    assert findings["keeps-order"].ok


def lengths(request: BackboneRequest) -> Backbone:
    return Lengths()
