"""Each leak, planted in a cohort as hospitals have them, is refused with its rows; allowed, it is recorded."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import featstore
from featstore import LeakageError
from featstore.catalog.leakage import split_overlap
from featstore.tables.fuse import Fusion
from featstore.tables.leakage import Leak, line, refuse
from featstore.tables.recipe import LEAKS
from featstore.tables.same_column import same_columns

PLUGIN = str(Path(__file__).with_name("pixels_plugin.py"))
LAYOUT = "{site}/grade{label:int}/{patient_id}/{modality}/*.png"
INPUTS = ["a=px/A:mean", "p=px/P:mean"]


@dataclass
class Hospitals:
    """Two sites, two modalities, two slices each; the home site's patients are split, the other's are external."""

    store: featstore.Store
    root: Path

    def slices(self, patient: str, modality: str = "A") -> list[Path]:
        return sorted(self.root.glob(f"*/*/{patient}/{modality}/*.png"))

    def key(self, path: Path) -> str:
        return f"Grade/{path.relative_to(self.root).as_posix()}"

    def take_in(self) -> Hospitals:
        self.store.ingest(self.root, layouts=[LAYOUT])
        if not self.store.sql("SELECT 1 FROM splits").num_rows:
            self.store.split(
                ratios={"train": 0.75, "val": 0.25}, holdout="site = 'KD'", holdout_as="external", stratify="label"
            )
        self.store.extract(name="px", backbone="lab:pixels", device="cpu")
        return self

    def of(self, split: str) -> list[str]:
        rows = self.store.sql(f"SELECT patient_id FROM patients WHERE split = '{split}' ORDER BY 1")
        return list(rows.column(0).to_pylist())

    def clinical(self, columns: Mapping[str, Mapping[str, object]], name: str = "clinical") -> None:
        path = self.root.parent / f"{name}.csv"
        people = sorted({p for values in columns.values() for p in values})
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["patient_id", *columns])
            writer.writerows([p, *(values.get(p, "") for values in columns.values())] for p in people)
        self.store.ingest_table(path, name=name)

    def refused(self, kind: str, **fields: Any) -> LeakageError:
        """What a materialize is refused with, which leaves nothing; allowed, it is made, and that is on record."""
        fields = {"name": "t", "inputs": INPUTS, "scheme": "default"} | fields
        before = sorted(self.store.path.rglob("*"))
        with pytest.raises(LeakageError) as caught:
            self.store.materialize(**fields)
        assert [p for p in sorted(self.store.path.rglob("*")) if p not in before and p.name != "tables"] == []
        assert f"[{kind}]" in caught.value.message
        assert f"--allow {kind}='why'" in caught.value.hint
        for row in caught.value.rows[:10]:
            assert f"\n  {line(row)}" in caught.value.message
        made = self.store.materialize(**fields, allow={kind: "known: it is a phantom"})
        (entry,) = [row for row in made.report["allowed"] if row["kind"] == kind]
        assert entry["reason"] == "known: it is a phantom"
        assert entry["found"] >= len(caught.value.rows) > 0
        recorded = self.store.sql(f"SELECT kind, reason, found FROM allowed WHERE \"table\" = '{made.name}'")
        assert recorded.to_pylist() == made.report["allowed"]
        return caught.value


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    """The trees of 24 patients at home and 8 elsewhere, not ingested yet. Ids overlap in no way."""
    rng = np.random.default_rng(7)
    root = tmp_path / "Grade"
    for site, count in (("JM", 24), ("KD", 8)):
        for n in range(count):
            for modality in "AP":
                folder = root / site / f"grade{n % 2}" / f"{site} {n:03}" / modality
                folder.mkdir(parents=True)
                for number in range(2):
                    pixels = rng.integers(0, 256, (16, 16), dtype=np.uint8)
                    PIL.Image.fromarray(pixels).save(folder / f"slice_{number}.png")
    featstore.init(tmp_path / "store")
    return Hospitals(featstore.open(tmp_path / "store", plugins=[PLUGIN]), root)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    PIL.Image.fromarray(change(np.array(PIL.Image.open(path)))).save(path)
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))


def test_a_clean_cohort_is_made(hospitals: Hospitals) -> None:
    made = hospitals.take_in().store.materialize(name="t", inputs=INPUTS, scheme="default", near_duplicates=0.999)
    assert made.rows == 32
    assert made.report["allowed"] == []
    assert hospitals.store.sql("SELECT * FROM allowed").num_rows == 0
    again = hospitals.store.materialize(
        name="t", inputs=INPUTS, scheme="default", near_duplicates=0.999, allow={"outdated": "it never is"}
    )
    assert again.report["allowed"] == [{"kind": "outdated", "reason": "it never is", "found": 0}]


def test_the_same_content_under_patients_of_two_splits(hospitals: Hospitals) -> None:
    """One slice of a train patient lies with an external one, and in another modality of a val one; pairs within a
    split are nobody's business."""
    hospitals.take_in()
    (ours, within, *_), theirs, val = hospitals.of("train"), hospitals.of("external")[0], hospitals.of("val")[0]
    source = hospitals.slices(ours)[0]
    planted = [hospitals.slices(theirs)[1], hospitals.slices(val, "P")[0]]
    for path in (*planted, hospitals.slices(within)[0]):
        shutil.copy(source, path)
        os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))
    hospitals.take_in()
    error = hospitals.refused("same-content")
    people = {
        (row[f"{p}patient_id"], row[f"{p}split"], row[f"{p}sample_key"]) for row in error.rows for p in ("", "other_")
    }
    assert people == {
        (ours, "train", hospitals.key(source)), (within, "train", hospitals.key(hospitals.slices(within)[0])),
        (theirs, "external", hospitals.key(planted[0])), (val, "val", hospitals.key(planted[1])),
    }  # fmt: skip
    assert len(error.rows) == 3
    assert all(row["split"] != row["other_split"] for row in error.rows)
    # Only what goes into the table counts: without the other modality, one patient less; with no such sample, none.
    one = hospitals.store.materialize(
        name="one", inputs=["a=px/A:mean"], scheme="default", allow={"same-content": "wanted"}
    )
    assert one.report["allowed"][0]["found"] == 2
    keys = ", ".join(f"'{hospitals.key(path)}'" for path in planted)
    clean = {"name": "clean", "inputs": INPUTS, "scheme": "default"}
    hospitals.store.materialize(**clean, where=f"sample_key NOT IN ({keys})")
    # Without a scheme nothing is held out.
    hospitals.store.materialize(name="whole", inputs=INPUTS)


