"""A lineage names the very samples, runs and versions that a table was made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featstore.catalog import training_tables
from featstore.errors import CorruptError, NotFoundError, UsageError
from featstore.tables.lineage import lineage, planned


def of(cohort: Any, name: str, **options: Any) -> dict[str, Any]:
    found = lineage(cohort.store.path, cohort.store.catalog, name, **options)
    assert json.loads(json.dumps(found)) == found
    return found


def make(make_cohort: Callable[..., Any]) -> Any:
    """14 patients, their modality A extracted by one run and P by another, some without one of the two."""
    made = make_cohort(11, extract=False, count=14, missing=0.2)
    made.ingest()
    made.extract(modalities=("A",))
    made.extract(modalities=("P",))
    made.clinical({p: {"age": 30 + n} for n, p in enumerate(made.patients)})
    made.store.materialize(
        name="t", inputs=["a=v/A:mean", "p=v/P:max"], tables=["clinical"], numeric=["age"], scheme="default",
        standardize=True,
    )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """One that no test changes."""
    return make(make_cohort)


@pytest.fixture
def fresh(make_cohort: Callable[..., Any]) -> Any:
    """One that a test may change."""
    return make(make_cohort)


def in_table(cohort: Any, modality: str) -> set[str]:
    """The samples that must be in the table, by the vectors that the test itself made."""
    both = {p for p, m, _ in cohort.vectors if m == "A"} & {p for p, m, _ in cohort.vectors if m == "P"}
    return {f"cohort/{cohort.file(k).name}" for k in cohort.vectors if k[0] in both and k[1] == modality}


def test_it_names_samples_runs_and_encoder(cohort: Any) -> None:
    found = of(cohort, "t")
    runs = cohort.store.sql("SELECT run_id, request->>'$.modalities[0]' AS modality, kind FROM runs").to_pylist()
    made_by = {r["modality"]: r["run_id"] for r in runs if r["kind"] == "extract"}
    assert [entry["alias"] for entry in found["inputs"]] == ["a", "p"]
    for entry, (modality, aggregation) in zip(found["inputs"], [("A", "mean"), ("P", "max")], strict=True):
        wanted = in_table(cohort, modality)
        assert set(entry["sample_keys"]) == wanted
        assert len(entry["sample_keys"]) == len(wanted)
        (counts,) = entry["samples"]
        patients = len({k[0] for k in cohort.vectors if f"cohort/{cohort.file(k).name}" in wanted})
        assert counts == {
            "dataset": "cohort", "modality": modality, "samples": len(wanted), "patients": patients, "changed": 0,
        }  # fmt: skip
        assert (entry["modality"], entry["aggregation"], entry["exact"]) == (modality, aggregation, True)
        (run,) = entry["runs"]
        assert (run["run_id"], run["samples"]) == (made_by[modality], len(wanted))
        assert (run["device"], run["seed"]) == ("cpu", 0)
        assert {"torch", "numpy", "featstore"} <= set(run["packages"])
        encoder = entry["encoder"]
        assert (encoder["feature_set"], encoder["backbone"], encoder["pooler"]) == ("v@v1", "numbers:5", "mean")
        assert encoder["preprocessing"] == {"dim": 5}
        assert len(encoder["weights"]) == 64
    assert "sample_keys" not in of(cohort, "t", samples=False)["inputs"][0]


def test_it_names_splits_tables_and_what_was_fitted(cohort: Any) -> None:
    found = of(cohort, "t@v1")
    by_kind = {r["kind"]: r["run_id"] for r in cohort.store.sql("SELECT run_id, kind FROM runs").to_pylist()}
    assert (found["name"], found["version"], found["entity"], found["label"]) == ("t", 1, "patient", "label")
    assert found["run"]["run_id"] == by_kind["materialize"]
    (clinical,) = found["tables"]
    assert (clinical["name"], clinical["taken_in_anew"]) == ("clinical", False)
    assert [run["run_id"] for run in clinical["runs"]] == [by_kind["ingest-table"]]
    assert (found["scheme"]["name"], found["scheme"]["version"], found["scheme"]["latest"]) == ("default", 1, 1)
    splits = [s for s in cohort.splits.values() if s]
    assert found["scheme"]["splits"] == {s: splits.count(s) for s in sorted(set(splits))}
    (fit,) = found["fits"]
    table = cohort.store.table("t")
    assert (fit["fold"], fit["train_rows"]) == ("", int((table.to_pandas().split == "train").sum()))
    assert (found["allowed"], found["stale"]) == ([], None)
    assert found["width"] == table.arrays()[0].shape[1]


def test_what_changes_afterwards_is_told(fresh: Any) -> None:
    key = next(k for k in fresh.vectors if f"cohort/{fresh.file(k).name}" in in_table(fresh, "A"))
    before = of(fresh, "t")["inputs"][0]["sample_keys"]
    fresh.file(key).write_bytes(np.full(5, 9, "<f4").tobytes())
    fresh.ingest()
    fresh.extract()
    fresh.clinical({p: {"age": 1} for p in fresh.patients}, replace=True)
    fresh.store.split(scheme="default", ratios={"train": 0.5, "val": 0.5}, replace=True)
    found = of(fresh, "t")
    assert [entry["samples"][0]["changed"] for entry in found["inputs"]] == [1, 0]
    assert found["inputs"][0]["sample_keys"] == before
    assert found["tables"][0]["taken_in_anew"]
    assert (found["scheme"]["version"], found["scheme"]["latest"]) == (1, 2)
    assert "scheme default has a version 2" in found["stale"]
    assert "clinical was taken in anew" in found["stale"]


def test_one_sample_in_many_rows_is_counted_once(make_cohort: Callable[..., Any]) -> None:
    made = make_cohort(2, count=6)
    made.store.materialize(name="t", inputs=["a=v/A"], scheme="default", entity="sample")
    (entry,) = of(made, "t")["inputs"]
    assert entry["samples"][0]["samples"] == sum(m == "A" for _, m, _ in made.vectors)
    assert len(entry["sample_keys"]) == entry["samples"][0]["samples"]


def test_a_version_without_pointers_says_so(fresh: Any) -> None:
    path = fresh.store.table("t").path / "pointers.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(CorruptError, match="can't be read"):
        of(fresh, "t")
    path.unlink()
    found = of(fresh, "t")
    for entry, modality in zip(found["inputs"], "AP", strict=True):
        assert not entry["exact"]
        assert "sample_keys" not in entry
        assert entry["samples"][0]["samples"] == sum(m == modality for _, m, _ in fresh.vectors)


def test_a_feature_set_names_its_runs_samples_and_tables(cohort: Any) -> None:
    found = of(cohort, "v")
    assert (found["kind"], found["name"], found["version"], found["tables"]) == ("feature set", "v", 1, ["t@v1"])
    assert sum(run["samples"] for run in found["runs"]) == len(cohort.vectors)
    assert sorted(found["sample_keys"]) == sorted(f"cohort/{cohort.file(k).name}" for k in cohort.vectors)
    counts = {c["modality"]: (c["samples"], c["patients"]) for c in found["samples"]}
    for modality in "AP":
        own = [k for k in cohort.vectors if k[1] == modality]
        assert counts[modality] == (len(own), len({k[0] for k in own}))


def test_names(fresh: Any) -> None:
    fresh.store.materialize(name="v", inputs=["a=v/A:mean"], scheme="default")
    assert of(fresh, "v")["kind"] == "training table"
    assert of(fresh, "features/v@v1")["kind"] == "feature set"
    assert of(fresh, "tables/v")["version"] == 1
    with pytest.raises(UsageError, match="isn't NAME"):
        of(fresh, "x/v")
    with pytest.raises(NotFoundError, match="no training table or feature set 'tt'"):
        of(fresh, "tt")
    with pytest.raises(NotFoundError, match="no version 7"):
        of(fresh, "t@v7")


def test_folds_and_exceptions(make_cohort: Callable[..., Any]) -> None:
    made = make_cohort(4, extract=False, count=12)
    twins = [k for k in made.vectors if k[1] == "A"]
    one = twins[0]
    other = next(k for k in twins if made.splits[k[0]] != made.splits[one[0]])
    made.vectors[other] = made.vectors[one]
    made.write()
    made.ingest()
    made.extract()
    made.store.materialize(
        name="t", inputs=["a=v/A:mean"], scheme="default", allow={"same-content": "a phantom, on purpose"}
    )
    (leak,) = of(made, "t")["allowed"]
    assert (leak["kind"], leak["reason"], leak["found"]) == ("same-content", "a phantom, on purpose", 1)
    made.store.split(scheme="k", k_folds=3)
    made.store.materialize(
        name="k", inputs=["a=v/A:mean"], scheme="k", standardize=True, allow={"same-content": "a phantom"}
    )
    found = of(made, "k")
    assert [fit["fold"] for fit in found["fits"]] == ["fold0", "fold1", "fold2"]
    assert len({fit["train_hash"] for fit in found["fits"]}) == 3


def test_what_is_about_to_be_made_has_the_same_origin(cohort: Any) -> None:
    facts = {"kind": "materialize", "started_at": "2024-01-02T03:04:05", "provenance": {"packages": {"numpy": "1"}}}
    with cohort.store.catalog.read() as connection:
        inputs = training_tables.inputs(connection, "t", 1)
        scheme = connection.execute("SELECT id FROM core.scheme").fetchall()[0][0]
        found = planned(connection, inputs, scheme, facts)
    whole = of(cohort, "t")
    assert [e["encoder"] for e in found["inputs"]] == [e["encoder"] for e in whole["inputs"]]
    assert (found["tables"], found["scheme"]) == (whole["tables"], whole["scheme"])
    assert found["run"] == {"kind": "materialize", "started_at": "2024-01-02T03:04:05", "packages": {"numpy": "1"}}
