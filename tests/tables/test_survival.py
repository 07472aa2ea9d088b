"""Labels: classes, numbers, and times with events; of the patients' own and of tables."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featstore import ConflictError, LeakageError, NotFoundError, UsageError
from featstore.tables.recipe_plain import from_json

from .expected import check, learned, remade

INPUTS = [
    {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean"},
    {"alias": "p", "features": "v", "modality": "P", "aggregation": "max"},
]
SURVIVAL = {"time": "outcome.days", "event": "outcome.died"}


@pytest.fixture(scope="module")
def outcome(visited: Any) -> dict[str, pd.DataFrame]:
    rows = {}
    for n, patient in enumerate(visited.patients):
        if n % 10 != 6:
            rows[patient] = {
                "days": None if n % 11 == 3 else round(30.5 * n + 1, 1), "died": None if n % 9 == 7 else n % 2,
                "lived": str(n % 2 == 0).lower(), "grade": n % 3, "score": None if n == 4 else n / 3,
                "word": f"g{n % 2}", "age": 20 + n,
            }  # fmt: skip
    visited.clinical(rows, name="outcome")
    frame = pd.DataFrame([{"patient_id": p} | values for p, values in rows.items()])
    frame["lived"] = frame.lived == "true"
    return {"outcome": frame}


def recipe(label: Any, **fields: Any) -> dict[str, Any]:
    return {"name": "s", "inputs": INPUTS, "scheme": "default", "join": "outer", "label": label} | fields


@pytest.mark.parametrize("event", ["died", "lived"])
def test_times_and_events_are_of_their_patients(visited: Any, outcome: dict[str, pd.DataFrame], event: str) -> None:
    label = SURVIVAL | {"event": f"outcome.{event}"}
    asked = recipe(label, missing="mean", steps=["standardize"])
    result = visited.store.materialize(from_json(asked))
    table = visited.store.table("s")
    expected = remade(visited, asked, tables=outcome)
    check(table, expected)
    x, y, patients = table.arrays(split="train")
    assert y.dtype == [("event", np.bool_), ("time", np.float64)]
    known = outcome["outcome"].set_index("patient_id").loc[list(patients)]
    assert y["time"].tolist() == known.days.tolist()
    assert y["event"].tolist() == known[event].astype(bool).tolist()
    assert np.isfinite(x).all()
    assert np.isfinite(y["time"]).all()
    (lost,) = [e for e in result.report["lost"] if e["reason"].startswith("without a value")]
    unknown = {p for p in visited.patients if visited.splits[p] is not None} - set(table.to_pandas().patient_id)
    assert lost["patients"] == len(unknown)
    for split in result.report["by_split"].values():
        assert sum(split["labels"].values()) == split["rows"]


def test_flags_say_the_same_as_a_recipe(visited: Any, outcome: dict[str, pd.DataFrame]) -> None:
    assert outcome
    visited.store.materialize(from_json(recipe(SURVIVAL, name="flags")))
    again = visited.store.materialize(
        name="flags", inputs=["a=v/A:mean", "p=v/P:max"], scheme="default", join="outer",
        survival="outcome.days,outcome.died",
    )  # fmt: skip
    assert again.unchanged


@pytest.mark.parametrize(
    ("label", "dtype", "scores"),
    [
        ("outcome.grade", np.int64, "classes"),
        ({"column": "outcome.grade", "kind": "classes"}, np.int64, "classes"),
        ({"column": "outcome.grade", "kind": "number"}, np.float64, "number"),
        ("outcome.score", np.float64, "number"),
        ({"column": "outcome.score", "kind": "number"}, np.float64, "number"),
        ("outcome.word", np.str_, "classes"),
        ("outcome.lived", np.int64, "classes"),
        ("label", np.int64, "classes"),
        ({"column": "label", "kind": "number"}, np.float64, "number"),
    ],
)
def test_a_label_is_what_it_is_said_to_be(
    visited: Any, outcome: dict[str, pd.DataFrame], label: Any, dtype: Any, scores: str
) -> None:
    """It shows in what learns from it: an analysis of variance for classes, a regression for numbers."""
    asked = recipe(label, missing="mean", steps=["select(3)"])
    visited.store.materialize(from_json(asked))
    table = visited.store.table("s")
    expected = remade(visited, asked, tables=outcome)
    if label == "outcome.lived":
        expected.rows["label"] = expected.rows.label.astype(int)
    check(table, expected)
    y = table.arrays()[1]
    assert y.dtype.type is dtype
    selector = table.fitted()["steps"]["select"]
    assert selector.score_func.__name__ == {"classes": "f_classif", "number": "f_regression"}[scores]


def test_whole_numbers_as_floats_can_be_classes(visited: Any) -> None:
    ids = visited.patients
    file = visited.root.parent / "floats.parquet"
    pq.write_table(pa.table({"patient_id": ids, "g": [float(n % 2) for n in range(len(ids))]}), file)
    visited.store.ingest_table(file, name="floats")
    frame = pd.DataFrame({"patient_id": ids, "g": [float(n % 2) for n in range(len(ids))]})
    label = {"column": "floats.g", "kind": "classes"}
    asked = recipe(label, missing="mean", steps=["select(2)"])
    result = visited.store.materialize(from_json(asked))
    table = visited.store.table("s")
    expected = remade(visited, asked, tables={"floats": frame})
    check(table, expected)
    counted = {split: counts["labels"] for split, counts in result.report["by_split"].items()}
    theirs = expected.rows.groupby("split").label.value_counts()
    assert {(split, float(label)): n for split, counts in counted.items() for label, n in counts.items()} == {
        (split, float(label)): n for (split, label), n in theirs.items()
    }
    whole = np.concatenate(list(expected.parts.values()), axis=1)[expected.train]
    filled = learned("mean", whole, None).transform(whole)
    theirs = learned("select(2)", filled, expected.rows.label[expected.train].astype(str).to_numpy())
    np.testing.assert_allclose(table.fitted()["steps"]["select"].scores_, theirs.scores_, rtol=1e-6)


def typed(visited: Any, name: str, values: Any) -> None:
    """Take in a column ``x`` of a given Arrow type: the values in turn. Somebody who isn't here has a word for one."""
    ids, file = visited.patients, visited.root.parent / "typed.parquet"
    column = pa.array([values[n % len(values)].as_py() for n in range(len(ids))], values.type)
    ids = [*ids, "nobody"]
    column = pa.concat_arrays([column, pa.array(["word"] if values.type == pa.string() else [None], values.type)])
    pq.write_table(pa.table({"patient_id": ids, "x": column, "e": [n % 2 for n in range(len(ids))]}), file)
    visited.store.ingest_table(file, name=name, replace=True)


