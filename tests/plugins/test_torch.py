"""A user's own network as a backbone, against torch by itself: the test's own calls and hooks."""

from __future__ import annotations

import importlib
import pickle
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from featstore_torch import featstore_resolve_backbone
from featstore_torch.network import digest_buffers, parse_argument

import featstore
from featstore import Backbone, BackboneRequest, NotFoundError, SetupError, Tokens, UsageError
from featstore.plugins import Plugins
from featstore.testing import check_backbone

NETS = '''
import torch
from torch import nn
from blocks import Block, SCALE


class Conv(nn.Module):
    """Convolutions; a ReLU in place after each; a flattening that can't do channels_last."""

    def __init__(self, width=6, in_chans=3, act="relu"):
        super().__init__()
        self.stem = nn.Conv2d(in_chans, width, 3, 2, 1)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 64, 5)

    def forward(self, x):
        x = self.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        x = self.norm(x) * SCALE
        x = nn.functional.adaptive_avg_pool2d(x, 8)
        return self.head(x.view(len(x), -1))


class Tokens(nn.Module):
    """A class token and 16 patches, through attention; one layer has the batch second."""

    def __init__(self, dim=8):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 8, 8)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.attention = nn.TransformerEncoderLayer(dim, 2, 16, batch_first=True)
        self.turned = nn.Identity()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.attention(torch.cat([self.cls.expand(len(x), -1, -1), x], 1))
        return self.norm(self.turned(x.transpose(0, 1)).transpose(0, 1))


class Maps(nn.Module):
    """A dict of what it has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pair = Pair()
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)

    def forward(self, x):
        x = self.conv(x)
        return {"a": x, "b": self.batch(x), "c": self.pair(x)}


class Pair(nn.Module):
    def forward(self, x):
        return x.mean(), x.sum(1).long()


class Last(nn.Sequential):
    """It writes into its input, gives NHWC, and has a module called last."""

    def __init__(self):
        super().__init__()
        self.last = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.last(x.mul_(2)).permute(0, 2, 3, 1)


def parallel(**options):
    return nn.DataParallel(Conv(**options))


def chain():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(7))


def noisy():
    import random, numpy
    net = nn.Linear(1, 1)
    net.weight.data[:] = random.random() + numpy.random.rand()
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 1), net)


def resnet(**options):
    import featstore
    featstore.import_torchvision()
    from torchvision.models import resnet18
    return resnet18(weights=None, **options)


def number():
    return 7


def fails():
    raise KeyError("no file")


made = nn.Linear(1, 1)
constant = 3
'''

BLOCKS = """
from torch import nn

SCALE = 1.0


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = x + self.conv(x)
        return self.relu(x)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with ``nets.py`` and ``blocks.py``; what is imported of it is forgotten afterwards."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "nets.py").write_text(NETS)
    (folder / "blocks.py").write_text(BLOCKS)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # within a second, an edited file of the same size looks old
    yield folder
    forget(folder)


def spec(name: str) -> featstore.BackboneSpec:
    found = featstore_resolve_backbone(name, True)
    assert found is not None
    return found


def load(factory: str = "Conv", *, size: int = 32, settings: dict[str, str] | None = None, **options: Any) -> Backbone:
    name = factory if factory.startswith("torch:") else f"torch:./nets.py:{factory}"
    given = {"pretrained": None if "checkpoint" in options else False, **options}
    return spec(name).load(BackboneRequest(name, settings={"image_size": str(size), **(settings or {})}, **given))


def forward(backbone: Backbone, inputs: torch.Tensor, *layers: str) -> dict[str, Tokens]:
    with torch.inference_mode():
        return dict(backbone.forward(inputs, layers or ("last",)))


def network(backbone: Backbone) -> torch.nn.Module:
    assert backbone.module is not None
    return backbone.module


def hooked(module: torch.nn.Module, inputs: torch.Tensor, name: str) -> torch.Tensor:
    """What the named module gives, by a hook of the test's own."""
    outputs = []
    hook = module.get_submodule(name).register_forward_hook(lambda m, a, output: outputs.append(output.clone()))
    with torch.inference_mode():
        module(inputs)
    hook.remove()
    (output,) = outputs
    return output


