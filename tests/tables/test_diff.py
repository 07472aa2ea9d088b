"""A diff tells every difference and no other, by key, whatever the order of the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings

from featstore.errors import CorruptError, UsageError
from featstore.tables.diff import TableDiff, diff, version_before
from featstore.tables.diff_data import compare, match, open_file


def differences(store: Any, before: str, after: str) -> TableDiff:
    found = diff(store.catalog, store.table(before), store.table(after))
    json.dumps(found.to_json())
    return found


def told(changes: list[Any]) -> dict[str, tuple[Any, Any]]:
    return {c.what: (c.before, c.after) for c in changes}


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(3, count=24, missing=0.25)
    made.clinical({p: {"age": 40.0 + n, "sex": "MF"[n % 2], "grade": n % 3} for n, p in enumerate(made.patients)})
    made.inputs = ["a=v/A:mean", "p=v/P:mean"]
    made.store.materialize(name="base", inputs=made.inputs, scheme="default")
    return made


# ------------------------------------------------------------------------------------------- whole versions
def test_a_version_is_the_same_as_itself_and_as_its_copy(cohort: Any) -> None:
    cohort.store.materialize(name="copy", inputs=cohort.inputs, scheme="default")
    for other in ("base", "copy"):
        found = differences(cohort.store, "base", other)
        assert (found.same, found.same_bytes) == (True, True)
        assert found.rows.common == cohort.store.table("base").report["rows"]


def test_recipe_rows_and_columns(cohort: Any) -> None:
    store = cohort.store
    fields: dict[str, Any] = {"tables": ["clinical"], "numeric": ["age"], "standardize": True}
    store.materialize(name="base_wide", inputs=["a=v/A:max", "p=v/P:mean"], scheme="default", join="outer", **fields)
    found = differences(store, "base", "base_wide")
    recipe = told(found.recipe)
    assert recipe["join"] == ("inner", "outer")
    assert recipe["inputs.a.input"] == ("v/A:mean", "v/A:max")
    assert recipe["tables.clinical.numeric"] == (None, ["age"])
    assert "name" not in recipe
    assert "inputs.p.input" not in recipe
    inputs = told(found.inputs)
    assert inputs["a: aggregation"] == ("mean", "max")
    assert set(inputs) == {"a: aggregation", "clinical: runs"}
    a, b = (store.table(name).to_pandas() for name in ("base", "base_wide"))
    assert {row["patient_id"] for row in found.rows.added.to_pylist()} == set(b.patient_id) - set(a.patient_id)
    assert found.rows.lost.num_rows == 0
    why = {row["patient_id"]: row["reason"] for row in found.rows.added.to_pylist()}
    lost = pq.read_table(store.table("base").path / "lost.parquet").to_pandas().set_index("patient_id").reason
    assert why == {patient: lost[patient] for patient in why}
    back = differences(store, "base_wide", "base")
    assert back.rows.lost.to_pylist() == found.rows.added.to_pylist()
    columns = {(c.column, c.change) for c in found.columns}
    assert columns >= {("age", "added"), ("has_a", "added"), ("fused", "resized")}
    assert ("fused", "resized", "10", "11") in {(c.column, c.change, c.before, c.after) for c in found.columns}
    assert "fused" not in {c.column for c in found.values}


def test_values_are_those_that_pandas_finds(cohort: Any) -> None:
    store = cohort.store
    store.materialize(name="base_max", inputs=["a=v/A:max", "p=v/P:mean"], scheme="default")
    found = {v.column: v for v in differences(store, "base", "base_max").values}
    a, b = (store.table(name).to_pandas().set_index("patient_id") for name in ("base", "base_max"))
    assert list(a.index) == list(b.index)
    assert set(found) == {"a", "fused"}
    for column, value in found.items():
        distance = np.abs(np.stack(a[column]).astype(float) - np.stack(b[column]).astype(float)).max(axis=1)
        assert value.rows == (distance > 0).sum()
        assert value.largest == distance.max()
        assert value.row == {"patient_id": a.index[distance.argmax()]}
        assert value.gaps == 0


def test_another_order_of_inputs_moves_columns(cohort: Any) -> None:
    cohort.store.materialize(name="turned", inputs=cohort.inputs[::-1], scheme="default")
    found = differences(cohort.store, "base", "turned")
    assert told(found.recipe) == {"inputs (their order)": (["a", "p"], ["p", "a"])}
    assert {(c.column, c.change) for c in found.columns} == {("a", "moved"), ("p", "moved")}
    assert [v.column for v in found.values] == ["fused"]


def split_of(table: Any) -> dict[str, str]:
    return table.to_pandas().set_index("patient_id").split.to_dict()


def test_splits_labels_and_their_versions(make_cohort: Callable[..., Any]) -> None:
    made = make_cohort(5, count=12)
    grades = {p: {"grade": n % 3, "time": n + 1.5, "event": n % 2} for n, p in enumerate(made.patients)}
    made.clinical(grades)
    fields: dict[str, Any] = {"inputs": ["a=v/A:mean"], "scheme": "mine"}
    made.store.split(scheme="mine", ratios={"train": 0.5, "val": 0.5}, seed=1)
    made.store.materialize(name="t", label="clinical.grade", **fields)
    made.store.materialize(name="s", survival="clinical.time,clinical.event", **fields)
    before = split_of(made.store.table("t"))
    made.store.split(scheme="mine", ratios={"train": 0.5, "val": 0.5}, seed=2, replace=True)
    changed = made.patients[4]
    grades[changed]["grade"] = 99
    grades[changed]["time"] = 0.25
    made.clinical(grades, replace=True)
    made.store.materialize(name="t", label="clinical.grade", **fields)
    made.store.materialize(name="s", survival="clinical.time,clinical.event", **fields)
    found = differences(made.store, "t@v1", "t@v2")
    assert told(found.scheme) == {"scheme": ("mine@v1", "mine@v2")}
    assert set(told(found.inputs)) == {"clinical: runs"}
    assert (found.recipe, found.packages) == ([], [])
    after = split_of(made.store.table("t"))
    assert {r["patient_id"]: (r["before"], r["after"]) for r in found.rows.split.to_pylist()} == {
        p: (before[p], after[p]) for p in before if before[p] != after[p]
    }
    (label,) = found.rows.label.to_pylist()
    assert label == {"patient_id": changed, "before": "1", "after": "99", "column": "label"}
    (time,) = differences(made.store, "s@v1", "s@v2").rows.label.to_pylist()
    assert (time["patient_id"], float(time["before"]), float(time["after"])) == (changed, 5.5, 0.25)
    assert time["column"] == "time"


def test_each_fold_against_its_own(make_cohort: Callable[..., Any]) -> None:
    made = make_cohort(6, count=16)
    made.store.split(scheme="k", k_folds=3, seed=0)
    fields: dict[str, Any] = {"inputs": ["a=v/A:mean"], "scheme": "k", "standardize": True}
    made.store.materialize(name="t", **fields)
    assert differences(made.store, "t", "t").same_bytes
    made.store.materialize(name="t", **fields | {"inputs": ["a=v/A:max"]})
    found = differences(made.store, "t@v1", "t@v2")
    assert [(v.fold, v.column) for v in found.values] == [(f"fold{n}", c) for n in range(3) for c in ("a", "fused")]
    for value in found.values:
        fold = int(value.fold[-1])
        a, b = (made.store.table(f"t@v{v}").to_pandas(fold=fold).set_index("patient_id") for v in (1, 2))
        distance = np.abs(np.stack(a[value.column]).astype(float) - np.stack(b[value.column])).max(axis=1)
        assert (value.rows, value.largest) == ((distance > 0).sum(), distance.max())
    made.store.materialize(name="plain", inputs=["a=v/A:mean"], scheme="default")
    other = differences(made.store, "t@v1", "plain")
    assert not other.same
    assert "one has 3, the other 0" in other.not_compared[0]
    assert other.rows.split.num_rows == other.rows.common


def test_rows_of_other_entities_arent_compared(make_cohort: Callable[..., Any]) -> None:
    made = make_cohort(8, count=8)
    made.store.materialize(name="people", inputs=["a=v/A:mean"], scheme="default")
    made.store.materialize(name="slices", inputs=["a=v/A"], scheme="default", entity="sample")
    found = differences(made.store, "people", "slices")
    assert not found.same
    assert found.rows.common is None
    assert found.not_compared == ["rows and values: a row is a patient in one and a sample in the other"]
    assert told(found.recipe)["entity"] == ("patient", "sample")
    assert differences(made.store, "slices", "slices").same


def test_data_that_were_changed_on_the_disk_are_found(make_cohort: Callable[..., Any]) -> None:
    made = make_cohort(9, count=8)
    made.store.materialize(name="t", inputs=["a=v/A:mean"], scheme="default")
    made.store.materialize(name="u", inputs=["a=v/A:mean"], scheme="default")
    path = made.store.table("u").path / "data.parquet"
    rows = pq.read_table(path)
    pq.write_table(rows.take(list(range(len(rows)))[::-1]), path)  # the same rows in another order
    found = differences(made.store, "t", "u")
    assert (found.same, found.same_bytes) == (True, False)
    pq.write_table(pa.concat_tables([rows, rows.slice(2, 1)]), path)
    with pytest.raises(CorruptError, match="two rows of"):
        differences(made.store, "t", "u")
    path.write_bytes(b"PAR1")
    with pytest.raises(CorruptError, match="can't be read"):
        differences(made.store, "t", "u")


def test_the_version_before(cohort: Any) -> None:
    with pytest.raises(UsageError, match="base@v1 is the first version"):
        version_before(cohort.store.table("base"))


# --------------------------------------------------------------------------------------------- keys and values
ids = st.sampled_from(["007", "7", "é", "a,b", ""])
keys = st.lists(st.tuples(ids, st.none() | st.sampled_from(["v1", "", "V1"])), unique=True)


@given(keys, keys)
def test_matching_is_that_of_a_dictionary(a: list[Any], b: list[Any]) -> None:
    text = pa.string()
    tables = [
        pa.table({"patient_id": pa.array([k[0] for k in rows], text), "visit_id": pa.array([k[1] for k in rows], text)})
        for rows in (a, b)
    ]
    there, back = match(tables[0], tables[1], (Path("a"), Path("b")))
    assert there.tolist() == [b.index(key) if key in b else -1 for key in a]
    assert back.tolist() == [a.index(key) if key in a else -1 for key in b]


number = st.none() | st.floats(-4, 4, width=16) | st.sampled_from([float("nan"), float("inf"), -0.0])
columns = st.tuples(
    st.tuples(number, number),
    number,
    st.none() | st.integers(0, 2),
    st.none() | st.sampled_from("ab"),
    st.none() | st.booleans(),
)
rows_of = st.dictionaries(st.sampled_from([f"{n}" for n in range(30)]), columns)


def written(path: Path, rows: dict[str, Any], group: int) -> Path:
    gap = float("nan")
    data = {
        "patient_id": pa.array(list(rows), pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array([gap if x is None else x for r in rows.values() for x in r[0]], pa.float32()), 2
        ),
        "real": pa.array([r[1] for r in rows.values()], pa.float64()),
        "whole": pa.array([r[2] for r in rows.values()], pa.int64()),
        "text": pa.array([r[3] for r in rows.values()], pa.string()),
        "truth": pa.array([r[4] for r in rows.values()], pa.bool_()),
    }
    pq.write_table(pa.table(data), path, row_group_size=group)
    return path


@settings(max_examples=60, phases=[Phase.generate])  # shrinking would take minutes
@given(a=rows_of, b=rows_of, group=st.integers(1, 9), seed=st.integers(0, 99))
def test_columns_are_compared_as_a_merge_would(
    tmp_path_factory: pytest.TempPathFactory, a: dict[str, Any], b: dict[str, Any], group: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    b |= {key: a[key] for key in list(a)[::2]}  # some are equal
    order = np.random.default_rng(seed).permutation(list(b)).tolist()
    b = {key: b[key] for key in order}
    paths = written(folder / "a.parquet", a, group), written(folder / "b.parquet", b, 10 - group)
    one, other = (pq.read_table(path) for path in paths)
    names = one.select(["patient_id"])
    places, _ = match(names, other.select(["patient_id"]), paths)
    frames = [t.to_pandas(integer_object_nulls=True).set_index("patient_id") for t in (one, other)]
    both = [key for key in a if key in b]
    with open_file(paths[0]) as first, open_file(paths[1]) as second:
        for column in ("vector", "real", "whole", "text", "truth"):
            found = compare((first, second), column, places, names, "")
            expected = [unlike(frames[0].at[key, column], frames[1].at[key, column]) for key in both]
            assert (found.rows if found else 0) == sum(e is not None for e in expected)
            if found is not None and found.largest is not None:
                assert found.largest == max(e for e in expected if e)
                key = found.row["patient_id"]
                assert unlike(frames[0].at[key, column], frames[1].at[key, column]) == found.largest
            elif found is not None:
                assert not any(expected)  # nothing but gaps, texts and truths


def unlike(x: Any, y: Any) -> float | None:
    """None where they are equal; by how much they differ, 0 where that can't be told."""
    if isinstance(x, np.ndarray):
        parts = [unlike(float(p), float(q)) for p, q in zip(x, y, strict=True)]
        return None if all(p is None for p in parts) else max(p or 0.0 for p in parts)
    gaps = pd.isna(x), pd.isna(y)
    if all(gaps) or (not any(gaps) and x == y):
        return None
    return 0.0 if any(gaps) or isinstance(x, (str, bool, np.bool_)) else abs(float(x) - float(y))


