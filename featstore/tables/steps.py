"""The learned steps: fitted on train rows only, in bounded memory, as plain scikit-learn estimators.

Each step's estimator is one that scikit-learn itself could have fitted, and skops can save.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import ConflictError, UsageError

Matrix = npt.NDArray[np.float64]
Blocks = Callable[[], Iterator[Matrix]]


class Step(ABC):
    """One learned step: float64 (rows, width) → (rows, width′)."""

    name: str
    estimator: Any

    @abstractmethod
    def fit(self, blocks: Blocks) -> None:
        """Learn from the train rows; ``blocks()`` starts a new pass over them."""

    @abstractmethod
    def transform(self, block: Matrix) -> Matrix:
        """Apply to one block of any rows."""


class ImputeMean(Step):
    """NaN → the train rows' mean of that feature.

    The means are a ``StandardScaler``'s, which leaves NaN out and can learn block by block; the estimator is the
    ``SimpleImputer`` that has them.
    """

    name = "impute"

    def fit(self, blocks: Blocks) -> None:
        from sklearn.impute import SimpleImputer

        mean = _scaler(blocks, with_std=False).mean_
        self.estimator = SimpleImputer(strategy="mean").fit(mean[None])

    def transform(self, block: Matrix) -> Matrix:
        return np.asarray(self.estimator.transform(block), np.float64)


class Standardize(Step):
    """Zero mean and unit variance over the train rows; a constant feature is only centred."""

    name = "standardize"

    def fit(self, blocks: Blocks) -> None:
        self.estimator = _scaler(blocks, with_std=True)

    def transform(self, block: Matrix) -> Matrix:
        return np.asarray(self.estimator.transform(block), np.float64)


class Pca(Step):
    """Principal components of the train rows: exact, like ``PCA(svd_solver="covariance_eigh")``, but block by block.

    scikit-learn's own would hold all train rows at once, and its incremental one is an approximation; the covariance
    is a sum over rows, so it can be had exactly in memory that doesn't grow with them.
    """

    name = "pca"

    def __init__(self, components: float) -> None:
        self.components = components

    def fit(self, blocks: Blocks) -> None:
        from sklearn.decomposition import PCA

        rows, total = 0, np.zeros(0)
        for block in blocks():
            _require_finite(block)
            total = total + block.sum(axis=0) if rows else block.sum(axis=0)
            rows += len(block)
        width = len(total)
        if rows < 2 or (self.components >= 1 and self.components > min(rows, width)):
            raise UsageError(
                f"PCA of {rows} train rows with {width} features can't give {self.components:g} components.",
                hint=f"--pca {max(min(rows, width) // 2, 1)}, or a share of the variance such as --pca 0.95",
            )
        mean = total / rows
        covariance = np.zeros((width, width))
        for block in blocks():
            centred = block - mean
            covariance += centred.T @ centred
        covariance /= rows - 1
        variances, vectors = np.linalg.eigh(covariance)
        variances = np.maximum(variances[::-1], 0.0)  # rounding may leave a tiny negative one
        vectors = vectors[:, ::-1].T
        vectors = vectors * _signs(vectors)[:, None]
        share = variances / variances.sum() if variances.sum() > 0 else variances
        if self.components < 1:
            keep = int(np.searchsorted(np.cumsum(share), self.components, side="right")) + 1
            keep = min(keep, width)
        else:
            keep = int(self.components)
        # The attributes that scikit-learn documents, so that anybody's scikit-learn can use what is saved.
        estimator = PCA(n_components=keep, svd_solver="covariance_eigh")
        estimator.mean_, estimator.components_ = mean, np.ascontiguousarray(vectors[:keep])
        estimator.explained_variance_, estimator.explained_variance_ratio_ = variances[:keep], share[:keep]
        estimator.singular_values_ = np.sqrt(variances[:keep] * (rows - 1))
        estimator.n_components_, estimator.n_samples_, estimator.n_features_in_ = keep, rows, width
        estimator.noise_variance_ = float(variances[keep:].mean()) if keep < min(rows, width) else 0.0
        self.estimator = estimator

    def transform(self, block: Matrix) -> Matrix:
        _require_finite(block)
        return np.asarray(self.estimator.transform(block), np.float64)


def _scaler(blocks: Blocks, *, with_std: bool) -> Any:
    """A scaler of the train rows, NaN left out.

    Raises:
        ConflictError: a feature that no train row has a value of, of which nothing can be learned.
    """
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_std=with_std)
    values: npt.NDArray[np.int64] | int = 0
    for block in blocks():
        values = values + np.count_nonzero(~np.isnan(block), axis=0)
        with np.errstate(invalid="ignore"):  # 0/0 while a feature has had no value yet
            scaler.partial_fit(block)
    if empty := np.count_nonzero(np.equal(values, 0)):
        raise ConflictError(
            f"{empty} feature(s) have no value in any train row, so there is nothing to learn of them.",
            hint="leave that input out, or split so that train has it",
        )
    return scaler


def _signs(vectors: Matrix) -> Matrix:
    """scikit-learn's ``svd_flip``: the largest loading of each component is positive.

    Loadings that tie, as those of the two columns of a yes/no category do, are told apart by place, not by rounding.
    """
    size = np.abs(vectors)
    largest = np.argmax(size >= size.max(axis=1, keepdims=True) * (1 - 1e-9), axis=1)
    return np.where(vectors[np.arange(len(vectors)), largest] < 0, -1.0, 1.0)


def _require_finite(block: Matrix) -> None:
    if not np.isfinite(block).all():
        raise UsageError(
            "PCA can't take the missing values of this table.",
            hint="--impute mean, or --join inner without gaps",
        )
