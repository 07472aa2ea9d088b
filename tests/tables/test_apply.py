"""Applying: new patients get what the saved estimators give, and nobody else is among them."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.preprocessing import OneHotEncoder
from skops import io as skops

from featstore import ConflictError, CorruptError, LeakageError, NotFoundError, UsageError
from featstore.tables.recipe_plain import from_json

from .expected import AGGREGATES, fused

NEW = ["new 1", "08", "=new", "é", "zz", "new 2"]


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """24 patients, of whom tables are made; then six more, without labels or splits, some without a modality."""
    made = make_cohort(70, count=24, missing=0.25, slices=3)
    rows: dict[str, dict[str, object]] = {
        p: {"age": None if n % 7 == 1 else 20 + n * 1.5, "stage": ("I", "II", "é")[n % 3]}
        for n, p in enumerate(made.patients)
    }
    made.clinical(rows)
    made.store.split(scheme="cv", k_folds=2, seed=4)
    made.old = made.patients
    for name, recipe in RECIPES.items():
        made.store.materialize(from_json(recipe | {"name": name}))
    rng = np.random.default_rng(71)
    for number, patient in enumerate(NEW):
        for modality in ("AP", "A", "P")[number % 3]:
            for index in range(1 + number % 3):
                made.vectors[patient, modality, index] = rng.normal(1, 2, 5).astype(np.float32)
        if number != 4:
            stage = ("II", "never seen", "I")[number % 3]
            rows[patient] = {"age": None if number == 1 else 50 + number, "stage": stage}
    made.write()
    made.ingest()
    made.extract()
    made.clinical(rows, replace=True)
    made.rows = rows
    return made


def inputs(**p: Any) -> list[dict[str, Any]]:
    return [
        {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean", "steps": ["robust"]},
        {"alias": "p", "features": "v", "modality": "P", "aggregation": "max"} | p,
    ]


CLINICAL = {"name": "clinical", "numeric": ["age"], "categorical": ["stage"], "steps": ["minmax"]}
#: That "late" gives train rows scores of other models than new ones is tested with it.
RECIPES: dict[str, dict[str, Any]] = {
    "all": {
        "inputs": inputs(steps=["pca(3)"]), "tables": [CLINICAL], "scheme": "default", "join": "outer",
        "missing": "median", "steps": ["standardize", "pca(4)"],
    },
    "knn": {
        "inputs": inputs(steps=["minmax", "l2"]), "tables": [CLINICAL | {"encode": "ordinal"}], "scheme": "default",
        "min_modalities": 1, "missing": "knn(3)", "fuser": "kronecker", "steps": ["minmax"],
    },
    "left": {"inputs": inputs(), "scheme": "default", "join": "left", "fuser": "mean"},
    "inner": {"inputs": inputs(), "tables": [CLINICAL], "scheme": "default", "steps": ["select(5)"], "missing": "zero"},
    "pca": {"inputs": inputs(), "scheme": "default", "join": "outer", "missing": "mean", "fuser": "pca(3)"},
    "late": {"inputs": inputs(), "scheme": "default", "join": "outer", "fuser": "late", "steps": ["minmax"]},
    "plain": {"inputs": [item | {"steps": []} for item in inputs()], "join": "outer"},
    "folds": {"inputs": inputs(), "scheme": "cv", "join": "outer", "missing": "mean", "steps": ["standardize"]},
}  # fmt: skip


def rows_of(cohort: Any, recipe: dict[str, Any], patients: list[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Who can be put through a recipe, and their parts, pooled and as the clinical table has them."""
    values: dict[str, dict[str, np.ndarray]] = {}
    for item in recipe["inputs"]:
        values[item["alias"]] = {}
        for patient in patients:
            keys = sorted((k for k in cohort.vectors if k[:2] == (patient, item["modality"])), key=cohort.key)
            if keys:
                stack = np.stack([cohort.vectors[k] for k in keys]).astype(np.float64)
                values[item["alias"]][patient] = AGGREGATES[item["aggregation"]](stack)
    has = [set(v) for v in values.values()]
    kept = set.union(*has) if recipe.get("join") == "outer" or "min_modalities" in recipe else has[0]
    if recipe.get("join", "inner") == "inner" and "min_modalities" not in recipe:
        kept = set.intersection(*has, *([set(cohort.rows)] if "tables" in recipe else []))
    order = sorted(kept)
    parts = {a: np.stack([v.get(p, np.full(5, np.nan)) for p in order]) for a, v in values.items()}
    return order, parts


