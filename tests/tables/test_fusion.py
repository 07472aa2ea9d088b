"""A table is what pandas and scikit-learn make of the same vectors, whatever is asked for and whoever is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore import PluginError
from featstore.tables.recipe_plain import from_json

from .expected import assert_fitted_alike, check, remade


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


def clinical_frame(cohort: Any) -> dict[str, pd.DataFrame]:
    """The clinical table, missing values as None."""
    rows = [{"patient_id": p} | values for p, values in cohort.rows.items()]
    frame = pd.DataFrame(rows)
    for column in ("sex", "stage"):
        frame[column] = pd.Series([None if v is None else str(v) for v in frame[column]], dtype=object)
    return {"clinical": frame}


def of_inputs(a: str, p: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "t", "scheme": "default",
        "inputs": [
            {"alias": "a", "features": "v", "modality": "A", "aggregation": a},
            {"alias": "p", "features": "v", "modality": "P", "aggregation": p},
        ],
    } | fields  # fmt: skip


def final_signs(table: Any, expected: Any, last: str) -> Any:
    """Of the last step's components: those of a yes/no category tie for the largest, and rounding decides the sign."""
    if not last.startswith("pca"):
        return 1.0
    ours, theirs = list(table.fitted()["steps"].values())[-1], expected.fitted["steps"][-1]
    return np.sign((ours.components_ * theirs.components_).sum(axis=1))


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


@settings(max_examples=6, derandomize=True, phases=[Phase.generate])  # shrinking would take minutes
@given(recipe=recipes)
def test_table_equals_the_one_made_without_featstore(cohort: Any, recipe: dict[str, Any]) -> None:
    """By the flags of old, which are steps too."""
    a, p = recipe["aggs"]
    if not recipe["impute"]:
        recipe["pca"] = None  # that PCA refuses missing values is tested elsewhere
    flags = {key: recipe[key] for key in ("join", "numeric", "categorical", "standardize", "pca")}
    with_table = bool(recipe["numeric"] or recipe["categorical"])
    steps = ["standardize"] * recipe["standardize"] + ([f"pca({recipe['pca']})"] if recipe["pca"] else [])
    table = {"name": "clinical", "numeric": recipe["numeric"], "categorical": recipe["categorical"]}
    missing = "mean" if recipe["impute"] else "none"
    asked = of_inputs(a, p, join=recipe["join"], missing=missing, steps=steps, tables=[table] * with_table)
    expected = remade(cohort, asked, tables=clinical_frame(cohort))
    cohort.store.materialize(
        name="t", inputs=[f"a=v/A:{a}", f"p=v/P:{p}"], tables=["clinical"] if with_table else [], scheme="default",
        impute=missing, **flags,
    )  # fmt: skip
    made = cohort.store.table("t")
    signs = final_signs(made, expected, steps[-1]) if steps else 1.0
    assert recipe["categorical"] or (np.asarray(signs) == 1).all()
    check(made, expected, signs=signs)
    fitted = made.fitted()
    if recipe["pca"]:
        ours, theirs = fitted["steps"]["pca"], expected.fitted["steps"][-1]
        theirs.components_ *= signs[:, None]
        for name in ("components_", "mean_", "explained_variance_", "explained_variance_ratio_", "singular_values_"):
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-6)
        assert ours.n_components_ == theirs.n_components_
        assert ours.noise_variance_ == pytest.approx(theirs.noise_variance_, abs=1e-6)
    if recipe["standardize"]:
        ours, theirs = fitted["steps"]["standardize"], expected.fitted["steps"][0]
        np.testing.assert_allclose(ours.scale_, theirs.scale_, atol=1e-9)


VECTOR_STEPS = [[], ["l2"], ["standardize"], ["robust", "pca(3)"], ["minmax", "l2"], ["select(2)"], ["pca(0.8)"]]


