"""What is written about featstore is what featstore is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import featstore
from featstore import cli, plugins

ROOT = Path(__file__).resolve().parents[1]


def _generated() -> dict[Path, str]:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.generated())


def test_generated_files_are_current() -> None:
    stale = [path.name for path, text in _generated().items() if path.read_text() != text]
    assert not stale, "run: make docs"


def test_every_public_column_is_documented() -> None:
    views = (ROOT / "docs" / "views.md").read_text()
    empty = [line for line in views.splitlines() if re.fullmatch(r"\| `.*\| *(None)? *\|", line)]
    assert not empty


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_readme_or_cli_docs_name_every_command(name: str) -> None:
    assert f"## featstore {name}\n" in (ROOT / "docs" / "cli.md").read_text()


def test_readme_backbone_runs_as_it_is_written(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    code = re.search(r"## A backbone of your own\n\n```python\n(.*?)```", readme, re.DOTALL)
    assert code
    lines = [line for line in code[1].splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 15
    file = tmp_path / "histogram.py"
    file.write_text(code[1])
    spec = plugins.Plugins.load([str(file)]).backbone("lab:histogram")
    assert isinstance(spec.load(featstore.BackboneRequest("lab:histogram")), featstore.Backbone)


def test_readme_names_what_python_has() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in re.findall(r"(?<!feat)store\.(\w+)\(", readme):
        assert hasattr(featstore.Store, verb), verb


@pytest.mark.parametrize("page", ["README.md", "docs/encoders.md", "docs/data.md", "docs/tables.md"])
def test_commands_and_flags_exist(page: str) -> None:
    import click

    text = (ROOT / page).read_text().replace("\\\n", " ")
    lines = re.findall(r"^\$ featstore (\S+)(.*)$", text, re.MULTILINE)
    assert len(lines) > 8
    for name, rest in lines:
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command, name
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for flag in re.findall(r"(?<![\w'])--[a-z-]+", rest):
            assert flag in known, f"featstore {name} {flag}"