@pytest.mark.parametrize(
    ("values", "label", "expected"),
    [
        (pa.array([Decimal("1.25"), Decimal("-2.50")], pa.decimal128(9, 2)), "typed.x", [1.25, -2.5]),
        (pa.array([3, 2**62], pa.uint64()), "typed.x", [3, 2**62]),
        (pa.array(["1.50", "-2e3"]), {"column": "typed.x", "kind": "number"}, [1.5, -2000.0]),
        (pa.array([".5", "+7"]), {"column": "typed.x", "kind": "number"}, [0.5, 7.0]),
        (pa.array([0.5, -1.0], pa.float32()), "typed.x", [0.5, -1.0]),
    ],
)
def test_numbers_are_numbers_whatever_their_type(visited: Any, values: Any, label: Any, expected: list[Any]) -> None:
    typed(visited, "typed", values)
    visited.store.materialize(from_json(recipe(label)))
    _, y, patients = visited.store.table("s").arrays()
    known = {p: expected[n % 2] for n, p in enumerate(visited.patients)}
    assert y.dtype == np.asarray(expected).dtype
    assert y.tolist() == [known[p] for p in patients]


def test_times_may_be_decimals(visited: Any) -> None:
    typed(visited, "typed", pa.array([Decimal("1.25"), Decimal("2.50")], pa.decimal128(9, 2)))
    visited.store.materialize(from_json(recipe({"time": "typed.x", "event": "typed.e"})))
    _, y, patients = visited.store.table("s").arrays()
    places = {p: n % 2 for n, p in enumerate(visited.patients)}
    assert y["time"].tolist() == [[1.25, 2.5][places[p]] for p in patients]


