"""The public surface: its names, and what importing it costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import featstore

HEAVY = {"torch", "timm", "open_clip", "duckdb", "pandas", "zarr", "sklearn", "pyarrow"}
MODULES = sorted(
    ".".join(path.relative_to(Path(featstore.__file__).parents[1]).with_suffix("").parts).removesuffix(".__init__")
    for path in Path(featstore.__file__).parent.rglob("*.py")
)


def modules_after(code: str, *arguments: str, names: Sequence[str] = sorted(HEAVY)) -> set[str]:
    """Those of ``names`` that a fresh interpreter has imported after ``code``."""
    report = f"\nimport json, sys; print('\\n' + json.dumps([n for n in {list(names)!r} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code + report, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


RUN_CLI = """
import sys, importlib.metadata
scans = []
original = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **kw: (scans.append(kw), original(**kw))[1]
import featstore.cli
try:
    featstore.cli.main()
except SystemExit as done:
    assert done.code == 0, done.code
sys.argv[1:] and print()
if scans: import wave  # a module that nothing of ours uses: it says that entry points were scanned
"""


def test_all_is_sorted_and_every_name_resolves() -> None:
    assert featstore.__all__ == sorted(featstore.__all__)
    assert len(set(featstore.__all__)) == len(featstore.__all__)
    for name in featstore.__all__:
        assert getattr(featstore, name) is not None
    assert dir(featstore) == featstore.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        featstore.opne  # type: ignore[attr-defined]  # noqa: B018


def test_public_classes_know_the_exceptions_that_callers_expect() -> None:
    assert issubclass(featstore.NotFoundError, KeyError)
    assert issubclass(featstore.ConflictError, ValueError)


def test_the_package_imports_nothing_heavy() -> None:
    assert modules_after("import featstore") == set()


def test_every_module_imports_without_a_network_library() -> None:
    code = "import importlib\nfor name in " + repr(MODULES) + ": importlib.import_module(name)"
    names = ["torch", "timm", "open_clip", "torchvision", "featstore_timm"]
    assert modules_after(code, names=names) == set()


def test_the_store_is_found_without_the_database() -> None:
    assert (
        modules_after("import featstore; featstore.Store; featstore.hookimpl") & {"torch", "duckdb", "pandas"} == set()
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["extract", "--help"], ["sql", "--help"]])
def test_help_is_cheap(arguments: list[str]) -> None:
    assert modules_after(RUN_CLI, *arguments, names=[*HEAVY, "wave"]) == set()


def test_sql_needs_no_torch(store: featstore.Store) -> None:
    found = modules_after(RUN_CLI, "sql", "select 1 as one", "--store", str(store.path), names=[*HEAVY, "wave"])
    assert found == {"duckdb", "pyarrow"}


def test_listing_plugins_needs_no_torch() -> None:
    found = modules_after("from featstore.plugins import Plugins; assert Plugins.load(strict=True).describe()")
    assert found & {"torch", "timm", "duckdb", "pandas", "zarr", "sklearn"} == set()
