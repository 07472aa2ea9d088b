"""Dated tables: of a patient's rows the latest that was there already, and nothing from the future."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings

from featstore import ConflictError, NotFoundError, UsageError
from featstore.tables.recipe_plain import from_json

from .conftest import PLUGIN
from .expected import check, remade


@pytest.fixture(scope="module")
def labs(visited: Any) -> dict[str, pd.DataFrame]:
    """Up to six rows a patient, some long before, some after, some at the very time; others have none."""
    rng, rows, starts = np.random.default_rng(5), [], []
    for number, patient in enumerate(visited.patients):
        times = [t for k, t in visited.times.items() if k[0] == patient and t is not None]
        seen = None if number % 8 == 3 else max(times)
        starts.append({"patient_id": patient, "seen_at": seen, "left_on": max(times)})
        if number % 7 == 2:
            continue
        drawn = {min(times) + timedelta(hours=int(h)) for h in rng.integers(-4000, 2000, number % 6)}
        drawn |= {min(times)} if number % 5 == 0 else {min(times) + timedelta(seconds=1)} if number % 5 == 1 else set()
        drawn |= {min(times) - timedelta(hours=2)} if number % 3 == 1 else {max(times) - timedelta(hours=3)}
        for time in sorted(drawn):
            crp = None if rng.random() < 0.2 else round(float(rng.normal(5, 2)), 4)
            urea = int(rng.integers(1, 99))
            note = rng.choice(["low", "high", "é"])
            rows.append({"patient_id": patient, "drawn_at": time, "crp": crp, "urea": urea, "note": note})
    rows.append({"patient_id": "nobody", "drawn_at": datetime(2024, 1, 1), "crp": 1.0, "urea": 1, "note": "low"})
    order = rng.permutation(len(rows))
    frame = visited.dated([rows[i] for i in order], "labs")
    pd.DataFrame(starts).to_csv(visited.root.parent / "stays.csv", index=False)
    visited.store.ingest_table(visited.root.parent / "stays.csv", name="stays")
    frame["crp"] = frame.crp.astype(object).where(frame.crp.notna(), None)
    return {"labs": frame, "stays": pd.DataFrame(starts)}


def asked(entity: str, as_of: str, **table: Any) -> dict[str, Any]:
    return {
        "name": "d", "entity": entity, "scheme": "default", "join": "left", "as_of": as_of, "missing": "median",
        "inputs": [
            {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean"},
            {"alias": "p", "features": "v", "modality": "P", "aggregation": "max"},
        ],
        "tables": [{"name": "labs", "numeric": ["crp", "urea"], "categorical": ["note"], "time": "drawn_at"} | table],
        "steps": ["standardize"],
    }  # fmt: skip


@settings(max_examples=6, derandomize=True, phases=[Phase.generate])
@given(
    entity=st.sampled_from(["patient", "visit"]),
    as_of=st.sampled_from(["acquired_at", "acquired_at", "stays.seen_at"]),
    within=st.sampled_from([None, "90d", "12h", "4w", "1d"]),
    join=st.sampled_from([{"join": "left"}, {"join": "inner"}, {"min_modalities": 1}]),
)  # fmt: skip
def test_the_latest_earlier_row_is_taken(
    visited: Any, labs: dict[str, pd.DataFrame], entity: str, as_of: str, within: str | None, join: dict[str, Any]
) -> None:
    if join == {"join": "inner"}:
        within = None  # else too few are left to learn from
    recipe = asked(entity, as_of, **({"within": within} if within else {}))
    del recipe["join"]
    recipe |= join
    expected = remade(visited, recipe, tables=labs)
    result = visited.store.materialize(from_json(recipe))
    table = visited.store.table("d")
    check(table, expected)
    frame = table.to_pandas()
    # Said once more, without merge_asof: every value is of a row of that patient, and none of a later one.
    known = labs["labs"].assign(drawn_at=pd.to_datetime(labs["labs"].drawn_at))
    for (_, row), time in zip(frame.iterrows(), expected.rows.as_of, strict=True):
        mine = known[(known.patient_id == row.patient_id) & (known.drawn_at <= time)] if pd.notna(time) else known[:0]
        if within:
            mine = mine[mine.drawn_at >= time - pd.Timedelta(within)]
        assert (None if pd.isna(row.urea) else int(row.urea)) == (
            None if mine.empty else int(mine.sort_values("drawn_at").iloc[-1].urea)
        )
    report = result.report["tables"]["labs"]
    assert report["rows"] == len(labs["labs"])
    if as_of == "acquired_at" and entity == "patient":
        # Counted over all patients with samples: who has rows, and none of them is old enough.
        everyone = {"scheme": None, "label": "none", "join": "outer", "steps": [], "missing": "none"}
        everyone["tables"] = [recipe["tables"][0] | {"categorical": []}]
        recipe.pop("min_modalities", None)
        every = remade(visited, recipe | everyone, tables=labs)
        times = dict(zip(every.rows.patient_id, every.rows.as_of, strict=True))
        first = known.groupby("patient_id").drawn_at.min()
        late = [p for p, t in times.items() if pd.notna(t) and p in first and first[p] > t]
        assert report["future"] == len(late)
        assert report["untimed"] == sum(pd.isna(t) for t in times.values())


def test_a_column_from_the_future_never_changes_a_table(visited: Any, labs: dict[str, pd.DataFrame]) -> None:
    recipe = asked("patient", "acquired_at")
    before = visited.store.materialize(from_json(recipe))
    bytes_ = (before.path / "data.parquet").read_bytes()
    times = remade(visited, recipe, tables=labs).rows.set_index("patient_id").as_of
    frame = labs["labs"].copy()
    frame["drawn_at"] = pd.to_datetime(frame.drawn_at)
    later = frame.drawn_at > frame.patient_id.map(times).fillna(pd.Timestamp.max)
    assert later.sum() > 5
    frame.loc[later, "urea"] = 12_345
    more = frame[later].assign(drawn_at=frame[later].drawn_at + pd.Timedelta("1h"))
    path = visited.root.parent / "more.csv"
    pd.concat([more, frame]).to_csv(path, index=False)
    visited.store.ingest_table(path, name="labs", time="drawn_at", replace=True)
    try:
        again = visited.store.materialize(from_json(recipe))
        assert (again.path / "data.parquet").read_bytes() == bytes_
    finally:
        labs["labs"].to_csv(path, index=False)
        visited.store.ingest_table(path, name="labs", time="drawn_at", replace=True)


@pytest.mark.usefixtures("labs")
@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"as_of": None}, UsageError, "one needs the other"),
        ({"table": {"time": None}}, UsageError, "one needs the other"),
        ({"as_of": None, "table": {"time": None}}, ConflictError, r"dated, with several rows of patient"),
        ({"table": {"time": "drawn"}}, NotFoundError, r"no column 'drawn'.*'drawn_at'"),
        ({"table": {"time": "urea"}}, UsageError, r"'urea' of 'labs' holds .*not times"),
        ({"table": {"within": "90"}}, UsageError, r"within '90' isn't a span"),
        ({"as_of": "stays.seen"}, NotFoundError, r"no column 'seen'.*'seen_at'"),
        ({"as_of": "aquired_at"}, UsageError, r"neither 'acquired_at'.*Did you mean 'acquired_at'"),
        ({"as_of": "labs.drawn_at"}, UsageError, r"dated, with several rows a patient"),
        ({"label": "labs.urea", "table": {"numeric": ["crp"]}}, UsageError, r"dated, with several rows a patient"),
    ],
)  # fmt: skip
def test_what_has_no_one_time_is_refused(visited: Any, change: dict[str, Any], kind: Any, text: str) -> None:
    recipe = asked("patient", "acquired_at") | change
    recipe["tables"][0] |= recipe.pop("table", {})
    with pytest.raises(kind, match=text):
        visited.store.materialize(from_json(recipe))


def test_two_rows_of_one_time_are_refused(visited: Any) -> None:
    rows = [{"patient_id": "007", "drawn_at": "2024-01-01", "x": n} for n in (1, 2)]
    with pytest.raises(ConflictError, match=r"more than one row, such as '007' at 2024-01-01"):
        visited.dated(rows, "twice")
    # With another time they are two rows, and of a recipe's time there is one too many.
    rows = [row | {"told_at": f"2024-02-0{n}"} for n, row in enumerate(rows, 1)]
    visited.dated(rows, "twice", time="told_at")
    recipe = asked("patient", "acquired_at") | {
        "tables": [{"name": "twice", "numeric": ["x"], "time": "drawn_at"}], "missing": "none", "steps": [],
    }  # fmt: skip
    with pytest.raises(ConflictError, match=r"two rows of patient '007' with the same drawn_at"):
        visited.store.materialize(from_json(recipe))


ZONED = """
import json, sys
import featstore
from featstore.tables.recipe_plain import from_json
path, plugin, file, recipe = sys.argv[1:]
store = featstore.open(path, plugins=[plugin])
store.ingest_table(file, name="zoned", time="drawn_at", replace=True)
store.materialize(from_json(json.loads(recipe)))
table = store.table("d")
print(json.dumps({
    "rows": {r["patient_id"]: r["n"] for r in table.to_arrow().select(["patient_id", "n"]).to_pylist()},
    "kinds": store.sql("SELECT DISTINCT typeof(drawn_at) a, typeof(told_at) b FROM zoned").to_pylist(),
    "times": [str(r) for r in store.sql("SELECT drawn_at FROM zoned ORDER BY patient_id, drawn_at")[0].to_pylist()],
    "same": table.reproduce().same,
}))
"""


@pytest.mark.usefixtures("labs")
def test_times_of_a_zone_are_the_same_everywhere(visited: Any, tmp_path: Path) -> None:
    """Two hours before, an hour after: on this side of the ocean and on the other."""
    recipe = asked("patient", "acquired_at") | {
        "tables": [{"name": "zoned", "numeric": ["n"], "time": "drawn_at"}], "missing": "none", "steps": [],
    }  # fmt: skip
    rows = []
    for patient in visited.patients:
        times = [t for k, t in visited.times.items() if k[0] == patient and t is not None]
        rows += [(patient, min(times) - timedelta(hours=2), 1), (patient, max(times) + timedelta(hours=1), 2)]
    utc = pa.array([time.replace(tzinfo=UTC) for _, time, _ in rows], pa.timestamp("us", "UTC"))
    file = tmp_path / "zoned.parquet"
    pq.write_table(pa.table({
        "patient_id": [p for p, _, _ in rows], "drawn_at": utc, "n": [n for _, _, n in rows],
        "told_at": utc.cast(pa.timestamp("us", "Asia/Tokyo")),
    }), file)  # fmt: skip
    found = []
    for zone in ("America/New_York", "Asia/Tokyo"):
        done = subprocess.run(
            [sys.executable, "-c", ZONED, visited.store.path, PLUGIN, file, json.dumps(recipe)],
            env=os.environ | {"TZ": zone}, check=True, capture_output=True, text=True,
        )  # fmt: skip
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1]
    assert found[0]["same"]
    assert found[0]["kinds"] == [{"a": "TIMESTAMP", "b": "TIMESTAMP"}]
    assert set(found[0]["times"]) == {str(time) for _, time, _ in rows}
    assert set(found[0]["rows"].values()) <= {1, None}  # never the one from the future
    assert list(found[0]["rows"].values()).count(1) > 5


@pytest.mark.usefixtures("labs")
def test_another_time_than_the_one_it_was_taken_in_by(visited: Any) -> None:
    """Its rows then stand in another order, also when the version is made again."""
    rng, rows = np.random.default_rng(8), []
    for patient in visited.patients:
        for n, day in enumerate(rng.permutation(8)):
            told, done = (datetime(2023, 1, 1) + timedelta(days=d) for d in (n, -int(day)))
            rows.append({"patient_id": patient, "told_at": told, "done_at": done, "x": n})
    frame = visited.dated(rows, "told", time="told_at")
    recipe = asked("patient", "stays.left_on") | {
        "tables": [{"name": "told", "numeric": ["x"], "time": "done_at"}], "missing": "none", "steps": [],
    }  # fmt: skip
    visited.store.materialize(from_json(recipe))
    table = visited.store.table("d")
    found = table.to_pandas().set_index("patient_id").x
    latest = frame.sort_values("done_at").groupby("patient_id").x.last()
    assert found.tolist() == latest[found.index].tolist()
    again = table.reproduce()
    assert (again.same, again.apart) == (True, {})


def test_where_nobody_has_a_time_another_is_asked_for(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    cohort = make_cohort(51, count=6, slices=1)
    rows = [f"{patient},2024-01-0{n + 1},{n}" for n, patient in enumerate(cohort.patients)]
    for name, time in (("labs", "drawn_at"), ("stays", "left_on")):
        (tmp_path / f"{name}.csv").write_text("\n".join([f"patient_id,{time},value", *rows]))
    cohort.store.ingest_table(tmp_path / "labs.csv", name="labs", time="drawn_at")
    cohort.store.ingest_table(tmp_path / "stays.csv", name="stays")
    labs = [{"name": "labs", "numeric": ["value"], "time": "drawn_at"}]
    with (tmp_path / "labs.csv").open("a") as file:
        file.write("\n007,2023-01-01,0")
    cohort.store.ingest_table(tmp_path / "labs.csv", name="labs", time="drawn_at", replace=True)
    with pytest.raises(ConflictError, match="which is meant") as caught:
        cohort.store.materialize(name="t", inputs=["a=v/A:mean"], label="none", tables=["labs"], numeric=["value"])
    assert caught.value.hint == "--as-of acquired_at --table labs --time drawn_at"
    recipe = {"name": "t", "inputs": ["a=v/A:mean"], "label": "none", "tables": labs}
    with pytest.raises(NotFoundError, match="6 without a row in 'labs': it has no time of its own") as caught:
        cohort.store.materialize(from_json(recipe | {"as_of": "acquired_at"}))
    assert caught.value.hint.startswith("--as-of TABLE.COLUMN: no patient has a time of its own")
    assert cohort.store.materialize(from_json(recipe | {"as_of": "stays.left_on"})).rows == 6