def trained(module: torch.nn.Module, size: int = 32) -> torch.nn.Module:
    """The module with other weights and statistics than a new one."""
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    with torch.no_grad():
        module.train()(torch.randn(4, 3, size, size, generator=generator) * 2)
    return module.eval()


def as_maps(tokens: Tokens) -> torch.Tensor:
    assert tokens.grid is not None
    return tokens.values.reshape(len(tokens.values), *tokens.grid, -1).permute(0, 3, 1, 2)


@pytest.fixture
def batch(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(3, 3, 32, 32)).astype(np.float32))


# ------------------------------------------------------------------------------------- equal to torch by itself
def test_outputs_and_inner_modules_are_torchs(project: Path, batch: torch.Tensor) -> None:
    backbone = load()
    module = network(backbone)
    found = forward(backbone, batch, "stem", "blocks.0", "blocks.1.conv", "last")
    with torch.inference_mode():
        expected = module(batch)
    torch.testing.assert_close(found["last"].values[:, 0], expected, rtol=1e-5, atol=1e-5)
    assert found["last"].grid is None
    for layer in ("stem", "blocks.0", "blocks.1.conv"):  # a ReLU works in place after each of them
        torch.testing.assert_close(as_maps(found[layer]), hooked(module, batch, layer), rtol=1e-5, atol=1e-5)
    assert (found["stem"].values < 0).any()


def test_layers_are_the_modules_that_can_be_taken(project: Path) -> None:
    inner = ("blocks.0", "blocks.0.conv", "blocks.0.relu", "blocks.1", "blocks.1.conv", "blocks.1.relu")
    assert load().layers == ("stem", "relu", *inner, "norm", "head", "last")
    assert load("Tokens").layers[-2:] == ("norm", "last")
    assert "turned" not in load("Tokens").layers
    assert load("chain").layers == ("0", "1", "2", "3", "last")


def test_tokens_of_a_transformer(project: Path, batch: torch.Tensor) -> None:
    backbone = load("Tokens", settings={"prefix": "1"})
    found = forward(backbone, batch, "patch", "attention", "last")
    with torch.inference_mode():
        expected = network(backbone)(batch)
    torch.testing.assert_close(found["last"].values, expected, rtol=1e-5, atol=1e-5)
    attention = hooked(network(backbone), batch, "attention")
    torch.testing.assert_close(found["attention"].values, attention, rtol=1e-5, atol=1e-5)
    assert [(found[layer].prefix, found[layer].grid) for layer in found] == [(0, (4, 4)), (1, None), (1, None)]


def test_layouts(project: Path, batch: torch.Tensor) -> None:
    backbone = load("Last", settings={"layout": "NHWC"})
    inputs = batch.clone()
    tokens = forward(backbone, inputs)["last"]
    assert torch.equal(inputs, batch)  # the network writes into what it gets: a copy
    with torch.inference_mode():
        expected = network(backbone)(batch.clone())
    assert tokens.grid == (30, 30)
    torch.testing.assert_close(tokens.values, expected.flatten(1, 2), rtol=1e-5, atol=1e-5)
    assert backbone.layers == ("last",)
    assert backbone.preprocessing["network"] == {"arguments": {}, "layout": "NHWC", "prefix": 0}
    assert load("Tokens", settings={"layout": "NLC"}).layers[0] == "attention"  # the map before it is no NLC


def test_the_laws_of_backbones(project: Path) -> None:
    check_backbone("torch:./nets.py:Conv", pretrained=False, settings={"image_size": "32"})


