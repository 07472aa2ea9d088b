"""The wheel that users install: complete, and working without the checkout."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

import featstore

CHECKOUT = Path(__file__).parents[1]
PLUGINS = sorted(path.name for path in (CHECKOUT / "plugins").glob("featstore_*"))


@pytest.fixture(scope="module")
def wheel(build_wheel: Callable[[Path], Path]) -> Path:
    """The wheel, built from this checkout."""
    return build_wheel(CHECKOUT)


@pytest.fixture(scope="module")
def environment(wheel: Path, make_environment: Callable[..., Path]) -> Path:
    """The commands of a fresh environment with the wheel in it."""
    return make_environment(wheel)


def test_the_wheel_holds_every_package_and_migration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    sources = {
        *(path.relative_to(CHECKOUT) for path in (CHECKOUT / "featstore").rglob("*.py")),
        *(path.relative_to(CHECKOUT / "plugins") for p in PLUGINS for path in (CHECKOUT / "plugins" / p).rglob("*.py")),
        *(Path("featstore", *path.parts[-2:]) for path in (CHECKOUT / "migrations").glob("*.sql")),
    }
    assert {path.as_posix() for path in sources} <= names
    tops = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"featstore", *PLUGINS}, "tests, examples and the like stay out"


def test_the_wheel_registers_the_command_and_the_plugins(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (n for n in opened.namelist() if n.endswith(".dist-info/entry_points.txt"))
        text = opened.read(name).decode()
    assert "featstore = featstore.cli:main" in text
    (group,) = (part for part in text.split("\n[") if part.lstrip("[").startswith("featstore]"))
    entries = dict(line.split(" = ") for line in group.splitlines()[1:] if line)
    assert {module.partition(".")[0] for module in entries.values()} == set(PLUGINS)


def test_the_installed_wheel_works_without_the_checkout(
    environment: Path, outside: Callable[..., str], tmp_path: Path
) -> None:
    where = outside(str(environment / "python"), "-c", "import featstore; print(featstore.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)

    command = str(environment / "featstore")
    assert featstore.__version__ in outside(command, "--version", cwd=tmp_path)
    listed = json.loads(outside(command, "plugins", "--json", cwd=tmp_path))
    assert {row["origin"].partition(".")[0] for row in listed if not row["error"]} == set(PLUGINS), listed

    outside(command, "init", "store", cwd=tmp_path)  # applies the migrations that the wheel carries
    with duckdb.connect(tmp_path / "store" / "catalog.duckdb", read_only=True) as catalog:
        views = {name for (name,) in catalog.sql("select view_name from duckdb_views() where not internal").fetchall()}
        assert {"features", "samples", "patients", "splits", "failures", "tables"} <= views
    assert outside(command, "--help", cwd=tmp_path).startswith("Usage: featstore")
    answer = outside(
        command, "sql", "--store", "store", "--format", "csv", "select count(*) n from samples", cwd=tmp_path
    )
    assert answer.split() == ["n", "0"]
