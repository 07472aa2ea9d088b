"""What a probe is asked for, checked before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from featstore.errors import UsageError, did_you_mean

Kind = Literal["classes", "number"]


@dataclass(frozen=True, slots=True)
class Model:
    """One kind of probe.

    Attributes:
        parameter: its one hyper-parameter, which is tuned on val where several values are given.
        default: that parameter's value where none is given.
        kinds: the labels that it learns.
        weighs: it can weigh classes.
    """

    parameter: str
    default: float
    kinds: tuple[Kind, ...]
    weighs: bool = False


MODELS: Mapping[str, Model] = {
    "logistic": Model("C", 1.0, ("classes",), weighs=True),
    "svm": Model("C", 1.0, ("classes",), weighs=True),
    "knn": Model("k", 5, ("classes", "number")),
    "ridge": Model("alpha", 1.0, ("number",)),
}


@dataclass(frozen=True)
class ProbeRequest:
    """What a probe is asked for.

    Attributes:
        model: ``logistic`` (L2), ``svm`` (linear), ``knn``, or ``ridge``, for labels that are numbers. A svm ranks and
            calls by its decision values. Its probabilities, which calibration is of, are Platt's: of the values that
            svms fitted on 4/5 of the train patients give the others.
        C: of logistic and svm, the inverse of the penalty; several are tried on val, as are several ``alpha`` and
            ``k``. One number, or a sequence.
        alpha: of ridge, the penalty.
        k: of knn, the number of neighbours.
        max_iter: of logistic and svm.
        seed: of the solver, the Platt folds and the bootstrap.
        class_weight: None, or ``balanced``: each class weighs as much as any other. Of logistic and svm.
        threshold: ``0.5``, the model's own decision (the class of the highest score), or ``youden``: for two classes,
            the score at which sensitivity + specificity is highest on val.
        positive: of two classes, the positive one; None: the larger.
        bootstrap: how many resamples the intervals are of; 0: none.

    Raises:
        UsageError: an unknown model, a parameter that isn't the model's, or one out of range.
    """

    model: str = "logistic"
    C: float | Sequence[float] = ()
    alpha: float | Sequence[float] = ()
    k: int | Sequence[int] = ()
    max_iter: int = 1000
    seed: int = 42
    class_weight: str | None = None
    threshold: float | str = 0.5
    positive: Any = None
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        if self.model not in MODELS:
            raise UsageError(
                f"There is no model {self.model!r}.{did_you_mean(self.model, MODELS)}",
                hint=f"one of {', '.join(MODELS)}",
            )
        model = MODELS[self.model]
        for name in ("C", "alpha", "k"):
            if name != model.parameter and several(getattr(self, name)):
                raise UsageError(
                    f"{self.model} has no {name}; its parameter is {model.parameter}.",
                    hint=f"{flag(model.parameter)} {model.default:g}",
                )
        for value in several(getattr(self, model.parameter)):
            whole = model.parameter == "k"
            if not math.isfinite(value) or value <= 0 or (whole and value != int(value)):
                what = "a whole number of at least 1" if whole else "a number above 0"
                raise UsageError(f"{model.parameter} must be {what}, not {value:g}.")
        if self.class_weight not in {None, "balanced"}:
            raise UsageError(f"class_weight is None or 'balanced', not {self.class_weight!r}.")
        if self.class_weight and not model.weighs:
            raise UsageError(f"{self.model} can't weigh classes.", hint="leave out --class-weight, or --model logistic")
        if str(self.threshold) not in {"0.5", "youden"}:
            raise UsageError(f"threshold is 0.5 or 'youden', not {self.threshold!r}.")
        if self.max_iter < 1:
            raise UsageError(f"max_iter must be at least 1, not {self.max_iter}.")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"The seed must be 0 to {2**32 - 1}, not {self.seed}.")
        if self.bootstrap < 0:
            raise UsageError(f"bootstrap must be 0 or more resamples, not {self.bootstrap}.")

    @property
    def values(self) -> tuple[float, ...]:
        """The values of the model's parameter, each once, in the order in which they were given."""
        model = MODELS[self.model]
        number = int if model.parameter == "k" else float
        return tuple(dict.fromkeys(number(v) for v in several(getattr(self, model.parameter)) or (model.default,)))

    @property
    def youden(self) -> bool:
        return self.threshold == "youden"

    def check_labels(self, kind: Kind) -> None:
        """Raise :class:`UsageError` where the model doesn't learn such labels, or was asked what only classes have."""
        model = MODELS[self.model]
        if kind not in model.kinds:
            others = ", ".join(name for name, other in MODELS.items() if kind in other.kinds)
            what = "numbers" if kind == "number" else "classes"
            raise UsageError(
                f"The labels are {what}, which {self.model} doesn't learn.",
                hint=f"--model with one of {others}; materialize --label-kind says which of the two labels are",
            )
        if kind == "number" and (self.youden or self.positive is not None):
            raise UsageError("Labels that are numbers have no threshold and no positive class.")


def several(value: Any) -> tuple[Any, ...]:
    """None, one value, or a sequence of them, as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, (int, float)) else tuple(value)


def flag(parameter: str) -> str:
    """A parameter as the command line has it."""
    return f"--{parameter.replace('_', '-')}"
