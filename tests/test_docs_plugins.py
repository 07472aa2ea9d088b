"""docs/plugins.md: nothing that a plugin may use is left out, and its examples are true."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import featstore
from featstore import BackboneRequest, cli, hookspecs, spec, testing
from featstore.plugins import Plugins
from featstore.testing import backbones, exporters, fusers, poolers, readers, steps
from featstore.testing.case import BackboneCase
from featstore.testing.laws import Laws

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "plugins.md").read_text()
HOOKS = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("featstore_")}
CLASSES = {
    name: value
    for name, value in vars(spec).items()
    if inspect.isclass(value) and value.__module__.startswith(spec.__name__) and not name.startswith("_")
}
CLASSES["Source"] = featstore.Source
HELPERS = ("ImageTransform", "capture", "import_torchvision", "load_weights", "read_weights", "seeded", "unavailable")
PLUGINS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
SCRIPTS = re.findall(r"```python\n(?!# \w+\.py)(.*?)```", PAGE, re.DOTALL)


def section(heading: str) -> str:
    """What stands below a heading, up to the next one."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^#)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/plugins.md has no heading: ### {heading}"
    return found[1]


def assert_named(heading: str, names: Any) -> None:
    text = section(heading)
    missing = [name for name in names if not re.search(rf"`{name}\b", text)]
    assert not missing, f"docs/plugins.md doesn't say below ### {heading} what this is: {', '.join(missing)}"


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def members(value: type) -> Iterator[str]:
    """What a user of a class meets: fields, annotated attributes, methods."""
    if dataclasses.is_dataclass(value):
        yield from (field.name for field in dataclasses.fields(value))
    else:
        yield from inspect.get_annotations(value)
    yield from (name for name, member in vars(value).items() if inspect.isfunction(member) and not name.startswith("_"))
    yield from (name for name, member in vars(value).items() if isinstance(member, property))


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_and_argument(hook: str) -> None:
    assert f"`{hook}(" in section(hook)
    assert_named(hook, parameters(HOOKS[hook]))


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_and_field(name: str) -> None:
    assert_named(name, members(CLASSES[name]))
    if "__call__" in vars(CLASSES[name]):  # a protocol of functions
        assert_named(name, parameters(vars(CLASSES[name])["__call__"]))


def test_the_rest_of_what_plugins_are_made_of() -> None:
    assert_named("Source", [name for name in vars(featstore.Source("x")) if not name.startswith("_")])
    assert "float64 (rows, width)" in section("Parts")
    assert "`Tokens.of(" in section("Tokens")
    for name in parameters(featstore.Tokens.of):
        assert name in section("Tokens")
    documented = {*CLASSES, *HELPERS, "hookimpl"}
    of_stores = {"Store", "open", "init", "__version__"}
    errors = {name for name in featstore.__all__ if name.endswith("Error")}
    assert set(featstore.__all__) <= documented | of_stores | errors


@pytest.mark.parametrize("name", HELPERS)
def test_every_helper_and_argument(name: str) -> None:
    helper, text = getattr(featstore, name), section(name)
    if inspect.isclass(helper):
        assert_named(name, [field.name for field in dataclasses.fields(helper)])
    else:
        call = re.search(rf"`{name}\((.*?)\)`", text)
        assert call
        assert [re.sub(r"=.*", "", word) for word in call[1].split(", ") if word not in ("*", "")] == parameters(helper)


def test_the_ways_to_bring_and_check_a_plugin() -> None:
    for word in (
        "--plugin", "$FEATSTORE_PLUGINS", "--strict-plugins", "entry point", "Nothing inside a store is ever imported",
    ):  # fmt: skip
        assert word in PAGE
    for name in testing.__all__:
        if name not in ("check", "Finding"):  # the command line's, and what is given back
            assert name in PAGE