# --------------------------------------------------------------------------------------------------- drop last
def test_dropping_the_last_children_of_a_resnet(project: Path, batch: torch.Tensor) -> None:
    whole = trained(network(load("resnet")))
    torch.save(whole.state_dict(), "resnet.pth")
    for count in (1, 5):
        backbone = load("resnet", checkpoint=Path("resnet.pth"), drop_last=count)
        tokens = forward(backbone, batch)["last"]
        with torch.inference_mode():
            expected = torch.nn.Sequential(*list(whole.children())[:-count])(batch)
        torch.testing.assert_close(as_maps(tokens), expected, rtol=1e-5, atol=1e-5)
        assert "layer1.0.conv1" in backbone.layers
        assert "fc" not in backbone.layers
        if count == 1:  # flattened, they are the features that the classifier gets
            expected = hooked(whole, batch, "avgpool").flatten(1)
            torch.testing.assert_close(tokens.values[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "count", "says"),
    [
        ("Conv", 1, "ModuleList"),  # a list of modules isn't called
        ("Tokens", 2, "can't be cut before its last 2: its first 2 children, run one after the other"),
        ("chain", 4, r"has 4 children: 0, 1, 2, 3; 4 of them can't be dropped"),
        ("chain", -1, "can't be dropped"),
        ("Maps", 1, r"can't be cut before its last 1.*(.|\n)*--layer pair"),
    ],
)
def test_networks_that_are_no_chain_are_not_cut(factory: str, count: int, says: str, project: Path) -> None:
    with pytest.raises(UsageError, match=says):
        load(factory, drop_last=count)


# ------------------------------------------------------------------------------------------------- checkpoints
@pytest.mark.parametrize("factory", ["Conv", "parallel"])
@pytest.mark.parametrize(("key", "prefix"), [("model", "module."), ("state_dict", ""), (None, "module.")])
def test_checkpoints(factory: str, key: str | None, prefix: str, project: Path, batch: torch.Tensor) -> None:
    reference = trained(network(load(seed=9)))
    weights: Any = {f"{prefix}{name}": tensor for name, tensor in reference.state_dict().items()}
    torch.save({key: weights, "epoch": 3} if key else weights, "weights.pth")
    backbone = load(factory, checkpoint=Path("weights.pth"))
    assert not isinstance(network(backbone), torch.nn.DataParallel)
    assert not network(backbone).training
    with torch.inference_mode():
        expected = reference(batch)
    torch.testing.assert_close(forward(backbone, batch)["last"].values[:, 0], expected, rtol=1e-5, atol=1e-5)


def test_checkpoints_are_loaded_strictly(project: Path) -> None:
    weights = network(load()).state_dict()
    torch.save({key: value for key, value in weights.items() if key != "stem.bias"}, "less.pth")
    with pytest.raises(SetupError, match=r"1 tensors are missing \(stem.bias\)"):
        load(checkpoint=Path("less.pth"))
    torch.save({**weights, "extra": torch.zeros(1)}, "more.pth")
    with pytest.raises(SetupError, match=r"1 aren't the model's \(extra\)"):
        load(checkpoint=Path("more.pth"))
    torch.save(network(load("chain", seed=4)).state_dict(), "lazy.pth")
    assert torch.equal(
        network(load("chain", checkpoint=Path("lazy.pth"))).state_dict()["3.weight"],
        torch.load("lazy.pth", weights_only=True)["3.weight"],
    )


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def test_code_in_a_checkpoint_runs_only_where_it_is_trusted(project: Path) -> None:
    marker = project / "ran"
    torch.save({"model": network(load()).state_dict(), "options": Hostile(marker)}, "hostile.pth")
    with pytest.raises(SetupError, match="runs no code"):
        load(checkpoint=Path("hostile.pth"))
    assert not marker.exists()
    load(checkpoint=Path("hostile.pth"), trust_checkpoint=True)
    assert marker.exists()


