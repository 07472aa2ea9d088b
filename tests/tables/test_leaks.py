"""Looking for leaks in tables that were made, and in feature sets."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore import CorruptError, NotFoundError, UsageError
from featstore.tables.leaks import LeakReport


def look(cohort: Any, name: str, **options: Any) -> LeakReport:
    report: LeakReport = cohort.store.leaks(name, **options)
    return report


def kinds(report: LeakReport) -> list[str]:
    return [leak.kind for leak in report.leaks]


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """One test patient is a train patient again, noised, with one slice untouched; two train patients share one too."""
    made = make_cohort(61, count=18, slices=3, dim=24, extract=False)
    rng = np.random.default_rng(61)
    train, test = (next(p for p in made.patients if made.splits[p] == split) for split in ("train", "test"))
    for modality, number in itertools.product("AP", range(3)):
        base = rng.normal(1, 2, 24).astype(np.float32)
        made.vectors[train, modality, number] = base
        made.vectors[test, modality, number] = (base + rng.normal(0, 0.01, 24)).astype(np.float32)
    made.vectors[test, "P", 1] = made.vectors[train, "P", 1]
    made.train, made.test = train, test
    made.twins = [p for p in made.patients if made.splits[p] == "train" and p != train][:2]
    made.vectors[made.twins[1], "A", 0] = made.vectors[made.twins[0], "A", 0]
    made.write()
    made.ingest()
    made.extract()
    made.store.materialize(
        name="t", inputs=["a=v/A:mean", "p=v/P:mean"], scheme="default", allow={"same-content": "a phantom"}
    )
    return made


def test_rows_of_a_table(cohort: Any) -> None:
    report = look(cohort, "t")
    assert (report.name, report.scheme, report.rows) == ("t@v1", None, 18)
    assert kinds(report) == ["same-content", "near-duplicates", "near-duplicates"]
    (content,) = report.leaks[0].rows
    assert {content["patient_id"], content["other_patient_id"]} == {cohort.train, cohort.test}
    assert content["sample_key"].endswith(cohort.file((cohort.train, "P", 1)).name) or content["sample_key"].endswith(
        cohort.file((cohort.test, "P", 1)).name
    )
    for leak, alias in zip(report.leaks[1:], "ap", strict=True):
        (row,) = leak.rows
        assert row["input"] == alias
        assert {row["patient_id"], row["other_patient_id"]} == {cohort.train, cohort.test}
    assert kinds(look(cohort, "t", threshold=1.0)) == ["same-content"]


def test_samples_of_a_feature_set_are_compared_with_all(cohort: Any) -> None:
    report = look(cohort, "v", threshold=0.9)
    x, _, keys = cohort.store.features("v").arrays()
    rows = cohort.store.sql("SELECT sample_key, patient_id, split FROM samples").to_pandas().set_index("sample_key")
    rows = rows.loc[keys]
    apart = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    units = apart / np.linalg.norm(apart, axis=1, keepdims=True)
    expected = {
        frozenset((keys[a], keys[b])): float(units[a] @ units[b])
        for a, b in itertools.combinations(range(len(keys)), 2)
        if rows.split.iloc[a] != rows.split.iloc[b] and units[a] @ units[b] >= 0.9
    }
    assert (report.name, report.scheme, report.rows) == ("v@v1", "default", len(keys))
    assert kinds(report) == ["same-content", "near-duplicates"]  # where bytes are the same, so are vectors
    near = report.leaks[-1]
    assert near.found == len(near.rows) == len(expected) >= 6
    assert {frozenset((r["sample_key"], r["other_sample_key"])): r["cosine"] for r in near.rows} == pytest.approx(
        expected
    )
    assert rows.loc[[r["sample_key"] for r in near.rows]].patient_id.tolist() == [r["patient_id"] for r in near.rows]


def test_everyone(cohort: Any) -> None:
    assert {row["split"] for row in look(cohort, "v").leaks[0].rows} <= {"train", "test"}
    report = look(cohort, "v", everyone=True)
    pairs = {frozenset((r["patient_id"], r["other_patient_id"])) for r in report.leaks[0].rows}
    assert pairs == {frozenset(cohort.twins), frozenset((cohort.train, cohort.test))}
    assert kinds(look(cohort, "t", everyone=True))[0] == "same-content"
    assert look(cohort, "t", everyone=True).leaks[0].found == 2


def test_splits_of_another_scheme(cohort: Any) -> None:
    rows = {p: "train" if p in {cohort.train, cohort.test} else "test" for p in cohort.patients}
    with cohort.store.catalog.write() as connection:
        connection.execute("INSERT INTO core.scheme SELECT 70, 'side', 1, '{}', min(id) FROM core.run")
        for patient, split in rows.items():
            connection.execute(
                "INSERT INTO core.split SELECT 70, id, ? FROM core.patient WHERE patient_id = ?", [split, patient]
            )
    twins_apart = look(cohort, "t", scheme="side")
    assert twins_apart.scheme == "side"
    assert twins_apart.leaks == []
    assert look(cohort, "v", scheme="side").leaks == []
    with pytest.raises(NotFoundError, match="sid"):
        look(cohort, "v", scheme="sid")


def test_what_a_table_was_made_of_has_changed(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(62, count=12, slices=2)
    table = {"name": "t", "inputs": ["a=v/A:mean"], "scheme": "default"}
    cohort.store.materialize(**table)
    assert look(cohort, "t").leaks == look(cohort, "v").leaks == []
    key = next(k for k in cohort.vectors if k[1] == "A")
    cohort.file(key).write_bytes((cohort.vectors[key] + 1).astype("<f4").tobytes())
    os.utime(cohort.file(key), ns=(0, cohort.file(key).stat().st_mtime_ns + 10**9))
    cohort.ingest()
    for name in ("t", "v"):
        (leak,) = look(cohort, name).leaks
        assert (leak.kind, leak.found) == ("outdated", 1)
        assert "featstore extract" in leak.hint
        assert (leak.rows[0]["patient_id"], leak.rows[0]["feature_set"]) == (key[0], "v@v1")
    cohort.extract()
    assert look(cohort, "v").leaks == []
    (leak,) = look(cohort, "t").leaks  # its rows are still of what the sample was
    assert leak.kind == "outdated"
    assert leak.hint.startswith("materialize it again")
    cohort.store.materialize(**table)
    assert look(cohort, "t").leaks == []
    cohort.store.split(ratios={"train": 0.5, "test": 0.5}, replace=True)
    (leak,) = look(cohort, "t").leaks
    assert (leak.kind, leak.rows) == ("stale", [{"because": "the scheme default has a version 2"}])
    cohort.extract("v", dtype="float16")
    assert [leak.rows[0].get("latest") for leak in look(cohort, "t@v2").leaks] == ["v@v2", None]


def test_whom_its_encoder_was_trained_on(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(63, count=12, slices=1)
    cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"], scheme="default")
    held_out = [p for p in cohort.patients if cohort.splits[p] != "train"]
    where = f"patient_id IN ({', '.join(map(repr, ['N000', *held_out[:2]]))})"
    cohort.store.trained_on("v", where=where)
    for name, inputs in (("t", ["a", "p"]), ("v", ["v"])):
        (leak,) = look(cohort, name).leaks
        assert leak.kind == "fine-tuned"
        assert [row["inputs"] for row in leak.rows] == [inputs] * 2
        assert sorted(row["patient_id"] for row in leak.rows) == sorted(held_out[:2])


def test_folds_clinical_columns_and_tokens(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(64, count=24, slices=1, dim=4)
    cohort.clinical({p: {"age": 30 + n % 5, "code": f"c{cohort.labels[p]}"} for n, p in enumerate(cohort.patients)})
    cohort.store.split(scheme="five", k_folds=3)
    cohort.store.materialize(
        name="t", inputs=["a=v/A"], scheme="five", tables=["clinical"], numeric=["age"], categorical=["code"],
        allow={"label-input": "a control"},
    )  # fmt: skip
    (leak,) = look(cohort, "t").leaks
    assert (leak.kind, [row["column"] for row in leak.rows]) == ("label-input", ["code"])
    cohort.store.extract(name="tok", backbone="numbers:2x2", poolers=("tokens",), device="cpu")
    assert look(cohort, "tok").leaks == []
    assert look(cohort, "tok", everyone=True, threshold=0.2).leaks[0].kind == "near-duplicates"


def test_what_cannot_be_looked_at(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(65, count=12, slices=1)
    made = cohort.store.materialize(name="t", inputs=["a=v/A"])
    with pytest.raises(NotFoundError, match=r"'tt'.*Did you mean 't'"):
        look(cohort, "tt")
    with pytest.raises(NotFoundError, match="no version 3"):
        look(cohort, "v@v3")
    for threshold in (0.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="--threshold"):
            look(cohort, "v", threshold=threshold)
    with pytest.raises(UsageError, match="Nothing says who of t@v1 is in which split") as caught:
        look(cohort, "t")
    assert "--all" in caught.value.hint
    assert look(cohort, "t", everyone=True).leaks == []
    assert look(cohort, "t", scheme="default").leaks == []
    Path(made.path / "rows.parquet").unlink()
    with pytest.raises(CorruptError, match=r"rows\.parquet"):
        look(cohort, "t", scheme="default")
