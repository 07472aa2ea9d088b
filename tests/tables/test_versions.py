"""The same recipe on the same inputs is the same version with the same bytes; anything else is the next one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import featstore
from featstore import LeakageError, NotFoundError
from featstore.tables.fuse import Fusion

PLUGIN = str(Path(__file__).with_name("vectors_plugin.py"))
RECIPE: dict[str, Any] = {
    "name": "t", "inputs": ["a=v/A:mean", "p=v/P:max"], "tables": ["clinical"], "numeric": ["age"],
    "categorical": ["sex"], "scheme": "default", "join": "outer", "impute": "mean", "standardize": True, "pca": 3,
}  # fmt: skip


def clinical(cohort: Any, shift: int = 0) -> dict[str, dict[str, object]]:
    return {p: {"age": 20 + n + shift, "sex": "MF"[n % 2]} for n, p in enumerate(cohort.patients)}


@pytest.fixture(scope="module")
def base(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(30, count=18, missing=0.3, slices=3)
    made.clinical(clinical(made))
    return made


@pytest.fixture
def cohort(base: Any, tmp_path: Path) -> Any:
    """A store of its own; the files are those of all."""
    shutil.copytree(base.store.path, tmp_path / "store")
    store = featstore.open(tmp_path / "store", plugins=[PLUGIN])
    return replace(base, store=store, vectors=dict(base.vectors), labels=dict(base.labels), splits=dict(base.splits))


def test_same_again_is_unchanged(cohort: Any) -> None:
    first = cohort.store.materialize(**RECIPE)
    bytes_ = (first.path / "data.parquet").read_bytes()
    runs = sorted((cohort.store.path / "runs").iterdir())
    second = cohort.store.materialize(**RECIPE)
    assert (first.version, first.unchanged) == (1, False)
    assert (second.version, second.unchanged, second.run_id, second.path) == (1, True, None, first.path)
    assert (second.path / "data.parquet").read_bytes() == bytes_
    assert sorted((cohort.store.path / "runs").iterdir()) == runs
    assert cohort.store.ls("tables").num_rows == 1


def test_a_twin_store_has_the_same_bytes(cohort: Any, make_cohort: Callable[..., Any]) -> None:
    """Ingested in another order, in two parts, among other feature sets and samples."""
    first = cohort.store.materialize(**RECIPE)
    twin = make_cohort(30, count=18, missing=0.3, slices=3, extract=False)
    twin.clinical(clinical(twin))
    keys = list(twin.vectors)
    late = keys[::3]
    for key in late:
        twin.file(key).rename(twin.file(key).with_suffix(".later"))
    whole = dict(twin.vectors)
    for key in late:
        del twin.vectors[key]
    twin.vectors["only here", "T1", 0] = np.zeros(5, np.float32)
    twin.write()
    twin.ingest(order=np.random.default_rng(1))
    twin.extract("noise", poolers=("max",))
    twin.extract()
    for key in late:
        twin.file(key).with_suffix(".later").rename(twin.file(key))
    twin.vectors = whole
    twin.ingest(order=np.random.default_rng(2))
    twin.extract()
    second = twin.store.materialize(**RECIPE)
    assert (second.path / "data.parquet").read_bytes() == (first.path / "data.parquet").read_bytes()
    a, b = (json.loads((r.path / "report.json").read_text()) for r in (first, second))
    (stranger,) = [entry for entry in b["lost"] if entry not in a["lost"]]
    assert stranger == {
        "reason": "in no split of the scheme 'default'", "rows": 1, "patients": 1, "such_as": ["only here"]
    }  # fmt: skip
    assert b["candidates"] == a["candidates"] + 1
    for report in (a, b):
        for key in ("inputs", "candidates", "lost"):
            del report[key]
    assert a == b


def test_everything_that_matters_makes_a_new_version(cohort: Any) -> None:
    store = cohort.store
    assert store.materialize(**RECIPE).version == 1
    first = store.table("t@v1").to_pandas()
    assert store.materialize(**RECIPE | {"pca": 2}).version == 2
    assert store.materialize(**RECIPE).version == 3  # back again: history only grows
    cohort.clinical(clinical(cohort, shift=1) | {"007": {"age": 99, "sex": "F"}}, replace=True)
    assert store.materialize(**RECIPE).version == 4
    store.split(ratios={"train": 0.8, "val": 0.2}, seed=3, replace=True)
    assert store.materialize(**RECIPE).version == 5
    cohort.extract(dtype="float16")
    assert store.materialize(**RECIPE).version == 6  # v@v2 is the latest now
    older = RECIPE | {"inputs": ["a=v@v1/A:mean", "p=v@v1/P:max"]}
    with pytest.raises(LeakageError, match=r"older version.*a=v@v1 \(there is v@v2\)"):
        store.materialize(**older)
    older["allow"] = {"older-version": "to compare with"}
    assert store.materialize(**older).version == 7
    assert store.materialize(**older).unchanged
    assert store.table("t").version == 7
    np.testing.assert_array_equal(np.stack(store.table("t@v1").to_pandas().fused), np.stack(first.fused))
    assert store.table("t@v2").arrays()[0].shape[1] == 2
    with pytest.raises(NotFoundError, match="no version 9; its latest is v7"):
        store.table("t@v9")
    with pytest.raises(NotFoundError, match="Did you mean 't'"):
        store.table("T")


def test_what_lies_beside_the_data(cohort: Any) -> None:
    result = cohort.store.materialize(**RECIPE)
    assert sorted(p.name for p in result.path.iterdir()) == [
        "card.md", "data.parquet", "fitted.skops", "lost.parquet", "pointers.parquet", "recipe.yaml", "report.json",
        "rows.parquet",
    ]  # fmt: skip
    assert yaml.safe_load((result.path / "recipe.yaml").read_text())["inputs"] == ["a=v/A:mean", "p=v/P:max"]
    assert json.loads((result.path / "report.json").read_text()) == result.report
    run = json.loads((cohort.store.path / "runs" / result.run_id / "run.json").read_text())
    assert (run["kind"], run["state"], run["table"]["version"]) == ("materialize", "done", 1)
    assert not (cohort.store.path / "runs" / result.run_id / "table").exists()


def test_leftovers_of_a_kill_are_invisible_and_replaced(cohort: Any) -> None:
    store = cohort.store
    for folder in (
        store.path / "tables" / "t" / "v1",
        store.path / "runs" / "20260101T000000-materialize-dead" / "table",
    ):
        folder.mkdir(parents=True)
        (folder / "data.parquet").write_bytes(b"half")
    assert store.ls("tables").num_rows == 0
    assert store.status()["tables"] == 0
    assert store.status()["unfinished"] == []
    with pytest.raises(NotFoundError, match="no training table"):
        store.table("t")
    result = store.materialize(**RECIPE)
    assert result.version == 1
    assert len(store.table("t").arrays()[0]) == result.rows


def test_what_the_catalog_does_not_know_is_kept_aside(
    cohort: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A catalog restored from a backup is older than the tables beside it."""
    backup = tmp_path / "backup.duckdb"
    shutil.copy(cohort.store.catalog.path, backup)
    lost = cohort.store.materialize(**RECIPE)
    data = (lost.path / "data.parquet").read_bytes()
    shutil.copy(backup, cohort.store.catalog.path)
    again = cohort.store.materialize(**RECIPE)
    assert (again.version, again.unchanged) == (1, False)
    aside = lost.path.with_name(f"v1.orphan-{again.run_id}")
    assert (aside / "data.parquet").read_bytes() == data
    assert f"kept as {aside.name}" in caplog.text


