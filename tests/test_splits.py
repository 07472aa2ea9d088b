"""Splits: by patient, in proportion, and the same for the same seed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import featstore
from featstore.catalog import sandbox
from featstore.errors import ConflictError, SqlError, UsageError
from featstore.splits import assign, check_ratios

PATIENTS = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=60)


@st.composite
def ratios(draw: st.DrawFn) -> dict[str, float]:
    parts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    return {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}


class TestAssign:
    @given(PATIENTS, ratios(), st.integers())
    def test_every_patient_once_and_each_count_within_one(
        self, patients: list[str], shares: dict[str, float], seed: int
    ) -> None:
        check_ratios(shares)
        found = assign(patients, shares, seed)
        assert sorted(found) == sorted(patients)
        counts = Counter(found.values())
        for name, share in shares.items():
            assert abs(counts[name] - share * len(patients)) < 1 + 1e-9

    @given(PATIENTS, ratios(), st.integers(), st.randoms())
    def test_order_is_irrelevant(
        self, patients: list[str], shares: dict[str, float], seed: int, random: object
    ) -> None:
        shuffled = list(patients)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert assign(shuffled, shares, seed) == assign(patients, shares, seed)

    def test_the_same_on_every_machine(self) -> None:
        found = assign([f"p{i}" for i in range(10)], {"train": 0.7, "val": 0.3}, seed=42)
        assert sorted(p for p, split in found.items() if split == "val") == ["p1", "p5", "p7"]

    def test_another_seed_is_another_split(self) -> None:
        patients = [f"p{i}" for i in range(40)]
        assert assign(patients, {"a": 0.5, "b": 0.5}, 1) != assign(patients, {"a": 0.5, "b": 0.5}, 2)

    def test_a_decimal_share_is_taken_as_written(self) -> None:
        # 0.7 * 10 is 7.000000000000001 or 6.999999999999999 in other orders of multiplying.
        assert Counter(assign([str(i) for i in range(10)], {"a": 0.7, "b": 0.3}, 0).values()) == {"a": 7, "b": 3}


class TestRatios:
    @pytest.mark.parametrize(
        "shares", [{"a": 1.0}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 0.1, "b": 0.2, "c": 0.7}]
    )
    def test_good(self, shares: Mapping[str, float]) -> None:
        check_ratios(shares)

    @pytest.mark.parametrize(
        ("shares", "message"),
        [
            ({}, "sum to 0"),
            ({"train": 0.7, "val": 0.2}, r"sum to 0\.9 \(0\.7 \+ 0\.2\), not to 1"),
            ({"train": 70, "val": 30}, "above 0 and at most 1, not 70"),
            ({"train": 1.0, "val": 0.0}, "'val' must be above 0"),
            ({"train": 1.5, "val": -0.5}, "at most 1"),
            ({"train": math.nan, "val": 0.5}, "not nan"),
            ({"tr/ain": 1.0}, "can't be the name of a split"),
        ],
    )
    def test_bad(self, shares: Mapping[str, float], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            check_ratios(shares)


@pytest.fixture
def take(store: featstore.Store, tmp_path: Path):  # type: ignore[no-untyped-def]
    """A function that ingests rows ``(patient_id, modality, site, label)`` as a manifest, and gives the store."""

    def ingest(
        rows: Sequence[tuple[str, str, str, str]], into: featstore.Store = store, name: str = "m"
    ) -> featstore.Store:
        lines = ["path,patient_id,modality,site,label"]
        for number, row in enumerate(rows):
            (tmp_path / f"{name}{number}.png").write_bytes(b"x")
            lines.append(",".join((f"{name}{number}.png", *row)))
        (tmp_path / f"{name}.csv").write_text("\n".join(lines))
        into.ingest_manifest(tmp_path / f"{name}.csv")
        return into

    return ingest


def cohort(n: int = 30) -> list[tuple[str, str, str, str]]:
    """Patients of site JM in 3 classes, one in five without a label, a third without P; and 6 of site KD."""
    rows = []
    for i in range(n):
        label = "" if i % 5 == 0 else str(i % 3)
        rows += [(f"{i:03}", "A", "JM", label)] + ([(f"{i:03}", "P", "JM", label)] if i % 3 else [])
    return rows + [(f"k{i}", m, "KD", "1") for i in range(6) for m in "AP"]


def splits(store: featstore.Store, scheme: str = "default") -> dict[str, str]:
    rows = store.sql(f"SELECT patient_id, split FROM splits WHERE scheme = '{scheme}'").to_pylist()
    assert len({row["patient_id"] for row in rows}) == len(rows)
    return {row["patient_id"]: row["split"] for row in rows}


class TestStore:
    def test_the_path_of_a_day(self, take) -> None:  # type: ignore[no-untyped-def]
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
        assert set(store.sql("SELECT DISTINCT split FROM samples").column(0).to_pylist()) == {
            "train",
            "val",
            "test",
            None,
        }

    def test_order_of_ingest_is_irrelevant(self, take, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
        arguments = {"ratios": {"train": 0.6, "val": 0.4}, "stratify": "label", "seed": 3}
        one = take(cohort())
        one.split(**arguments)
        other = featstore.init(tmp_path / "other")
        take(cohort()[::-1], other, "n")
        other.split(**arguments)
        assert splits(one) == splits(other)

    def test_replace_makes_a_version_and_keeps_the_old(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        store.split(ratios={"train": 0.5, "val": 0.5}, seed=1)
        before, runs = splits(store), sorted((store.path / "runs").iterdir())
        with pytest.raises(ConflictError, match="is a split scheme 'default' already"):
            store.split(ratios={"train": 0.5, "val": 0.5}, seed=2)
        assert splits(store) == before
        assert sorted((store.path / "runs").iterdir()) == runs
        assert store.split(ratios={"train": 0.5, "val": 0.5}, seed=2, replace=True).version == 2
        assert splits(store) != before
        old = store.sql(
            "SELECT p.patient_id, s.split FROM core.split s JOIN core.scheme c ON c.id = s.scheme "
            "JOIN core.patient p ON p.id = s.patient WHERE c.version = 1"
        ).to_pylist()
        assert {row["patient_id"]: row["split"] for row in old} == before

    def test_schemes_are_one_ignoring_case(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        store.split(scheme="Folds", ratios={"a": 0.5, "b": 0.5})
        with pytest.raises(ConflictError):
            store.split(scheme="folds", ratios={"a": 1.0})
        assert store.split(scheme="folds", ratios={"a": 1.0}, replace=True).version == 2
        assert set(splits(store, "Folds").values()) == {"a"}

    def test_one_patient(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([("p", "A", "", "")])
        result = store.split(ratios={"train": 0.7, "val": 0.3})
        assert result.counts == {"train": {"": 1}, "val": {}}
        with pytest.raises(UsageError, match="nothing to stratify by"):
            store.split(scheme="other", ratios={"train": 0.7, "val": 0.3}, stratify="label")

    def test_patients_who_come_in_meanwhile_are_held_out_too(self, take, monkeypatch) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "JM", "1") for i in range(6)])
        looked = []

        def predicate(*arguments):  # type: ignore[no-untyped-def]
            found = sandbox.predicate(*arguments)
            if not looked:
                take([(f"k{i}", "A", "KD", "1") for i in range(4)], into=store, name="late")
            looked.append(len(found))
            return found

        monkeypatch.setattr(featstore.splits, "sandbox", SimpleNamespace(predicate=predicate))
        result = store.split(ratios={"train": 1.0}, holdout="site <> 'JM'")
        assert looked == [0, 4]
        assert result.counts == {"train": {"": 6}, "test": {"": 4}}

    def test_one_class(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "", "1") for i in range(9)])
        result = store.split(ratios={"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, stratify="label")
        assert result.counts == {"a": {"1": 3}, "b": {"1": 3}, "c": {"1": 3}}

    def test_everyone_held_out_and_nobody(self, take) -> None:  # type: ignore[no-untyped-def]
        store = take([(str(i), "A", "X", "1") for i in range(4)])
        assert store.split(ratios={"train": 1.0}, holdout="true").counts == {"train": {}, "test": {"": 4}}
        nobody = store.split(ratios={"train": 1.0}, holdout="site = 'Y'", holdout_as="external", replace=True)
        assert nobody.counts == {"train": {"": 4}, "external": {}}

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"ratios": {"train": 0.5}}, UsageError, "not to 1"),
            ({"ratios": {"train": 1.0}, "stratify": "lable"}, UsageError, "takes label or site"),
            ({"ratios": {"train": 1.0}, "scheme": "a b"}, UsageError, "split scheme"),
            ({"ratios": {"train": 1.0}, "holdout": "true", "holdout_as": ""}, UsageError, "a split"),
            ({"ratios": {"train": 1.0}, "holdout": "true", "holdout_as": "train"}, UsageError, "mixed into 'train'"),
            ({"ratios": {"train": 1.0}, "holdout": "sight = 'X'"}, SqlError, "--holdout"),
            ({"ratios": {"train": 1.0}, "holdout": "1=1) OR (1=1"}, SqlError, "--holdout"),
            (
                {"ratios": {"train": 1.0}, "require_modalities": ["Q"]},
                UsageError,
                "modality 'Q'.\n  next: modalities here: A, P",
            ),
        ],
    )
    def test_refused_and_unchanged(self, take, arguments, error, message) -> None:  # type: ignore[no-untyped-def]
        store = take(cohort())
        runs = store.sql("FROM runs").num_rows
        with pytest.raises(error, match=message):
            store.split(**arguments)
        assert splits(store) == {}
        assert store.sql("FROM runs").num_rows == runs == len(list((store.path / "runs").iterdir()))

    def test_an_empty_store(self, store: featstore.Store) -> None:
        with pytest.raises(UsageError, match="No patient is left to split"):
            store.split(ratios={"train": 1.0}, require_modalities=["A"])
        assert not list((store.path / "runs").iterdir())

    def test_the_run_holds_the_rows_and_the_recipe(self, take) -> None:  # type: ignore[no-untyped-def]
        from featstore.runs import RunFolder

        store = take(cohort(9))
        result = store.split(ratios={"train": 0.5, "val": 0.5}, seed=5)
        run = RunFolder(store.path / "runs" / result.run_id)
        assert {row["patient_id"]: row["split"] for row in run.load_rows("splits").to_pylist()} == splits(store)
        assert run.facts()["request"]["seed"] == 5
        assert run.facts()["state"] == "done"
