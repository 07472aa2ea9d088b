"""The whole path on the command line, with the words that are its contract."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

LAYOUTS = (
    "--layout", "{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png",
    "--layout", "{site}/grade{label:int}/{patient_id}/{modality}/*.png",
)  # fmt: skip
EXTRACT = ("--backbone", "timm:test_resnet", "--no-pretrained", "--device", "cpu", "--num-workers", "0")
MATERIALIZE = (
    "materialize", "--name", "grade", "--input", "a_r18:mean", "--input", "p_r18.mean:mean", "--table", "clinical",
    "--numeric", "age", "--categorical", "sex", "--label", "label", "--scheme", "default", "--join", "inner",
    "--fuser", "concat", "--standardize", "--pca", "4",
)  # fmt: skip


def test_from_slices_to_a_fused_table(
    run: Callable[..., Any], make_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEATSTORE_STORE", "./store")
    make_tree(tmp_path / "data/Grade", patients=14, slices=2)
    patients = sorted(p.name for p in (tmp_path / "data/Grade").glob("*/**/grade*/*"))
    lines = [f"{p},{40 + n},{'MF'[n // 2 % 2]}" for n, p in enumerate(patients)]
    Path("clinical.csv").write_text("patient_id,age,sex\n" + "\n".join(lines))

    done = run("init", "./store")
    assert (done.code, done.out) == (0, "")
    assert "next:" in done.err

    done = run("ingest", "data/Grade", *LAYOUTS, "--json")
    assert done.code == 0
    assert (done.json["added"], done.json["modalities"]) == (84, {"A": 42, "P": 42})
    done = run("ingest", "data/Grade", *LAYOUTS)
    assert (done.code, done.out) == (0, "")
    assert "84 unchanged" in done.err

    assert run("ingest-table", "clinical.csv", "--name", "clinical").code == 0
    done = run(
        "split", "--scheme", "default", "--stratify", "label", "--ratio", "train=0.7", "--ratio", "val=0.3",
        "--holdout", "site <> 'JM'", "--holdout-as", "test", "--require-modality", "A", "--require-modality", "P",
        "--seed", "42",
    )  # fmt: skip
    assert done.code == 0
    assert "default v1: 21 patients" in done.out

    done = run("extract", "--modality", "A", *EXTRACT, "--pooler", "meanstd", "--name", "a_r18", "--batch-size", "32")
    assert (done.code, done.out) == (0, "")
    assert "a_r18@v1: 42 samples extracted, 0 failed" in done.err
    done = run(
        "extract", "--modality", "P", *EXTRACT, "--pooler", "mean", "--pooler", "max", "--name", "p_r18", "--json"
    )
    assert done.json["feature_sets"] == {"p_r18.mean": 1, "p_r18.max": 1}
    done = run("extract", "--modality", "A", *EXTRACT, "--pooler", "meanstd", "--name", "a_r18")
    assert "nothing to do, all 42 samples have their vectors" in done.err

    done = run("sql", "select modality, split, count(*) n from features group by all order by all", "--format", "json")
    assert done.err == ""
    assert sum(row["n"] for row in done.json) == 42 + 2 * 42

    done = run(*MATERIALIZE, "--out", "fused.parquet")
    assert done.code == 0
    assert "grade@v1 was written: 21 rows × 4 fused features" in done.err
    assert "Exported to fused.parquet" in done.err
    fused = np.stack(pq.read_table("fused.parquet").column("fused").to_pylist())
    assert fused.shape == (21, 4)
    assert np.isfinite(fused).all()
    again = run(*MATERIALIZE, "--json")
    assert again.json["unchanged"]
    assert again.json["report"]["by_split"]["test"]["rows"] == 7

    done = run("status", "--json")
    assert (done.json["samples"], done.json["tables"], done.json["failed_inputs"]) == (84, 1, 0)
    assert "patients" in run("status").out
    for noun, count in (("features", 3), ("runs", 6), ("tables", 1), ("samples", 84), ("plugins", 5)):
        listed = run("ls", noun, "--format", "json").json
        assert len(listed) >= count if noun == "plugins" else len(listed) == count
        rows = list(csv.DictReader(io.StringIO(run("ls", noun, "--format", "csv").out)))
        assert [list(row) for row in rows[:1]] == [list(listed[0])]
        assert len(rows) == len(listed)
        assert run("ls", noun).code == 0
    for name in (
        "grade",
        "grade@v1",
        "a_r18",
        "p_r18.max@v1",
        "default",
        "clinical",
        "Grade/JM/fold0/grade0/JM001/A/JM001_a_slice_0.png",
    ):
        assert run("show", name).out
        assert run("show", name, "--json").json
    shown = run("show", "grade")
    assert "recipe\nname: grade\n" in shown.out
    assert "Inputs\n" in shown.out  # the report, as materialize printed it
    assert "{" not in shown.out
    assert run("errors").err == "No failed inputs.\n"
    assert run("errors", "--json").json == []
    assert "No input has an unresolved failure" in run("retry").err
    assert "current" in run("migrate").err


def test_failed_inputs_are_exit_code_3_until_they_are_mended(
    run: Callable[..., Any], make_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    root = make_tree(tmp_path / "data", patients=3, slices=1, modalities=("A",), external=None)
    broken = next(root.rglob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    assert run("init", tmp_path / "store").code == 0
    assert run("ingest", root, *LAYOUTS).code == 0
    extract = ("extract", "--name", "r", *EXTRACT)
    done = run(*extract)
    assert done.code == 3
    assert "1 failed" in done.err
    assert "next: featstore errors" in done.err
    assert run(*extract).code == 3  # it still isn't there
    done = run("errors", "--json")
    assert done.code == 0
    assert done.json[0]["stage"] == "decode"
    assert "featstore retry" in run("errors").err
    assert "1 input failed" in run("status").err
    assert run("retry").code == 3
    broken.write_bytes(whole)
    done = run("retry", "--json")
    assert (done.code, [result["done"] for result in done.json]) == (0, [1])
    assert run("errors", "--json").json == []
    assert len(run("errors", "--all", "--json").json) == 1
    assert run(*extract).code == 0


def test_the_store_is_found_by_flag_environment_and_folder(script: Callable[..., Any], tmp_path: Path) -> None:
    assert script("init", "store", cwd=tmp_path).code == 0
    below = tmp_path / "store" / "runs"
    for words, cwd, environment in (
        (("--store", "store"), tmp_path, {}),
        ((), below, {}),
        ((), tmp_path, {"FEATSTORE_STORE": "store"}),
    ):
        done = script("status", "--json", *words, cwd=cwd, **environment)
        assert (done.code, done.json["store"]) == (0, str(tmp_path / "store")), done.err
    done = script("status", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    assert "next: featstore init" in done.err


def test_a_manifest_on_the_command_line(
    run: Callable[..., Any], make_tree: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", patients=2, slices=1, modalities=("A",), external=None)
    lines = [f"{file},{file.parent.parent.name},A,x" for file in root.rglob("*.png")]
    (tmp_path / "samples.csv").write_text("path,patient_id,modality,label\n" + "\n".join(lines))
    assert run("init", tmp_path / "store").code == 0
    done = run("ingest", "--store", tmp_path / "store", "--manifest", tmp_path / "samples.csv", "--json")
    assert (done.code, done.json["added"]) == (0, 2)
    rows = run("sql", "--store", tmp_path / "store", "select label from patients", "--format", "json").json
    assert json.dumps(rows) == '[{"label": "x"}, {"label": "x"}]'


@pytest.mark.parametrize("form", ["table", "csv"])
def test_two_columns_of_one_name_are_both_printed(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    run("init", tmp_path / "store")
    done = run("sql", "select 'one' site, 'two' site", "--format", form)
    assert done.code == 0
    assert done.out.count("site") == 2
    assert "one" in done.out
    assert "two" in done.out


def test_who_may_be_whom_is_said(
    run: Callable[..., Any], make_tree: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    root = make_tree(tmp_path / "data", patients=3, slices=1, modalities=("A",), external=None)
    files = sorted(root.rglob("*.png"))
    (tmp_path / "one.csv").write_text(f"path,patient_id,modality\n{files[0]},007,A\n{files[1]},7,A\n")
    (tmp_path / "two.csv").write_text(f"path,patient_id,modality\n{files[2]},007,A\n")
    run("init", tmp_path / "store")
    assert "'007' and '7' look alike" in run("ingest", "--manifest", tmp_path / "one.csv").err
    done = run("ingest", "--manifest", tmp_path / "two.csv")
    assert "1 patient known already from other data sets, such as 007" in done.err
    assert "--patient-id '{dataset}-{patient_id}'" in done.err
    run("extract", "--name", "r", *EXTRACT)
    done = run("materialize", "--name", "t", "--input", "r:mean", "--label", "none")
    assert (done.code, done.err.count("'007' and '7' look alike")) == (0, 1)