def through(recipe: dict[str, Any], fitted: dict[str, Any], parts: dict[str, np.ndarray], raw: pd.DataFrame) -> Any:
    """Parts through the saved estimators, by scikit-learn alone."""
    parts = dict(parts)
    for table in recipe.get("tables", []):
        text = np.array([None if pd.isna(v) else v for v in raw.stage], object)[:, None]
        has = np.array([v is not None for v in text[:, 0]])
        encoder = fitted["encode"]["clinical"]["stage"]
        encoded = np.full((len(raw), encoder.transform([["I"]]).shape[1]), np.nan)
        if has.any():
            encoded[has] = encoder.transform(text[has])
        parts[table["name"]] = np.concatenate([raw[["age"]].to_numpy(np.float64), encoded], axis=1)
    for alias, steps in fitted.get("inputs", {}).items():
        for step in steps.values():
            has = ~np.isnan(parts[alias]).all(axis=1)
            width = step.transform(np.zeros((1, parts[alias].shape[1]))).shape[1]
            out = np.full((len(has), width), np.nan)
            if has.any():
                out[has] = step.transform(parts[alias][has])
            parts[alias] = out
    if "missing" in fitted:
        filled = fitted["missing"].transform(np.concatenate(list(parts.values()), axis=1))
        ends = np.cumsum([part.shape[1] for part in parts.values()])[:-1]
        parts = dict(zip(parts, np.split(filled, ends, axis=1), strict=True))
    fuser = recipe.get("fuser", "concat")
    if fuser == "late":  # new patients: by the models of all train rows
        x = np.full((len(raw), len(parts)), np.nan)
        for column, (alias, part) in enumerate(parts.items()):
            has = ~np.isnan(part).any(axis=1)
            x[has, column] = fitted["fuser"]["models"][alias]["all"].predict_proba(part[has])[:, 1]
    elif fuser.startswith("pca"):
        x = fitted["fuser"]["pca"].transform(np.concatenate(list(parts.values()), axis=1))
    else:
        x = fused(fuser, parts, np.zeros(0), {})
    for step in fitted.get("steps", {}).values():
        x = step.transform(x)
    return x


@pytest.mark.parametrize(
    ("name", "everyone"), [*((name, False) for name in RECIPES), *((name, True) for name in RECIPES if name != "late")]
)
def test_new_patients_get_what_the_saved_estimators_give(cohort: Any, name: str, everyone: bool) -> None:
    recipe, table = RECIPES[name], cohort.store.table(name)
    fold = 1 if name == "folds" else None
    in_table = set(table.to_arrow(fold=fold).column("patient_id").to_pylist())
    out = cohort.root.parent / f"{name}.parquet"
    result = table.apply(out, fold=fold, everyone=everyone)
    frame = pq.read_table(out).to_pandas()
    patients = cohort.patients if everyone else [p for p in cohort.patients if p not in in_table]
    order, parts = rows_of(cohort, recipe, patients)
    assert set(NEW) & set(order)
    assert everyone or not in_table & set(order)
    assert frame.patient_id.tolist() == order
    ours = [name for name in table.to_arrow(fold=fold).column_names if name not in {"split", "label"}]
    assert frame.columns.tolist() == ours  # nobody knows split and label; every mask, whatever the new rows lack
    raw = pd.DataFrame([cohort.rows.get(p, {"age": None, "stage": None}) for p in order])
    np.testing.assert_allclose(
        np.stack(frame.fused), through(recipe, table.fitted(fold=fold), parts, raw), rtol=1e-6, atol=2e-6
    )
    for alias, part in parts.items():
        np.testing.assert_allclose(np.stack(frame[alias]), part, rtol=1e-6, atol=1e-6)
        if name != "inner":
            assert frame[f"has_{alias}"].tolist() == (~np.isnan(part).all(axis=1)).tolist()
    assert (result.rows, result.width) == (len(frame), np.stack(frame.fused).shape[1])
    assert result.report["rows"] == len(frame)
    assert result.report["incomplete"] == np.isnan(np.stack(frame.fused)).any(axis=1).sum()