# ----------------------------------------------------------------------------------------- the code's revision
def test_edited_code_is_another_revision(project: Path, tmp_path: Path) -> None:
    first = spec("torch:./nets.py:Conv")
    assert first.name == "torch:nets.py:Conv"
    assert spec(f"torch:{project / 'nets.py'}:Conv").revision == first.revision
    assert spec(f"torch:{project / 'nets.py'}:Conv").name == first.name  # a folder is no part of the name

    (project / "nets.py").write_text(NETS.replace("self.norm(x) * SCALE", "self.norm(x) - SCALE"))
    second = spec("torch:./nets.py:Conv")
    assert second.revision != first.revision
    inputs = torch.ones(1, 3, 32, 32)
    backbones = [
        found.load(BackboneRequest("torch:./nets.py:Conv", False, settings={"image_size": "32"}))
        for found in (first, second)
    ]
    values = [forward(backbone, inputs)["last"].values for backbone in backbones]
    weights = [network(backbone).state_dict() for backbone in backbones]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.allclose(*values)  # each is what its own code computes
    (project / "nets.py").write_text(NETS)
    assert spec("torch:./nets.py:Conv").revision == first.revision


def forget(folder: Path) -> None:
    """What a new process would not have imported."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__path__", ())
        places = [getattr(module, "__file__", None), *(path if isinstance(path, Iterable) else ())]
        if any(str(place).startswith(str(folder)) for place in places):
            del sys.modules[name]


def anew(name: str) -> str:
    """The revision, where nothing of the project has been imported yet."""
    forget(Path.cwd())
    return spec(name).revision


def test_code_that_the_module_imports_counts_too(project: Path) -> None:
    first = spec("torch:./nets.py:Conv").revision
    code = (
        "from featstore_torch import featstore_resolve_backbone as f; print(f('torch:./nets.py:Conv', True).revision)"
    )
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == first
    (project / "notes.py").write_text("x = 1")
    assert spec("torch:./nets.py:Conv").revision == first
    (project / "blocks.py").write_text(BLOCKS.replace("SCALE = 1.0", "SCALE = 2.0"))
    with pytest.raises(SetupError, match="blocks was edited after it had been imported"):
        spec("torch:./nets.py:Conv")
    assert anew("torch:./nets.py:Conv") != first


def test_packages_of_the_working_folder(project: Path, batch: torch.Tensor) -> None:
    package = project / "mypkg" / "inner"
    package.mkdir(parents=True)
    (project / "mypkg" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from .more import WIDTH")
    (package / "more.py").write_text("WIDTH = 4")
    late = (
        "def late():\n    from ..late import make\n    from torch import nn\n    return nn.Conv2d(3, WIDTH, make())\n"
    )
    (package / "nets.py").write_text(f"from . import WIDTH\n{late}")
    (project / "mypkg" / "late.py").write_text("def make():\n    return 3")
    path = list(sys.path)
    backbone = load("torch:mypkg.inner.nets:late")
    assert forward(backbone, batch)["last"].grid == (30, 30)
    assert sys.path == path
    revisions = [spec("torch:mypkg.inner.nets:late").revision]
    assert spec("torch:mypkg.inner.nets:late").name == "torch:mypkg.inner.nets:late"
    for file in ("inner/more.py", "inner/__init__.py", "late.py", "inner/nets.py"):
        with (project / "mypkg" / file).open("a") as stream:
            stream.write("\n# edited")
        revisions.append(anew("torch:mypkg.inner.nets:late"))
    assert len(set(revisions)) == 5
    (project / "mypkg" / "unused.py").write_text("y = 1")
    assert anew("torch:mypkg.inner.nets:late") == revisions[-1]


def test_no_code_of_a_store_is_run(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    featstore.init(project / "store")
    hostile = project / "store" / "hostile"
    hostile.mkdir()
    code = f"import pathlib; pathlib.Path({str(project / 'ran')!r}).touch()\nfrom torch.nn import Identity\n"
    for file in ("__init__.py", "nets.py"):
        (hostile / file).write_text(code)
    (project / "link.py").symlink_to(hostile / "nets.py")
    for name in ("./store/hostile/nets.py", "link.py", "store.hostile.nets", "store.hostile"):
        with pytest.raises(UsageError, match="a store is data"):
            spec(f"torch:{name}:Identity")
    monkeypatch.chdir(project / "store")
    importlib.invalidate_caches()
    with pytest.raises(NotFoundError, match="no module 'hostile'"):  # a store isn't looked in for modules
        spec("torch:hostile.nets:Identity")
    assert not (project / "ran").exists()


def test_no_code_is_run_on_a_stores_word(project: Path) -> None:
    (project / "hostile.py").write_text("import pathlib; pathlib.Path('ran').touch()\nfrom torch.nn import Identity\n")
    for name in ("torch:./hostile.py:Identity", "torch:hostile:Identity", "torch:nowhere"):
        for resolve in (
            lambda name=name: featstore_resolve_backbone(name, False),
            lambda name=name: Plugins.load().backbone(name, trusted=False),
        ):
            with pytest.raises(UsageError, match=f"{name} names code to run, and a store's word") as refused:
                resolve()  # type: ignore[no-untyped-call]
            assert "featstore retry --trust-run" in refused.value.hint
    assert not (project / "ran").exists()
    assert Plugins.load().backbone("torch:hostile:Identity", trusted=True)
    assert (project / "ran").exists()


def two_projects(folder: Path, layout: dict[str, str]) -> tuple[Path, Path]:
    """Folders ``a`` and ``b`` with the same files, but for WIDTH: 3 and 4."""
    for name, width in (("a", "3"), ("b", "4")):
        for file, code in layout.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code.replace("WIDTH", width))
    return folder / "a", folder / "b"


LAYERS = "from torch import nn\n\ndef layer():\n    return nn.Conv2d(3, WIDTH, 1)\n"


@pytest.mark.parametrize(
    ("layout", "module"),
    [
        ({"nets.py": "import layers\nNet = layers.layer", "layers.py": LAYERS}, "layers"),
        ({"nets.py": "def Net():\n    from layers import layer\n    return layer()", "layers.py": LAYERS}, "layers"),
        (
            {"nets.py": "import more\nNet = more.layer", "more.py": "from layers import layer", "layers.py": LAYERS},
            "more",
        ),
        ({"nets.py": "from parts.layers import layer as Net", "parts/layers.py": LAYERS}, "parts.layers"),
        (
            {"nets.py": "from parts.layers import layer as Net", "parts/__init__.py": "", "parts/layers.py": LAYERS},
            "parts",
        ),
    ],
)
def test_another_folders_modules_are_not_taken_for_its_own(
    layout: dict[str, str], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, second = two_projects(tmp_path, layout)
    try:
        assert network(load(f"torch:{first / 'nets.py'}:Net")).out_channels == 3
        with pytest.raises(SetupError, match=rf"module {module} was imported from (.|\n)*start Python again"):
            load(f"torch:{second / 'nets.py'}:Net")
        assert network(load(f"torch:{first / 'nets.py'}:Net")).out_channels == 3
        forget(tmp_path)
        assert network(load(f"torch:{second / 'nets.py'}:Net")).out_channels == 4
    finally:
        forget(tmp_path)


def test_another_folders_module_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, second = two_projects(tmp_path, {"mynets.py": LAYERS, "pkg/__init__.py": "", "pkg/nets.py": LAYERS})
    try:
        for name in ("mynets", "pkg.nets"):
            monkeypatch.chdir(first)
            assert network(load(f"torch:{name}:layer")).out_channels == 3
            monkeypatch.chdir(second)
            with pytest.raises(SetupError, match="was imported from"):
                load(f"torch:{name}:layer")
        monkeypatch.chdir(first)
        assert network(load("torch:pkg.nets:layer")).out_channels == 3
    finally:
        forget(tmp_path)


# ------------------------------------------------------------------------------- what the state dict doesn't hold
BUFFERS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, kind="given"):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.kept = nn.BatchNorm2d(4)
        if kind != "none":
            table = torch.load("table.pt") if kind == "given" else torch.zeros(4)
            self.kept.register_buffer("table", table, persistent=False)
        if kind == "written":
            self.register_buffer("seen", torch.zeros(1), persistent=False)

    def forward(self, x):
        if hasattr(self, "seen"):
            self.seen = x.sum()
        return self.conv(x) + (self.kept.table.reshape(4, 1, 1) if hasattr(self.kept, "table") else 0)
"""