@st.composite
def full_recipes(draw: st.DrawFn) -> dict[str, Any]:
    """Everything that a recipe of patients can say; what can't be together is tested by what it is refused with."""

    def one_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    fuser = one_of("concat", "concat", "mean", "max", "kronecker", "pca(3)")
    aggs = ["mean", "max", "min", "median", "first", "last", "gem(3)", *(["meanstd"] if fuser == "concat" else [])]
    inputs: list[dict[str, Any]] = []
    own = one_of(*[w for w in VECTOR_STEPS if w != ["pca(0.8)"]]) if fuser in ("mean", "max") else None
    for alias, modality in (("a", "A"), ("p", "P")):
        item = {"alias": alias, "features": "v", "modality": modality, "aggregation": one_of(*aggs)}
        item["steps"] = own if own is not None else one_of(*VECTOR_STEPS)
        item |= one_of({}, {"max_samples": 2}, {"order_by": "slice"})
        if "max_samples" in item and item["aggregation"] in ("first", "last"):
            del item["max_samples"]
        inputs.append(item)
    recipe: dict[str, Any] = {"name": "t", "scheme": "default", "inputs": inputs, "fuser": fuser}
    if not {i["aggregation"] for i in inputs} & {"first", "last"}:
        recipe |= one_of({}, {"max_samples": 1}, {"max_samples": 3, "order_by": "slice"})
    joins = [{"join": "outer"}, {"join": "inner"}, {"join": "left"}, {"min_modalities": 1}, {"min_modalities": 2}]
    recipe |= one_of(*joins)
    if fuser in ("concat", "kronecker"):
        table = {"name": "clinical", "numeric": one_of(["age"], ["age", "marker"])}
        table |= {"categorical": one_of([], ["sex"], ["stage"]), "encode": one_of("onehot", "ordinal")}
        table["steps"] = one_of([], ["standardize"], ["minmax"], ["robust"])
        recipe["tables"] = one_of([], [table])
    recipe["missing"] = one_of("none", "mean", "median", "zero", "knn", "knn(2)")
    after: list[list[str]] = [[], ["standardize"], ["robust"], ["minmax"]]
    if recipe["missing"] != "none":
        after += [["standardize", "l2"], ["robust", "pca(2)"], ["select(2)", "standardize"], ["minmax", "pca(0.7)"]]
    steps = one_of(*after)
    tied = any(t["categorical"] and t["encode"] == "onehot" for t in recipe.get("tables", []))
    # Two columns of a yes/no category tell the same of the label; and a tensor product holds one that is always 1.
    if (tied or fuser == "kronecker") and "select" in " ".join(steps):
        steps = ["standardize"]
    return recipe | {"steps": steps}


@settings(max_examples=20, derandomize=True, phases=[Phase.generate])
@given(recipe=full_recipes())
def test_every_word_of_a_recipe_does_what_scikit_learn_does(cohort: Any, recipe: dict[str, Any]) -> None:
    expected = remade(cohort, recipe, tables=clinical_frame(cohort))
    cohort.store.materialize(from_json(recipe))
    made = cohort.store.table("t")
    check(made, expected, signs=final_signs(made, expected, (recipe["steps"] or [""])[-1]))
    fitted = made.fitted()
    # Everything that scikit-learn has learned, the table's estimators have learned: same kinds, same numbers.
    for alias, steps in expected.fitted.get("inputs", {}).items():
        for ours, theirs in zip(fitted["inputs"][alias].values(), steps, strict=True):
            assert_fitted_alike(ours, theirs)
    for name, columns in expected.fitted.get("encode", {}).items():
        for column, theirs in columns.items():
            assert_fitted_alike(fitted["encode"][name][column], theirs)
    if recipe["missing"] not in ("none", "zero"):
        assert_fitted_alike(fitted["missing"], expected.fitted["missing"])
    if not any(word.startswith("pca") for word in recipe["steps"]):
        for ours, theirs in zip(fitted.get("steps", {}).values(), expected.fitted.get("steps", []), strict=True):
            assert_fitted_alike(ours, theirs)


