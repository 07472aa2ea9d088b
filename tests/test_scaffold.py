"""What `featstore plugins new` writes. That it installs and passes its own test: tests/examples/test_third_party…"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore.errors import NotFoundError, UsageError
from featstore.plugins import Plugins
from featstore.scaffold import KINDS, scaffold
from featstore.testing import check_fuser, check_pooler, check_reader, check_step


def module(folder: Path) -> str:
    (found,) = folder.glob("src/*/__init__.py")
    return str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_files(kind: str, tmp_path: Path) -> None:
    folder = scaffold(kind, "Lab-own_thing", tmp_path)
    assert folder == tmp_path / "Lab-own_thing"
    package = "lab_own_thing"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "pyproject.toml",
        f"src/{package}/__init__.py", f"src/{package}/py.typed", f"tests/test_{package}.py",
    }  # fmt: skip
    for path in folder.rglob("*.*"):
        text = path.read_text()
        assert "$package" not in text, "a word that wasn't filled in"
        assert "$registered" not in text
        assert max((len(line) for line in text.splitlines()), default=0) <= 120
        if path.suffix == ".py":
            compile(text, path, "exec")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "Lab-own_thing"
    assert project["entry-points"]["featstore"] == {package: package}
    assert project["dependencies"][0] == f"featstore>={featstore.__version__}"


def test_a_backbone_is_a_few_lines(tmp_path: Path) -> None:
    code = Path(module(scaffold("backbone", "ourlab", tmp_path))).read_text()
    body = code[code.index("class Cells") : code.index("@featstore.hookimpl")]
    lines = [line for line in body.splitlines() if line.strip() and line.strip()[0] not in '#"']
    assert len(lines) <= 15


@pytest.mark.parametrize("kind", KINDS)
def test_it_registers_something(kind: str, tmp_path: Path) -> None:
    plugins = Plugins.load([module(scaffold(kind, "lab-own", tmp_path))], strict=True)
    names = [item.name for item in plugins.registered(kind)]
    assert ("lab-own:cells" if kind == "backbone" else "lab-own") in names


def test_poolers_fusers_steps_and_readers_keep_every_law(tmp_path: Path) -> None:
    check_pooler("lab-pool", plugins=[module(scaffold("pooler", "lab-pool", tmp_path))])
    check_fuser("lab-fuse", plugins=[module(scaffold("fuser", "lab-fuse", tmp_path))])
    check_step("lab-step", plugins=[module(scaffold("step", "lab-step", tmp_path))])
    file = tmp_path / "a.lab_read"
    file.write_bytes(bytes([4, 0, 0, 0, 6, 0, 0, 0, *range(24)]))
    check_reader("lab-read", plugins=[module(scaffold("reader", "lab-read", tmp_path))], files=[file])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "can't be a package's name"),
        ("7t", "can't be a package's name"),
        ("lab--x", "can't be a package's name"),
        ("lab.x", "can't be a package's name"),
        ("../lab", "can't be a package's name"),
        ("lab-", "can't be a package's name"),
        ("läb", "can't be a package's name"),
        ("class", "word of Python's own"),
        ("JSON", "word of Python's own"),
        ("numpy", "here already"),
        ("featstore-timm", "here already"),
        ("readers", "here already"),
    ],
)
def test_names_that_cant_be(name: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=why):
        scaffold("backbone", name, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ourlab").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        scaffold("pooler", "ourlab", tmp_path)
    with pytest.raises(NotFoundError, match="There is no folder"):
        scaffold("pooler", "ourlab", tmp_path / "nowhere")
    with pytest.raises(UsageError, match="exporter can't be begun so"):
        scaffold("exporter", "other", tmp_path)


def test_no_template_is_left_over() -> None:
    def files(folder: Any) -> list[str]:
        return [name for item in folder.iterdir() for name in (files(item) if item.is_dir() else [item.name])]

    found = files(resources.files("featstore") / "templates")
    assert len(found) == 2 + 2 * len(KINDS)
    assert all(name.endswith(".txt") for name in found), "a .py would be collected, linted and imported as ours"
