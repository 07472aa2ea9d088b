"""Scalers: every feature to a common size, or every row to length 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from featstore import Step
from featstore_steps.moments import Moments, is_constant
from featstore_steps.passes import Blocks, columns, numbers, require_values


class Standardize(Step):
    """Zero mean and unit variance over the train rows, missing values left out; a constant feature is only centred.

    Gives a ``StandardScaler``, in one pass. Raises ConflictError for a feature without any value.
    """

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.preprocessing import StandardScaler

        moments = Moments()
        for values in numbers(blocks)():
            moments.add(values)
        count, mean = moments.count, moments.mean
        require_values(count)
        scaler = StandardScaler()
        scaler.n_features_in_, scaler.mean_, scaler.var_ = len(mean), mean, moments.variance
        scaler.n_samples_seen_ = count.astype(np.int64) if (count != count[0]).any() else np.int64(count[0])
        scaler.scale_ = np.where(is_constant(count, mean, scaler.var_), 1.0, np.sqrt(scaler.var_))
        return scaler


class MinMax(Step):
    """The train rows' smallest and largest value become 0 and 1; other rows may lie outside.

    Gives a ``MinMaxScaler``, in one pass. Raises ConflictError for a feature without any value.
    """

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.preprocessing import MinMaxScaler

        rows, low, high, count = 0, np.zeros(0), np.zeros(0), np.zeros(0)
        for values in numbers(blocks)():
            if not len(count):
                low, high = np.full((2, values.shape[1]), np.nan)
                count = np.zeros(values.shape[1])
            low, high = np.fmin(low, np.fmin.reduce(values)), np.fmax(high, np.fmax.reduce(values))
            count += (~np.isnan(values)).sum(axis=0)
            rows += len(values)
        require_values(count)
        scaler = MinMaxScaler().fit(np.stack([low, high]))  # it asks nothing else of the rows
        scaler.n_samples_seen_ = rows
        return scaler


class Robust(Step):
    """Zero median, and the middle half of the train rows' values one wide: outliers don't count.

    Gives a ``RobustScaler``. Medians are no sums over rows, so it goes over them several times, some columns at a time.
    Raises ConflictError for a feature without any value.
    """

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.preprocessing import RobustScaler

        parts = [RobustScaler().fit(some) for some in columns(numbers(blocks))]
        scaler = RobustScaler()
        scaler.center_ = np.concatenate([part.center_ for part in parts])
        scaler.scale_ = np.concatenate([part.scale_ for part in parts])
        scaler.n_features_in_ = len(scaler.center_)
        return scaler


class Norm(Step):
    """Each row to length 1; a row of zeros stays one. Gives a ``Normalizer``, which looks at each row alone."""

    learns = False

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.preprocessing import Normalizer

        return Normalizer("l2")
