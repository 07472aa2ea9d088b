"""A stranger's plugins, in an environment of their own: the example's wheel, and packages that `plugins new` begins."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from featstore.scaffold import KINDS, scaffold

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "examples" / "third_party_backbone"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def wheels(build_wheel: Callable[[Path], Path]) -> list[Path]:
    """featstore's and the example's."""
    return [build_wheel(CHECKOUT), build_wheel(EXAMPLE)]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A package of each kind that can be begun."""
    out = tmp_path_factory.mktemp("begun")
    return [scaffold(kind, f"lab-{kind}", out) for kind in KINDS]


@pytest.fixture(scope="module")
def run(wheels: list[Path], begun: list[Path], make_environment: Callable[..., Path], outside: Run) -> Run:
    """``run("featstore", …)``: a command of a fresh environment that has the wheels and the packages installed."""
    scripts = make_environment(*wheels, *begun)
    return lambda command, *words, cwd: outside(scripts / command, *words, cwd=cwd)


def test_the_wheel_is_the_plugin_alone(wheels: list[Path]) -> None:
    with zipfile.ZipFile(wheels[-1]) as opened:
        names = {name.split("/", 1)[0] for name in opened.namelist()}
    assert names == {"texture_stats", "texture_stats-0.1.0.dist-info"}


def test_all_are_listed(run: Run, tmp_path: Path) -> None:
    where = run(
        "python", "-c", "import featstore, texture_stats as t; print(featstore.__file__, t.__file__)", cwd=tmp_path
    )
    assert str(CHECKOUT / "featstore") not in where
    listed = {row["plugin"]: row for row in json.loads(run("featstore", "plugins", "--json", cwd=tmp_path))}
    assert not [row for row in listed.values() if row["error"]]
    assert listed["texture"]["provides"] == "backbone texture:stats"
    assert listed["texture"]["version"] == "0.1.0"
    for kind in KINDS:
        assert listed[f"lab_{kind}"]["provides"].startswith(f"{kind} lab-{kind}")


def test_the_wheel_carries_what_new_packages_are_made_of(run: Run, tmp_path: Path) -> None:
    run("featstore", "plugins", "new", "reader", "lab-other", cwd=tmp_path)
    assert "lab-other" in (tmp_path / "lab-other" / "src" / "lab_other" / "__init__.py").read_text()


def test_the_example_keeps_every_law(run: Run, tmp_path: Path) -> None:
    found = json.loads(run("featstore", "plugins", "check", "texture:stats", "--json", cwd=tmp_path))
    assert found["ok"]
    seen = {finding["law"]: finding["seen"] for finding in found["findings"]}
    assert seen["costs-nothing-to-list"].endswith(" s"), "it is an installed plugin, so its import was looked at"
    assert not any(text.startswith("not tried") for text in seen.values())


def test_it_extracts(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    images = {f"p{number}": rng.integers(0, 256, (20 + number, 24), np.uint8) for number in range(3)}
    for patient, pixels in images.items():
        (tmp_path / "data" / patient).mkdir(parents=True)
        PIL.Image.fromarray(pixels).save(tmp_path / "data" / patient / "slice.png")
    run("featstore", "init", "store", cwd=tmp_path)
    ingest = ("ingest", "--store", "store", "data", "--layout", "{patient_id}/*.png", "--modality", "T1")
    run("featstore", *ingest, cwd=tmp_path)
    words = ("extract", "--store", "store", "--backbone", "texture:stats", "--name", "texture", "--set", "levels=16")
    run("featstore", *words, "--pooler", "mean", "--device", "cpu", cwd=tmp_path)
    query = "select patient_id, vector from vectors.texture order by patient_id"
    rows = json.loads(run("featstore", "sql", "--store", "store", "--format", "json", query, cwd=tmp_path))
    assert [row["patient_id"] for row in rows] == list(images)
    for row, pixels in zip(rows, images.values(), strict=True):
        assert len(row["vector"]) == 17
        expected = [pixels.mean(), pixels.std(), pixels.min(), np.median(pixels), pixels.max()]
        assert np.allclose(np.array(row["vector"])[[0, 1, 4, 6, 8]], expected, rtol=1e-5)


def test_the_examples_own_tests_pass(run: Run, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")  # away from this checkout, and its settings for pytest
    kept = ("--deselect", "tests/test_texture_stats.py::test_it_keeps_the_laws")  # has been tried above
    said = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *kept, cwd=tmp_path)
    assert "10 passed, 1 deselected" in said


@pytest.mark.trial
def test_what_is_begun_passes_its_own_test(run: Run, begun: list[Path]) -> None:
    folders = [folder / "tests" for folder in begun]
    said = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *folders, cwd=begun[0].parent)
    assert f"{len(KINDS)} passed" in said
