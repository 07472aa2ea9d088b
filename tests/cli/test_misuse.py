"""Misuse is one clear message with a next step, exit 1 or 2, and never a traceback; pipes and bars behave."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.cli import COMMANDS

FEATSTORE = Path(sys.executable).with_name("featstore")


@pytest.fixture
def empty(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, in the environment."""
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    assert run("init", tmp_path / "store").code == 0
    return tmp_path / "store"


@pytest.mark.parametrize("name", [None, *COMMANDS])
def test_help_of_every_command(run: Callable[..., Any], name: str | None) -> None:
    for flag in ("--help", "-h"):
        done = run(*([name] if name else []), flag)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("Usage: featstore")
    if name is None:
        assert all(command in done.out for command in COMMANDS)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "Usage: featstore"),
        (("ingst",), 2, "Did you mean 'ingest'"),
        (("status", "--nope"), 2, "No such option"),
        (("sql",), 2, "Missing argument"),
        (("sql", "select 1", "--format", "xml"), 2, "'xml' is not one of"),
        (("sql", "select 1", "extra"), 2, "unexpected extra argument"),
        (("split",), 2, "Nothing says how to split"),
        (("split", "--ratio", "train"), 2, "isn't KEY=VALUE"),
        (("split", "--ratio", "train=x"), 2, "train=0.7"),
        (("split", "--ratio", "train=0.5"), 2, "sum to 0.5"),
        (("split", "--ratio", "train=1", "--seed", "x"), 2, "not a valid integer"),
        (("ls", "feature"), 2, "Did you mean 'features'"),
        (("show", "nope"), 1, "Nothing here is called 'nope'"),
        (("errors", "nope"), 1, "no run 'nope'"),
        (("retry", "nope"), 1, "no run 'nope'"),
        (("sql", "drop table core.run"), 1, "Only SELECT and EXPLAIN"),
        (("sql", "select nope from samples"), 1, "nope"),
        (("sql", "select 1 x, 2 x", "--format", "json"), 2, "as another_name"),
        (("ingest",), 2, "either a FOLDER"),
        (("ingest", "nowhere", "--layout", "{patient_id}/*.png"), 1, "no folder nowhere"),
        (("ingest", ".", "--layout", "{patient_id"), 2, "brace"),
        (("ingest", "--manifest", "nowhere.csv"), 1, "no file nowhere.csv"),
        (("ingest-table", "nowhere.csv", "--name", "x"), 1, "no file nowhere.csv"),
        (("extract", "--name", "x", "--backbone", "timm:test_resnet", "--no-pretrained"), 1, "no samples yet"),
        (("extract", "--name", "x/y", "--backbone", "timm:test_resnet"), 2, "can't be the name"),
        (("materialize", "--name", "x"), 2, "--input"),
        (("materialize", "--name", "x", "--input", "v"), 1, "no feature set 'v'"),
        (("materialize", "--name", "x", "--input", "v", "--pca", "x"), 2, "not a valid float"),
        (("materialize", "--name", "x", "--input", "v", "--join", "cross"), 2, "'cross' is not one of"),
        (("materialize", "--name", "x", "--input", "v", "--out", "x.xlsx"), 1, "No exporter"),
        (("materialize", "--name", "x", "--input", "v", "--wide"), 2, "no --out"),
        (("init", "."), 1, "not an empty folder"),
        (("plugins", "--plugin", "nowhere.py"), 1, "no file nowhere.py"),
        (("status", "--plugin", "nowhere.py", "--store", "nowhere"), 1, "nowhere isn't a store"),
    ],
)
def test_misuse(
    run: Callable[..., Any], empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...],
    code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    done = run(*words)
    assert message in done.err, done.err
    assert (done.code, done.out) == (code, "")
    assert "defect of featstore" not in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_an_unforeseen_error_says_how_to_report_it(
    run: Callable[..., Any], empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin may raise anything; --debug then shows the traceback."""
    plugin = empty.parent / "raises.py"
    plugin.write_text(
        "import featstore\n\n@featstore.hookimpl\ndef featstore_fusers():\n"
        "    yield featstore.FuserSpec('broken', lambda: 1 / 0)\n"
    )
    words = ("materialize", "--plugin", plugin, "--name", "t", "--input", "v", "--fuser", "broken")
    done = run(*words)
    assert (done.code, done.out) == (1, "")
    assert "ZeroDivisionError" in done.err
    assert "--debug" in done.err
    shown = subprocess.run([FEATSTORE, "--debug", *words], capture_output=True, text=True, check=False)
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize("form", ["csv", "json", "table"])
def test_a_reader_that_goes_away_is_no_error(empty: Path, form: str) -> None:
    query = "select i, repeat('x', 50) from range(100000) t(i)"
    command = f"set -o pipefail; '{FEATSTORE}' sql --store '{empty}' \"{query}\" --format {form} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "rror" not in done.stderr
    assert len(done.stdout.splitlines()) == 1


def test_a_reader_that_never_reads_is_no_error(empty: Path) -> None:
    command = f"set -o pipefail; '{FEATSTORE}' sql --store '{empty}' 'select 1' --format csv | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_values_of_every_kind_are_printed(run: Callable[..., Any], empty: Path) -> None:
    query = (
        "select 1 i, 1.5::double f, 'nan'::double n, null z, 'é\"x,y' s, true b, date '2026-01-02' d, [1, 2] l, "
        "{'a': 1} m, 1.25::decimal(4,2) c, 'ab'::blob x, timestamp '2026-01-02 03:04:05' t"
    )
    row = run("sql", query, "--format", "json").json[0]
    assert (row["i"], row["f"], row["n"], row["z"], row["s"], row["b"]) == (1, 1.5, None, None, 'é"x,y', True)
    assert (row["d"], row["l"], row["m"], row["t"]) == ("2026-01-02", [1, 2], {"a": 1}, "2026-01-02T03:04:05")
    assert run("sql", query, "--format", "csv").out.splitlines()[1].startswith('1,1.5,,,"é""x,y",True,2026-01-02,')
    assert "é" in run("sql", query).out


def test_a_long_table_says_that_it_is_cut(run: Callable[..., Any], empty: Path) -> None:
    done = run("sql", "select * from range(300)")
    assert "100 more rows" in done.err
    assert len(run("sql", "select * from range(300)", "--format", "csv").out.splitlines()) == 301


def test_the_version_is_printed(run: Callable[..., Any]) -> None:
    from featstore import __version__

    assert run("--version").out == f"featstore, version {__version__}\n"


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (("--help",), ("torch", "duckdb", "pandas", "zarr", "pyarrow", "rich.table")),
        (("materialize", "--help"), ("torch", "duckdb", "pandas", "zarr", "pyarrow")),
        (("sql", "select 1"), ("torch", "pandas", "zarr", "sklearn", "timm")),
    ],
)
def test_commands_import_only_what_they_need(empty: Path, words: tuple[str, ...], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys; sys.argv = ['featstore', *sys.argv[1:]]\n"
        "from featstore import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
