"""Steps: what is learned from train rows on the way to a training table.

``standardize``, ``robust``, ``minmax`` and ``l2`` scale; ``pca`` and ``select`` make vectors narrower; ``impute`` fills
what is missing; ``onehot`` and ``ordinal`` make numbers of categories. Each gives a plain, fitted scikit-learn
estimator with the attributes that scikit-learn itself would have given it, learned block by block where scikit-learn
would need all rows at once.

:func:`fit_pca`, :func:`covariance` and the like are here for fusers that need the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from featstore import StepSpec, hookimpl
from featstore_steps.arguments import components_or_share, whole_number
from featstore_steps.categories import OneHot, Ordinal
from featstore_steps.imputing import Impute
from featstore_steps.labels import read_labels
from featstore_steps.moments import is_constant
from featstore_steps.projection import Pca, covariance, fit_pca, signs
from featstore_steps.scaling import MinMax, Norm, Robust, Standardize
from featstore_steps.selection import Select

__all__ = [
    "components_or_share",
    "covariance",
    "fit_pca",
    "is_constant",
    "read_labels",
    "signs",
    "whole_number",
]

_SCORES = "sklearn.feature_selection._univariate_selection"


@hookimpl
def featstore_steps() -> Iterable[StepSpec]:
    yield StepSpec("standardize", load=Standardize, description="zero mean and unit variance; constants are centred")
    yield StepSpec("robust", load=Robust, description="zero median, and the middle half of the values one wide")
    yield StepSpec("minmax", load=MinMax, description="the train rows' range becomes 0 to 1")
    yield StepSpec("l2", load=Norm, description="each row to length 1")
    yield StepSpec("pca", load=Pca, description="principal components: so many, pca(32), or a share, pca(0.95)")
    yield StepSpec(
        "select",
        load=Select,
        description="the features that tell most of the label, by an F test: select(100)",
        trusted=(f"{_SCORES}.f_classif", f"{_SCORES}.f_regression"),
    )
    yield StepSpec(
        "impute",
        load=Impute,
        description="missing values: impute(mean), impute(median), impute(zero), impute(knn), impute(knn,5)",
        trusted=("numpy.dtype", "numpy.nan_to_num"),
    )
    yield StepSpec("onehot", load=OneHot, takes="categories", description="a column a category; unseen ones all zeros")
    yield StepSpec("ordinal", load=Ordinal, takes="categories", description="0, 1, … by the text's order; unseen NaN")
