"""split: what is printed, and a scheme that goes out as CSVs and comes back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.cli import COMMANDS


@pytest.fixture
def run_here(run: Callable[..., Any], make_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """``run`` in a folder with a store of 20 patients at home and 10 elsewhere, two modalities, two slices each."""
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "data", patients=20, size=8)
    layouts = [
        f"--layout={{site}}/{fold}grade{{label:int}}/{{patient_id}}/{{modality}}/*.png" for fold in ("fold*/", "")
    ]
    assert run("init", "store").code == 0
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    assert run("ingest", "data", *layouts).code == 0
    return run


def test_what_is_asked_and_got(run_here: Callable[..., Any]) -> None:
    words = (
        "split",
        "--stratify",
        "label",
        "--ratio",
        "train=0.75",
        "--ratio",
        "val=0.25",
        "--holdout",
        "site <> 'JM'",
    )
    done = run_here(*words)
    assert (done.code, done.err) == (0, "")
    assert [line.split() for line in done.out.splitlines() if "──" not in line] == [
        ["default", "v1:", "30", "patients"],
        ["split", "patients", "share", "asked", "got", "samples", "label", "0", "label", "1"],
        ["train", "15", "50.0%", "75.0%", "75.0%", "60", "8", "7"],
        ["val", "5", "16.7%", "25.0%", "25.0%", "20", "2", "3"],
        ["test", "10", "33.3%", "40", "5", "5"],
    ]
    again = run_here(*words)
    assert (again.code, again.out.splitlines()[0].strip()) == (0, "default v1 is unchanged: 30 patients")
    told = run_here(*words, "--json").json
    assert told["counts"]["train"] == {"0": 8, "1": 7}
    assert (told["unchanged"], told["asked"], told["samples"]["val"]) == (
        True,
        {"train": 0.75, "val": 0.25},
        {"0": 8, "1": 12},
    )
    other = run_here(*words, "--seed", "1")
    assert other.code == 1
    assert "--replace, which makes default version 2" in other.err


def test_folds_sites_and_stable(run_here: Callable[..., Any]) -> None:
    done = run_here("split", "--scheme", "cv", "--k-folds", "5", "--repeats", "2", "--stratify", "label+site")
    assert done.code == 0
    assert [line.split()[:4] for line in done.out.splitlines() if line.startswith("cv")] == [
        ["cv-r1", "v1:", "30", "patients"], ["cv-r2", "v1:", "30", "patients"],
    ]  # fmt: skip
    assert [line.split()[1] for line in done.out.splitlines() if line.startswith("fold")] == ["6"] * 10
    sites = run_here("split", "--scheme", "sites", "--leave-one-site-out")
    assert [line.split()[-1] for line in sites.out.splitlines()[3:]] == ["JM", "KD"]
    stable = run_here("split", "--scheme", "stable", "--stable", "--ratio", "a=0.5", "--ratio", "b=0.5")
    assert "met on average only" in stable.err
    small = run_here("split", "--scheme", "small", "--k-folds", "8", "--stratify", "label+site")
    assert "label+site 0 + KD: 5 patients, fewer than splits." in small.err


def test_out_and_back(run_here: Callable[..., Any], tmp_path: Path) -> None:
    words = (
        "split",
        "--ratio",
        "train=0.7",
        "--ratio",
        "val=0.3",
        "--holdout",
        "site <> 'JM'",
        "--export",
        "csv",
        "--relative",
    )
    done = run_here(*words)
    assert done.code == 0
    assert "train_A.csv: 28 rows." in done.err
    files = [
        f"{split}={tmp_path}/csv/{split}_{modality}.csv" for split in ("train", "val", "test") for modality in "AP"
    ]
    back = run_here("split", "--scheme", "back", *(word for file in files for word in ("--from", file)))
    assert back.code == 0
    same = (
        "select count(*) n from splits a join splits b using (patient_id, split) "
        "where a.scheme = 'default' and b.scheme = 'back'"
    )
    assert run_here("sql", same, "--format", "json").json == [{"n": 30}]
    (tmp_path / "csv" / "val_A.csv").write_bytes((tmp_path / "csv" / "train_A.csv").read_bytes())
    leak = run_here("split", "--scheme", "leak", *(word for file in files for word in ("--from", file)))
    assert leak.code == 1
    assert "14 patient(s) are in more than one split:" in leak.err
    only = run_here("split", "--scheme", "back", "--export", "again")
    assert (only.code, (tmp_path / "again" / "patients.csv").read_text()) == (
        0,
        (tmp_path / "csv" / "patients.csv").read_text(),
    )


def test_the_command_is_listed() -> None:
    assert COMMANDS["split"] == "featstore.cli.split"
