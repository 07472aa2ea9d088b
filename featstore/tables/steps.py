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
    """Principal components of the train rows: exact, as scikit-learn's, in memory that doesn't grow with the rows.

    scikit-learn's own would hold all train rows at once, and its incremental one is an approximation; the covariance
    is a sum over rows, so it can be had exactly, block by block.
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
        solve = _decompose_rows if rows <= width else _decompose_covariance
        variances, vectors = solve(blocks, mean, rows)
        vectors = vectors * _signs(vectors)[:, None]
        share = variances / variances.sum() if variances.sum() > 0 else variances
        if self.components < 1:
            keep = int(np.searchsorted(np.cumsum(share), self.components, side="right")) + 1
            keep = min(keep, len(vectors))
        else:
            keep = int(self.components)
        # The attributes that scikit-learn documents, so that anybody's scikit-learn can use what is saved.
        estimator = PCA(n_components=keep, svd_solver="full" if rows <= width else "covariance_eigh")
        estimator.mean_, estimator.components_ = mean, np.ascontiguousarray(vectors[:keep])
        estimator.explained_variance_, estimator.explained_variance_ratio_ = variances[:keep], share[:keep]
        estimator.singular_values_ = np.sqrt(variances[:keep] * (rows - 1))
        estimator.n_components_, estimator.n_samples_, estimator.n_features_in_ = keep, rows, width
        estimator.noise_variance_ = float(variances[keep:].mean()) if keep < min(rows, width) else 0.0
        self.estimator = estimator

    def transform(self, block: Matrix) -> Matrix:
        _require_finite(block)
        return np.asarray(self.estimator.transform(block), np.float64)


def _decompose_covariance(blocks: Blocks, mean: Matrix, rows: int) -> tuple[Matrix, Matrix]:
    """Variances, largest first, and components as rows, from the covariance: width² of memory, whatever the rows."""
    covariance = np.zeros((len(mean), len(mean)))
    for block in blocks():
        centred = block - mean
        covariance += centred.T @ centred
    variances, vectors = np.linalg.eigh(covariance / (rows - 1))
    return np.maximum(variances[::-1], 0.0), vectors[:, ::-1].T  # rounding may leave a tiny negative variance


def _decompose_rows(blocks: Blocks, mean: Matrix, rows: int) -> tuple[Matrix, Matrix]:
    """The same from the rows themselves, where they are fewer than the features: less memory, and far faster."""
    centred = np.concatenate(list(blocks())) - mean
    _, singular, vectors = np.linalg.svd(centred, full_matrices=False)
    return singular**2 / (rows - 1), vectors


def _scaler(blocks: Blocks, *, with_std: bool) -> Any:
    """A ``StandardScaler`` of the train rows, NaN left out, in one pass: Chan, Golub, LeVeque (1983).

    scikit-learn's own ``partial_fit`` can't be used: a first block without a value of some feature makes its mean NaN
    for good.

    Raises:
        ConflictError: a feature that no train row has a value of, of which nothing can be learned.
    """
    from sklearn.preprocessing import StandardScaler

    count, mean, squares = np.zeros(0), np.zeros(0), np.zeros(0)
    for block in blocks():
        if not len(count):
            count, mean, squares = np.zeros((3, block.shape[1]))
        has = np.isfinite(block)
        n = has.sum(axis=0)
        total = np.maximum(count + n, 1)
        block_mean = np.where(has, block, 0).sum(axis=0) / np.maximum(n, 1)
        delta = block_mean - mean
        squares += (np.where(has, block - block_mean, 0) ** 2).sum(axis=0) + delta**2 * count * n / total
        mean += delta * n / total
        count += n
    if not count.all():
        raise ConflictError(
            f"{np.count_nonzero(count == 0)} feature(s) have no value in any train row, so there is nothing to learn "
            "of them.",
            hint="leave that input out, or split so that train has it",
        )
    scaler = StandardScaler(with_std=with_std)
    scaler.n_features_in_, scaler.mean_, scaler.var_, scaler.scale_ = len(mean), mean, None, None
    scaler.n_samples_seen_ = count.astype(np.int64) if (count != count[0]).any() else np.int64(count[0])
    if with_std:
        scaler.var_ = squares / count
        # What rounding alone can make of a constant feature isn't spread: as scikit-learn decides it.
        eps = np.finfo(np.float64).eps
        constant = scaler.var_ <= count * eps * scaler.var_ + (count * mean * eps) ** 2
        scaler.scale_ = np.where(constant, 1.0, np.sqrt(scaler.var_))
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
