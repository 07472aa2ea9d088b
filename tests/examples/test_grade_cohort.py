"""The demo's cohort holds what its docstring promises, and the demo runs to its end."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import PIL.Image
import pytest

import featstore

EXAMPLE = Path(__file__).parents[2] / "examples" / "grade_cohort"
HOME = re.compile(r"JM/fold[1-5]/grade[01]/(\d{3})/([AP])/\1_\2_slice_\d+\.png")
EXTERNAL = re.compile(r"SZ/grade[01]/(\d{3})/([AP])/\1_\2_slice_\d+\.png")


def load(name: str) -> ModuleType:
    """A script of the example as a module: examples are no package."""
    spec = importlib.util.spec_from_file_location(f"grade_cohort_{name}", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_cohort = load("make_cohort")
run_demo = load("run_demo")
shared = sys.modules["shared"]  # which the scripts have imported


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight patients, at most three slices each."""
    out = tmp_path_factory.mktemp("cohort")
    make_cohort.make_cohort(out, patients=8, slices=2, seed=3)
    return out


def pngs(out: Path) -> list[Path]:
    return sorted(out.rglob("*.png"))


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_the_tree_is_that_of_a_home_site_with_folds_and_one_without(cohort: Path) -> None:
    paths = [path.relative_to(cohort / "Grade").as_posix() for path in pngs(cohort)]
    matches = [HOME.fullmatch(path) or EXTERNAL.fullmatch(path) for path in paths]
    assert all(matches), [path for path, match in zip(paths, matches, strict=True) if not match]
    assert {path[:2] for path in paths} == {"JM", "SZ"}


def test_a_patient_has_one_site_one_fold_and_one_grade(cohort: Path) -> None:
    homes: dict[str, set[Path]] = {}
    for path in pngs(cohort):
        homes.setdefault(path.parents[1].name, set()).add(path.parents[2])
    assert sorted(homes) == [f"{n:03d}" for n in range(1, 9)]
    assert all(len(folders) == 1 for folders in homes.values())
    for site in ("JM", "SZ"):
        grades = {folder.name for (folder,) in homes.values() if site in folder.parts}
        assert grades == {"grade0", "grade1"}


def test_some_patients_lack_a_modality_or_their_clinical_row(cohort: Path) -> None:
    by_modality = {m: {p.parents[1].name for p in pngs(cohort) if p.parent.name == m} for m in "AP"}
    assert by_modality["P"] < by_modality["A"]
    clinical = rows(cohort / "clinical.csv")
    assert list(clinical[0]) == ["patient_id", "age", "sex", "bmi"]
    assert {row["patient_id"] for row in clinical} < by_modality["A"]
    assert all(value for row in clinical for value in row.values())


def test_slices_are_grey_224_and_all_different(cohort: Path) -> None:
    seen = set()
    for path in pngs(cohort):
        with PIL.Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "L", (224, 224))
            seen.add(image.tobytes())
            assert np.asarray(image).std() > 3  # tissue, not a flat patch
    assert len(seen) == len(pngs(cohort))


def test_no_source_pixel_belongs_to_two_patients_and_no_window_to_two_slices(cohort: Path) -> None:
    owner = {source: np.zeros((1500, 1500), dtype=int) for source in make_cohort.SOURCES.values()}
    windows = rows(cohort / "windows.csv")
    assert sorted(row["path"] for row in windows) == [p.relative_to(cohort).as_posix() for p in pngs(cohort)]
    assert len({(r["source"], r["top"], r["left"]) for r in windows}) == len(windows)
    for row in windows:
        patient, top, left, size = (
            int(Path(row["path"]).parts[-3]),
            *(int(row[key]) for key in ("top", "left", "size")),
        )
        held = owner[row["source"]][top : top + size, left : left + size]
        assert set(np.unique(held)) <= {0, patient}
        held[:] = patient


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(cohort: Path, tmp_path: Path) -> None:
    def contents(out: Path) -> dict[str, bytes]:
        return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}

    make_cohort.make_cohort(tmp_path / "same", patients=8, slices=2, seed=3)
    assert contents(tmp_path / "same") == contents(cohort)
    make_cohort.make_cohort(tmp_path / "other", patients=8, slices=2, seed=4)
    assert contents(tmp_path / "other") != contents(cohort)


def test_what_is_simulated_is_said_beside_the_data(cohort: Path) -> None:
    text = (cohort / "README.txt").read_text(encoding="utf-8")
    assert "SIMULATED  the patients, grades, sites" in text
    assert "REAL       the tissue" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 5}, "at least 6 patients"),
        ({"slices": 0}, "1 slice"),
        ({"patients": 5000}, "no room for 5000 patients"),
    ],
)
def test_a_cohort_that_cannot_be_is_refused(tmp_path: Path, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_cohort.make_cohort(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_anything_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make_cohort.make_cohort(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_demo_replaces_only_a_folder_that_it_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_demo.start_afresh()
    (tmp_path / "demo" / "old").touch()
    run_demo.start_afresh()
    assert not (tmp_path / "demo" / "old").exists()

    (tmp_path / "demo" / run_demo.MARK).unlink()
    (tmp_path / "demo" / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="wasn't made by this demo"):
        run_demo.start_afresh()
    assert (tmp_path / "demo" / "thesis.txt").read_text() == "mine"


def test_the_demo_does_not_follow_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / run_demo.MARK).touch()
    (tmp_path / "demo").symlink_to("elsewhere")
    with pytest.raises(SystemExit, match="is not a folder"):
        run_demo.start_afresh()
    assert (tmp_path / "elsewhere" / run_demo.MARK).exists()


def test_a_command_is_shown_as_one_types_it() -> None:
    assert shared.shell_line("featstore", ["sql", "select 1"]) == "featstore sql 'select 1'"
    long = shared.shell_line("featstore", ["split", *["--ratio", "train=0.7"] * 6, "--holdout", "site <> 'JM'"])
    assert long.count(" \\\n") == 1
    assert long.endswith("\"site <> 'JM'\"")


@pytest.mark.trial
def test_the_demo_runs_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "run_demo.py"), "--patients", "80", "--slices", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout
    for words in ("init demo/store", "nothing to do", "probe grade ", "Simulated", "from patients"):
        assert words in done.stdout
    store = featstore.open(tmp_path / "demo" / "store")
    assert store.sql("select count(*) n from failures").to_pylist() == [{"n": 0}]
    X, y, patient_ids = store.table("grade").arrays(split="train")
    assert X.shape == (len(y), 32)
    assert len(set(patient_ids)) == len(y)
    aucs = store.sql("select * from metrics where metric = 'auc' and split <> 'train'").to_pylist()
    assert len(aucs) == 6
    assert all(0 <= auc["low"] <= auc["value"] <= auc["high"] <= 1 for auc in aucs)
    patients = [sorted(store.table(name).arrays()[2]) for name in run_demo.TABLES]
    assert patients[0] == patients[1] == patients[2]
    assert (tmp_path / "demo" / "fused.parquet").is_file()
