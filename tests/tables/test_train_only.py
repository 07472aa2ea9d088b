"""What is learned is learned from train rows alone; what can't be learned is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from featstore import UsageError
from featstore.tables.materialize import nearly_constant

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


RECIPES: dict[str, dict[str, Any]] = {
    "the flags of old": RECIPE,
    "neighbours and selection": {
        "inputs": ["a=v/A:max", "p=v/P:median"], "tables": ["clinical"], "numeric": ["age"], "categorical": ["sex"],
        "encode": ["ordinal"], "scheme": "default", "join": "outer", "missing": "knn(3)",
        "input_steps": ["a=robust", "p=minmax", "clinical=standardize"], "steps": ["select(5)", "minmax"],
    },
    "components of each": {
        "inputs": ["a=v/A:mean", "p=v/P:mean"], "scheme": "default", "join": "outer", "missing": "median",
        "input_steps": ["a=pca(2)", "p=pca(0.7)"], "fuser": "pca(2)", "steps": ["robust"],
    },
    "late": {"inputs": ["a=v/A:mean", "p=v/P:mean"], "scheme": "default", "join": "outer", "fuser": "late"},
    "canonical correlation": {
        "inputs": ["a=v/A:mean", "p=v/P:mean"], "scheme": "default", "join": "outer", "fuser": "cca(1)",
        "input_steps": ["a=pca(2)", "p=pca(2)"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(make_cohort: Callable[..., Any]) -> list[Any]:
    """Two cohorts with the same train patients, and all others different in everything."""
    made = []
    for change in (False, True):
        cohort = make_cohort(11, count=36, missing=0.3, slices=3, extract=False)
        rng = np.random.default_rng(12)
        rows = {p: {"age": 20 + n, "sex": "MF"[n % 2]} for n, p in enumerate(cohort.patients)}
        if change:
            for key in cohort.vectors:
                if cohort.splits[key[0]] != "train":
                    cohort.vectors[key] = rng.normal(100, 50, 5).astype(np.float32)
                    rows[key[0]] = {"age": 1000, "sex": "other"}
                    cohort.labels[key[0]] = 1
            cohort.write()
        cohort.ingest()
        cohort.extract()
        cohort.clinical(rows)
        made.append(cohort)
    return made


@pytest.mark.parametrize("name", RECIPES)
def test_changing_every_val_and_test_patient_changes_nothing_fitted(pair: list[Any], name: str) -> None:
    fitted, fused = [], []
    for cohort in pair:
        cohort.store.materialize(name="t", **RECIPES[name])
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


def test_pca_refuses_missing_values_with_the_way_out(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(13, count=18, missing=0.4, slices=1)
    with pytest.raises(UsageError, match="missing values") as caught:
        cohort.store.materialize(name="t", inputs=["a=v/A", "p=v/P"], scheme="default", join="outer", pca=2)
    assert "--missing mean" in caught.value.hint
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
    assert nearly_constant(StandardScaler().fit(x)) == 1
    assert nearly_constant(None) == 0