@pytest.mark.parametrize("module", [backbones, poolers, steps, fusers, readers, exporters])
def test_every_law_in_its_own_words(module: Any) -> None:
    text = PAGE[PAGE.index(f"### Laws of {module.__name__.rpartition('.')[2]}\n") :]
    text = text[: text.find("\n### ", 5)]
    lines = [f"| `{law.name}` | {law.rule.replace('``', '`')} |" for law in module.LAWS.laws]
    assert re.findall(r"^\| `.*\|$", text, re.MULTILINE) == lines


def test_every_command_and_flag_exists() -> None:
    lines = re.findall(r"^\$ featstore (.*)$", PAGE, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        context, command, words = click.Context(cli.cli), cli.cli, line.split()
        while isinstance(command, click.Group) and words:
            command = command.get_command(context, words.pop(0))  # type: ignore[assignment]
            assert command, line
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


# --------------------------------------------------------------------------------------------------- its examples
@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The page's plugin files: name → path."""
    folder = tmp_path_factory.mktemp("examples")
    for name, code in PLUGINS.items():
        (folder / name).write_text(code)
    return {name: str(folder / name) for name in PLUGINS}


def broken(path: str, name: str, **request: Any) -> dict[str, str]:
    """The laws that a backbone breaks in this process alone."""
    plugins = Plugins.load([path], strict=True)
    case = BackboneCase(plugins.backbone(name), BackboneRequest(name, **request), plugins, None, 1e-5, registered=False)
    laws = Laws([law for law in backbones.LAWS.laws if law.name != "is-the-same-in-workers"])
    return {finding.law: finding.seen for finding in laws.findings(case) if not finding.ok}


def test_all_examples_load_together(files: dict[str, str]) -> None:
    Plugins.load(list(files.values()), strict=True)
    assert set(files) == {
        "histogram.py", "bins.py", "cluster.py", "small_net.py", "spread.py", "quantile.py", "total.py", "raw28.py",
        "arrow.py",
    }  # fmt: skip


def test_the_first_backbone_is_fifteen_lines_and_keeps_every_law(files: dict[str, str]) -> None:
    lines = [line for line in PLUGINS["histogram.py"].splitlines() if line.strip()]
    assert len(lines) == 15
    testing.check_backbone("lab:histogram", plugins=[files["histogram.py"]])


def test_the_other_backbones_keep_the_laws(files: dict[str, str], tmp_path: Path) -> None:
    import torch

    assert broken(files["bins.py"], "bins:64") == {}
    with pytest.raises(featstore.NotFoundError, match="next: bins:64"):
        Plugins.load([files["bins.py"]]).backbone("bins:none")
    assert broken(files["small_net.py"], "lab:small", pretrained=False) == {}
    assert broken(files["small_net.py"], "lab:small", pretrained=False, settings={"image_size": "32"}) == {}
    small = Plugins.load([files["small_net.py"]]).backbone("lab:small")
    with pytest.raises(featstore.SetupError, match="no published weights"):
        small.load(BackboneRequest("lab:small"))
    trained = small.load(BackboneRequest("lab:small", pretrained=False, seed=3)).module
    assert trained is not None
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "weights.pt")
    assert broken(files["small_net.py"], "lab:small", checkpoint=tmp_path / "weights.pt") == {}


def test_the_others_keep_every_law(files: dict[str, str], tmp_path: Path) -> None:
    testing.check_pooler("spread", plugins=[files["spread.py"]])
    testing.check_fuser("total", plugins=[files["total.py"]])
    testing.check_step("quantile", plugins=[files["quantile.py"]])
    testing.check_exporter("arrow", plugins=[files["arrow.py"]])
    (tmp_path / "a.raw28").write_bytes(bytes(i % 251 for i in range(784)))
    testing.check_reader("raw28", plugins=[files["raw28.py"]], files=[tmp_path / "a.raw28"])
    facts = Plugins.load([files["cluster.py"]]).provenance("extract")
    assert "cluster" in facts["cluster"]


def test_the_scripts_run() -> None:
    assert SCRIPTS
    for code in SCRIPTS:
        exec(compile(code, "docs/plugins.md", "exec"), {})