@pytest.mark.parametrize("join", ["inner", "left", "outer"])
def test_saved_steps_reproduce_fused_by_scikit_learn_alone(cohort: Any, join: str) -> None:
    cohort.store.materialize(
        name="again", inputs=["a=v/A:mean", "p=v/P:meanstd"], tables=["clinical"], numeric=["age"], categorical=["sex"],
        scheme="default", join=join, impute="mean", standardize=True, pca=4, input_steps=["p=l2", "p=robust"],
    )  # fmt: skip
    table = cohort.store.table("again")
    frame, fitted = table.to_pandas(), table.fitted()
    sex = frame[["sex"]].to_numpy(object)
    encoded = fitted["encode"]["clinical"]["sex"].transform(np.where(pd.isna(sex), "M", sex))
    encoded[pd.isna(sex)[:, 0]] = np.nan
    p = np.stack(frame.p).astype(np.float64)
    has = ~np.isnan(p).all(axis=1)
    for step in ("l2", "robust"):
        p[has] = fitted["inputs"]["p"][step].transform(p[has])
    parts = [np.stack(frame.a), p, frame[["age"]].to_numpy(float), encoded]
    fused = np.concatenate(parts, axis=1).astype(np.float64)
    for step in (fitted["missing"], fitted["steps"]["standardize"], fitted["steps"]["pca"]):
        fused = step.transform(fused)
    np.testing.assert_allclose(np.stack(frame.fused), fused, rtol=1e-5, atol=1e-5)  # vectors are kept as float32


def test_canonical_correlations_are_scikit_learns(cohort: Any) -> None:
    recipe = of_inputs("mean", "max", fuser="cca(2)", join="outer")
    for item in recipe["inputs"]:
        item["steps"] = ["pca(3)"]
    cohort.store.materialize(from_json(recipe))
    made = cohort.store.table("t")
    expected = remade(cohort, recipe | {"fuser": "concat"})
    check(made, expected, fuse=False)
    a, p = np.split(expected.fused, 2, axis=1)
    both = expected.train & ~np.isnan(a).any(axis=1) & ~np.isnan(p).any(axis=1)
    theirs = CCA(2, max_iter=100_000, tol=1e-14).fit(a[both], p[both])
    fused = np.stack(made.to_pandas().fused).astype(np.float64)
    for half, (part, number) in zip(np.split(fused, 2, axis=1), ((a, 0), (p, 1)), strict=True):
        there = ~np.isnan(part).any(axis=1)
        assert (np.isnan(half).all(axis=1) == ~there).all()
        other = part if number == 0 else a
        scores = theirs.transform(np.nan_to_num(other), np.nan_to_num(part if number else p))[number]
        scores = (scores - scores[both].mean(axis=0)) / scores[both].std(axis=0, ddof=1)
        signs = np.sign((scores[both] * half[both]).sum(axis=0))
        np.testing.assert_allclose(half[there], (scores * signs)[there], atol=1e-5)


@pytest.mark.parametrize("kind", ["classes", "number"])
def test_late_scores_are_those_of_models_that_havent_seen_the_patient(cohort: Any, kind: str) -> None:
    recipe = of_inputs("mean", "max", fuser="late", join="outer", label={"column": "label", "kind": kind})
    cohort.store.materialize(from_json(recipe))
    made = cohort.store.table("t")
    expected = remade(cohort, recipe | {"fuser": "concat"})
    check(made, expected, fuse=False)
    y = expected.rows.label.astype(float).to_numpy()
    fused, models = np.stack(made.to_pandas().fused).astype(np.float64), made.fitted()["fuser"]["models"]

    def plain(x: np.ndarray, of: np.ndarray) -> Any:
        model: Any = Ridge() if kind == "number" else LogisticRegression(tol=1e-6, max_iter=10_000)
        return make_pipeline(StandardScaler(), model).fit(x, of)

    def scores(model: Any, x: np.ndarray) -> np.ndarray:
        return model.predict(x) if kind == "number" else model.predict_proba(x)[:, 1]

    for column, (alias, x) in enumerate(expected.parts.items()):
        has = ~np.isnan(x).any(axis=1)
        assert (np.isnan(fused[:, column]) == ~has).all()
        train, rest = np.flatnonzero(has & expected.train), np.flatnonzero(has & ~expected.train)
        np.testing.assert_allclose(fused[rest, column], scores(plain(x[train], y[train]), x[rest]), atol=1e-5)
        # Whose fold a train row is in shows in its score: a model of all rows but that fold's gives just that.
        fold = np.full(len(x), -1)
        for n in range(5):
            same = np.abs(scores(models[alias][f"without{n}"], x[train]) - fused[train, column]) < 1e-6
            fold[train[same & (fold[train] < 0)]] = n
        assert (fold[train] >= 0).all()
        for n in range(5):
            held = train[fold[train] == n]
            if len(held):
                others = train[fold[train] != n]
                np.testing.assert_allclose(fused[held, column], scores(plain(x[others], y[others]), x[held]), atol=1e-5)


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


