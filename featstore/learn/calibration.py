"""Lines through log-odds: what Cox's calibration and Platt's scaling both fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_WHOLE_STEPS = 12
_ITERATIONS = 200
_HALVINGS = 60


def logit(p: Array) -> Array:
    """log(p / (1 - p)); infinite at 0 and 1."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(p) - np.log1p(-p))


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))


def platt(decisions: Array, positive: Array) -> tuple[float, float]:
    """Slope and intercept of Platt's scaling: sigmoid(slope * decision + intercept) is a probability.

    By maximum likelihood of the smoothed targets (positives + 1) / (positives + 2) and 1 / (negatives + 2), so that it
    exists for classes that don't overlap too. J. C. Platt, *Probabilistic outputs for support vector machines* (1999).

    Args:
        decisions: (rows,), of models that have not seen the row.
        positive: (rows,) bool.
    """
    count = positive.sum()
    targets = np.where(positive, (count + 1) / (count + 2), 1 / (len(positive) - count + 2))
    if np.ptp(decisions) == 0:
        return 0.0, float(logit(targets.mean()))
    line = lines(decisions, targets, np.ones((1, len(decisions))))[0]
    return float(line[0]), float(line[1])


def cox(log_odds: Array, positive: Array, weights: Array) -> Array:
    """Cox's calibration slope and intercept, once a row of ``weights``: 1 and 0 of a model that is right.

    The slope below 1 says that probabilities are too extreme. Both are of one logistic regression of the labels on the
    log-odds. D. R. Cox, *Two further applications of a model for binary regression* (1958).

    Args:
        log_odds: (n,), finite, of the predicted probabilities.
        positive: (n,) bool.
        weights: (b, n), how often each row counts.

    Returns:
        float64 (b, 2). NaN where there is no such line: one class, equal log-odds, or classes that don't overlap.
    """
    found = np.full((len(weights), 2), np.nan)
    exists = overlap(log_odds, positive, weights)
    if exists.any():
        targets = positive.astype(np.float64)
        # What part of the rows overlap, all do: their line is near those of resamples.
        near = lines(log_odds, targets, np.ones((1, len(targets))))[0]
        found[exists] = lines(log_odds, targets, weights[exists], near)
    return found


def overlap(x: Array, positive: Array, weights: Array) -> npt.NDArray[np.bool_]:
    """Whether no value of ``x`` parts the classes, ties at it allowed: else the likelihood has no maximum."""
    counts = weights > 0
    high = [np.where(counts & group, x, -np.inf).max(axis=1, initial=-np.inf) for group in (positive, ~positive)]
    low = [np.where(counts & group, x, np.inf).min(axis=1, initial=np.inf) for group in (positive, ~positive)]
    return np.asarray((high[1] > low[0]) & (high[0] > low[1]))


def lines(x: Array, targets: Array, weights: Array, start: Array | None = None) -> Array:
    """Logistic regressions of targets in [0, 1] on one column, by Newton's method: one a row of ``weights``.

    Args:
        start: a slope and intercept that are near, if one is known.

    Returns:
        float64 (b, 2): slope and intercept; NaN where it doesn't converge.
    """
    centre, scale = x.mean(), x.std() or 1.0
    z = (x - centre) / scale
    beta = np.zeros((len(weights), 2))
    if start is not None and np.isfinite(start).all():
        beta += [start[0] * scale, start[1] + start[0] * centre]
    beta = _newton(beta, z, targets, weights, damped=False)
    lost = ~np.isfinite(beta).all(axis=1)
    if lost.any():  # far from its start, where whole steps lead away; damped ones are twice the work
        beta[lost] = _newton(np.zeros((int(lost.sum()), 2)), z, targets, weights[lost], damped=True)
    slope = beta[:, 0] / scale
    return np.stack([slope, beta[:, 1] - slope * centre], axis=1)


def _newton(beta: Array, z: Array, targets: Array, weights: Array, *, damped: bool) -> Array:
    """Newton's method from ``beta`` on; NaN where it doesn't converge. Where it does is the only maximum."""
    open_ = np.arange(len(weights))
    with np.errstate(all="ignore"):  # what overflows is NaN in the end
        for _ in range(_ITERATIONS if damped else _WHOLE_STEPS):
            w, before = weights[open_], beta[open_]
            p = sigmoid(before[:, :1] * z + before[:, 1:])
            residual, curve = w * (targets - p), w * p * (1 - p)
            f, g = residual @ z, residual.sum(axis=1)
            a, b, c = curve @ (z * z), curve @ z, curve.sum(axis=1)
            step = np.stack([c * f - b * g, a * g - b * f], axis=1) / (a * c - b * b)[:, None]
            after = _damped(before, step, z, targets, w) if damped else before + step
            # The error after a step is about its square: what is left after so small a one is rounding.
            moves = (np.abs(step) > 1e-9 * (1 + np.abs(after))).any(axis=1) & (after != before).any(axis=1)
            beta[open_] = np.where(np.isfinite(step), after, np.nan)
            open_ = open_[moves & np.isfinite(beta[open_]).all(axis=1)]
            if not len(open_):
                break
    beta[open_] = np.nan
    return beta


def _damped(beta: Array, step: Array, z: Array, targets: Array, weights: Array) -> Array:
    """Go along the step, half of it, a quarter, …, until the loss doesn't rise; stay where it always does."""
    loss = _loss(beta, z, targets, weights)
    new, share, rising = beta + step, 1.0, np.arange(len(beta))
    for _ in range(_HALVINGS):
        after = _loss(new[rising], z, targets, weights[rising])
        rising = rising[~(after <= loss[rising] * (1 + 1e-15))]
        if not len(rising):
            return new
        share /= 2
        new[rising] = beta[rising] + share * step[rising]
    new[rising] = beta[rising]
    return new


def _loss(beta: Array, z: Array, targets: Array, weights: Array) -> Array:
    """The weighted negative log-likelihood of each row of ``beta``."""
    x = beta[:, :1] * z + beta[:, 1:]
    return np.asarray((weights * (np.logaddexp(0.0, x) - targets * x)).sum(axis=1))
