"""Principal components: exact, as scikit-learn's, in memory that doesn't grow with the rows.

scikit-learn's own PCA would hold all train rows at once, and its incremental one is an approximation; the covariance is
a sum over rows, so it can be had exactly, block by block.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from featstore import Step, UsageError
from featstore_steps.arguments import components_or_share
from featstore_steps.passes import Blocks, Matrix, Passes, numbers

#: Bytes of a covariance, or of all train rows where they are fewer than the features.
MATRIX_BYTES = 2 << 30
_NARROWER = "narrower inputs: steps of each input, such as pca(64) or select(500)"


class Pca(Step):
    """So many principal components of the train rows, or as many as have a share of their variance. Gives a ``PCA``.

    Raises:
        UsageError: missing values, more components than there can be, or more features than memory is for.
    """

    def __init__(self, components: float | str) -> None:
        self._components = components_or_share(components)

    def fit(self, blocks: Blocks) -> Any:
        return fit_pca(numbers(blocks, no_gaps_for="PCA"), self._components)


def fit_pca(matrices: Passes, components: float) -> Any:
    """A fitted scikit-learn ``PCA`` of all rows of all matrices, which must have no gaps.

    Args:
        matrices: ``matrices()`` starts a new pass over float64 (rows, width), two passes in all.
        components: how many, or a share of the variance below 1.

    Raises:
        UsageError: the rows can't give so many, or are too wide.
    """
    from sklearn.decomposition import PCA

    rows, mean = _mean(matrices)
    width = len(mean)
    if rows < 2 or (components >= 1 and components > min(rows, width)):
        raise UsageError(
            f"PCA of {rows} train rows with {width} features can't give {components:g} components.",
            hint=f"pca({max(min(rows, width) // 2, 1)}), or a share of the variance such as pca(0.95)"
            if rows > 1
            else "more train rows",
        )
    few = rows <= width
    variances, vectors = _decompose_rows(matrices, mean, rows) if few else _decompose(_spread(matrices, mean, rows))
    vectors = vectors * signs(vectors)[:, None]
    share = variances / variances.sum() if variances.sum() > 0 else variances
    if components < 1:
        keep = min(int(np.searchsorted(np.cumsum(share), components, side="right")) + 1, len(vectors))
    else:
        keep = int(components)
    # The attributes that scikit-learn documents, so that anybody's scikit-learn can use what is saved.
    estimator = PCA(n_components=components, svd_solver="full" if few else "covariance_eigh")
    estimator.mean_, estimator.components_ = mean, np.ascontiguousarray(vectors[:keep])
    estimator.explained_variance_ = np.ascontiguousarray(variances[:keep])
    estimator.explained_variance_ratio_ = np.ascontiguousarray(share[:keep])
    estimator.singular_values_ = np.sqrt(variances[:keep] * (rows - 1))
    estimator.n_components_, estimator.n_samples_, estimator.n_features_in_ = keep, rows, width
    estimator.noise_variance_ = float(variances[keep:].mean()) if keep < min(rows, width) else 0.0
    return estimator


def covariance(matrices: Passes) -> tuple[int, Matrix, Matrix]:
    """Rows, mean (width,) and covariance (width, width) of all rows of all matrices, with rows - 1, in two passes.

    Raises:
        UsageError: fewer than two rows, or too wide for a matrix of width².
    """
    rows, mean = _mean(matrices)
    if rows < 2:
        raise UsageError(f"{rows} train row(s) without gaps are too few to learn from.", hint="--join inner, or impute")
    return rows, mean, _spread(matrices, mean, rows)


def signs(vectors: Matrix) -> Matrix:
    """scikit-learn's ``svd_flip``: what makes the largest loading of each component (a row) positive.

    Loadings that tie, as those of the two columns of a yes/no category do, are told apart by place, not by rounding.
    """
    size = np.abs(vectors)
    largest = np.argmax(size >= size.max(axis=1, keepdims=True) * (1 - 1e-9), axis=1)
    return np.where(vectors[np.arange(len(vectors)), largest] < 0, -1.0, 1.0)


def _mean(matrices: Passes) -> tuple[int, Matrix]:
    rows, total = 0, np.zeros(0)
    for values in matrices():
        total = total + values.sum(axis=0) if rows else values.sum(axis=0)
        rows += len(values)
    return rows, total / max(rows, 1)


def _spread(matrices: Passes, mean: Matrix, rows: int) -> Matrix:
    """The covariance: width² of memory, whatever the rows."""
    _require_memory(len(mean), len(mean))
    found = np.zeros((len(mean), len(mean)))
    for values in matrices():
        centred = values - mean
        found += centred.T @ centred
    return found / (rows - 1)


def _decompose(spread: Matrix) -> tuple[Matrix, Matrix]:
    """Variances, largest first, and components as rows."""
    variances, vectors = np.linalg.eigh(spread)
    return np.maximum(variances[::-1], 0.0), vectors[:, ::-1].T  # rounding may leave a tiny negative variance


def _decompose_rows(matrices: Passes, mean: Matrix, rows: int) -> tuple[Matrix, Matrix]:
    """The same from the rows themselves, where they are fewer than the features: less memory, and far faster."""
    _require_memory(rows, len(mean))
    centred, start = np.empty((rows, len(mean))), 0
    for values in matrices():
        np.subtract(values, mean, out=centred[start : start + len(values)])
        start += len(values)
    _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
    return singular**2 / (rows - 1), vectors


def _require_memory(rows: int, width: int) -> None:
    if 8 * rows * width > MATRIX_BYTES:
        raise UsageError(
            f"{width} features are too many to decompose at once: that would be {8 * rows * width >> 30} GiB, and "
            f"{MATRIX_BYTES >> 30} GiB is allowed.",
            hint=_NARROWER,
        )
