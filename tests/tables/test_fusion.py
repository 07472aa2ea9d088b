"""A table is what pandas and scikit-learn make of the same vectors, whatever is asked for and whoever is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings

CLINICAL_COLUMNS = {"numeric": ("age", "marker"), "categorical": ("sex", "stage")}


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    """30 patients with odd ids; every third modality missing, ragged slices, gaps in the clinical table."""
    made = make_cohort(7, count=30, missing=0.33, slices=4)
    rng = np.random.default_rng(1)
    rows: dict[str, dict[str, object]] = {}
    for number, patient in enumerate(made.patients):
        if number % 7 == 3:
            continue
        rows[patient] = {
            "age": None if number % 6 == 1 else int(rng.integers(20, 90)),
            "marker": None if number % 11 == 2 else round(float(rng.normal()), 6),
            "sex": None if number % 5 == 4 else "MF"[number % 2],
            "stage": ("I", "II", "= III", "é", "02")[number % 5],
        }
    rows["stranger"] = {"age": 1, "marker": 1.0, "sex": "X", "stage": "I"}
    made.clinical(rows)
    made.rows = rows
    return made


def clinical_frame(cohort: Any) -> pd.DataFrame:
    return pd.DataFrame.from_dict(cohort.rows, orient="index")


recipes = st.fixed_dictionaries(
    {
        "aggs": st.tuples(*[st.sampled_from(["mean", "max", "meanstd", "gem(3)"])] * 2),
        "join": st.sampled_from(["inner", "left", "outer"]),
        "numeric": st.sampled_from([(), ("age",), ("age", "marker")]),
        "categorical": st.sampled_from([(), ("sex",), ("stage", "sex")]),
        "impute": st.booleans(),
        "standardize": st.booleans(),
        "pca": st.sampled_from([None, 1, 3, 0.5, 0.93]),
    }
)


@settings(max_examples=10, derandomize=True, phases=[Phase.generate])  # shrinking would take minutes
@given(recipe=recipes)
def test_table_equals_the_one_made_without_featstore(
    cohort: Any, remake: Callable[..., Any], recipe: dict[str, Any]
) -> None:
    a, p = recipe["aggs"]
    if not recipe["impute"]:
        recipe["pca"] = None  # that PCA refuses missing values is tested elsewhere
    with_table = bool(recipe["numeric"] or recipe["categorical"])
    chosen = {key: recipe[key] for key in ("join", "numeric", "categorical", "standardize", "pca")}
    expected = remake(
        cohort.store, {"a": ("v", "A", a), "p": ("v", "P", p)}, impute=recipe["impute"],
        clinical=clinical_frame(cohort) if with_table else None, **chosen,
    )  # fmt: skip
    cohort.store.materialize(
        name="t", inputs=[f"a=v/A:{a}", f"p=v/P:{p}"], tables=["clinical"] if with_table else [], scheme="default",
        impute="mean" if recipe["impute"] else "none", **chosen,
    )  # fmt: skip
    table = cohort.store.table("t")
    frame = table.to_pandas()
    assert frame.patient_id.tolist() == expected.frame.index.tolist()
    assert frame.split.tolist() == expected.frame.split.tolist()
    assert frame.label.tolist() == expected.frame.label.astype(int).tolist()
    for alias, part in expected.parts.items():
        np.testing.assert_allclose(np.stack(frame[alias]), part, rtol=1e-6, atol=1e-6)
    fitted, signs = table.fitted(), np.ones(1)
    if recipe["pca"]:
        # The columns of a yes/no category tie for the largest loading, and rounding decides scikit-learn's sign there.
        signs = np.sign((fitted["pca"].components_ * expected.fitted["pca"].components_).sum(axis=1))
        assert recipe["categorical"] or (signs == 1).all()
    np.testing.assert_allclose(np.stack(frame.fused), expected.fused * signs, rtol=1e-6, atol=2e-6)
    masks = {f"has_{alias}" for alias in "ap"} | ({"has_clinical"} if with_table else set())
    assert masks & set(frame.columns) == (set() if recipe["join"] == "inner" else masks)
    if recipe["join"] != "inner":
        for alias, part in expected.parts.items():
            assert frame[f"has_{alias}"].tolist() == (~np.isnan(part).all(axis=1)).tolist()
    if recipe["pca"]:
        components = expected.fitted["pca"].components_ * signs[:, None]
        np.testing.assert_allclose(fitted["pca"].components_, components, atol=1e-6)
        assert fitted["pca"].n_components_ == expected.fitted["pca"].n_components_
        for name in ("mean_", "explained_variance_", "explained_variance_ratio_", "singular_values_"):
            np.testing.assert_allclose(getattr(fitted["pca"], name), getattr(expected.fitted["pca"], name), atol=1e-6)
        assert fitted["pca"].noise_variance_ == pytest.approx(expected.fitted["pca"].noise_variance_, abs=1e-6)
    if recipe["standardize"]:
        np.testing.assert_allclose(fitted["standardize"].scale_, expected.fitted["standardize"].scale_, atol=1e-9)


@pytest.mark.parametrize("join", ["inner", "left", "outer"])
def test_saved_steps_reproduce_fused_by_scikit_learn_alone(cohort: Any, join: str) -> None:
    cohort.store.materialize(
        name="again", inputs=["a=v/A:mean", "p=v/P:meanstd"], tables=["clinical"], numeric=["age"], categorical=["sex"],
        scheme="default", join=join, impute="mean", standardize=True, pca=4,
    )  # fmt: skip
    table = cohort.store.table("again")
    frame, fitted = table.to_pandas(), table.fitted()
    sex = frame[["sex"]].to_numpy(object)
    encoded = fitted["onehot"]["clinical"].transform(sex)
    encoded[pd.isna(sex)[:, 0]] = np.nan
    parts = [np.stack(frame.a), np.stack(frame.p), frame[["age"]].to_numpy(float), encoded]
    fused = np.concatenate(parts, axis=1).astype(np.float64)
    for step in ("impute", "standardize", "pca"):
        fused = fitted[step].transform(fused)
    np.testing.assert_allclose(np.stack(frame.fused), fused, rtol=1e-5, atol=1e-5)  # vectors are kept as float32


def test_missing_is_nan_with_a_mask_and_never_zero(cohort: Any) -> None:
    cohort.store.materialize(
        name="gaps", inputs=["a=v/A:mean", "p=v/P:mean"], tables=["clinical"], numeric=["age"], categorical=["sex"],
        scheme="default", join="outer",
    )  # fmt: skip
    frame = cohort.store.table("gaps").to_pandas()
    fused = np.stack(frame.fused)
    assert not frame.has_a.all()
    assert not frame.has_p.all()
    for alias, columns in (("a", slice(0, 5)), ("p", slice(5, 10))):
        assert np.isnan(np.stack(frame[alias])[~frame[f"has_{alias}"]]).all()
        assert np.isnan(fused[~frame[f"has_{alias}"], columns]).all()
        assert np.isfinite(fused[frame[f"has_{alias}"], columns]).all()
    assert (frame.has_age == frame.age.notna()).all()
    assert (frame.has_sex == frame.sex.notna()).all()
    assert np.isnan(fused[~frame.has_age, 10]).all()
    assert np.isnan(fused[~frame.has_sex, 11:]).all()
    assert not frame.has_age[~frame.has_clinical].any()


def test_a_whole_clinical_column_gets_no_mask_and_inner_none_for_inputs(cohort: Any) -> None:
    cohort.store.materialize(
        name="whole", inputs=["a=v/A:mean"], tables=["clinical"], numeric=["age"], categorical=["stage"],
        scheme="default",
    )  # fmt: skip
    masks = [c for c in cohort.store.table("whole").to_pandas().columns if c.startswith("has_")]
    assert masks == ["has_age"]


def test_a_category_that_train_lacks_is_reported_and_all_zero(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(3, count=12, slices=1)
    rows = {p: {"sex": "X" if cohort.splits[p] == "test" else "MF"[n % 2]} for n, p in enumerate(cohort.patients)}
    cohort.clinical(rows)
    result = cohort.store.materialize(
        name="t", inputs=["a=v/A"], tables=["clinical"], categorical=["sex"], scheme="default"
    )
    assert result.report["tables"]["clinical"]["unseen"] == {"sex": ["X"]}
    assert result.report["tables"]["clinical"]["features"] == ["sex=F", "sex=M"]
    frame = cohort.store.table("t").to_pandas()
    encoded = np.stack(frame.fused)[:, 5:]
    assert (encoded[frame.split == "test"] == 0).all()
    assert (encoded[frame.split != "test"].sum(axis=1) == 1).all()


def test_where_keeps_to_samples_that_meet_it(cohort: Any) -> None:
    cohort.store.materialize(name="where", inputs=["a=v/A:mean"], scheme="default", where="attributes['slice'] = '0'")
    frame = cohort.store.table("where").to_pandas().set_index("patient_id")
    for patient, row in frame.iterrows():
        np.testing.assert_array_equal(row.a, cohort.vectors[patient, "A", 0])


def test_a_fuser_of_a_plugin_learns_from_train_rows_only(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(4, count=18, slices=1)
    cohort.store.materialize(name="t", inputs=["a=v/A"], scheme="default", fuser="twice")
    table = cohort.store.table("t")
    frame = table.to_pandas()
    a = np.stack(frame.a).astype(np.float64)
    mean = a[frame.split == "train"].mean(axis=0)
    np.testing.assert_allclose(np.stack(frame.fused), 2 * (a - mean), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(table.fitted()["fuser"]["mean"], mean)


def test_a_label_of_a_table_comes_typed(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(5, count=12, slices=1)
    rows = {
        p: {"n": n, "x": n / 3, "text": f"c{n % 3}", "yes": n % 2 == 0, "gap": None if n < 4 else n}
        for n, p in enumerate(cohort.patients)
    }
    cohort.clinical(rows, name="clin.v2")
    for column, type_ in (("n", np.int64), ("x", np.float64), ("text", np.str_), ("yes", np.int64)):
        cohort.store.materialize(name=column, inputs=["a=v/A"], label=f"clin.v2.{column}")
        _, y, patients = cohort.store.table(column).arrays()
        assert y.dtype.type is type_
        expected = [int(rows[p][column]) if column == "yes" else rows[p][column] for p in patients]
        assert y.tolist() == pytest.approx(expected) if column == "x" else y.tolist() == expected
    result = cohort.store.materialize(name="gap", inputs=["a=v/A"], label="clin.v2.gap")
    assert result.rows == 8
    lost = result.report["lost"]
    assert [(item["reason"], item["patients"]) for item in lost] == [("without a value of 'clin.v2.gap'", 4)]


def test_parquet_tables_with_small_integers_and_nan(make_cohort: Callable[..., Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cohort = make_cohort(6, count=12, slices=1)
    ids = cohort.patients
    grade = pa.array([n % 3 for n in range(12)], pa.int8())
    score = pa.array([float("nan") if n == 0 else None if n == 1 else n / 2 for n in range(12)], pa.float32())
    big = pa.array([2**60 + n for n in range(12)], pa.int64())
    file = cohort.root.parent / "scores.parquet"
    pq.write_table(pa.table({"patient_id": ids, "grade": grade, "score": score, "big": big}), file)
    cohort.store.ingest_table(file, name="scores")
    cohort.store.materialize(
        name="t", inputs=["a=v/A"], tables=["scores"], numeric=["score", "big"], label="scores.grade"
    )
    frame = cohort.store.table("t").to_pandas()
    assert frame.label.tolist() == grade.to_pylist()
    assert frame.has_score.tolist() == [False, False, *[True] * 10]  # NaN is as missing as null
    assert np.isnan(np.stack(frame.fused)[:2, 5]).all()
    result = cohort.store.materialize(name="nan_label", inputs=["a=v/A"], label="scores.score")
    assert result.rows == 10
    assert np.isfinite(cohort.store.table("nan_label").arrays()[1]).all()