def test_buffers_that_the_state_dict_lacks_are_part_of_the_fingerprint(project: Path) -> None:
    (project / "nets.py").write_text(BUFFERS)

    def recorded(table: torch.Tensor, **settings: str) -> Any:
        torch.save(table, "table.pt")
        backbone = load("Net", settings=settings)
        assert "kept.table" not in network(backbone).state_dict()
        return backbone.preprocessing["network"].get("buffers")  # type: ignore[union-attr, call-arg]

    base = recorded(torch.arange(4.0))
    assert re.fullmatch("[0-9a-f]{64}", base)
    assert recorded(torch.arange(4.0)) == base
    assert recorded(torch.arange(4.0) + 1e-6) != base
    assert recorded(torch.arange(4.0, dtype=torch.float64)) != base  # another type
    assert recorded(torch.arange(4.0).view(torch.int32)) != base  # the same bytes
    assert recorded(torch.arange(4.0)[None]) != base  # another shape
    assert recorded(torch.zeros(4)) not in (base, None)
    # What a forward pass writes is no part of what the factory made.
    written = [recorded(torch.zeros(4), **{"arg.kind": "written", "image_size": size}) for size in ("16", "24")]
    assert written[0] == written[1] != recorded(torch.zeros(4))
    assert "buffers" not in load("Net", settings={"arg.kind": "none"}).preprocessing["network"]  # type: ignore[operator]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_buffers_of_every_kind_have_a_digest() -> None:
    waves = torch.fft.fft(torch.arange(4.0))
    buffers = [
        torch.arange(4.0), torch.arange(4.0).bfloat16(), torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), waves,
        waves.conj(), waves.conj().imag, torch.tensor(True), torch.zeros(0, 3), torch.arange(6).reshape(2, 3).T,
    ]  # fmt: skip
    digests = []
    for buffer in buffers:
        net = torch.nn.Linear(1, 1)
        net.register_buffer("table", buffer, persistent=False)
        digests.append(digest_buffers(net)["buffers"])
    assert len(set(digests)) == len(buffers) - 1  # sparse or dense by row, it is the same matrix
    net = torch.nn.Linear(1, 1)
    net.register_buffer("later", torch.nn.parameter.UninitializedBuffer(), persistent=False)
    assert digest_buffers(net) == {}


