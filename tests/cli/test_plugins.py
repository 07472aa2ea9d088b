"""featstore plugins: the list, plugins check, plugins new."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import featstore.plugins

Run = Callable[..., Any]

POOLER = "import featstore\n@featstore.hookimpl\ndef featstore_poolers():\n"
MEAN = "lambda values, *, prefix, grid: values[:, prefix:].mean(axis=1)"


def plugin(folder: Path, code: str, name: str = "lab.py") -> str:
    path = folder / name
    path.write_text(code)
    return str(path)


# ------------------------------------------------------------------------------------------------------- listing
def test_the_list_has_seconds(run: Run) -> None:
    done = run("plugins", "--json")
    assert done.code == 0
    assert list(done.json[0]) == ["plugin", "version", "origin", "seconds", "provides", "error"]
    assert all(0 <= row["seconds"] < 60 for row in done.json)
    table = run("plugins")
    assert "seconds" in table.out
    assert "fuser cca, concat" in table.out


def test_a_slow_plugin_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featstore.plugins, "SLOW", 0.2)
    slow = plugin(tmp_path, f"import time\ntime.sleep(0.25)\n{POOLER}    yield featstore.PoolerSpec('slow', load=len)")
    done = run("plugins", "--json", "--plugin", slow)
    assert done.code == 0
    (row,) = (row for row in done.json if row["plugin"] == "lab")
    assert row["seconds"] >= 0.25
    assert f"The plugin lab ({slow}) took" in done.err
    assert "it should import torch and the like where it loads a backbone" in done.err


def test_a_slow_listing_counts_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(featstore.plugins, "SLOW", 0.2)
    code = f"import time\n{POOLER}    time.sleep(0.25)\n    yield featstore.PoolerSpec('slow', load=len)"
    assert "The plugin lab" in run("plugins", "--plugin", plugin(tmp_path, code)).err


# --------------------------------------------------------------------------------------------------------- check
def test_check_prints_a_line_a_law(run: Run) -> None:
    done = run("plugins", "check", "gem(3)")
    assert done.code == 0
    assert "pooler gem(3)" in done.out
    assert "hides-no-nan" in done.out
    assert "10 of 10 laws hold." in done.err


@pytest.mark.parametrize(
    ("name", "kind"),
    [("concat", "fuser"), ("late", "fuser"), ("impute(knn,2)", "step"), ("csv", "exporter"), ("image", "reader")],
)
def test_check_finds_the_kind(run: Run, name: str, kind: str) -> None:
    done = run("plugins", "check", name, "--json")
    assert (done.code, done.json["kind"], done.json["ok"]) == (0, kind, True)
    assert set(done.json["findings"][0]) == {"law", "ok", "seen", "rule", "tried"}


def test_check_of_a_backbone_takes_what_extract_takes(run: Run, tmp_path: Path) -> None:
    words = ("plugins", "check", "timm:test_vit", "--no-pretrained", "--set", "image_size=96", "--json")
    done = run(*words)
    assert (done.code, done.json["kind"]) == (0, "backbone")
    assert "input_shape (3, 96, 96)" in done.json["findings"][0]["seen"]
    assert run("plugins", "check", "timm:test_vit", "--no-pretrained", "--set", "image_sise=96").code == 2
    assert run("plugins", "check", "timm:test_vti", "--no-pretrained").code == 1
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    done = run("plugins", "check", "timm:test_vit", "--no-pretrained", "--input", broken)
    assert done.code == 1
    assert "isn't PNG, JPEG, TIFF, BMP or WebP" in done.err


def test_a_broken_law_is_exit_code_1(run: Run, tmp_path: Path) -> None:
    lab = plugin(tmp_path, f"{POOLER}    yield featstore.PoolerSpec('average', load=lambda: {MEAN})")
    done = run("plugins", "check", "average", "--plugin", lab)
    assert done.code == 1
    assert "BROKEN" in done.out
    assert "pools-or-refuses: (N, L, D) becomes (N, D′) or (N, L′, D′), floats and finite" in done.err
    above = run("plugins", "--plugin", lab, "--json", "check", "average")
    assert (above.code, above.json["ok"]) == (1, False)


def test_a_name_of_two_kinds_needs_its_kind(run: Run, tmp_path: Path) -> None:
    lab = plugin(tmp_path, f"{POOLER}    yield featstore.PoolerSpec('concat', load=lambda: {MEAN})")
    done = run("plugins", "check", "concat", "--plugin", lab)
    assert done.code == 2
    assert "'concat' is a pooler and a fuser.\n  next: --kind pooler, or --kind fuser" in done.err
    assert run("plugins", "check", "concat", "--plugin", lab, "--kind", "fuser", "--json").json["kind"] == "fuser"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("maen",), 1, "No plugin has anything called 'maen'. Did you mean 'mean'"),
        (("concat", "--checkpoint", "w.pt"), 2, "checkpoint: only backbones have this, and concat is a fuser."),
        (("median", "--input", "a.png"), 2, "A pooler reads no files"),
        (("image", "--input", "nowhere.png"), 1, "There is no file nowhere.png"),
        (("median", "--kind", "fuser"), 1, "There is no fuser 'median'"),
        (("mean",), 2, "'mean' is a pooler and a fuser.\n  next: --kind pooler, or --kind fuser"),
        (("pca(2)",), 2, "'pca(2)' is a fuser and a step.\n  next: --kind fuser, or --kind step"),
        (("pca", "--kind", "step"), 2, "'pca' can't be: missing a required argument: 'components'."),
        (("gem(x)",), 2, "must be numbers"),
    ],
)
def test_what_cant_be_checked_is_said(run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    done = run("plugins", "check", *words)
    assert done.code == code
    assert said in done.err


def test_a_duplicate_is_named(run: Run, tmp_path: Path) -> None:
    code = f"{POOLER}    yield featstore.PoolerSpec('average', load=lambda: {MEAN})"
    paths = [plugin(tmp_path, code, "one.py"), plugin(tmp_path, code, "two.py")]
    done = run("plugins", "check", "average", "--plugin", paths[0], "--plugin", paths[1])
    assert done.code == 1
    assert "registered by two plugins: one and two" in done.err


# ----------------------------------------------------------------------------------------------------------- new
def test_new_says_what_to_do_next(run: Run, tmp_path: Path) -> None:
    done = run("plugins", "new", "pooler", "lab-rms", "--dir", tmp_path)
    assert (done.code, done.out) == (0, "")
    assert f"Made {tmp_path / 'lab-rms'}." in done.err
    assert "next: pip install -e" in done.err
    assert run("plugins", "new", "pooler", "lab-rms", "--dir", tmp_path).code == 2
    assert run("plugins", "new", "exporter", "lab-x", "--dir", tmp_path).code == 2
    module = tmp_path / "lab-rms" / "src" / "lab_rms" / "__init__.py"
    assert run("plugins", "check", "lab-rms", "--plugin", module).code == 0


def test_help_names_both(run: Run) -> None:
    done = run("plugins", "--help")
    assert done.code == 0
    assert "check  Try whether NAME keeps the laws" in done.out
    assert "new    Begin a plugin" in done.out
