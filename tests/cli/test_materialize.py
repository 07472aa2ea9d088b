"""materialize on the command line: a recipe file or flags, the same table; and what it says of who was lost."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import featstore
from featstore.cli.alignment import print_report

RECIPE = """\
name: grade
scheme: default
inputs:
  - a=v/A:mean
  - {features: v, modality: P, aggregation: max, prefix: p, steps: l2}
tables:
  - {name: clinical, numeric: age, categorical: sex}
missing: mean
steps: [standardize, pca(3)]
"""
FLAGS = (
    "--name", "grade", "--scheme", "default", "--input", "a=v/A:mean", "--input", "p=v/P:max", "--input-step", "p=l2",
    "--table", "clinical", "--numeric", "age", "--categorical", "sex", "--missing", "mean",
    "--step", "standardize", "--step", "pca(3)",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with imported vectors of 24 patients, a clinical table and a split."""
    folder = tmp_path_factory.mktemp("materialize")
    featstore.init(folder / "store")
    store = featstore.open(folder / "store")
    rng = np.random.default_rng(5)
    patients = [f"{n:03}" for n in range(24)]
    rows = [(p, m, n) for p in patients for m in "AP" for n in range(2)]
    np.save(folder / "v.npy", rng.normal(size=(len(rows), 4)).astype(np.float32))
    with open(folder / "v.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "key", "patient_id", "modality", "label"])
        writer.writerows([row, f"{p}_{m}_{n}", p, m, int(p) % 2] for row, (p, m, n) in enumerate(rows))
    store.import_features(folder / "v.npy", name="v", index=folder / "v.csv")
    clinical = "".join(f"{p},{30 + int(p)},{'MF'[int(p) % 3 == 0]}\n" for p in patients[1:])
    (folder / "clinical.csv").write_text(f"patient_id,age,sex\n{clinical}")
    store.ingest_table(folder / "clinical.csv", name="clinical")
    store.split(ratios={"train": 0.5, "val": 0.5})
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the recipe, and the store in the environment."""
    monkeypatch.setenv("FEATSTORE_STORE", str(made / "store"))
    monkeypatch.chdir(tmp_path)
    Path("grade.yaml").write_text(RECIPE)
    return tmp_path


def test_a_file_and_flags_make_the_same_table(run: Callable[..., Any], here: Path) -> None:
    done = run("materialize", "grade.yaml", "--out", "grade.csv")
    assert done.code == 0, done.err
    assert "23 rows × 3 fused features" in done.err
    assert "1 patient left out, without a row in 'clinical', such as 000" in done.err
    assert "lost.parquet" in done.err
    assert Path("grade.csv").exists()
    version = run("show", "grade", "--json").json["training table"]["version"]
    again = run("materialize", *FLAGS, "--json")
    assert (again.code, again.json["unchanged"], again.json["version"]) == (0, True, version), again.err


def test_a_recipe_comes_back_as_a_file(run: Callable[..., Any], here: Path) -> None:
    first = run("materialize", *FLAGS, "--name", "back", "--allow", "outdated=frozen for the paper", "--json")
    assert first.code == 0, first.err
    shown = run("show", "back", "--recipe")
    assert (shown.code, shown.err) == (0, "")
    assert yaml.safe_load(shown.out)["inputs"] == ["a=v/A:mean", {"input": "p=v/P:max", "steps": ["l2"]}]
    Path("again.yaml").write_text(shown.out)
    again = run("materialize", "again.yaml", "--json")
    assert (again.json["unchanged"], again.json["version"]) == (True, first.json["version"])
    assert run("show", "back", "--recipe", "--json").json == yaml.safe_load(shown.out)
    done = run("show", "v", "--recipe")
    assert (done.code, done.out) == (1, "")
    assert "no training table 'v'" in done.err


def test_what_may_stand_beside_a_file(run: Callable[..., Any], here: Path) -> None:
    done = run(
        "materialize", "grade.yaml", "--name", "other", "--set", "steps=[robust]", "--set", "inputs.0.aggregation=max",
        "--allow", "outdated=known", "--out", "other.csv", "--wide", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    recipe = run("show", "other", "--recipe", "--json").json
    assert (recipe["steps"], recipe["inputs"][0], recipe["allow"]) == (["robust"], "a=v/A:max", {"outdated": "known"})
    assert "fused_0" in Path("other.csv").read_text().splitlines()[0]
    assert run("show", "grade", "--json").code == 0


def test_a_recipe_says_where_its_table_goes(run: Callable[..., Any], here: Path) -> None:
    Path("grade.yaml").write_text(RECIPE + "output: {file: here.csv, wide: true}\n")
    assert run("materialize", "grade.yaml").code == 0
    assert "fused_0" in Path("here.csv").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("grade.yaml", "--scheme", "cv"), 2, "--scheme can't stand beside a recipe file"),
        (("grade.yaml", "--pca", "2", "--input", "v"), 2, "--input, --pca can't stand"),
        (("grade.yaml", "--fuser", "concat"), 2, "--fuser can't stand"),
        (("grade.yaml", "--set", "scheem=cv"), 2, "Did you mean 'scheme'"),
        (("grade.yaml", "--set", "scheme=defualt"), 1, "Did you mean 'default'"),
        (("grade.yaml", "--set", "inputs.0.features=vv"), 1, "Did you mean 'v'"),
        (("grade.yaml", "--set", "steps=[standardise]"), 1, "Did you mean 'standardize'"),
        (("grade.yaml", "--set", "tables.0.numeric=agee"), 1, "Did you mean 'age'"),
        (("grade.yaml", "--allow", "outdate=x"), 2, "Did you mean 'outdated'"),
        (("nowhere.yaml",), 1, "no file nowhere.yaml"),
        (("--set", "scheme=cv", "--name", "t", "--input", "v"), 2, "--set changes a recipe file"),
        (("--name", "t"), 2, "Missing option '--input', or a recipe file"),
        (("--input", "v"), 2, "Missing option '--name', or a recipe file"),
        (("--name", "t", "--input", "v/A:mean", "--allow", "outdated"), 2, "--allow 'outdated' isn't KEY=VALUE"),
        (("--name", "t", "--input", "v/A:mean", "--join", "left", "--min-modalities", "1"), 2, "--min-modalities both"),
        (("--name", "t", "--input", "v/A:mean", "--table", "clinical", "--numeric", "agee"), 2, "Did you mean 'age'"),
        (("--name", "t", "--input", "v/A:mean", "--step", "pca(2)", "--pca", "2"), 2, "which comes first"),
    ],
)  # fmt: skip
def test_misuse(run: Callable[..., Any], here: Path, words: tuple[str, ...], code: int, message: str) -> None:
    done = run("materialize", *words)
    assert message in done.err, done.err
    assert (done.code, done.out) == (code, "")
    assert "defect of featstore" not in done.err


# ------------------------------------------------------------------------------------------------ the report
#: As featstore 0.1 kept it.
OLD = {
    "inputs": {"a": {"feature_set": "v@v1", "modality": "A", "samples": 9, "patients": 3, "failed_samples": 1,
                     "pending_samples": 2, "aggregation": None, "missing": 0}},
    "tables": {"labs": {"rows": 4, "patients": 3, "lookalikes": [["7", "007"]], "missing": 1, "unseen": {"sex": ["X"]},
                        "features": ["age"], "gaps": {"age": 2}}},
    "lost": [{"reason": "without 'p'", "patients": 2, "such_as": ["007", "é 3"]}], "lookalikes": [["007", "7"]],
    "candidates": 5, "rows": 3, "by_split": {"": {"rows": 3, "labels": {"0": 1, "1": 2}}}, "nearly_constant": 1,
    "train_rows": 0, "width": 4,
}  # fmt: skip
NEW: dict[str, Any] = OLD | {
    "entity": "visit",
    "inputs": {"a": OLD["inputs"]["a"] | {"dropped_samples": 3, "lost": {"failed": 2, "no such modality": 1}},
               "p": OLD["inputs"]["a"] | {"dropped_samples": 0, "lost": {"where": 4}}},
    "tables": {"labs": OLD["tables"]["labs"] | {"too_old": 2, "future": 1, "untimed": 0,
                                                "alike": {"sex": [["M", "m", "m "]]}}},
    "lost": [{"reason": "without 'p'", "rows": 3, "patients": 2, "such_as": ["007, v1"]}],
    "coverage": [{"has": ["a", "p"], "rows": 5, "kept": 3, "by_split": {"train": 3, "val": 2}},
                 {"has": [], "rows": 1, "kept": 0, "by_split": {"val": 1}}],
    "by_split": {"train": {"rows": 2, "labels": {"0": 2}}, "val": {"rows": 1, "labels": {}}},
    "folds": {"fold0": {"train_rows": 11, "width": 4}, "fold1": {"train_rows": 13, "width": 5}},
    "confounders": [
        {"column": "site", "levels": 3, "rows": 9, "measure": "cramers_v", "value": 0.44, "accuracy": 0.71,
         "baseline": 0.52},
        {"column": "scanner", "levels": 3, "rows": 9, "measure": "cramers_v", "value": 0.0, "accuracy": 0.5,
         "baseline": 0.52},
        {"column": "dataset", "levels": 3, "rows": 9, "measure": "eta2", "value": 0.3, "accuracy": None,
         "baseline": None},
    ],
    "allowed": [{"kind": "same-content", "reason": "a phantom", "found": 2}],
}  # fmt: skip


def test_reports_of_before_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    print_report(OLD, tmp_path)
    out, err = capsys.readouterr()
    assert "v@v1" in out
    assert "(none)" in out
    assert "2 patients left out, without 'p', such as 007, é 3." in err
    assert "2 samples have no current vector" in err
    assert "'7' matches nobody, but looks like the patient '007'" in err
    assert "The patients '007' and '7' look alike" in err
    assert "age is missing for 2" in err
    assert "lost.parquet" not in err
    print_report({}, tmp_path)  # a report that lacks everything


def test_patients_without_a_sample_and_an_unchanged_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "lost.parquet").touch()
    lost = {"reason": "without a sample of modality A", "rows": 2, "patients": 2, "such_as": ["007"], "rowless": True}
    print_report({"entity": "sample", "lost": [lost]}, tmp_path, unchanged=True)
    err = capsys.readouterr().err
    assert "2 patients left out, without a sample of modality A, such as 007." in err
    assert f"Everyone who was left out when it was made: {tmp_path / 'lost.parquet'}" in err


def test_reports_say_who_was_lost_where_and_why(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "lost.parquet").touch()
    print_report(NEW, tmp_path)
    out, err = capsys.readouterr()
    lines = [line.split() for line in out.splitlines()]
    assert ["a", "2", "1", "0"] in lines  # failed, no such modality, where
    assert ["p", "0", "0", "4"] in lines
    assert ["a", "+", "p", "5", "3", "3", "2"] in lines  # rows, kept, train, val
    assert ["(none)", "1", "0", "0", "1"] in lines
    assert ["fold1", "13", "5"] in lines
    for said in (
        "a: 3 samples more than --max-samples-per-patient were not pooled.",
        "2 visits got no row of it: an earlier one that is too old.",
        "1 visit got no row of it: only later ones.",
        "3 visits of 2 patients left out, without 'p', such as 007, v1.",
        f"Everyone who was left out: {tmp_path / 'lost.parquet'}",
        "site predicts the label: accuracy 0.71, baseline 0.52, Cramér's V 0.44.",
        "scanner hardly predicts the label: accuracy 0.50, baseline 0.52, Cramér's V 0.00.",
        "dataset predicts the label: η² 0.30.",
        "Allowed: same-content, 2 found. Reason: a phantom",
        "sex has categories that look alike, and are taken for 3: 'M', 'm', 'm '.",
        "sex has values that no train row has, encoded as unknown: X.",
    ):
        assert said in err
    assert "no time of their own" not in err