def test_the_same_content_across_folds(hospitals: Hospitals) -> None:
    store = hospitals.take_in().store
    store.split(scheme="five", k_folds=5)
    rows = store.sql(
        "SELECT split, min(patient_id) p FROM splits WHERE scheme = 'five' GROUP BY 1 ORDER BY 1"
    ).to_pylist()
    ours, theirs = rows[0]["p"], rows[3]["p"]
    source, target = hospitals.slices(ours)[0], hospitals.slices(theirs)[1]
    rewrite(target, lambda _: np.array(PIL.Image.open(source)))
    hospitals.take_in()
    error = hospitals.refused("same-content", scheme="five")
    assert error.rows == [{
        "patient_id": theirs, "split": "fold3", "sample_key": hospitals.key(target),
        "other_patient_id": ours, "other_split": "fold0", "other_sample_key": hospitals.key(source),
    }]  # fmt: skip
    # In none of the folds is anybody called train before one is held out.
    store.trained_on("px", where=f"patient_id = '{ours}'")
    with pytest.raises(LeakageError, match=rf"trained on 1 patient.*\n.*'{ours}' \(fold0\)"):
        store.materialize(name="f", inputs=INPUTS, scheme="five", allow={"same-content": "known"})


def test_the_same_vectors_where_nobody_knows_the_contents(hospitals: Hospitals) -> None:
    """Vectors that were imported have no content hash; one patient came twice, and three are of zeros."""
    hospitals.take_in()
    rng = np.random.default_rng(1)
    ids = [*hospitals.of("train")[:8], *hospitals.of("val")[:4], *hospitals.of("external")[:4]]
    vectors = np.repeat(rng.normal(size=(16, 6)), 2, axis=0) + rng.normal(0, 0.1, (32, 6))
    vectors[2 * 9 : 2 * 9 + 2] = vectors[2:4][::-1]  # the second patient again, its slices the other way round
    vectors[2 * 13] = vectors[2 * 5 + 1]  # one slice of another's alone: what is pooled of them differs
    for n in (3, 10, 15):
        vectors[2 * n : 2 * n + 2] = 0
    np.save(hospitals.root.parent / "v.npy", vectors.astype(np.float32))
    with open(hospitals.root.parent / "v.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "key", "patient_id", "modality"])
        writer.writerows([n, f"k{n}", ids[n // 2], "CT"] for n in range(32))
    hospitals.store.import_features(
        hospitals.root.parent / "v.npy", name="theirs", index=hospitals.root.parent / "v.csv"
    )
    error = hospitals.refused("same-vectors", inputs=["ct=theirs/CT:mean"])
    pairs = {frozenset((row["patient_id"], row["other_patient_id"])) for row in error.rows}
    assert frozenset((ids[1], ids[9])) in pairs
    assert frozenset((ids[5], ids[13])) in pairs
    assert set().union(*pairs) == {ids[n] for n in (1, 9, 3, 10, 15, 5, 13)}
    assert len(error.rows) == 2 + 1 + 5
    assert "the same vector of 'ct', 8 time(s); 5 of them are one number throughout" in error.message
    assert hospitals.store.leaks("t").leaks[0].found == 8


@pytest.mark.parametrize("fuser", ["concat", "mean"])
def test_the_same_vector_in_two_inputs(make_cohort: Callable[..., Any], fuser: str) -> None:
    """A patient's scan A was filed as another one's P, in another split; of both, only vectors are known."""
    cohort = make_cohort(61, count=12, slices=1, extract=False)
    one, other = (next(p for p in cohort.patients if cohort.splits[p] == s) for s in ("train", "test"))
    cohort.vectors[other, "P", 0] = cohort.vectors[one, "A", 0]
    cohort.write()
    cohort.ingest()
    cohort.extract()
    with cohort.store.catalog.write() as connection:
        connection.execute("UPDATE core.sample SET content_hash = NULL")
    with pytest.raises(LeakageError, match="the same vector of 'a' and 'p', 1 time") as caught:
        cohort.store.materialize(name="t", inputs=["a=v/A:mean", "p=v/P:mean"], scheme="default", fuser=fuser)
    (row,) = caught.value.rows
    assert {(row["input"], row["patient_id"]), (row["other_input"], row["other_patient_id"])} == {
        ("a", one), ("p", other)
    }  # fmt: skip
    # Two inputs of the very same vectors are no leak, and each pair of patients is told once.
    inputs = ["a=v/A:mean", "b=v/A:max"]
    cohort.store.materialize(name="t", inputs=inputs, scheme="default", fuser=fuser)
    assert [leak.kind for leak in cohort.store.leaks("t").leaks] == []


def test_nearly_the_same_vectors(hospitals: Hospitals) -> None:
    """A patient was scanned, noised and filed again as another one: no content is equal, nor any vector."""
    hospitals.take_in()
    ours, theirs = hospitals.of("train")[2], hospitals.of("external")[1]
    rng = np.random.default_rng(5)
    for source, target in zip(hospitals.slices(ours), hospitals.slices(theirs), strict=True):
        noised = np.clip(np.array(PIL.Image.open(source)).astype(int) + rng.integers(-3, 4, (16, 16)), 0, 255)
        rewrite(target, lambda _, new=noised: new.astype(np.uint8))
    hospitals.take_in()
    assert hospitals.store.materialize(name="unasked", inputs=INPUTS, scheme="default").report["allowed"] == []
    error = hospitals.refused("near-duplicates", near_duplicates=0.99)
    (row,) = error.rows
    assert {row["patient_id"], row["other_patient_id"]} == {ours, theirs}
    assert row["input"] == "a"
    assert 0.99 <= row["cosine"] < 1


def test_what_the_catalog_knows_is_refused_before_anything_is_fitted(
    hospitals: Hospitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitting may take hours. What else leaks is said all the same."""
    hospitals.take_in()
    ours, theirs = hospitals.of("train")[2], hospitals.of("external")[1]
    source, target = hospitals.slices(ours), hospitals.slices(theirs)
    for one, other in zip(source, target, strict=True):
        rewrite(other, lambda _, new=one: np.array(PIL.Image.open(new)))
    hospitals.take_in()
    fitted = []
    fit = Fusion.fit
    monkeypatch.setattr(Fusion, "fit", lambda *given: fitted.append(1) or fit(*given))
    fields: dict[str, Any] = {"name": "t", "inputs": INPUTS, "scheme": "default", "steps": ["standardize"]}
    with pytest.raises(LeakageError, match=r"(?s)\[same-content\].*Found as well: near-duplicates\."):
        hospitals.store.materialize(**fields, near_duplicates=0.99)
    assert not fitted
    hospitals.store.materialize(**fields, allow={"same-content": "known"})  # the vectors are the same, too: one reason
    assert fitted


def test_an_encoder_that_was_trained_on_those_held_out(hospitals: Hospitals) -> None:
    store = hospitals.take_in().store
    store.split(scheme="other", ratios={"train": 0.5, "test": 0.5}, seed=4)
    other = set(store.sql("SELECT patient_id FROM splits WHERE scheme = 'other' AND split = 'train'")[0].to_pylist())
    assert store.trained_on("px", scheme="other", split=["train"]).added == 16
    store.materialize(name="same", inputs=INPUTS, scheme="other")  # none of them is held out
    error = hospitals.refused("fine-tuned")
    held_out = set(hospitals.of("val")) | set(hospitals.of("external"))
    assert [row["patient_id"] for row in error.rows] == sorted(other & held_out)
    assert all((row["inputs"], row["feature_sets"]) == (["a", "p"], ["px@v1"]) for row in error.rows)
    # This encoder has no weights that another feature set could have, too.
    store.extract(name="again", backbone="lab:pixels", dtype="float16", device="cpu")
    store.materialize(name="again", inputs=["again/A:mean"], scheme="default")
    # Where nothing is held out, nothing leaks; nor does what no row of the table is made of.
    store.materialize(name="whole", inputs=INPUTS)
    names = ", ".join(f"'{p}'" for p in sorted(other))
    store.materialize(name="others", inputs=INPUTS, scheme="default", where=f"patient_id NOT IN ({names})")


def test_an_older_version_of_a_feature_set(hospitals: Hospitals) -> None:
    store = hospitals.take_in().store
    store.materialize(name="pinned", inputs=["a=px@v1/A:mean"], scheme="default")  # there is no other
    store.extract(name="px", backbone="lab:pixels", dtype="float16", device="cpu")
    store.materialize(name="latest", inputs=INPUTS, scheme="default")
    error = hospitals.refused("older-version", inputs=["a=px@v1/A:mean", "p=px/P:mean"])
    assert error.rows == [{"input": "a", "feature_set": "px@v1", "latest": "px@v2"}]
    assert error.hint.startswith("take px@v2")


def test_contents_that_changed_since(hospitals: Hospitals) -> None:
    store = hospitals.take_in().store
    patient = hospitals.of("train")[0]
    changed = hospitals.slices(patient)[0]
    rewrite(changed, lambda pixels: 255 - pixels)
    store.ingest(hospitals.root, layouts=[LAYOUT])
    error = hospitals.refused("outdated")
    expected = {"patient_id": patient, "split": "train", "sample_key": hospitals.key(changed)}
    assert error.rows == [{"input": "a", "feature_set": "px@v1"} | expected]
    assert "featstore extract" in error.hint
    # All of an input's: without any he would be lost, as if he hadn't been extracted yet.
    key = hospitals.key(changed)
    alone = {"where": f"patient_id <> '{patient}' OR modality = 'P' OR sample_key = '{key}'"}
    for join in ({}, {"join": "left"}, {"min_modalities": 2}, {"inputs": INPUTS[:1], "join": "outer"}):
        with pytest.raises(LeakageError, match=r"1 sample.*\[outdated\]") as caught:
            store.materialize(**{"name": "lone", "inputs": INPUTS, "scheme": "default"} | alone | join)
        assert caught.value.rows == error.rows
    made = store.materialize(name="lone", inputs=INPUTS, scheme="default", **alone, allow={"outdated": "known"})
    assert patient not in store.table("lone").to_pandas().patient_id.tolist()
    assert (made.rows, made.report["allowed"][0]["found"]) == (31, 1)
    # Who isn't in the table, or not with this sample, isn't asked about.
    store.materialize(name="p", inputs=["p=px/P:mean"], scheme="default")
    store.materialize(name="w", inputs=INPUTS, scheme="default", where=f"sample_key <> '{hospitals.key(changed)}'")
    # What fails now has no vector to come: the report counts it.
    changed.write_bytes(b"no picture")
    os.utime(changed, ns=(changed.stat().st_atime_ns, changed.stat().st_mtime_ns + 2 * 10**9))
    hospitals.take_in()
    assert store.materialize(name="f", inputs=INPUTS, scheme="default").report["inputs"]["a"]["failed_samples"] == 1
    shutil.copy(hospitals.slices(patient)[1], changed)
    os.utime(changed, ns=(changed.stat().st_atime_ns, changed.stat().st_mtime_ns + 4 * 10**9))
    hospitals.take_in()
    store.materialize(name="mended", inputs=INPUTS, scheme="default")


def test_the_label_under_another_name(hospitals: Hospitals) -> None:
    store = hospitals.take_in().store
    labels = {r["patient_id"]: int(r["label"]) for r in store.sql("SELECT patient_id, label FROM patients").to_pylist()}
    rng = np.random.default_rng(2)
    hospitals.clinical({
        "outcome": labels,
        "histology": {p: "maligne" if v else "bénigne" for p, v in labels.items() if p != "JM 003"},
        "benign": {p: 1 - v for p, v in labels.items()},
        "almost": {p: 1 - v if n else v for n, (p, v) in enumerate(labels.items())},
        "spelled": {p: ("Y  ES\u200b" if n == 3 else "y es") if v else "no" for n, (p, v) in enumerate(labels.items())},
        "age": {p: int(rng.integers(20, 80)) for p in labels},
        "number": {p: n for n, p in enumerate(labels)},
        "survived": {p: round(rng.random() * 900, 1) for p in labels},
    })  # fmt: skip
    tables = {"tables": ["clinical"], "categorical": ["histology", "spelled"]}
    error = hospitals.refused(
        "label-input", **tables, numeric=["outcome", "benign", "almost", "age", "number", "survived"]
    )
    assert error.rows == [
        {"column": "outcome", "how": "the same values", "rows": 32},
        {"column": "benign", "how": "one-to-one", "rows": 32},
        {"column": "histology", "how": "one-to-one", "rows": 31},
        {"column": "spelled", "how": "one-to-one", "rows": 32},
    ]
    assert "'outcome', 'benign', 'histology', 'spelled'" in error.hint
    store.materialize(
        name="fine",
        inputs=INPUTS,
        scheme="default",
        tables=["clinical"],
        numeric=["almost", "age", "number", "survived"],
    )
    # A number for a label: in other units, on another scale.
    survived = dict(store.sql("SELECT patient_id, survived FROM clinical").to_pandas().to_numpy().tolist())
    hospitals.clinical(
        {
            "months": {p: v / 30.4375 for p, v in survived.items()},
            "log": {p: np.log1p(v) for p, v in survived.items()},
            "noisy": {p: v + rng.normal(0, 9) for p, v in survived.items()},
        },
        name="other",
    )  # fmt: skip
    error = hospitals.refused(
        "label-input", label="clinical.survived", name="n", tables=["other"], numeric=["months", "log", "noisy"]
    )
    assert [(row["column"], row["how"]) for row in error.rows] == [("months", "one-to-one"), ("log", "one-to-one")]


def test_numbers_in_other_units_and_the_time_of_survival() -> None:
    rng = np.random.default_rng(3)
    days = rng.integers(1, 40, 18) * 30.0
    labels = pa.table({
        "label": [str(n % 2) for n in range(18)], "label_type": ["int"] * 18, "time": pa.array(days, pa.float64()),
    })  # fmt: skip
    columns = {
        "months": (days / 30).astype(np.int64), "inverted": 900 - 2.5 * days, "noisy": days + rng.normal(0, 9, 18),
        "rounded": np.round(days / 365), "event": [float(n % 2) for n in range(18)],
        "other": ["yn"[n % 2] for n in range(18)],
    }  # fmt: skip
    found = {row["column"]: row["how"] for row in same_columns(pa.table(columns), labels)}
    assert found == {"months": "proportional", "inverted": "proportional", "event": "the same values"}
    gaps = pa.table({"months": pa.array(columns["months"]).take([0, 1, 2, *[None] * 15])})
    assert same_columns(gaps, labels) == []


CLASSES = st.lists(st.integers(0, 2), min_size=1, max_size=60)


@given(CLASSES, st.integers(0, 2**32 - 1))
def test_renamed_labels_are_found_and_others_are_not(classes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = pa.table({
        "label": pa.array([str(c) for c in classes]), "label_type": pa.array(["int"] * len(classes)),
        "time": pa.array([None] * len(classes), pa.float64()),
    })  # fmt: skip
    words = np.array(["x", "y", "z"])[rng.permutation(3)]
    columns = {
        "copied": [float(c) for c in classes], "words": [str(words[c]) for c in classes],
        "ids": [f"id {n}" for n in range(len(classes))], "one": [1] * len(classes),
        "noise": rng.permutation(classes).tolist(), "empty": pa.array([None] * len(classes), pa.string()),
        "coarse": [min(c, 1) for c in classes],
    }  # fmt: skip
    found = {row["column"]: row["how"] for row in same_columns(pa.table(columns), labels)}
    ways = 1
    for kind in set(classes):  # in how many orders these labels can stand
        ways *= np.prod([(sum(c <= kind for c in classes) - i) / (i + 1) for i in range(classes.count(kind))])
    kinds = len(set(classes))
    assert (found.get("copied") == "the same values") == (kinds > 1 and round(ways) >= 200)
    enough = len(classes) >= 20 and kinds > 1 and round(ways) >= 200 * [1, 1, 2, 6][kinds]
    assert (found.get("words") == "one-to-one") == enough
    assert not set(found) & {"ids", "one", "empty"}
    if kinds == 3:
        assert "coarse" not in found
    if "noise" in found:
        assert columns["noise"] == classes or len(set(zip(columns["noise"], classes, strict=True))) == kinds


def test_a_patient_in_two_splits_is_never_allowed() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "CREATE TEMP TABLE aligned AS SELECT * FROM (VALUES (0, 1, '007', 'train'), (1, 1, '007', 'val'), "
            "(2, 2, '7', 'val'), (3, 2, '7', 'val')) t(position, patient, patient_id, split)"
        )
        found = split_overlap(connection)
    assert found.rows == [{"patient_id": "007", "splits": ["train", "val"]}]
    leak = Leak("split-overlap", "1 patient(s) stand in more than one split.", found.rows, 1, "restore")
    with pytest.raises(LeakageError, match="split-overlap") as caught:
        refuse([leak], {"split-overlap": "please"})
    assert "--allow" not in caught.value.hint


class TestRefuse:
    @staticmethod
    def leak(kind: str, count: int) -> Leak:
        rows = [{"patient_id": f"é {n}\n", "split": "val"} for n in range(min(count, 40))]
        return Leak(kind, f"{count} leak.", rows, count, "mend it")

    def test_ten_rows_are_named_and_all_are_given(self) -> None:
        allowed = dict.fromkeys((kind for kind in LEAKS if kind not in {"outdated", "same-vectors"}), "no matter")
        leaks = [self.leak("same-content", 1), self.leak("outdated", 57), self.leak("same-vectors", 2)]
        with pytest.raises(LeakageError) as caught:
            refuse(leaks, allowed)
        lines = caught.value.message.splitlines()
        assert lines[:2] == ["57 leak. [outdated]", "  'é 0\\n' (val)"]
        assert lines[11:] == ["  … and 47 more", "  Found as well: same-vectors."]
        assert len(caught.value.rows) == 40
        assert caught.value.hint == "mend it; or, where it is known and wanted: --allow outdated='why'"

    def test_what_is_allowed_is_counted_by_kind(self) -> None:
        leaks = [self.leak("outdated", 57), self.leak("same-vectors", 2), self.leak("outdated", 1)]
        allowed = refuse(leaks, {"outdated": "b", "same-vectors": "a", "fine-tuned": "c"})
        assert allowed == [
            {"kind": "fine-tuned", "reason": "c", "found": 0}, {"kind": "outdated", "reason": "b", "found": 58},
            {"kind": "same-vectors", "reason": "a", "found": 2},
        ]  # fmt: skip
        assert refuse([], {}) == []
