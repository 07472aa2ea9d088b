"""What is learned is learned from train rows alone; what can't be learned is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from featstore import ConflictError, UsageError
from featstore.tables.materialize import nearly_constant
from featstore.tables.steps import ImputeMean, Pca, Standardize

RECIPE: dict[str, Any] = {
    "inputs": ["a=v/A:mean", "p=v/P:meanstd"], "tables": ["clinical"], "numeric": ["age"], "categorical": ["sex"],
    "scheme": "default", "join": "outer", "impute": "mean", "standardize": True, "pca": 4,
}  # fmt: skip


def state(value: Any) -> Any:
    """Everything that a fitted object is, comparable."""
    if isinstance(value, dict):
        return {key: state(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [str(v) for v in value] if value.dtype == object else value.tobytes()
    if isinstance(value, (list, tuple)):
        return [state(item) for item in value]
    return state(vars(value)) if hasattr(value, "get_params") else repr(value)


def test_changing_every_val_and_test_patient_changes_nothing_fitted(make_cohort: Callable[..., Any]) -> None:
    fitted, fused = [], []
    for change in (False, True):
        cohort = make_cohort(11, count=24, missing=0.3, slices=3, extract=False)
        rng = np.random.default_rng(12)
        rows = {p: {"age": 20 + n, "sex": "MF"[n % 2]} for n, p in enumerate(cohort.patients)}
        if change:
            for key in cohort.vectors:
                if cohort.splits[key[0]] != "train":
                    cohort.vectors[key] = rng.normal(100, 50, 5).astype(np.float32)
                    rows[key[0]] = {"age": 1000, "sex": "other"}
            cohort.write()
        cohort.ingest()
        cohort.extract()
        cohort.clinical(rows)
        cohort.store.materialize(name="t", **RECIPE)
        table = cohort.store.table("t")
        fitted.append(state(table.fitted()))
        frame = table.to_pandas()
        fused.append(np.stack(frame.fused)[frame.split == "train"])
    assert fitted[0] == fitted[1]
    assert fused[0].tobytes() == fused[1].tobytes()


def test_changing_a_train_patient_does_change_it(make_cohort: Callable[..., Any]) -> None:
    """The test above could not fail if nothing were compared."""
    fitted = []
    for change in (False, True):
        cohort = make_cohort(11, count=24, slices=3, extract=False)
        if change:
            cohort.vectors["007", "A", 0] = cohort.vectors["007", "A", 0] + 1
            cohort.write()
        cohort.ingest()
        cohort.extract()
        cohort.store.materialize(name="t", inputs=["a=v/A:mean"], scheme="default", standardize=True)
        fitted.append(state(cohort.store.table("t").fitted()))
    assert fitted[0] != fitted[1]


# ------------------------------------------------------------------------------------------------ the steps alone
def blocks(rows: np.ndarray, sizes: int = 7) -> Callable[[], Any]:
    return lambda: (rows[i : i + sizes] for i in range(0, len(rows), sizes))


@pytest.mark.parametrize(("rows", "width"), [(50, 8), (6, 20), (200, 3)])
@pytest.mark.parametrize("components", [1, 3, 0.4, 0.8, 0.99])
def test_pca_is_scikit_learns(rows: int, width: int, components: float) -> None:
    rng = np.random.default_rng(rows + width)
    x = rng.normal(3, 1, (rows, width)) * rng.uniform(0.1, 10, width)
    step = Pca(components)
    step.fit(blocks(x))
    theirs = PCA(components, svd_solver=step.estimator.svd_solver).fit(x)
    assert step.estimator.n_components_ == theirs.n_components_
    np.testing.assert_allclose(step.transform(x), theirs.transform(x), atol=1e-6)
    np.testing.assert_allclose(
        step.estimator.inverse_transform(step.transform(x)), theirs.inverse_transform(theirs.transform(x)), atol=1e-6
    )
    np.testing.assert_allclose(step.estimator.get_covariance(), theirs.get_covariance(), atol=1e-6)
    if rows > width:
        assert step.estimator.score(x) == pytest.approx(theirs.score(x), abs=1e-6)
    if components < 1:
        assert step.estimator.explained_variance_ratio_.sum() > components


def test_pca_tells_tied_loadings_apart_by_place() -> None:
    """Yes and no columns have loadings of one size: rounding must not choose the sign, or bytes would depend on it."""
    rng = np.random.default_rng(3)
    yes = rng.integers(0, 2, 40).astype(float)
    x = np.stack([rng.normal(0, 0.01, 40), yes, 1 - yes], axis=1)
    for size in (1, 3, 40):
        step = Pca(1)
        step.fit(blocks(x * (1 + 1e-15 * size), size))
        assert step.estimator.components_[0, 1] > 0


def test_constant_rows_have_components_of_no_variance() -> None:
    step = Pca(0.9)
    step.fit(blocks(np.ones((5, 3))))
    assert np.isfinite(step.transform(np.ones((2, 3)))).all()


@pytest.mark.parametrize("components", [5, 200])
def test_too_many_components_are_refused(components: int) -> None:
    with pytest.raises(UsageError, match=rf"4 train rows with 6 features can't give {components}") as caught:
        Pca(components).fit(blocks(np.random.default_rng(0).normal(size=(4, 6))))
    assert "--pca 2" in caught.value.hint


@pytest.mark.parametrize("size", [1, 7, 100])
def test_standardize_is_scikit_learns(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.normal(1e4, 1, (100, 6)) * [1, 1e-3, 1e3, 1, 1, 1]
    x[:, 3], x[:60, 4], x[rng.random(100) < 0.5, 5] = 0.1, np.nan, np.nan
    step, theirs = Standardize(), StandardScaler().fit(x)
    step.fit(blocks(x, size))
    for name in ("mean_", "var_", "scale_"):
        np.testing.assert_allclose(getattr(step.estimator, name), getattr(theirs, name), rtol=1e-9, atol=1e-20)
    np.testing.assert_array_equal(step.estimator.n_samples_seen_, theirs.n_samples_seen_)
    np.testing.assert_allclose(step.transform(x), theirs.transform(x), atol=1e-6)


@pytest.mark.parametrize("step", [ImputeMean(), Standardize()])
def test_a_feature_that_no_train_row_has_is_refused(step: Any) -> None:
    x = np.ones((6, 3))
    x[:, 1] = np.nan
    with pytest.raises(ConflictError, match="1 feature"):
        step.fit(blocks(x, 2))


def test_a_constant_feature_is_only_centred() -> None:
    step = Standardize()
    x = np.stack([np.full(9, 5.0), np.arange(9.0)], axis=1)
    step.fit(blocks(x, 2))
    np.testing.assert_array_equal(step.transform(x)[:, 0], np.zeros(9))


def test_pca_refuses_missing_values_with_the_way_out(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(13, count=18, missing=0.4, slices=1)
    with pytest.raises(UsageError, match="missing values") as caught:
        cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"], scheme="default", join="outer", pca=2)
    assert "--impute mean" in caught.value.hint
    assert cohort.store.ls("tables").num_rows == 0


def test_only_a_test_row_has_the_gap_and_pca_still_refuses(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(14, count=12, slices=1, extract=False)
    patient = next(p for p in cohort.patients if cohort.splits[p] == "test")
    del cohort.vectors[patient, "P", 0]
    cohort.ingest()
    cohort.extract()
    with pytest.raises(UsageError, match="missing values"):
        cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"], scheme="default", join="left", pca=2)
    assert not list((cohort.store.path / "tables").iterdir())
    assert not [run for run in (cohort.store.path / "runs").iterdir() if "materialize" in run.name]


def test_features_that_hardly_vary_in_train_are_counted() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6))
    x[:, 1] = 7
    x[:, 4] *= 1e-8
    step = Standardize()
    step.fit(blocks(x))
    assert nearly_constant(step.estimator) == 1
    assert nearly_constant(None) == 0
