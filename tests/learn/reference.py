"""The measures once more, by scikit-learn and plain loops: what featstore must agree with."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

NAN = math.nan
#: Patient ids as hospitals have them.
ODD_IDS = ["007", "7", "é 3", "two words", "=x", "-1", "a'b", 'q"q', "Ω", "P1", "0", "x,y"]


def patients(count: int) -> list[str]:
    """So many ids, odd ones first."""
    return [*ODD_IDS, *(f"N{n:03}" for n in range(count))][:count]


def close(found: float | None, expected: float, tolerance: float = 1e-9) -> bool:
    """Equal to 1e-9; None is NaN."""
    if found is None or math.isnan(found) or math.isnan(expected):
        return (found is None or math.isnan(found)) and math.isnan(expected)
    return math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)


def of_classes(y, scores, probabilities, predicted, positive, expected=None) -> dict[str, float]:
    """``expected``: the classes that means are over; those of ``y`` otherwise. One that isn't there makes NaN."""
    occurring = sorted(set(y.tolist())) if expected is None else expected
    measured = occurring if positive is None else [positive]
    recalls = {c: np.mean(predicted[y == c] == c) if (y == c).any() else NAN for c in {*occurring, *measured}}
    others = {c: np.mean(predicted[y != c] != c) if (y != c).any() else NAN for c in measured}
    both = [0 < (y == c).sum() < len(y) for c in measured]
    ranked = [(roc_auc_score(y == c, scores[:, c]), average_precision_score(y == c, scores[:, c])) if ok else (NAN, NAN)
              for c, ok in zip(measured, both, strict=True)]  # fmt: skip
    found = {
        "auc": np.mean([auc for auc, _ in ranked]),
        "average_precision": np.mean([precision for _, precision in ranked]),
        "accuracy": accuracy_score(y, predicted),
        "balanced_accuracy": np.mean([recalls[c] for c in occurring]),
        "sensitivity": np.mean([recalls[c] for c in measured]),
        "specificity": np.mean([others[c] for c in measured]),
    }
    if positive is None:
        found["brier"] = np.mean(
            [sum((p[c] - (c == label)) ** 2 for c in range(len(p))) for p, label in zip(probabilities, y, strict=True)]
        )
        sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    else:
        sure, right = probabilities[:, positive], y == positive
        found["brier"] = mean_squared_error(right.astype(float), sure)
    error = 0.0
    for number in range(10):
        within = (sure * 10 >= number) & ((sure * 10 < number + 1) if number < 9 else True)
        if within.any():
            error += within.mean() * abs(sure[within].mean() - right[within].mean())
    return found | {"ece": error}


def of_numbers(y, values) -> dict[str, float]:
    same, flat = len(set(y.tolist())) < 2, len(set(values.tolist())) < 2
    return {
        "r2": NAN if same else r2_score(y, values),
        "mae": mean_absolute_error(y, values),
        "rmse": math.sqrt(mean_squared_error(y, values)),
        "pearson_r": NAN if same or flat else pearsonr(y, values)[0],
    }


def parted(x, positive) -> bool:
    """Whether one value parts the classes, ties at it allowed."""
    return any(
        (positive[x > cut].all() and not positive[x < cut].any())
        or (positive[x < cut].all() and not positive[x > cut].any())
        for cut in x
    )


def is_line(found, x, targets, weights, tolerance=1e-8) -> bool:
    """Whether this slope and intercept solve the two equations of the likelihood, whose solution is the only one."""
    p = 1 / (1 + np.exp(-(found[0] * x + found[1])))
    residual = weights * (targets - p)
    return abs(residual.sum()) < tolerance * len(x) and abs((residual * x).sum()) < tolerance * len(x)
