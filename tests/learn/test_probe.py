"""A probe equals what scikit-learn says of the same rows, is kept whole, and refuses what it can't learn from."""

from __future__ import annotations

import json
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.svm import LinearSVC

from featstore.errors import CorruptError, NotFoundError, UsageError
from featstore.learn import Probe

from . import reference
from .reference import close, patients


def expected_interval(y: np.ndarray, scores: np.ndarray, ids: np.ndarray, count: int, seed: int) -> tuple[float, float]:
    """Of the AUC, by copying rows."""
    people, rng, values = sorted(set(ids)), np.random.default_rng(seed), []
    for _ in range(count):
        drawn = rng.integers(len(people), size=len(people))
        rows = np.concatenate([np.flatnonzero(ids == people[i]) for i in drawn])
        if len(set(y[rows])) == 2:
            values.append(roc_auc_score(y[rows], scores[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    return low, high


@pytest.mark.parametrize("model", ["logistic", "svm"])
@pytest.mark.parametrize("classes", [2, 3])
def test_probe_equals_scikit_learn_on_every_split(lab: Any, cohort: Any, model: str, classes: int) -> None:
    table, data = cohort(1, classes=classes)
    result = lab.probe(table, model=model, C=0.5, bootstrap=60)
    train = data["split"] == "train"
    kind = LogisticRegression(C=0.5, max_iter=1000) if model == "logistic" else LinearSVC(C=0.5, random_state=42)
    kind.fit(data["x"][train], data["y"][train])
    kept = pq.read_table(result.path / "predictions.parquet")
    assert [found.split for found in result.splits] == ["train", "val", "external", "test"]
    for found in result.splits:
        rows = data["split"] == found.split
        x, y = data["x"][rows], data["y"][rows]
        if model == "logistic":
            scores = p = kind.predict_proba(x)
        else:
            decisions = kind.decision_function(x)
            scores = decisions if classes > 2 else np.stack([-decisions, decisions], axis=1)
            # That Platt's scaling is right is tested on its own.
            p = np.stack([kept.column(f"probability_{c}").to_numpy()[rows] for c in range(classes)], axis=1)
        expected = reference.of_classes(y, scores, p, kind.predict(x), 1 if classes == 2 else None)
        for name, value in expected.items():
            assert close(found.measures[name].value, value), (found.split, name)
        assert (found.rows, found.patients) == (rows.sum(), rows.sum())
        assert found.labels == {str(c): (y == c).sum() for c in range(classes)}
        if classes == 2:
            auc = found.measures["auc"]
            low, high = expected_interval(y, scores[:, 1], data["id"][rows], 60, 42)
            assert close(auc.low, low)
            assert close(auc.high, high)
    assert result.positive == (1 if classes == 2 else None)
    assert result.classes == list(range(classes))


def test_ridge_equals_scikit_learn_on_every_split(lab: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(80, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2, 0.5]) + rng.normal(size=80)
    splits = np.array(["train", "val", "train", "external"])[np.arange(80) % 4]
    result = lab.probe(lab.table(x, y.tolist(), splits), model="ridge", alpha=(0.1, 1000.0, 1.0), bootstrap=50)
    train, val = splits == "train", splits == "val"
    scores = {a: Ridge(a).fit(x[train].astype(float), y[train]).score(x[val], y[val]) for a in (0.1, 1000.0, 1.0)}
    best = max(scores, key=lambda a: scores[a])
    assert result.parameters["alpha"] == best
    assert [one["alpha"] for one in result.tuned] == [0.1, 1000.0, 1.0]
    for one in result.tuned:
        assert close(one["r2"], scores[one["alpha"]], 1e-6)
    said = Ridge(best).fit(x[train].astype(float), y[train]).predict(x.astype(float))
    for found in result.splits:
        rows = splits == found.split
        for name, value in reference.of_numbers(y[rows], said[rows]).items():
            assert close(found.measures[name].value, value)
            assert found.measures[name].low <= found.measures[name].value <= found.measures[name].high
    np.testing.assert_array_equal(
        pq.read_table(result.path / "predictions.parquet").column("predicted").to_numpy(), said
    )
    assert result.classes == []


def test_the_best_on_val_is_taken_and_said(lab: Any, cohort: Any) -> None:
    table, data = cohort(2)
    train, val = data["split"] == "train", data["split"] == "val"
    scores = {}
    for c in (100.0, 1e-4, 1.0):
        model = LogisticRegression(C=c, max_iter=1000).fit(data["x"][train], data["y"][train])
        scores[c] = roc_auc_score(data["y"][val], model.predict_proba(data["x"][val])[:, 1])
    result = lab.probe(table, C=(100.0, 1e-4, 1.0), bootstrap=0)
    assert result.tuned == [{"C": c, "auc": pytest.approx(score, abs=1e-12)} for c, score in scores.items()]
    assert result.parameters["C"] == max(scores, key=lambda c: scores[c])
    assert any("Chosen on val: C = " in text and "too good" in text for text in result.notes)


def test_a_threshold_is_tuned_on_val_alone(lab: Any, cohort: Any) -> None:
    table, _ = cohort(3, rows=150)
    result = lab.probe(table, threshold="youden", bootstrap=0)
    kept = pq.read_table(result.path / "predictions.parquet").to_pandas()
    threshold = result.of("test").threshold
    val = kept[kept.split == "val"]
    gains = [
        (val.score_1[val.label == 1] > t).mean() - (val.score_1[val.label == 0] > t).mean()
        for t in [threshold, *(val.score_1 - 1e-12)]
    ]
    assert gains[0] == pytest.approx(max(gains))
    assert (kept.predicted == (kept.score_1 > threshold)).all()
    test = kept[kept.split == "test"]
    assert result.of("test").measures["sensitivity"].value == (test.predicted[test.label == 1] == 1).mean()
    assert result.of("test").threshold == result.of("train").threshold


def test_the_positive_class_can_be_the_smaller(lab: Any, cohort: Any) -> None:
    table, _ = cohort(4)
    one, zero = (lab.probe(table, positive=p, bootstrap=0) for p in ("1", 0))
    for split in ("train", "test"):
        a, b = one.of(split).measures, zero.of(split).measures
        assert a["sensitivity"].value == b["specificity"].value
        assert a["auc"].value == pytest.approx(b["auc"].value, abs=1e-12)
        assert a["accuracy"].value == b["accuracy"].value
    assert zero.positive == 0


def test_same_seed_same_numbers_whatever_came_before(lab: Any, cohort: Any) -> None:
    table, _ = cohort(5)
    first = lab.probe(table, model="svm", C=(0.1, 1.0), bootstrap=40)
    np.random.seed(1)
    second = lab.probe(table, model="svm", C=(0.1, 1.0), bootstrap=40)
    assert first.splits == second.splits
    assert first.run_id != second.run_id
    kept = [pq.read_table(r.path / "predictions.parquet") for r in (first, second)]
    assert kept[0].equals(kept[1])
    other = lab.probe(table, model="svm", C=(0.1, 1.0), bootstrap=40, seed=43)
    assert other.of("test").measures["auc"].low != first.of("test").measures["auc"].low


def test_everything_is_kept(lab: Any, cohort: Any) -> None:
    table, data = cohort(6)
    result = lab.probe(table, bootstrap=30)
    rows = lab.store.sql(f"SELECT * FROM metrics WHERE run_id = '{result.run_id}'").to_pylist()
    by_place = {(row["split"], row["metric"]): row for row in rows}
    defined = [(f, name, one) for f in result.splits for name, one in f.measures.items() if one.value is not None]
    assert len(rows) == len(defined)
    for found, name, one in defined:
        row = by_place[found.split, name]
        assert (row["value"], row["low"], row["high"]) == (one.value, one.low, one.high)
        assert (row["table"], row["version"], row["fold"]) == (table.name, 1, "")
        assert row["model"] == "logistic"
        assert json.loads(row["parameters"]) == result.parameters
    assert result.parameters["seed"] == 42
    assert {"scikit-learn", "numpy"} <= set(result.parameters["versions"])
    (run,) = lab.store.sql(f"SELECT kind, state FROM runs WHERE run_id = '{result.run_id}'").to_pylist()
    assert run == {"kind": "probe", "state": "done"}
    kept = json.loads((result.path / "run.json").read_text())
    assert kept["result"]["splits"][0]["measures"]["auc"]["value"] == result.splits[0].measures["auc"].value
    predicted = pq.read_table(result.path / "predictions.parquet").to_pandas()
    assert list(predicted) == ["patient_id", "split", "fold", "label", "score_0", "score_1", "predicted"]
    assert predicted.patient_id.tolist() == data["id"].tolist()
    again = Probe.load(result.path / "probe.skops")
    np.testing.assert_array_equal(again.scores(data["x"])[:, 1], predicted.score_1)


def test_of_equals_the_first_is_taken_and_the_others_are_said(lab: Any, cohort: Any) -> None:
    x = np.repeat([[-3.0], [3.0]], 20, axis=0)
    table = lab.table(x, [0] * 20 + [1] * 20, (["train"] * 12 + ["val"] * 8) * 2)
    for values in ([1.0, 0.1], [0.1, 1.0]):
        result = lab.probe(table, model="logistic", C=values)
        said = f"C = {values[0]:g}, of {values[0]:g}, {values[1]:g}, by auc (the first of equals: {values[1]:g} would"
        assert any(said in note for note in result.notes)


def test_data_that_were_changed_are_not_learned_from(lab: Any, cohort: Any) -> None:
    table, _ = cohort(7)
    file = table.path / "data.parquet"
    rows = pq.ParquetFile(file).read()
    flipped = pa.array([None if v is None else 1 - v for v in rows.column("label").to_pylist()])
    pq.write_table(rows.set_column(rows.column_names.index("label"), "label", flipped), file)
    with pytest.raises(CorruptError, match="were changed since they were made"):
        lab.probe(table)
    with pytest.raises(CorruptError, match="were changed since they were made"):
        lab.store.export(table.name, out=lab.store.path.parent / "x.csv")
    assert not (lab.store.path.parent / "x.csv").exists()


def test_an_error_leaves_nothing_behind(lab: Any, cohort: Any) -> None:
    table, _ = cohort(7)
    with lab.store.catalog.write() as connection:
        connection.execute("DELETE FROM core.training_table WHERE name = ?", [table.name])
    before = sorted((lab.store.path / "runs").iterdir())
    with pytest.raises(NotFoundError, match=f"no training table '{table.name}'"):
        lab.probe(table, bootstrap=0)
    assert sorted((lab.store.path / "runs").iterdir()) == before
    assert lab.store.sql("SELECT count(*) AS n FROM runs WHERE kind = 'probe' AND state <> 'done'").to_pylist() == [
        {"n": 0}
    ]


def test_rows_of_a_patient_are_drawn_together(lab: Any, rng: np.random.Generator) -> None:
    """As if each patient had one row, where all rows of a patient are the same."""
    y = rng.integers(0, 2, 40)
    x = rng.normal(size=(40, 2)) + y[:, None]
    splits = np.array(["train", "test"])[np.arange(40) % 2]
    once = lab.probe(lab.table(x, y.tolist(), splits), bootstrap=80, model="knn", k=1)
    times = np.repeat(np.arange(40), 3)
    keys = {"visit_id": [f"v{i % 3}" for i in range(120)]}
    ids = [patients(40)[i] for i in times]
    thrice = lab.probe(
        lab.table(x[times], y[times].tolist(), splits[times], ids=ids, keys=keys), bootstrap=80, model="knn", k=3
    )
    found, single = thrice.of("test"), once.of("test")
    assert (found.rows, found.patients) == (60, 20)
    for name, one in single.measures.items():
        for end in ("value", "low", "high"):
            a, b = getattr(one, end), getattr(found.measures[name], end)
            assert a == b or a == pytest.approx(b, abs=1e-12)
    kept = pq.read_table(thrice.path / "predictions.parquet")
    assert kept.column_names[:4] == ["patient_id", "visit_id", "split", "fold"]


def test_folds_are_measured_one_by_one_and_together(lab: Any, rng: np.random.Generator) -> None:
    y = rng.integers(0, 2, 90)
    splits = np.array(["fold0", "fold1", "fold2", "test", "fold0", "fold1"])[np.arange(90) % 6]
    base = rng.normal(size=(90, 3)) + 0.7 * y[:, None]
    features = [(base * scale).astype(np.float32) for scale in (1, 2, 3)]  # what was fitted differs by fold
    result = lab.probe(lab.table(None, y.tolist(), splits, folds=features), C=(1.0, 0.01), bootstrap=40)
    models, scores = {}, {}
    for c in (1.0, 0.01):
        aucs = []
        for i, x in enumerate(features):
            own, val = (splits != f"fold{i}") & (splits != "test"), splits == f"fold{i}"
            models[c, i] = LogisticRegression(C=c, max_iter=1000).fit(x[own].astype(float), y[own])
            aucs.append(roc_auc_score(y[val], models[c, i].predict_proba(x[val].astype(float))[:, 1]))
        scores[c] = np.mean(aucs)
    assert result.tuned == [{"C": c, "auc": pytest.approx(scores[c], abs=1e-12)} for c in (1.0, 0.01)]
    best = max(scores, key=lambda c: scores[c])
    assert result.parameters["C"] == best
    out_of_fold = np.full(90, np.nan)
    for i, x in enumerate(features):
        said = models[best, i].predict_proba(x.astype(float))
        for split, rows in (("val", splits == f"fold{i}"), ("test", splits == "test")):
            for name, value in reference.of_classes(y[rows], said[rows], said[rows], said[rows].argmax(1), 1).items():
                assert close(result.of(split, f"fold{i}").measures[name].value, value)
        out_of_fold[splits == f"fold{i}"] = said[splits == f"fold{i}", 1]
    rows = splits != "test"
    p = np.stack([1 - out_of_fold[rows], out_of_fold[rows]], axis=1)
    together = result.of("val", "all")
    for name, value in reference.of_classes(y[rows], p, p, p.argmax(1), 1).items():
        assert close(together.measures[name].value, value), name
    assert (together.rows, together.patients) == (75, 75)
    aucs = [result.of("test", f"fold{i}").measures["auc"].value for i in range(3)]
    (one,) = [f for f in result.folds if (f.split, f.metric) == ("test", "auc")]
    assert (one.mean, one.sd, one.folds) == (pytest.approx(np.mean(aucs)), pytest.approx(np.std(aucs, ddof=1)), 3)
    kept = pq.read_table(result.path / "predictions.parquet").to_pandas()
    assert kept.groupby("fold").size().to_dict() == {f"fold{i}": 90 for i in range(3)}
    for i in range(3):
        again = Probe.load(result.path / f"probe-fold{i}.skops")
        np.testing.assert_array_equal(
            again.scores(features[i].astype(float))[:, 1], kept[kept.fold == f"fold{i}"].score_1
        )
    rows_kept = lab.store.sql(
        f"SELECT DISTINCT fold FROM metrics WHERE run_id = '{result.run_id}' ORDER BY 1"
    ).to_pylist()
    assert [row["fold"] for row in rows_kept] == ["all", "fold0", "fold1", "fold2"]


def test_folds_with_other_classes_are_refused(lab: Any, rng: np.random.Generator) -> None:
    y = ["a", "b"] * 14 + ["rare"] * 2
    splits = [f"fold{i % 3}" for i in range(28)] + ["fold0"] * 2
    x = rng.normal(size=(30, 2))
    with pytest.raises(UsageError, match="don't learn the same classes: rare"):
        lab.probe(lab.table(None, y, splits, folds=[x, x, x]), bootstrap=0)


# ------------------------------------------------------------------------------------------ wrong data
GOOD = {"labels": [0, 1] * 6, "splits": ["train"] * 8 + ["val"] * 2 + ["test"] * 2}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no labels": ({"labels": [None] * 12}, {}, "has no labels"),
    "survival": ({"survival": True}, {}, "survival, a time and an event"),
    "no train": ({"splits": ["val"] * 12}, {}, "it has no train rows"),
    "no split at all": ({"splits": [None] * 12}, {}, "it has no train rows"),
    "train unlabelled": ({"labels": [None] * 8 + [0, 1] * 2}, {}, "0 of its 8 train rows have a label"),
    "one class": ({"labels": [1] * 8 + [0, 1] * 2}, {}, "all 8 train rows are of the class 1"),
    "nothing to tune on": ({"splits": ["train"] * 12}, {"C": (1, 2)}, "no row of a split val is there"),
    "val of one class": ({"labels": [0, 1] * 4 + [1] * 4}, {"C": (1, 2)}, "can't be chosen by auc on val"),
    "no val for youden": ({"splits": ["train"] * 12}, {"threshold": "youden"}, "split val has no row"),
    "one class for youden": ({"labels": [0, 1] * 4 + [1] * 4}, {"threshold": "youden"}, "rows of one class only"),
    "youden of three": ({"labels": [0, 1, 2] * 4}, {"threshold": "youden"}, "there are 3: 0, 1, 2"),
    "positive of three": ({"labels": [0, 1, 2] * 4}, {"positive": "1"}, "there are 3: 0, 1, 2"),
    "unknown positive": ({}, {"positive": "yes"}, "No train row has the label 'yes'"),
    "numbers for logistic": ({"labels": [0.5, 1.5] * 6}, {}, "labels are numbers, which logistic doesn't learn"),
    "classes for ridge": ({}, {"model": "ridge"}, "labels are classes, which ridge doesn't learn"),
    "threshold of numbers": (
        {"labels": [0.5, 1.5] * 6}, {"model": "ridge", "threshold": "youden"}, "no threshold and no positive class",
    ),
    "infinite": ({"labels": [0.5, float("inf")] * 6}, {"model": "ridge"}, "labels that are infinite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cant_be_learned_is_refused(lab: Any, rng: np.random.Generator, case: str) -> None:
    changes, options, match = REFUSED[case]
    table = lab.table(rng.normal(size=(12, 2)), **(GOOD | changes))
    with pytest.raises(UsageError, match=match) as caught:
        lab.probe(table, bootstrap=0, **options)
    assert caught.value.hint or case == "threshold of numbers"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_missing_features_are_refused_with_their_patients(lab: Any, rng: np.random.Generator, bad: float) -> None:
    x = rng.normal(size=(12, 2))
    x[3, 1] = bad
    with pytest.raises(UsageError, match=r"1 of its 12 rows, such as of the patients '-?\w") as caught:
        lab.probe(lab.table(x, ids=[f"{'-' * (i % 2)}P{i}" for i in range(12)], **GOOD))
    assert "--missing mean" in caught.value.hint


def test_labels_that_train_has_not_are_said_and_left_out(lab: Any, rng: np.random.Generator) -> None:
    labels = ["a", "b"] * 6 + ["c", "a", "b", None]
    splits = ["train"] * 8 + ["val"] * 4 + ["test"] * 4
    result = lab.probe(lab.table(rng.normal(size=(16, 2)), labels, splits), bootstrap=0)
    assert result.of("test").rows == 2
    assert any(text.startswith("test: 1 row with the label 'c', which no train row has") for text in result.notes)
    assert "test: 1 row without a label, predicted and not measured." in result.notes
    kept = pq.read_table(result.path / "predictions.parquet").to_pandas()
    assert len(kept) == 16
    assert set(kept.predicted) <= {"a", "b"}


def test_a_split_of_one_class_has_no_auc_and_says_why(lab: Any, rng: np.random.Generator) -> None:
    labels = [0, 1] * 6 + [1] * 3
    splits = ["train"] * 12 + ["external"] * 3
    result = lab.probe(lab.table(rng.normal(size=(15, 2)), labels, splits), bootstrap=20)
    found = result.of("external").measures
    assert found["auc"].value is None
    assert found["auc"].reason == "all rows are of the class 1"
    assert found["specificity"].value is None
    assert found["accuracy"].value == found["sensitivity"].value == found["balanced_accuracy"].value
    assert found["brier"].value is not None
    assert any(t.startswith("external: auc, average_precision, specificity") and "class 1" in t for t in result.notes)
    assert "There is no row in a split val: nothing was tuned." in result.notes


def test_one_patient_has_no_interval(lab: Any, rng: np.random.Generator) -> None:
    ids = [f"p{i}" for i in range(12)] + ["one"] * 4
    table = lab.table(rng.normal(size=(16, 2)), [0, 1] * 8, ["train"] * 12 + ["test"] * 4, ids=ids,
                      keys={"visit_id": list("abcdefghijklmnop")})  # fmt: skip
    found = lab.probe(table, bootstrap=20).of("test")
    assert (found.rows, found.patients) == (4, 1)
    assert {(one.low, one.reason) for one in found.measures.values() if one.value is not None} == {
        (None, "one patient")
    }


def test_scales_far_apart_are_said_and_left_alone(lab: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(40, 2)) * [1, 1e5]
    labels, splits = [0, 1] * 20, ["train", "train", "train", "val"] * 10
    result = lab.probe(lab.table(x, labels, splits), bootstrap=0)
    assert any("standard deviations" in text and "--step standardize" in text for text in result.notes)
    for steps, other in ((["standardize"], x), ([], x * [1, 1e-5]), ([], x * [1, 0])):
        quiet = lab.probe(lab.table(other, labels, splits, recipe={"steps": steps}), bootstrap=0)
        assert not any("standard deviations" in text for text in quiet.notes)


def test_numbers_declared_as_classes_and_the_reverse(lab: Any, rng: np.random.Generator) -> None:
    x, splits = rng.normal(size=(24, 2)), ["train", "train", "val"] * 8
    as_number = {"label": {"column": "label", "kind": "number"}, "steps": []}
    assert lab.probe(lab.table(x, [1, 2, 3] * 8, splits, recipe=as_number), model="ridge", bootstrap=0).classes == []
    as_classes = {"label": {"column": "label", "kind": "classes"}, "steps": []}
    result = lab.probe(lab.table(x, [0.0, 1.0] * 12, splits, recipe=as_classes), bootstrap=0)
    assert (result.classes, result.positive) == ([0.0, 1.0], 1.0)
    many = lab.probe(lab.table(rng.normal(size=(60, 2)), list(range(30)) * 2, ["train"] * 60), bootstrap=0)
    assert any("30 classes of 60 train rows" in text for text in many.notes) == (2 * 30 > 60)
    ages = lab.probe(
        lab.table(rng.normal(size=(60, 2)), list(range(40)) + list(range(20)), ["train"] * 60), bootstrap=0
    )
    assert any("40 classes of 60 train rows" in text and "--label-kind number" in text for text in ages.notes)


@st.composite
def cohorts(draw: st.DrawFn) -> dict[str, Any]:
    """Small, with ids that are odd, several visits a patient, features that tie, and labels of any kind or none."""
    people = draw(
        st.lists(st.sampled_from([*reference.ODD_IDS, "p1", "p2", "p3"]), min_size=4, max_size=12, unique=True)
    )
    ids = [p for p in people for _ in range(draw(st.integers(1, 3)))]
    splits = {p: draw(st.sampled_from(["train", "train", "val", "external", None])) for p in people}
    values = draw(st.sampled_from([[0, 1], [0, 1, 2], ["no", "yes"], [1, None, 0]]))
    return {
        "x": [[draw(st.integers(-2, 2)) / 2 for _ in range(2)] for _ in ids],
        "labels": [draw(st.sampled_from(values)) for _ in ids],
        "splits": [splits[p] for p in ids],
        "ids": ids,
        "keys": {"visit_id": [f"v{i}" for i in range(len(ids))]},
    }


@settings(max_examples=15)
@given(case=cohorts(), model=st.sampled_from(["logistic", "knn"]))
def test_any_cohort_is_measured_or_refused(lab: Any, case: dict[str, Any], model: str) -> None:
    table = lab.table(**case)
    options = {"k": 1} if model == "knn" else {}
    labels = {v for v, s in zip(case["labels"], case["splits"], strict=True) if s == "train" and v is not None}
    if len(labels) < 2:
        with pytest.raises(UsageError, match=r"nothing to learn|no labels"):
            lab.probe(table, model=model, bootstrap=10, **options)
        return
    result = lab.probe(table, model=model, bootstrap=10, **options)
    kept = pq.read_table(result.path / "predictions.parquet").to_pandas()
    assert kept.patient_id.tolist() == case["ids"]
    position = {label: i for i, label in enumerate(result.classes)}
    for found in result.splits:
        rows = ((kept.split == found.split) & np.array([v in position for v in case["labels"]])).to_numpy()
        assert found.rows == rows.sum()
        assert found.patients == len(set(kept.patient_id[rows]))
        if not found.rows:
            assert f"{found.split}: no row to measure." in result.notes
            continue
        y = np.array([position[v] for v, chosen in zip(case["labels"], rows, strict=True) if chosen])
        scores = kept.loc[rows, [f"score_{c}" for c in result.classes]].to_numpy()
        called = np.array([position[v] for v in kept.predicted[rows]])
        expected = reference.of_classes(y, scores, scores, called, 1 if len(position) == 2 else None)
        for name, value in expected.items():
            one = found.measures[name]
            assert close(one.value, value), name
            assert one.value is not None or one.reason
            assert one.low is None or one.low <= one.high