def test_what_learned_from_labels_is_refused_for_the_rows_that_it_learned_from(cohort: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'late' has learned from the labels of rows of late@v1"):
        cohort.store.table("late").apply(tmp_path / "x.parquet", everyone=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["all", "knn", "pca"])
def test_the_tables_own_rows_come_out_as_they_are_in_it(cohort: Any, tmp_path: Path, name: str) -> None:
    table = cohort.store.table(name)
    table.apply(tmp_path / "x.parquet", everyone=True)
    again = pq.read_table(tmp_path / "x.parquet").to_pandas().set_index("patient_id")
    before = table.to_pandas().set_index("patient_id")
    np.testing.assert_array_equal(np.stack(again.loc[before.index].fused), np.stack(before.fused))


def test_a_where_of_its_own(cohort: Any, tmp_path: Path) -> None:
    table = cohort.store.table("all")
    table.apply(tmp_path / "x.csv", where="patient_id LIKE 'new%'", wide=True)
    with open(tmp_path / "x.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["patient_id"] for row in rows] == ["new 1", "new 2"]
    assert "fused_3" in rows[0]
    with pytest.raises(NotFoundError, match=r"No patient is left.*in the table already"):
        table.apply(tmp_path / "y.csv", where="patient_id = '007'")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.csv"]


def test_applying_changes_nothing_in_the_store(cohort: Any, tmp_path: Path) -> None:
    def state() -> Any:
        files = {p: p.stat().st_mtime_ns for p in sorted(cohort.store.path.rglob("*")) if p.is_file()}
        return {p: t for p, t in files.items() if "catalog" not in p.name}

    before, tables = state(), cohort.store.ls("tables").to_pylist()
    cohort.store.table("all").apply(tmp_path / "x.parquet")
    assert (state(), cohort.store.ls("tables").to_pylist()) == (before, tables)


def test_folds_need_one_and_others_take_none(cohort: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2 folds.*which"):
        cohort.store.table("folds").apply(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match="no folds"):
        cohort.store.table("all").apply(tmp_path / "x.parquet", fold=0)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def altered(cohort: Any) -> Iterator[Callable[[str, Callable[[pa.Table], pa.Table]], None]]:
    """A function that changes the data of a table behind featstore's back; it is put back afterwards."""
    kept: dict[Path, bytes] = {}

    def change(name: str, how: Callable[[pa.Table], pa.Table], fold: str = "") -> None:
        path = cohort.store.table(name).path / fold / "data.parquet"
        kept[path] = path.read_bytes()
        pq.write_table(how(pq.ParquetFile(path).read()), path)

    yield change
    for path, data in kept.items():
        path.write_bytes(data)


@pytest.fixture
def learned(cohort: Any) -> Iterator[Callable[[Callable[[dict[str, Any]], Any], str], None]]:
    """A function that changes what a table has learned behind featstore's back; it is put back afterwards."""
    kept: dict[Path, bytes] = {}

    def change(how: Callable[[dict[str, Any]], Any], name: str = "all") -> None:
        table = cohort.store.table(name)
        path = table.path / "fitted.skops"
        kept.setdefault(path, path.read_bytes())
        found = table.fitted()
        skops.dump(how(found) or found, path)

    yield change
    for path, data in kept.items():
        path.write_bytes(data)


ALTERED: dict[str, tuple[str, Callable[[dict[str, Any]], Any], str]] = {
    "nothing": ("all", lambda f: {"other": 1}, "steps is missing"),
    "no imputer": ("all", lambda f: f.pop("missing") and f, "missing is missing"),
    "no step": ("all", lambda f: f["steps"].pop("pca") and f, "steps.pca is missing"),
    "another step": ("all", lambda f: f["steps"].update(minmax=f["steps"]["pca"]), "steps.minmax is in no recipe"),
    "no own step": ("all", lambda f: f["inputs"].pop("a") and f, "inputs.a is missing"),
    "another alias": ("all", lambda f: f["inputs"].update(b=f["inputs"]["a"]), "inputs.b is in no recipe"),
    "no encoder": ("all", lambda f: f.pop("encode") and f, "encode is missing"),
    "no column": ("all", lambda f: f["encode"]["clinical"].pop("stage") and f, "encode is missing|stage is missing"),
    "no estimator": ("all", lambda f: f["steps"].update(pca=3), "steps.pca can't transform"),
    "no mapping": ("all", lambda f: f.update(steps=f["missing"]), "steps is no mapping"),
    "a fuser's": ("all", lambda f: f.update(fuser={"pca": 1}), "the fuser can't take back"),
    "no fuser's": ("pca", lambda f: f.pop("fuser") and f, "the fuser can't take back"),
    "more of the fuser": ("pca", lambda f: f["fuser"].update(more=1), "the fuser learned something else"),
    "a key beside": ("pca", lambda f: f.update(onehot={}), "onehot is in no recipe"),
}


@pytest.mark.parametrize("change", ALTERED)
def test_other_objects_than_the_recipes_steps_make_are_refused(
    cohort: Any, learned: Any, tmp_path: Path, change: str
) -> None:
    name, how, match = ALTERED[change]
    learned(how, name)
    with pytest.raises(CorruptError, match=match) as caught:
        cohort.store.table(name).apply(tmp_path / "x.parquet")
    assert "materialize it again" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_objects_in_another_order_are_taken_in_the_recipes(cohort: Any, learned: Any, tmp_path: Path) -> None:
    table = cohort.store.table("all")
    table.apply(tmp_path / "x.parquet")
    learned(lambda f: {key: f[key] for key in reversed(f)} | {"steps": dict(reversed(f["steps"].items()))})
    table.apply(tmp_path / "y.parquet")
    assert (tmp_path / "x.parquet").read_bytes() == (tmp_path / "y.parquet").read_bytes()


def renamed(old: str, new: str) -> Callable[[pa.Table], pa.Table]:
    def how(rows: pa.Table) -> pa.Table:
        splits = rows.column("split").to_pylist()
        splits[splits.index(old)] = new
        return rows.set_column(rows.column_names.index("split"), "split", pa.array(splits, pa.string()))

    return how


@pytest.mark.parametrize("change", ["test is train", "train is test", "a train row is gone", "a train row is twice"])
def test_other_train_rows_than_were_learned_from_are_refused(
    cohort: Any, altered: Any, tmp_path: Path, change: str
) -> None:
    def gone(rows: pa.Table) -> pa.Table:
        return rows.filter(pc.not_equal(rows.column("patient_id"), train))

    train = cohort.store.table("all").to_arrow(split="train").column("patient_id")[0].as_py()

    def twice(rows: pa.Table) -> pa.Table:
        return pa.concat_tables([rows, rows.filter(pc.equal(rows.column("patient_id"), train))])

    how = {
        "test is train": renamed("test", "train"), "train is test": renamed("train", "test"),
        "a train row is gone": gone, "a train row is twice": twice,
    }[change]  # fmt: skip
    altered("all", how)
    with pytest.raises(LeakageError, match=r"fitted on other rows than those that say 'train'") as caught:
        cohort.store.table("all").apply(tmp_path / "x.parquet")
    assert "featstore reproduce all@v1" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_fold_with_other_train_rows_is_refused(cohort: Any, altered: Any, tmp_path: Path) -> None:
    altered("folds", renamed("val", "train"), fold="fold1")
    with pytest.raises(LeakageError, match=r"in fold1: its data were changed"):
        cohort.store.table("folds").apply(tmp_path / "x.parquet", fold=0)


def test_a_fuser_with_something_learned_gets_it_back(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    cohort = make_cohort(72, count=12, slices=1)
    cohort.store.materialize(name="t", inputs=["a=v/A"], scheme="default", fuser="twice")
    cohort.vectors["new", "A", 0] = np.full(5, 7, np.float32)
    cohort.write()
    cohort.ingest()
    cohort.extract()
    table = cohort.store.table("t")
    table.apply(tmp_path / "x.parquet")
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    np.testing.assert_allclose(row["fused"], 2 * (7 - table.fitted()["fuser"]["mean"]), rtol=1e-6)
    cohort.extract(dtype="float16")
    table.apply(tmp_path / "y.parquet")  # still by the version that the table has
    assert pq.read_table(tmp_path / "y.parquet").equals(pq.read_table(tmp_path / "x.parquet"))


def test_a_table_that_lost_its_column_is_said(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    cohort = make_cohort(73, count=12, slices=1)
    cohort.clinical({p: {"age": 20 + n} for n, p in enumerate(cohort.patients)})
    cohort.store.materialize(
        name="t", inputs=["a=v/A"], tables=["clinical"], numeric=["age"], scheme="default", join="left", pca=2,
        impute="mean",
    )  # fmt: skip
    cohort.clinical({p: {"years": 20 + n} for n, p in enumerate(cohort.patients)}, replace=True)
    with pytest.raises((NotFoundError, ConflictError), match=r"no column 'age'"):
        cohort.store.table("t").apply(tmp_path / "x.parquet", everyone=True)


Clinical = dict[str, dict[str, object]]


@pytest.fixture
def graded(make_cohort: Callable[..., Any]) -> tuple[Any, Clinical]:
    """A table ``t`` with whole numbers, truths and days for categories; then three new patients without them."""
    cohort = make_cohort(74, count=12, slices=1, modalities=("A",))
    rows: Clinical = {
        p: {"age": 40 + n, "grade": 1 + n % 3, "smoker": n % 2 == 0, "day": f"2024-01-0{1 + n % 2}"}
        for n, p in enumerate(cohort.patients)
    }
    cohort.clinical(rows)
    clinical = {"name": "clinical", "numeric": ["age"], "categorical": ["grade", "smoker", "day"]}
    cohort.store.materialize(
        from_json(
            {"name": "t", "inputs": ["v/A:mean"], "tables": [clinical], "scheme": "default", "steps": ["standardize"]}
        )
    )
    for number in range(3):
        cohort.vectors[f"new{number}", "A", 0] = np.full(5, number, np.float32)
        rows[f"new{number}"] = {"age": 50, "grade": 1 + number, "smoker": True, "day": "2024-01-02"}
    cohort.write()
    cohort.ingest()
    cohort.extract()
    return cohort, rows


@pytest.mark.parametrize("everyone", [False, True])
def test_a_category_is_what_it_was_whatever_type_its_column_gets(
    graded: tuple[Any, Clinical], tmp_path: Path, everyone: bool
) -> None:
    cohort, rows = graded
    table = cohort.store.table("t")
    cohort.clinical(rows, replace=True)
    table.apply(tmp_path / "x.parquet", everyone=everyone)
    cohort.vectors["odd", "A", 0] = np.zeros(5, np.float32)
    cohort.write()
    cohort.ingest()
    cohort.extract()
    rows["odd"] = {"age": 50.5, "grade": 2.5, "smoker": True, "day": "2024-01-02 10:30:00"}
    cohort.clinical(rows, replace=True)
    result = table.apply(tmp_path / "y.parquet", everyone=everyone)
    before, after = (pq.read_table(tmp_path / f"{n}.parquet").to_pandas().set_index("patient_id") for n in "xy")
    assert str(after.grade.dtype) == "float64"
    assert before.day.map(str).nunique() == 2 if everyone else True
    np.testing.assert_array_equal(np.stack(after.loc[before.index].fused), np.stack(before.fused))
    unseen = result.report["tables"]["clinical"]["unseen"]
    assert unseen == {"grade": ["2.5"], "day": ["2024-01-02 10:30:00"]}
    encoders = table.fitted()["encode"]["clinical"]
    assert encoders["grade"].categories_[0].tolist() == ["1", "2", "3"]
    unknown = table.fitted()["steps"]["standardize"].inverse_transform([after.fused["odd"]])[0]
    np.testing.assert_allclose(unknown, [0] * 5 + [50.5, 0, 0, 0, 0, 1, 0, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("grade", "II", r"'grade' of 'clinical' holds text by now, and numbers when t@v1 .*such as 'II'"),
        ("smoker", "2", r"'smoker' .* holds numbers by now, and booleans"),
        ("day", "unknown", r"'day' .* holds text by now, and dates"),
        ("age", "old", r"'age' of 'clinical' holds string, not numbers \(such as 'old'"),
    ],
)
def test_a_column_of_another_kind_is_refused(
    graded: tuple[Any, Clinical], tmp_path: Path, column: str, value: str, match: str
) -> None:
    cohort, rows = graded
    if value == "2":
        rows = {p: r | {column: int(bool(r[column]))} for p, r in rows.items()}
    rows["new1"] |= {column: value}
    cohort.clinical(rows, replace=True)
    with pytest.raises((ConflictError, UsageError), match=match):
        cohort.store.table("t").apply(tmp_path / "x.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_column_without_a_value_is_of_any_kind(graded: tuple[Any, Clinical], tmp_path: Path) -> None:
    cohort, rows = graded
    cohort.clinical({p: r | {"grade": None} for p, r in rows.items()}, replace=True)
    cohort.store.table("t").apply(tmp_path / "x.parquet")
    frame = pq.read_table(tmp_path / "x.parquet").to_pandas()
    assert np.isnan(np.stack(frame.fused)[:, 6:9]).all()


@pytest.mark.parametrize("where", ["modality = 'A'", None])
def test_the_modality_is_the_tables(make_cohort: Callable[..., Any], tmp_path: Path, where: str | None) -> None:
    cohort = make_cohort(75, count=12, slices=1, modalities=("A", "P") if where else ("A",))
    cohort.store.materialize(name="t", inputs=["v:mean"], where=where, scheme="default", standardize=True)
    cohort.vectors["new", "P", 0] = np.full(5, 9, np.float32)
    cohort.write()
    cohort.ingest()
    cohort.extract()
    table = cohort.store.table("t")
    for condition in ("patient_id = 'new'", "modality = 'P'"):
        with pytest.raises(NotFoundError, match="modality 'A'"):
            table.apply(tmp_path / "x.parquet", where=condition)
    cohort.vectors["new", "A", 0] = np.full(5, 7, np.float32)
    cohort.write()
    cohort.ingest()
    cohort.extract()
    table.apply(tmp_path / "x.parquet", where="patient_id = 'new'")
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert row["v"] == [7] * 5


def test_contents_that_have_changed_are_refused(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    cohort = make_cohort(76, count=12, slices=1, modalities=("A",))
    recipe = {"inputs": ["v/A:mean"], "scheme": "default", "steps": ["standardize"]}
    cohort.store.materialize(from_json(recipe | {"name": "t"}))
    cohort.store.materialize(from_json(recipe | {"name": "lax", "allow": {"outdated": "a phantom"}}))
    for index in range(3):
        cohort.vectors["new", "A", index] = np.full(5, index, np.float32)
    cohort.write()
    cohort.ingest()
    cohort.extract()
    file = cohort.file(("new", "A", 2))
    file.write_bytes(np.full(5, 77, "<f4").tobytes())
    os.utime(file, (1, 1))
    cohort.ingest()
    with pytest.raises(LeakageError, match=r"1 sample\(s\) have other contents by now") as caught:
        cohort.store.table("t").apply(tmp_path / "x.parquet")
    assert "extract" in caught.value.hint
    assert "--allow" not in caught.value.hint
    assert list(tmp_path.iterdir()) == []
    cohort.store.table("lax").apply(tmp_path / "lax.parquet")
    cohort.extract()
    cohort.store.table("t").apply(tmp_path / "x.parquet")
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    np.testing.assert_allclose(row["v_A"], [78 / 3] * 5, rtol=1e-6)


def test_tables_of_numbers_only(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    cohort = make_cohort(77, count=12, slices=1, modalities=("A",))
    cohort.clinical({p: {"age": 40 + n} for n, p in enumerate(cohort.patients)})
    cohort.store.materialize(
        name="t", inputs=["v/A:mean"], tables=["clinical"], numeric=["age"], scheme="default", standardize=True
    )
    table = cohort.store.table("t")
    result = table.apply(tmp_path / "x.parquet", everyone=True)
    assert result.report["tables"]["clinical"]["features"] == ["age"]
    np.testing.assert_array_equal(np.stack(pq.read_table(tmp_path / "x.parquet")["fused"].to_pylist()),
                                  np.stack(table.to_pandas().fused))  # fmt: skip


def test_dated_tables(make_cohort: Callable[..., Any], tmp_path: Path) -> None:
    cohort = make_cohort(78, extract=False, count=12, slices=2, modalities=("A",))
    cohort.vectors["new", "A", 0] = np.zeros(5, np.float32)
    for key in cohort.vectors:
        cohort.visits[key], cohort.times[key] = "1", datetime(2024, 1, 10 + key[2], 12)
    cohort.splits["new"] = cohort.labels["new"] = None
    cohort.write()
    cohort.ingest()
    cohort.extract()
    rows = [
        {"patient_id": p, "drawn_at": f"2024-01-{day:02}T00:00:00", "crp": day + n / 100}
        for n, p in enumerate(cohort.patients)
        for day in (1, 9, 11, 20)
    ]
    cohort.dated(rows, "labs")
    labs = {"name": "labs", "numeric": ["crp"], "time": "drawn_at", "within": "5d"}
    cohort.store.materialize(
        from_json({"name": "t", "inputs": ["v/A:mean"], "tables": [labs], "as_of": "acquired_at", "scheme": "default"})
    )
    cohort.store.table("t").apply(tmp_path / "x.parquet")
    (row,) = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert row["patient_id"] == "new"
    assert row["crp"] == pytest.approx(9 + cohort.patients.index("new") / 100)
    assert row["fused"][-1] == pytest.approx(row["crp"])


def test_masks_are_the_tables_whatever_the_new_rows_lack(graded: tuple[Any, Clinical], tmp_path: Path) -> None:
    cohort, rows = graded
    table = cohort.store.table("t")
    rows["new1"]["age"] = rows["new2"]["grade"] = None
    cohort.clinical(rows, replace=True)
    table.apply(tmp_path / "x.parquet")
    ours = [n for n in table.to_arrow().column_names if n not in {"split", "label"}]
    assert pq.read_table(tmp_path / "x.parquet").column_names == ours
    assert not any(name.startswith("has_") for name in ours)


@pytest.mark.parametrize("fuser", ["concat", "mean"])
def test_what_featstore_0_1_kept_is_taken_as_it_was_meant(
    make_cohort: Callable[..., Any], tmp_path: Path, fuser: str
) -> None:
    """There was one encoder of all columns, and numbers with a point were written with it."""
    cohort = make_cohort(79, count=18, slices=1, missing=0.2)
    rows: Clinical = {
        p: {"age": 40 + n, "grade": (0.5, 1, 2, 3)[n % 4], "sex": "fm"[n % 2]} for n, p in enumerate(cohort.patients)
    }
    rows[cohort.patients[4]]["sex"] = None
    cohort.clinical(rows)
    clinical = {"name": "clinical", "numeric": ["age"], "categorical": ["grade", "sex"]}
    recipe = {
        "name": "t", "inputs": ["v/A:mean", "v/P:mean"], "scheme": "default", "join": "outer", "missing": "mean",
        "fuser": fuser, "steps": ["standardize", "pca(4)"],
    }  # fmt: skip
    cohort.store.materialize(from_json(recipe | ({"tables": [clinical]} if fuser == "concat" else {})))
    table = cohort.store.table("t")
    now = table.fitted()
    old = {"impute": now["missing"], **now["steps"]}
    if fuser == "concat":
        known = [now["encode"]["clinical"][name].categories_[0] for name in ("grade", "sex")]
        assert known[0].tolist() == ["0.5", "1", "2", "3"]
        known[0] = np.array([str(float(v)) for v in known[0]], object)
        encoder = OneHotEncoder(categories=known, handle_unknown="ignore", sparse_output=False)
        old["onehot"] = {"clinical": encoder.fit([[known[0][0], known[1][0]]])}
    skops.dump(old, table.path / "fitted.skops")
    (table.path / "rows.parquet").unlink()  # it had none
    cohort.vectors["new", "A", 0] = np.ones(5, np.float32)
    cohort.write()
    cohort.ingest()
    cohort.extract()
    if fuser == "mean":  # it imputed what was fused
        with pytest.raises(CorruptError, match="missing is missing"):
            table.apply(tmp_path / "x.parquet")
        return
    table.apply(tmp_path / "x.parquet", everyone=True)
    again = pq.read_table(tmp_path / "x.parquet").to_pandas().set_index("patient_id")
    before = table.to_pandas().set_index("patient_id")
    np.testing.assert_array_equal(np.stack(again.loc[before.index].fused), np.stack(before.fused))
    table.apply(tmp_path / "new.parquet")
    assert pq.read_table(tmp_path / "new.parquet")["patient_id"].to_pylist() == ["new"]
    skops.dump(old | {"onehot": {"clinical": now["encode"]["clinical"]["sex"]}}, table.path / "fitted.skops")
    with pytest.raises(CorruptError, match=r"encode\.clinical is no mapping"):
        table.apply(tmp_path / "y.parquet")


def test_a_category_that_its_encoder_does_not_know_is_masked_as_in_the_table(
    make_cohort: Callable[..., Any], tmp_path: Path
) -> None:
    cohort = make_cohort(3, count=24)
    held, new = next(p for p in cohort.patients if cohort.splits[p] == "test"), cohort.patients[-1]
    rows: dict[str, dict[str, object]] = {p: {"sex": "FM"[n % 2]} for n, p in enumerate(cohort.patients)}
    rows[held]["sex"] = rows[new]["sex"] = "X"
    cohort.clinical(rows)
    recipe = {"name": "t", "inputs": ["a=v/A:mean"], "scheme": "default", "missing": "mean"}
    recipe |= {"tables": [{"name": "clinical", "categorical": ["sex"], "encode": "ordinal"}]}
    cohort.store.materialize(from_json(recipe | {"where": f"patient_id <> '{new}'"}))
    table = cohort.store.table("t")
    frame = table.to_pandas().set_index("patient_id")
    assert frame.has_sex.tolist() == [p != held for p in frame.index]
    table.apply(tmp_path / "new.parquet", where="true")
    assert pd.read_parquet(tmp_path / "new.parquet").set_index("patient_id").has_sex.to_dict()[new] is False
    table.apply(tmp_path / "all.parquet", where=f"patient_id <> '{new}'", everyone=True)
    again = pd.read_parquet(tmp_path / "all.parquet").set_index("patient_id")
    assert (again.has_sex[frame.index] == frame.has_sex).all()
