"""Schemes in a store: who is in them, their versions, what is refused."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import featstore
from featstore.catalog import sandbox
from featstore.catalog.splits import scheme
from featstore.errors import ConflictError, NotFoundError, SqlError, UsageError
from featstore.runs import RunFolder

HALVES = {"train": 0.5, "val": 0.5}


def cohort(n: int = 30) -> list[tuple[str, str, str, str]]:
    """Patients of site JM in 3 classes, one in five without a label, a third without P; and 6 of site KD."""
    rows = []
    for i in range(n):
        label = "" if i % 5 == 0 else str(i % 3)
        rows += [(f"{i:03}", "A", "JM", label)] + ([(f"{i:03}", "P", "JM", label)] if i % 3 else [])
    return rows + [(f"k{i}", m, "KD", "1") for i in range(6) for m in "AP"]


def recipe(store: featstore.Store, name: str) -> dict[str, Any]:
    (row,) = store.sql(f"SELECT recipe FROM schemes WHERE scheme = '{name}' AND current").to_pylist()
    return dict(json.loads(row["recipe"]))


class TestRatios:
    def test_the_path_of_a_day(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        result = store.split(
            ratios={"train": 0.7, "val": 0.3}, stratify="label", holdout="site <> 'JM'", require_modalities=["A", "P"],
            seed=42,
        )  # fmt: skip
        found = splits(store)
        assert result.version == 1
        assert result.left_out == {"P": 10}
        assert {p for p, split in found.items() if split == "test"} == {f"k{i}" for i in range(6)}
        assert len(found) == 26
        assert {split: sum(strata.values()) for split, strata in result.counts.items()} == Counter(found.values())
        home = store.sql("SELECT label, split FROM patients WHERE site = 'JM' AND split IS NOT NULL").to_pylist()
        for label in {row["label"] for row in home}:
            within = Counter(row["split"] for row in home if row["label"] == label)
            assert abs(within["train"] - 0.7 * within.total()) < 1
            assert result.counts["train"]["(none)" if label is None else label] == within["train"]
        assert abs(sum(row["split"] == "train" for row in home) - 0.7 * len(home)) < 1
        in_splits = store.sql("SELECT split, count(*) AS n FROM samples GROUP BY 1").to_pylist()
        samples = {row["split"]: row["n"] for row in in_splits if row["split"]}
        assert {split: sum(strata.values()) for split, strata in result.samples.items()} == samples
        assert result.asked == {"train": 0.7, "val": 0.3}

    def test_order_of_ingest_is_irrelevant(self, take, splits, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        arguments = {"ratios": {"train": 0.6, "val": 0.4}, "stratify": "label", "seed": 3}
        one = take(cohort())
        one.split(**arguments)
        other = featstore.init(tmp_path / "other")
        take(cohort()[::-1], other, "n")
        other.split(**arguments)
        assert splits(one) == splits(other)

    def test_one_patient(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([("p", "A", "", "")])
        assert store.split(ratios={"train": 0.7, "val": 0.3}).counts == {"train": {"": 1}, "val": {}}
        with pytest.raises(UsageError, match="nothing to stratify by"):
            store.split(scheme="other", ratios={"train": 0.7, "val": 0.3}, stratify="label")
        with pytest.raises(UsageError, match=r"1 patient\(s\) can't fill 2 folds"):
            store.split(scheme="other", k_folds=2)

    def test_patients_who_come_in_meanwhile_are_held_out_too(self, take, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "JM", "1") for i in range(6)])
        looked = []

        def predicate(*arguments):  # type: ignore[no-untyped-def]
            found = sandbox.predicate(*arguments)
            if not looked:
                take([(f"k{i}", "A", "KD", "1") for i in range(4)], into=store, name="late")
            looked.append(len(found))
            return found

        monkeypatch.setattr(featstore.splits.make, "sandbox", SimpleNamespace(predicate=predicate))
        result = store.split(ratios={"train": 1.0}, holdout="site <> 'JM'")
        assert looked == [0, 4]
        assert result.counts == {"train": {"": 6}, "test": {"": 4}}

    def test_everyone_held_out_and_nobody(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "X", "1") for i in range(4)])
        with pytest.raises(UsageError, match="Every patient meets --holdout 'true': nobody is left"):
            store.split(ratios={"train": 1.0}, holdout="true")
        with pytest.raises(UsageError, match="No patient meets --holdout"):  # a misspelt site is no external test set
            store.split(ratios={"train": 1.0}, holdout="site = 'Y'", holdout_as="external", replace=True)

    def test_stable_moves_nobody(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        how = {"ratios": HALVES, "stable": True, "seed": 4, "holdout": "site = 'KD'"}
        store.split(**how)
        before = splits(store)
        take([(f"new {i}", "A", "JM", "2") for i in range(20)], store, "n")
        again = store.split(**how, replace=True)
        assert again.version == 2
        assert splits(store).items() > before.items()
        assert recipe(store, "default")["stable"] is True

    def test_refused_and_unchanged(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort(6))
        runs = store.sql("FROM runs").num_rows
        refused: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"stratify": "lable"}, UsageError, "Did you mean 'label'"),
            ({"stratify": "label+"}, UsageError, "--stratify '' is neither"),
            ({"stratify": "patient_id"}, UsageError, "'patient_id' is neither"),
            ({"holdout": "sight = 'X'"}, SqlError, "--holdout"),
            ({"holdout": "1=1) OR (1=1"}, SqlError, "--holdout"),
            ({"require_modalities": ["Q"]}, UsageError, "modality 'Q'.\n  next: modalities here: A, P"),
        ]
        for arguments, error, message in refused:
            with pytest.raises(error, match=message):
                store.split(ratios={"train": 1.0}, **arguments)
        assert splits(store) == {}
        assert store.sql("FROM runs").num_rows == runs == len(list((store.path / "runs").iterdir()))

    def test_an_empty_store(self, store: featstore.Store) -> None:
        with pytest.raises(UsageError, match="No patient is left to split"):
            store.split(ratios={"train": 1.0}, require_modalities=["A"])
        assert not list((store.path / "runs").iterdir())

    def test_an_interrupt_after_the_commit_takes_nothing_away(self, take, splits, interrupted_after_commit) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort(4))
        interrupted_after_commit()
        with pytest.raises(KeyboardInterrupt):
            store.split(k_folds=2)
        assert len(splits(store)) == 10
        (kept,) = (store.path / "runs").glob("*-split-*")
        assert RunFolder(kept).count_rows("splits") == 10

    def test_the_run_holds_the_rows_and_the_recipe(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort(9))
        result = store.split(ratios=HALVES, seed=5)
        run = RunFolder(store.path / "runs" / result.run_id)
        assert {row["patient_id"]: row["split"] for row in run.load_rows("splits").to_pylist()} == splits(store)
        assert run.facts()["request"]["seed"] == 5
        assert run.facts()["state"] == "done"


#: Two sites, two labels and two scanners, each combination of site and label alike often.
SCANNED = [(f"{i:03}", "A", "JM" if i % 2 else "KD", str(i % 4 // 2), "GE" if i < 12 else "SI") for i in range(24)]


@pytest.fixture(scope="module")
def labelled(ingest: Any, tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    folder = tmp_path_factory.mktemp("labelled")
    store: featstore.Store = ingest(featstore.init(folder / "store"), folder / "in", SCANNED, more=("scanner",))
    rows = "".join(f"{i:03},{'hi' if i % 3 else 'lo'},{40 + i % 2}.5\n" for i in range(20))
    (folder / "clinical.csv").write_text(f"patient_id,grade,age\n{rows}")
    store.ingest_table(folder / "clinical.csv", name="clinical")
    return store


class TestStrata:
    @pytest.mark.parametrize(
        ("stratify", "sizes"),
        [
            ("site", {"JM": 12, "KD": 12}),
            ("label+site", {"0 + JM": 6, "0 + KD": 6, "1 + JM": 6, "1 + KD": 6}),
            ("scanner", {"GE": 12, "SI": 12}),
            ("modalities", {"A": 24}),
            ("clinical.grade", {"hi": 13, "lo": 7, "(none)": 4}),
            (
                "clinical.age+scanner",
                {"40.5 + GE": 6, "41.5 + GE": 6, "40.5 + SI": 4, "41.5 + SI": 4, "(none) + SI": 4},
            ),
        ],
    )
    def test_by_whatever_belongs_to_a_patient(self, labelled, stratify: str, sizes: dict[str, int]) -> None:  # type: ignore[no-untyped-def]
        ratios = {"a": 0.5, "b": 0.25, "c": 0.25}
        result = labelled.split(scheme="by_" + re.sub(r"\W", "_", stratify), ratios=ratios, stratify=stratify)
        counts = result.counts
        assert {s: sum(counts[split].get(s, 0) for split in "abc") for s in sizes} == sizes
        for split, share in {"a": 0.5, "b": 0.25, "c": 0.25}.items():
            assert all(abs(counts[split].get(s, 0) - share * n) < 1 for s, n in sizes.items())
            assert sum(counts[split].values()) == 24 * share
        assert result.small == {s: n for s, n in sizes.items() if n < 3}

    def test_what_a_patient_has_several_of(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([("p", "A", "X", "1", "1"), ("p", "P", "X", "1", "2"), ("q", "A", "X", "1", "")], more=("slice",))
        with pytest.raises(ConflictError, match=r"1 patient\(s\) have more than one slice.*\n    p: 1 and 2"):
            store.split(ratios=HALVES, stratify="slice")

    def test_no_such_column_of_a_table(self, labelled) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(UsageError, match=r"'clinical\.grad' is neither.*Did you mean 'clinical\.grade'"):
            labelled.split(ratios=HALVES, stratify="clinical.grad")
        with pytest.raises(UsageError, match="tables: clinical"):
            labelled.split(ratios=HALVES, stratify="clinic.grade")


class TestFolds:
    def test_folds_and_repeats(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        how = {"scheme": "cv", "k_folds": 5, "stratify": "label", "holdout": "site = 'KD'", "seed": 1}
        result = store.split(**how, repeats=2)
        (other,) = result.repeats
        assert (result.scheme, other.scheme, result.folds) == ("cv-r1", "cv-r2", 5)
        assert result.run_id == other.run_id
        one, two = splits(store, "cv-r1"), splits(store, "cv-r2")
        assert one != two
        for found in (one, two):
            sizes = Counter(found.values())
            assert sizes == {"test": 6, **{f"fold{i}": 6 for i in range(5)}}
        labels = {r["patient_id"]: r["label"] for r in store.sql("FROM patients").to_pylist()}
        by_label = Counter((labels[p], split) for p, split in one.items() if split != "test")
        for label, n in Counter(labels[p] for p, split in one.items() if split != "test").items():
            assert all(abs(by_label[label, f"fold{i}"] - n / 5) < 1 for i in range(5))
        kept = recipe(store, "cv-r2")
        assert (kept["folds"], kept["repeat"], kept["seed_of_repeats"]) == (5, 2, 1)
        alone = store.split(**how | {"scheme": "alone", "seed": kept["seed"]})
        assert splits(store, "alone") == two
        assert recipe(store, "alone")["folds"] == alone.folds == 5
        more = store.split(**how, repeats=3)
        assert [r.unchanged for r in (more, *more.repeats)] == [True, True, False]
        assert [r.version for r in (more, *more.repeats)] == [1, 1, 1]
        with store.catalog.read() as connection:
            found = [scheme(connection, name) for name in ("cv-r1", "ALONE@v1")]
        assert [(s.name, s.version, s.folds) for s in found] == [("cv-r1", 1, 5), ("alone", 1, 5)]

    def test_all_repeats_or_none(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort(9))
        store.split(scheme="cv-r2", ratios=HALVES)
        with pytest.raises(ConflictError, match="'cv-r2' already"):
            store.split(scheme="cv", k_folds=2, repeats=3)
        assert splits(store, "cv-r1") == {}

    def test_a_stratum_smaller_than_the_folds_is_said(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "JM", "rare" if i < 2 else "common") for i in range(9)])
        result = store.split(k_folds=3, stratify="label")
        assert result.small == {"rare": 2}
        assert [sum(result.counts[f"fold{i}"].values()) for i in range(3)] == [3, 3, 3]

    def test_stable_folds_without_patients(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "JM", "1") for i in range(9)])
        with pytest.raises(UsageError, match="No patient's hash falls into fold"):
            store.split(k_folds=9, stable=True)


#: 7 patients of A, 5 of B, 4 of C, 4 of D.
SITES = [(f"{s}{i}", "A", s, str(i % 2)) for s, n in (("A", 7), ("B", 5), ("C", 4), ("D", 4)) for i in range(n)]


class TestSites:
    def test_leave_one_site_out(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(SITES)
        result = store.split(scheme="sites", leave_one_site_out=True, holdout="site = 'B'", holdout_as="external")
        assert result.sites == {"fold0": ["A"], "fold1": ["C"], "fold2": ["D"]}
        kept = recipe(store, "sites")
        assert (kept["folds"], kept["sites"]) == (3, {"fold0": "A", "fold1": "C", "fold2": "D"})
        where = {"A": "fold0", "B": "external", "C": "fold1", "D": "fold2"}
        assert splits(store, "sites") == {p: where[p[0]] for p in {row[0] for row in SITES}}
        with pytest.raises(UsageError, match="the patients are of 1"):
            store.split(scheme="one", leave_one_site_out=True, holdout="site <> 'B'")

    @pytest.mark.parametrize(
        ("how", "expected"), [({"ratios": {"train": 0.6, "val": 0.4}}, [12, 8]), ({"k_folds": 2}, [9, 11])]
    )
    def test_preserved(self, take, splits, how: dict[str, Any], expected: list[int]) -> None:  # type: ignore[no-untyped-def]
        store = take(SITES)
        result = store.split(**how, preserve_sites=True, stratify="label")
        found = splits(store)
        assert len({(p[0], split) for p, split in found.items()}) == 4
        assert sorted(Counter(found.values()).values()) == sorted(expected)
        assert {site: split for split, sites in result.sites.items() for site in sites} == {
            p[0]: split for p, split in found.items()
        }
        assert recipe(store, "default")["preserve_sites"] is True

    @pytest.mark.parametrize("how", [{"leave_one_site_out": True}, {"k_folds": 2, "preserve_sites": True}])
    def test_no_site_and_several(self, take, how: dict[str, Any]) -> None:  # type: ignore[no-untyped-def]
        store = take([*SITES, ("x", "A", "", "1"), ("y", "A", "A", "1"), ("y", "A", "B", "1")])
        with pytest.raises(UsageError, match="2 of 22 have none, or several:\n    x: no site\n    y: A and B"):
            store.split(**how)
        result = store.split(**how, holdout="site IS NULL OR site LIKE '%+%'")
        assert result.counts["test"] == {"": 2}


class TestVersions:
    def test_replace_makes_a_version_and_keeps_the_old(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        store.split(ratios=HALVES, seed=1)
        before, runs = splits(store), sorted((store.path / "runs").iterdir())
        with pytest.raises(ConflictError, match="is a split scheme 'default' already"):
            store.split(ratios=HALVES, seed=2)
        assert splits(store) == before
        assert sorted((store.path / "runs").iterdir()) == runs
        assert store.split(ratios=HALVES, seed=2, replace=True).version == 2
        assert splits(store) != before
        old = store.sql(
            "SELECT p.patient_id, s.split FROM core.split s JOIN core.scheme c ON c.id = s.scheme "
            "JOIN core.patient p ON p.id = s.patient WHERE c.version = 1"
        ).to_pylist()
        assert {row["patient_id"]: row["split"] for row in old} == before
        with store.catalog.read() as connection:
            assert [scheme(connection, name).version for name in ("default", "default@v1")] == [2, 1]
            with pytest.raises(NotFoundError, match=r"no version 3.\n  next: its versions: 1, 2"):
                scheme(connection, "default@v3")

    def test_the_same_again_is_no_version(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort(9))
        made = store.split(ratios=HALVES, stratify="label", seed=1)
        runs = sorted((store.path / "runs").iterdir())
        for replace in (False, True):
            again = store.split(scheme="Default", ratios=HALVES, stratify="label", seed=1, replace=replace)
            assert (again.unchanged, again.version, again.run_id, again.scheme) == (True, 1, made.run_id, "default")
            assert again.counts == made.counts
        assert sorted((store.path / "runs").iterdir()) == runs
        take([("late", "A", "JM", "1")], store, "n")
        assert store.split(ratios=HALVES, stratify="label", seed=1, replace=True).version == 2

    def test_the_same_patients_by_another_recipe_are_a_version(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "JM", "1") for i in range(6)])
        store.split(ratios=HALVES)
        before = splits(store)
        assert store.split(ratios=HALVES, require_modalities=["A"], replace=True).version == 2
        assert splits(store) == before

    def test_schemes_are_one_ignoring_case(self, take, splits) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort(6))
        store.split(scheme="Folds", ratios={"a": 0.5, "b": 0.5})
        with pytest.raises(ConflictError):
            store.split(scheme="folds", ratios={"a": 1.0})
        assert store.split(scheme="folds", ratios={"a": 1.0}, replace=True).version == 2
        assert set(splits(store, "Folds").values()) == {"a"}