def test_an_interrupt_after_the_commit_loses_nothing(
    cohort: Any, interrupted_after_commit: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_after_commit()
    with pytest.raises(KeyboardInterrupt):
        cohort.store.materialize(**RECIPE)
    monkeypatch.undo()
    (run,) = cohort.store.sql("SELECT run_id FROM runs WHERE kind = 'materialize'").to_pylist()
    assert (cohort.store.path / "runs" / run["run_id"] / "run.json").exists()
    assert cohort.store.materialize(**RECIPE).unchanged


KILLED = """
import os, signal, sys
import featstore
from featstore.tables import keeping, writing
store, plugin, where = sys.argv[1:]
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "written":
    os.fsync = die
elif where == "fitted":
    keeping._complete = die
else:  # between the rename and the commit
    keeping.fsync = lambda path: die() if path.name == "t" else None
featstore.open(store, plugins=[plugin]).materialize(name="t", inputs=["a=v/A:mean"], scheme="default", standardize=True)
"""


@pytest.mark.parametrize("where", ["written", "fitted", "renamed"])
def test_killed_while_writing_nothing_is_visible_and_the_same_command_does_it(
    cohort: Any, where: str, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    done = subprocess.run([sys.executable, script, cohort.store.path, PLUGIN, where], env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert cohort.store.ls("tables").num_rows == 0
    assert cohort.store.sql("SELECT count(*) n FROM runs WHERE kind = 'materialize'").to_pylist() == [{"n": 0}]
    result = cohort.store.materialize(name="t", inputs=["a=v/A:mean"], scheme="default", standardize=True)
    assert (result.version, result.unchanged) == (1, False)
    assert cohort.store.table("t").fitted()["steps"]["standardize"].n_features_in_ == 5


def test_a_stale_vector_is_left_out_until_extracted_again(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(31, count=12, slices=3)
    recipe = {"name": "t", "inputs": ["a=v/A:mean"]}
    before = cohort.store.materialize(**recipe)
    key = next(k for k in cohort.vectors if k[0] == "007" and k[1] == "A")
    assert ("007", "A", 1) in cohort.vectors or key
    number = before.report["inputs"]["a"]["samples"]
    cohort.vectors[key] = np.full(5, 9, np.float32)
    cohort.file(key).write_bytes(cohort.vectors[key].tobytes())
    os.utime(cohort.file(key), ns=(1, 1))
    cohort.ingest()
    with pytest.raises(LeakageError, match=r"1 sample.* other contents") as caught:
        cohort.store.materialize(**recipe)
    assert "featstore extract" in caught.value.hint
    stale = cohort.store.materialize(**recipe, allow={"outdated": "not extracted yet"})
    assert stale.report["inputs"]["a"] | {"patients": 0, "missing": 0} == before.report["inputs"]["a"] | {
        "samples": number - 1, "pending_samples": 1, "patients": 0, "missing": 0
    }  # fmt: skip
    cohort.extract()
    after = cohort.store.materialize(**recipe)
    assert (after.report["inputs"]["a"]["samples"], after.report["inputs"]["a"]["pending_samples"]) == (number, 0)
    frame = cohort.store.table("t").to_pandas().set_index("patient_id")
    mine = [v for (p, m, _), v in cohort.vectors.items() if (p, m) == ("007", "A")]
    np.testing.assert_allclose(frame.loc["007", "a"], np.mean(mine, axis=0, dtype=np.float64), rtol=1e-6)
    # The old table is what it was: its version says so.
    assert cohort.store.table("t@v1").report["inputs"]["a"]["samples"] == number


def test_failed_samples_are_counted_and_mended(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(32, count=12, slices=1, extract=False)
    broken = [("007", "A", 0), ("7", "A", 0), ("P1", "P", 0)]
    for key in broken:
        cohort.file(key).write_bytes(b"not floats" * 3)
    cohort.ingest()
    cohort.extract()
    result = cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"])
    inputs = result.report["inputs"]
    assert [(i["samples"], i["patients"], i["failed_samples"], i["pending_samples"]) for i in inputs.values()] == [
        (10, 10, 2, 0), (11, 11, 1, 0)
    ]  # fmt: skip
    lost = {item["reason"]: (item["rows"], item["patients"], item["such_as"]) for item in result.report["lost"]}
    assert lost == {
        "without 'a': it failed, see featstore errors": (2, 2, ["007", "7"]),
        "without 'p': it failed, see featstore errors": (1, 1, ["P1"]),
    }
    assert [i["lost"] for i in inputs.values()] == [{"failed": 2}, {"failed": 1}]
    assert result.report["candidates"] == result.rows + 3
    cohort.write()
    cohort.store.retry()
    mended = cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"])
    assert mended.version == 2
    assert [i["failed_samples"] for i in mended.report["inputs"].values()] == [0, 0]
    assert mended.report["lost"] == []


@pytest.mark.parametrize("join", ["inner", "left", "outer"])
def test_the_report_adds_up(make_cohort: Callable[..., Any], join: str) -> None:
    cohort = make_cohort(33, count=30, missing=0.4, slices=2, extract=False)
    for number, patient in enumerate(cohort.patients):
        if number % 8 == 0:
            cohort.labels[patient] = None
        if number % 9 == 1:
            cohort.splits[patient] = None
    cohort.ingest()
    cohort.extract()
    ids = {p for n, p in enumerate(cohort.patients) if n % 5} | {"p1", "0007", "nobody at all", "É 3"}
    cohort.clinical({p: {"age": n} for n, p in enumerate(sorted(ids))})
    result = cohort.store.materialize(
        name="t", inputs=["a=v/A:mean", "p=v/P:mean"], tables=["clinical"], numeric=["age"], scheme="default", join=join
    )
    report = result.report
    assert report["candidates"] == 30
    assert report["candidates"] == report["rows"] + sum(item["patients"] for item in report["lost"])
    assert report["rows"] == result.rows == sum(split["rows"] for split in report["by_split"].values())
    for split in report["by_split"].values():
        assert sum(split["labels"].values()) == split["rows"]
    for alias, modality in (("a", "A"), ("p", "P")):
        have = [k for k in cohort.vectors if k[1] == modality]
        facts = report["inputs"][alias]
        assert (facts["samples"], facts["patients"]) == (len(have), len({k[0] for k in have}))
        frame = cohort.store.table("t").to_pandas()
        assert facts["missing"] == int(np.isnan(np.stack(frame[alias])).all(axis=1).sum())
        assert facts["missing"] == 0 or join != "inner"
    table = report["tables"]["clinical"]
    assert (table["rows"], table["patients"]) == (len(ids), len(ids & set(cohort.patients)))
    assert sorted(map(tuple, table["lookalikes"])) == [("0007", "007"), ("0007", "7"), ("p1", "P1"), ("É 3", "é 3")]
    assert table["missing"] == int((~frame.age.notna()).sum())
    reasons = [item["reason"] for item in report["lost"]]
    assert ("without 'p': no sample of modality P" in reasons) == (join == "inner")
    assert ("without 'a': no sample of modality A" in reasons) == (join != "outer")
    lost = pq.ParquetFile(result.path / "lost.parquet").read().to_pylist()
    assert sorted(set(cohort.patients) - set(frame.patient_id)) == sorted(row["patient_id"] for row in lost)
    assert Counter(row["reason"] for row in lost) == {item["reason"]: item["rows"] for item in report["lost"]}
    for entry in report["coverage"]:
        meant = {p for p in cohort.patients if cohort.labels[p] is not None and cohort.splits[p] is not None}
        has = {a: {k[0] for k in cohort.vectors if k[1] == m} for a, m in (("a", "A"), ("p", "P"))}
        mine = [p for p in meant if [a for a in has if p in has[a]] == entry["has"]]
        assert entry["rows"] == len(mine) == sum(entry["by_split"].values())
        assert entry["kept"] == len(set(mine) & set(frame.patient_id))


def test_one_patient_under_two_ids_is_reported(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(34, count=12, slices=1, extract=False)
    for lost in (("007", "P", 0), ("7", "A", 0)):
        del cohort.vectors[lost]
    cohort.ingest()
    cohort.extract()
    report = cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"]).report
    assert report["rows"] == 10
    assert report["lookalikes"] == [["007", "7"]]
    others = cohort.store.materialize(name="t", inputs=["a=v/A"], where="patient_id NOT IN ('007', '7')").report
    assert others["lookalikes"] == []


def test_other_samples_and_sets_never_move_a_vector(cohort: Any, make_cohort: Callable[..., Any]) -> None:
    """After more ingests, sets and re-extractions each patient has the vectors that its files hold."""
    store = cohort.store
    rng = np.random.default_rng(3)
    for patient in ("000", "ZZZ", "4 new"):
        cohort.vectors[patient, "A", 0] = rng.normal(size=5).astype(np.float32)
        cohort.labels[patient], cohort.splits[patient] = 0, "val"
    cohort.write()
    cohort.extract("x", poolers=("mean", "max"))
    cohort.ingest(order=rng)
    cohort.extract()
    store.materialize(name="t", inputs=["a=v/A:mean"], scheme="default")
    frame = store.table("t").to_pandas()
    assert {"000", "ZZZ", "4 new"} <= set(frame.patient_id)
    for patient, vector in zip(frame.patient_id, frame.a, strict=True):
        mine = [v for (p, m, _), v in cohort.vectors.items() if (p, m) == (patient, "A")]
        np.testing.assert_allclose(vector, np.mean(mine, axis=0, dtype=np.float64), rtol=1e-6, atol=1e-7)
    x, _, keys = store.features("v").arrays()
    by_file = {cohort.file(key).name: vector for key, vector in cohort.vectors.items()}
    assert len(keys) == len(by_file)
    for vector, key in zip(x, keys, strict=True):
        np.testing.assert_array_equal(vector, by_file[key.removeprefix("cohort/")])


def test_lineage_goes_from_the_table_to_the_runs(cohort: Any) -> None:
    cohort.store.materialize(**RECIPE)
    rows = cohort.store.sql(
        "SELECT l.alias, l.feature_set, l.feature_set_version AS version, l.tabular, l.modality, l.aggregation, r.kind "
        "FROM lineage l JOIN runs r USING (run_id) WHERE \"table\" = 't' AND table_version = 1 ORDER BY alias"
    ).to_pylist()
    columns = ("alias", "feature_set", "version", "tabular", "modality", "aggregation", "kind")
    assert [tuple(row[c] for c in columns) for row in rows] == [
        ("a", "v", 1, None, "A", "mean", "extract"),
        ("clinical", None, None, "clinical", None, None, "ingest-table"),
        ("p", "v", 1, None, "P", "max", "extract"),
    ]


def test_lineage_names_the_run_of_the_very_rows_and_the_labels_table(
    cohort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a table is replaced while another is made of its old rows."""
    cohort.clinical({p: {"grade": n % 2} for n, p in enumerate(cohort.patients)}, name="outcome")
    before = {row["run_id"] for row in cohort.store.sql("SELECT run_id FROM runs").to_pylist()}
    fit = Fusion.fit

    def replaced_meanwhile(*parts: Any) -> Fusion:
        cohort.clinical(clinical(cohort, 1), replace=True)
        return fit(*parts)

    monkeypatch.setattr(Fusion, "fit", replaced_meanwhile)
    cohort.store.materialize(**RECIPE | {"label": "outcome.grade"})
    rows = cohort.store.sql("SELECT alias, tabular, aggregation, run_id FROM lineage ORDER BY alias").to_pylist()
    assert [(row["alias"], row["tabular"]) for row in rows] == [
        ("a", None), ("clinical", "clinical"), ("outcome", "outcome"), ("p", None)
    ]  # fmt: skip
    assert {row["run_id"] for row in rows} <= before
    cohort.store.materialize(**RECIPE | {"name": "one_row", "label": "clinical.sex", "categorical": []})
    rows = cohort.store.sql("SELECT alias FROM lineage WHERE \"table\" = 'one_row' ORDER BY ALL").to_pylist()
    assert [row["alias"] for row in rows] == ["a", "clinical", "p"]


def test_a_fitted_file_with_another_type_is_refused(cohort: Any) -> None:
    """The allow-list is fixed: what a stranger's file holds beyond it is not loaded, whatever it says."""
    from skops import io as skops

    result = cohort.store.materialize(**RECIPE)
    skops.dump({"standardize": featstore.errors.FeatstoreError}, result.path / "fitted.skops")
    with pytest.raises(Exception, match=r"[Uu]ntrusted"):
        cohort.store.table("t").fitted()


def test_a_table_without_labels(make_cohort: Any) -> None:
    cohort = make_cohort(3, count=12)
    made = cohort.store.materialize(name="bare", inputs=["a=v/A:mean"], scheme="default", label="none", pca=2)
    assert "label" not in " ".join(lost["reason"] for lost in made.report["lost"])
    X, y, patients = cohort.store.table("bare").arrays()
    assert len(X) == len(patients) == made.rows
    assert all(label is None for label in y)