def test_labels_that_look_alike_are_told(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(92, count=12, slices=1)
    cohort.clinical({p: {"sex": ("M", "F", "m")[n % 3]} for n, p in enumerate(cohort.patients)})
    result = cohort.store.materialize(name="t", inputs=["a=v/A:mean"], label="clinical.sex")
    assert result.report["labels_alike"] == [["M", "m"]]
    assert "The labels 'M' and 'm' look alike, and are 2 classes." in (result.path / "card.md").read_text()


def test_categories_that_look_alike_are_told_and_stay_apart(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(3, count=12, slices=1)
    spellings = ["JM", "JM ", "jm\u200b", "KD", "A+", "A-"]
    cohort.clinical({p: {"site": spellings[n % 6], "sex": "MF"[n % 2]} for n, p in enumerate(cohort.patients)})
    result = cohort.store.materialize(
        name="t", inputs=["a=v/A"], tables=["clinical"], categorical=["site", "sex"], scheme="default"
    )
    told = result.report["tables"]["clinical"]
    assert told["alike"] == {"site": [["JM", "JM ", "jm\u200b"]]}
    train = {s for n, s in enumerate(spellings * 2) if cohort.splits[cohort.patients[n]] == "train"}
    assert [f for f in told["features"] if f.startswith("site")] == [f"site={s}" for s in sorted(train)]


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


def test_a_category_that_cannot_be_said_in_numbers_has_a_mask(make_cohort: Callable[..., Any]) -> None:
    """Filled, the code of a site that train lacks is one between two others; nothing else would tell."""
    cohort = make_cohort(3, count=12, slices=1)
    rows = {p: {"site": "X" if cohort.splits[p] == "test" else "MF"[n % 2]} for n, p in enumerate(cohort.patients)}
    cohort.clinical(rows)
    result = cohort.store.materialize(
        name="t", inputs=["a=v/A"], tables=["clinical"], categorical=["site"], encode=["ordinal"], missing="mean",
        scheme="default",
    )  # fmt: skip
    frame = cohort.store.table("t").to_pandas()
    assert (frame.has_site == (frame.split != "test")).all()
    assert result.report["tables"]["clinical"]["gaps"] == {"site": int((frame.split == "test").sum())}
    assert np.isfinite(np.stack(frame.fused)).all()


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


@pytest.mark.parametrize("wrong", [{"inputs": ["a=v/A:uneven"]}, {"inputs": ["a=v/A:mean"], "fuser": "uneven"}])
def test_a_plugin_whose_width_changes_is_refused(make_cohort: Callable[..., Any], wrong: dict[str, Any]) -> None:
    """NumPy would write the one number into all columns."""
    cohort = make_cohort(5, count=12, slices=3)
    with pytest.raises(PluginError, match=r"1 features of \d rows, 5 of one|in one block of rows, and 5 wide before"):
        cohort.store.materialize(name="t", scheme="default", **wrong)
    assert cohort.store.ls("tables").num_rows == 0