def test_a_changed_buffer_makes_a_new_version(project: Path, rng: np.random.Generator) -> None:
    (project / "nets.py").write_text(BUFFERS)
    (project / "images").mkdir()
    PIL.Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(project / "images" / "0.png")
    store = featstore.init(project / "store")
    store.ingest("images", layouts=["{patient_id}.png"], modality="A")
    for value in (0.0, 0.0, 2.0):
        torch.save(torch.full((4,), value), "table.pt")
        store.extract(
            name="own", backbone="torch:./nets.py:Net", pretrained=False, settings={"image_size": "32"}, device="cpu"
        )
    found = [store.sql(f'select vector from vectors."own@v{version}"').to_pandas()["vector"][0] for version in (1, 2)]
    np.testing.assert_allclose(found[1], found[0] + 2, rtol=1e-5)
    assert store.sql("select count(*) n from features").to_pandas()["n"][0] == 2


# ----------------------------------------------------------------------------------------------------- options
def test_random_weights_depend_on_the_seed_alone(project: Path) -> None:
    for factory in ("Conv", "noisy"):
        states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        first = load(factory, seed=1)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
        torch.manual_seed(12345)
        np.random.seed(12345)
        random.seed(12345)
        again, other = load(factory, seed=1), load(factory, seed=2)
        weights = [network(backbone).state_dict() for backbone in (first, again, other)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
        assert not all(torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_arguments_and_channels(project: Path) -> None:
    backbone = load(in_chans=2, settings={"arg.in_chans": "2", "arg.width": "4", "arg.act": "gelu", "mean": "0.5"})
    assert backbone.input_shape == (2, 32, 32)
    assert forward(backbone, torch.zeros(1, 2, 32, 32), "stem")["stem"].values.shape == (1, 256, 4)
    arguments = {"in_chans": 2, "width": 4, "act": "gelu"}
    assert backbone.preprocessing["network"] == {"arguments": arguments, "layout": None, "prefix": 0}
    assert backbone.preprocessing["mean"] == [0.5, 0.5]
    assert backbone.preprocessing["std"] == [pytest.approx(0.226)] * 2
    assert load().preprocessing["mean"] == [0.485, 0.456, 0.406]


def test_arguments_are_json_or_text() -> None:
    texts = ("3", "0.5", "[1, 2]", "true", "null", '"3"', "gelu", "", "NaN", "1e999", "{")
    assert [parse_argument(text) for text in texts] == [
        3, 0.5, [1, 2], True, None, "3", "gelu", "", "NaN", "1e999", "{"
    ]  # fmt: skip


def test_the_transform_needs_no_code_of_the_user(project: Path, rng: np.random.Generator) -> None:
    transform = load(settings={"range": "0,100"}).transform
    image = rng.integers(0, 100, (40, 50, 3)).astype(np.int32)
    np.save("image.npy", image)
    Path("transform.pickle").write_bytes(pickle.dumps(transform))
    shutil.move("nets.py", "elsewhere.txt")
    code = (
        "import pickle, sys, numpy\n"
        "transform = pickle.load(open('transform.pickle', 'rb'))\n"
        "numpy.save('made.npy', transform(numpy.load('image.npy')))\n"
        "assert not {'torch', 'blocks', 'featstore_torch.source'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_array_equal(np.load("made.npy"), transform(image))


@pytest.mark.parametrize(
    ("factory", "options", "says"),
    [
        ("Conv", {"pretrained": True}, "the factory decides"),
        ("Conv", {"pretrained": None}, "draws its weights at random, and no checkpoint"),
        ("Conv", {"in_chans": 0}, "one channel at least"),
        ("Conv", {"in_chans": 1}, r"can't take a batch of shape \(1, 1, 32, 32\): RuntimeError"),
        ("Conv", {"settings": {"imagesize": "96"}}, "Did you mean 'image_size'"),
        ("Conv", {"settings": {"layuot": "NC"}}, "Did you mean 'layout'"),
        ("Conv", {"settings": {"layout": "NCWH"}}, "isn't one of NC, NLC, NCHW, NHWC"),
        ("Conv", {"settings": {"prefix": "-1"}}, "isn't a number of tokens"),
        ("Conv", {"settings": {"arg.widht": "4"}}, r"Conv\(width=6, in_chans=3.*'widht'.*Did you mean 'width'"),
        ("number", {}, "gives int, and must give a torch.nn.Module"),
        ("made", {}, "is a network already"),
        ("constant", {}, "is int, and must be a class or function"),
    ],
)
def test_bad_options_are_named(factory: str, options: dict[str, Any], says: str, project: Path) -> None:
    with pytest.raises(UsageError, match=says):
        load(factory, **options)


@pytest.mark.parametrize(
    ("factory", "layer", "says", "settings"),
    [
        ("Conv", "steem", "No layer 'steem'. Did you mean 'stem'", {}),
        ("Conv", "blocks", "blocks can't be taken: it isn't run as a module", {}),
        ("Tokens", "turned", r"gives \(17, 2, 8\) for 2 inputs and \(17, 1, 8\) for 1", {}),
        ("Maps", "last", "last can't be taken: it gives dict with a, b, c(.|\n)*choose another --layer: conv", {}),
        ("Maps", "pair", r"it gives tuple of 2: \(\), \(2, 30, 30\)", {}),
        ("Maps", "batch", "other values for an input when another is in the batch", {}),
        ("Tokens", "norm", "prefix=17 leaves none", {"prefix": "17"}),
        ("Conv", "last", r"float32 of shape \(2, 5\), which can't be read as floats of NHWC", {"layout": "NHWC"}),
    ],
)
def test_layers_that_cannot_be_taken_say_why(
    factory: str, layer: str, says: str, settings: dict[str, str], project: Path, batch: torch.Tensor
) -> None:
    with pytest.raises(UsageError, match=says):
        forward(load(factory, settings=settings), batch, layer)


def test_names(project: Path) -> None:
    for trusted in (True, False):
        assert featstore_resolve_backbone("timm:resnet18", trusted) is None
    (project / "broken.py").write_text("import no_such_library")
    (project / "syntax.py").write_text("def (")
    (project / "exits.py").write_text("raise SystemExit(1)")
    for name, error, says in (
        ("resnet18", UsageError, "isn't torch:MODULE:FACTORY"),
        ("./nets.py:", UsageError, "isn't torch:MODULE:FACTORY"),
        ("./nets.py:Covn", NotFoundError, "no 'Covn'. Did you mean 'Conv'"),
        ("./net.py:Conv", NotFoundError, "no file .*net.py. Did you mean 'nets.py'"),
        ("./nets:Conv", NotFoundError, "no file .*nets. Did you mean 'nets.py'"),
        ("no_such.nets:Conv", NotFoundError, "no module 'no_such' to import"),
        ("nets.inner:Conv", NotFoundError, "no module 'nets.inner' to import"),
        ("broken:Net", SetupError, "broken can't be imported: ModuleNotFoundError: No module named 'no_such_library'"),
        ("broken.nets:Net", SetupError, "No module named 'no_such_library'"),
        ("./broken.py:Net", SetupError, "broken.py can't be imported: ModuleNotFoundError"),
        ("./syntax.py:Net", SetupError, "SyntaxError: .*line 1"),
        ("./exits.py:Net", SetupError, "SystemExit"),
        ("numpy._core._multiarray_umath:add", SetupError, "no Python source file"),
        ("subprocess:getoutput", UsageError, "subprocess is no module of yours"),
        ("os.path:exists", UsageError, "os is no module of yours"),
        ("builtins:exec", UsageError, "builtins is no module of yours"),
        ("torch:load", UsageError, "torch is no module of yours"),
        ("featstore.store:open", UsageError, "featstore is no module of yours"),
        (f"{subprocess.__file__}:getoutput", UsageError, "subprocess.py is no module of yours"),
        (f"{torch.hub.__file__}:load", UsageError, "hub.py is no module of yours"),
    ):
        with pytest.raises(error, match=says):
            spec(f"torch:{name}")
    with pytest.raises(SetupError, match="makes no network: KeyError: 'no file'"):
        load("fails")


# -------------------------------------------------------------------------------------------------- end to end
def test_through_a_store(project: Path, rng: np.random.Generator) -> None:
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    (project / "images").mkdir()
    for number, image in enumerate(images):
        PIL.Image.fromarray(image).save(project / "images" / f"{number}.png")
    reference = trained(network(load()))
    torch.save({"model": {f"module.{k}": v for k, v in reference.state_dict().items()}}, "weights.pth")
    store = featstore.init(project / "store")
    store.ingest("images", layouts=["{patient_id}.png"], modality="A")
    settings = {"image_size": "32", "crop_pct": "1", "mean": "0", "std": "1"}
    request: dict[str, Any] = {"name": "own", "backbone": "torch:./nets.py:Conv", "checkpoint": "weights.pth"}
    request |= {"settings": settings, "device": "cpu"}
    store.extract(**request)
    with torch.inference_mode():
        inputs = np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype=np.float32) / 255
        expected = reference(torch.from_numpy(inputs)).numpy()
    rows = store.sql('select patient_id, vector from vectors."own" order by patient_id').to_pandas()
    np.testing.assert_allclose(np.stack(rows["vector"]), expected, rtol=1e-5, atol=1e-5)

    store.extract(**request)  # nothing to do
    assert store.sql("select count(*) n from features").to_pandas()["n"][0] == 4
    (project / "nets.py").write_text(NETS.replace("self.norm(x) * SCALE", "self.norm(x) - SCALE"))
    store.extract(**request)
    versions = store.sql("select distinct version from features order by version").to_pandas()["version"]
    assert list(versions) == [1, 2]
