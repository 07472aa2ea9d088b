"""What ``featstore probe`` prints."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from featstore.cli import cli
from featstore.errors import UsageError


def run(lab: Any, *words: str) -> Result:
    return CliRunner().invoke(cli, ["probe", *words, "--store", str(lab.store.path)], catch_exceptions=False)


def test_a_row_a_split_with_counts_intervals_and_notes(lab: Any, cohort: Any) -> None:
    table, _ = cohort(20)
    done = run(lab, table.name, "--C", "0.1", "--C", "1", "--bootstrap", "50", "--threshold", "youden")
    assert done.exit_code == 0
    result = lab.probe(table, C=(0.1, 1.0), bootstrap=50, threshold="youden")
    assert f"{table.name}@v1, logistic, C = {result.parameters['C']:g}, positive: 1" in done.stdout
    assert "Calibration" in done.stdout
    for found in result.splits:
        auc, brier = found.measures["auc"], found.measures["brier"]
        lines = [line for line in done.stdout.splitlines() if line.split()[:1] == [found.split]]
        assert lines[0].split()[1:5] == [str(n) for n in (found.rows, found.patients, *found.labels.values())]
        assert f"{auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" in lines[1]
        assert f"{brier.value:.2f} [{brier.low:.2f}, {brier.high:.2f}]" in lines[3]
    for text in result.notes:
        assert text in done.stderr
    assert "predictions.parquet" in done.stderr


def test_json_is_the_result(lab: Any, cohort: Any) -> None:
    table, _ = cohort(21)
    done = run(lab, f"{table.name}@v1", "--model", "knn", "--k", "3", "--bootstrap", "10", "--json")
    printed, result = json.loads(done.stdout), lab.probe(table, model="knn", k=3, bootstrap=10)
    assert printed["parameters"] == result.parameters
    for shown, found in zip(printed["splits"], result.splits, strict=True):
        assert shown["measures"]["auc"]["value"] == found.measures["auc"].value


def test_folds_have_rows_and_a_mean(lab: Any, rng: np.random.Generator) -> None:
    y = [0, 1] * 24
    splits = [f"fold{i // 2 % 3}" for i in range(36)] + ["test"] * 12
    x = rng.normal(size=(48, 2)) + np.array(y)[:, None]
    table = lab.table(None, y, splits, folds=[x, x, x])
    done = run(lab, table.name, "--bootstrap", "20")
    first = [line.split()[:2] for line in done.stdout.split("Calibration")[0].splitlines()]
    for place in (["train", "fold0"], ["val", "fold2"], ["test", "fold1"], ["val", "all"], ["test", "mean"]):
        assert place in first
    one = next(f for f in lab.probe(table, bootstrap=0).folds if (f.split, f.metric) == ("test", "auc"))
    assert f"{one.mean:.2f} ± {one.sd:.2f}" in done.stdout


def test_numbers_and_what_isnt_defined(lab: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 2))
    splits = ["train"] * 20 + ["val"] * 9 + ["test"]
    table = lab.table(x, (x[:, 0] * 1000 + rng.normal(size=30)).tolist(), splits)
    done = run(lab, table.name, "--model", "ridge", "--bootstrap", "20")
    assert "R²" in done.stdout
    assert "Calibration" not in done.stdout
    counts, measures = [line.split() for line in done.stdout.splitlines() if line.startswith("test")]
    assert (counts[1:], measures[1]) == (["1", "1"], "–")
    assert "test: r2, pearson_r: all labels are the same." in done.stderr


def test_errors_are_featstores(lab: Any, cohort: Any) -> None:
    table, _ = cohort(22)
    with pytest.raises(UsageError, match="Did you mean 'logistic'"):
        run(lab, table.name, "--model", "logistics")
    assert run(lab, table.name, "--threshold", "0.7").exit_code == 2