COMPARED = """
import sys
from pathlib import Path
import psutil
import pyarrow.parquet as pq
from featstore.tables.diff_data import compare, match, open_file
paths = Path(sys.argv[1]), Path(sys.argv[2])
names = [pq.read_table(path, columns=["patient_id"]) for path in paths]
with open_file(paths[0]) as first, open_file(paths[1]) as second:
    before = psutil.Process().memory_info().rss
    places, _ = match(names[0], names[1], paths)
    found = compare((first, second), "fused", places, names[0], "")
    print(psutil.Process().memory_info().rss - before, found.rows, found.largest)
"""


def test_memory_doesnt_grow_with_the_rows(tmp_path: Path) -> None:
    rows, width = 40_000, 512  # 82 MB a file
    schema = pa.schema([("patient_id", pa.string()), ("fused", pa.list_(pa.float32(), width))])

    def write(name: str, value: float) -> Path:
        with pq.ParquetWriter(tmp_path / name, schema) as file:
            for start in range(0, rows, 2000):
                ids = pa.array([f"{n:06}" for n in range(start, start + 2000)])
                block = pa.array(np.full(2000 * width, value, np.float32))
                file.write_table(pa.table([ids, pa.FixedSizeListArray.from_arrays(block, width)], schema=schema))
        return tmp_path / name

    paths = [str(write("a.parquet", 1)), str(write("b.parquet", 2.5))]
    # In a process of its own: what others have freed in this one, or not, isn't counted.
    done = subprocess.run([sys.executable, "-c", COMPARED, *paths], capture_output=True, text=True, check=True)
    grown, count, largest = done.stdout.split()
    assert int(grown) < 150e6
    assert (int(count), float(largest)) == (rows, 1.5)