NUMBER = {"column": "typed.x", "kind": "number"}
SPAN = {"time": "typed.x", "event": "typed.e"}


@pytest.mark.parametrize(
    ("values", "label", "text"),
    [
        *((pa.array(["1", odd]), NUMBER, f"typed.x is no number: '{odd}'") for odd in
          (" 5 ", "1_000", "inf", "-inf", "1e400", "NaN ", "nan", "1,5", "0x1f", "five")),
        (pa.array([1.0, np.inf]), "typed.x", "typed.x is not finite: 'inf'"),
        (pa.array([1.0, -np.inf]), "typed.x", "typed.x is not finite: '-inf'"),
        (pa.array([1.0, np.inf], pa.float32()), NUMBER, "typed.x is no number: 'inf'"),
        (pa.array([1, 2**63], pa.uint64()), "typed.x", "beyond the whole numbers of 64 bits: '9223372036854775808'"),
        (pa.array([1.0, np.inf]), SPAN, "typed.x holds .* without end"),
        (pa.array([1.0, -np.inf]), SPAN, "typed.x holds a time below zero"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(visited: Any, values: Any, label: Any, text: str) -> None:
    typed(visited, "typed", values)
    with pytest.raises(ConflictError, match=text):
        visited.store.materialize(from_json(recipe(label)))


def test_nan_is_no_value(visited: Any) -> None:
    typed(visited, "typed", pa.array([1.0, np.nan]))
    for label in ("typed.x", NUMBER, SPAN):
        visited.store.materialize(from_json(recipe(label)))
        patients = visited.store.table("s").to_pandas().patient_id
        assert set(patients) <= set(visited.patients[::2])
        assert len(patients) > 5


@pytest.mark.usefixtures("outcome")
@pytest.mark.parametrize(
    ("label", "kind", "text"),
    [
        ({"time": "outcome.days"}, UsageError, "a time and an event"),
        ({"time": "outcome.word", "event": "outcome.died"}, ConflictError, "not numbers"),
        ({"time": "outcome.days", "event": "outcome.grade"}, ConflictError, "1 for it happened or 0 .* holds 2"),
        ({"time": "outcome.days", "event": "outcome.word"}, ConflictError, "not 1 for it happened"),
        ({"time": "outcome.day", "event": "outcome.died"}, NotFoundError, "no column 'day'.*'days'"),
        ({"column": "outcome.word", "kind": "number"}, ConflictError, "is no number: 'g0'"),
    ],
)
def test_labels_that_cant_be_are_refused(visited: Any, label: Any, kind: Any, text: str) -> None:
    with pytest.raises(kind, match=text):
        visited.store.materialize(from_json(recipe(label)))


@pytest.mark.usefixtures("outcome")
@pytest.mark.parametrize("column", ["days", "died"])
def test_time_and_event_are_no_inputs(visited: Any, column: str) -> None:
    with pytest.raises(LeakageError, match="label and an input at once"):
        visited.store.materialize(from_json(recipe(SURVIVAL, tables=[{"name": "outcome", "numeric": [column]}])))


@pytest.mark.usefixtures("outcome")
@pytest.mark.parametrize("what", [{"steps": ["select(2)"], "missing": "mean"}, {"fuser": "late"}])
def test_what_learns_from_classes_refuses_times(visited: Any, what: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="times and events"):
        visited.store.materialize(from_json(recipe(SURVIVAL, **what)))
    with pytest.raises(UsageError, match="learns from labels, and this table has none"):
        visited.store.materialize(from_json(recipe("none", **what)))
