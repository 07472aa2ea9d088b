"""The wheel that users install: complete, and working without the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import duckdb
import pytest

import featstore

CHECKOUT = Path(__file__).parents[1]
PLUGINS = sorted(path.name for path in (CHECKOUT / "plugins").glob("featstore_*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this checkout."""
    out = tmp_path_factory.mktemp("dist")
    build = ["build", "--wheel", "--no-isolation", "--outdir", str(out)]
    run(sys.executable, "-m", *build, cwd=CHECKOUT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it, that borrows its dependencies from the running one.

    They are found through a .pth file. Python doesn't run the .pth files of a folder added that way, so the editable
    installation of this checkout isn't among them.
    """
    home = tmp_path_factory.mktemp("venv")
    venv.create(home)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip = ["--python", str(python), "install", "--no-index", "--no-deps", "--quiet", str(wheel)]
    run(sys.executable, "-m", "pip", *pip, cwd=home)
    packages = Path(run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip())
    borrowed = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (packages / "borrowed.pth").write_text("\n".join(borrowed), encoding="utf-8")
    return python.parent


def run(*command: str, cwd: Path) -> str:
    """A command's stdout; what it said is shown where it fails. No variable leads it back to the checkout."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "FEATSTORE"))}
    done = subprocess.run(command, cwd=cwd, env=kept, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


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


def test_the_installed_wheel_works_without_the_checkout(environment: Path, tmp_path: Path) -> None:
    where = run(str(environment / "python"), "-c", "import featstore; print(featstore.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(environment.parent)

    command = str(environment / "featstore")
    assert featstore.__version__ in run(command, "--version", cwd=tmp_path)
    listed = json.loads(run(command, "plugins", "--json", cwd=tmp_path))
    assert {row["origin"].partition(".")[0] for row in listed if not row["error"]} == set(PLUGINS), listed

    run(command, "init", "store", cwd=tmp_path)  # applies the migrations that the wheel carries
    with duckdb.connect(tmp_path / "store" / "catalog.duckdb", read_only=True) as catalog:
        views = {name for (name,) in catalog.sql("select view_name from duckdb_views() where not internal").fetchall()}
        assert {"features", "samples", "patients", "splits", "failures", "tables"} <= views
    assert run(command, "--help", cwd=tmp_path).startswith("Usage: featstore")
    answer = run(command, "sql", "--store", "store", "--format", "csv", "select count(*) n from samples", cwd=tmp_path)
    assert answer.split() == ["n", "0"]
