"""The laws of steps: they learn from train rows in ``fit``, and what they give is kept with a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import ConflictError, FeatstoreError, UsageError
from featstore.seeding import seeded
from featstore.spec import Block, Step, StepSpec
from featstore.testing.fusers import BLOCK, OTHERS, TRAIN, kept, made_labels, made_rows
from featstore.testing.inputs import SEED
from featstore.testing.laws import Broken, Laws, close, refusal, require, said, worst

Matrix = npt.NDArray[np.float64]
Values = npt.NDArray[Any]
CATEGORIES = ("a", "b", "007", "two words", "ä")


@dataclass(slots=True)
class StepCase:
    """A step, fitted on some rows, and other rows.

    Attributes:
        train, others: what it takes: numbers (rows, width), or categories, object (rows, 1).
        labels: of the train rows, classes or, where it refuses those, numbers.
        estimator: what it has learned; ``reference``, what that makes of the others.
    """

    spec: StepSpec
    tolerance: float
    arguments: tuple[float | str, ...] = ()
    train: Values = field(init=False)
    others: Values = field(init=False)
    labels: Values = field(init=False)
    estimator: Any = None
    reference: Matrix = field(init=False)

    def __post_init__(self) -> None:
        if self.spec.takes == "categories":
            drawn = np.random.default_rng(SEED).choice(np.array(CATEGORIES, object), TRAIN)
            drawn[: len(CATEGORIES)] = CATEGORIES  # so that none of the others is unseen
            self.train, self.others = drawn[:, None], drawn[::-1][:OTHERS, None].copy()
        else:
            ways = np.random.default_rng(SEED)
            self.train = made_rows(TRAIN, SEED, ways)()
            self.others = made_rows(OTHERS, SEED + 1, ways)()
        self.labels = made_labels(np.random.default_rng(SEED).normal(size=(TRAIN, 1)))

    def new(self) -> Step:
        """A new step."""
        return self.spec.load(*self.arguments)

    def fitted(self, values: Values | None = None, labels: Any = "its own", block: int = BLOCK) -> Any:
        """What a new step learns."""
        given = self.labels if isinstance(labels, str) else labels
        return self.new().fit(_passes(self.train if values is None else values, given, block))

    def choose(self) -> None:
        """Fit it to labels that it takes.

        Raises:
            Broken: it refuses classes and numbers.
        """
        classes = self.labels
        refused = ""
        for labels in (classes, classes + np.linspace(0, 1, TRAIN)):
            self.labels = labels
            try:
                self.estimator = self.fitted()
                return
            except UsageError as error:
                refused = refused or said(error)
        raise Broken(f"it learns from labels that are neither classes nor numbers: {refused}")

    def transform(self, values: Values, estimator: Any = None) -> Matrix:
        """(rows, width′)."""
        made = (self.estimator if estimator is None else estimator).transform(values)
        require(isinstance(made, np.ndarray), f"transform gives {type(made).__name__}, not an array")
        return np.asarray(made)


LAWS = Laws[StepCase]()


@LAWS.gate(FeatstoreError)
def loads(case: StepCase) -> str:
    """``spec.load(*arguments)`` gives a new Step each time; ``takes`` is numbers or categories."""
    require(case.spec.takes in ("numbers", "categories"), f"takes is {case.spec.takes!r}")
    one, other = case.new(), case.new()
    require(isinstance(one, Step), f"load gave {type(one).__name__}, which is no featstore.Step")
    require(one is not other, "load gave the same object twice: two tables would share what they learn")
    return f"{type(one).__name__}, of {case.spec.takes}"


@LAWS.gate()
def fits(case: StepCase) -> str:
    """``fit`` gives what makes floats (rows, width′) of (rows, width), finite; one width for any rows."""
    case.choose()
    require(callable(getattr(case.estimator, "transform", None)), f"fit gave {type(case.estimator).__name__}")
    case.reference = case.transform(case.others)
    shape = case.reference.shape
    require(len(shape) == 2 and shape[0] == OTHERS and shape[1] > 0, f"{OTHERS} rows give {shape}")
    require(case.reference.dtype == np.float64, f"it gives {case.reference.dtype}, not float64")
    require(bool(np.isfinite(case.reference).all()), "it gives values that aren't finite")
    for rows in (1, 2):
        made = case.transform(case.others[:rows])
        require(made.shape == (rows, shape[1]), f"{rows} rows give {made.shape}, and {OTHERS} rows {shape}")
    return f"{case.train.shape[1]} → {shape[1]}, by {type(case.estimator).__name__}"


@LAWS.law
def writes_nothing(case: StepCase) -> str:
    """Neither ``fit`` nor ``transform`` writes into its rows."""
    train, others = case.train.copy(), case.others.copy()
    case.transform(others, case.fitted(train))
    require(bool((train == case.train).all()), "fit changed its rows")
    require(bool((others == case.others).all()), "transform changed its rows")
    return "unchanged"


@LAWS.law
def looks_at_each_row_alone(case: StepCase) -> str:
    """``transform`` of a row doesn't depend on the other rows, nor on their order."""
    turned = case.transform(np.ascontiguousarray(case.others[::-1]))
    apart = [close(turned, case.reference[::-1], case.tolerance, "turned round")]
    for row in (0, OTHERS // 2, OTHERS - 1):
        part = slice(row, row + 1)
        alone = case.transform(case.others[part])
        apart.append(close(alone, case.reference[part], case.tolerance, f"row {row}, alone and among others"))
    return worst(apart)


@LAWS.law
def learns_in_fit_only(case: StepCase) -> str:
    """``transform`` learns nothing: rows that were seen in between, test rows among them, change no result."""
    case.transform(case.train if case.spec.takes == "categories" else _changed(case.others))
    again = case.transform(case.others)
    return worst([close(again, case.reference, 0.0, "after other rows were transformed")])


@LAWS.law
def learns_for_itself(case: StepCase) -> str:
    """What is learned once doesn't change when the same step, or another one, learns from other rows."""
    step = case.new()
    first = step.fit(_passes(case.train, case.labels))
    step.fit(_passes(_changed(case.train), case.labels))
    case.fitted(_changed(case.train))
    close(case.transform(case.others, first), case.reference, 0.0, "after the same step was fitted again")
    close(case.transform(case.others), case.reference, 0.0, "after another one was fitted")
    return "unchanged"


@LAWS.law
def is_deterministic(case: StepCase) -> str:
    """Fitted again on the same rows, it gives the same bytes: the same recipe makes the same table."""
    with seeded(4321):  # what draws from the process's own numbers gets others
        again = case.transform(case.others, case.fitted())
    return worst([close(again, case.reference, 0.0, "fitted again")])


@LAWS.law
def is_the_same_in_any_blocks(case: StepCase) -> str:
    """What it learns doesn't depend on how the train rows are cut into blocks."""
    apart = []
    for size in (1, 7, TRAIN):
        again = case.transform(case.others, case.fitted(block=size))
        apart.append(close(again, case.reference, case.tolerance, f"blocks of {size}"))
    return worst(apart)


@LAWS.law
def says_whether_it_learns(case: StepCase) -> str:
    """``learns`` is false only where ``fit`` needs no rows at all, and gives the same without any."""
    if case.new().learns:
        return "it learns"
    again = case.transform(case.others, case.new().fit(lambda: iter(())))
    close(again, case.reference, 0.0, "learns is false, and without train rows")
    return "it looks at each row alone"


@LAWS.law
def says_whether_it_learns_from_labels(case: StepCase) -> str:
    """``labelled`` is true if labels are learned from, and a table without any is then refused with UsageError."""
    if case.new().labelled:
        how, _ = refusal(lambda: case.fitted(labels=None), UsageError)
        require(how == "refused", f"without labels, fit is {how}")
        return "labels are learned from, and asked for"
    for labels in (1 - case.labels, None):
        again = case.transform(case.others, case.fitted(labels=labels))
        close(again, case.reference, 0.0, "labelled is false, and with other labels or none")
    return "labels aren't looked at"


@LAWS.law
def takes_or_refuses_what_is_odd(case: StepCase) -> str:
    """Missing numbers are learned beside, or refused with UsageError or ConflictError; unseen categories are taken."""
    if case.spec.takes == "categories":
        odd = np.array([["no train row has this"], [case.train[0, 0]]], object)
        made = case.transform(odd)
        require(made.shape == (2, case.reference.shape[1]), f"an unseen category gives {made.shape}")
        gaps = case.train.copy()
        gaps[::9] = None
        case.fitted(gaps)
        return f"an unseen category gives {made[0].tolist()}"
    gaps = case.train.copy()
    gaps[::9, 2] = np.nan
    how, estimator = refusal(lambda: case.fitted(gaps), UsageError, ConflictError)
    require(how in ("refused", "accepted"), f"missing numbers are met with {how}")
    if how == "accepted" and case.new().learns:
        case.transform(case.others, estimator)
    return f"missing numbers are {how}"


@LAWS.law
def can_be_kept(case: StepCase) -> str:
    """What ``fit`` gives can be saved by skops, and loaded it is the same, to the bit.

    No types are trusted but skops' own, those that every table may hold, and ``spec.trusted``.
    """
    loaded = kept(case.estimator, case.spec.trusted)
    close(case.transform(case.others, loaded), case.reference, 0.0, "saved and loaded")
    return type(loaded).__name__


# -------------------------------------------------------------------------------------------------- helpers
def _changed(values: Values) -> Values:
    """Other rows of the same kind."""
    if values.dtype == object:
        return np.array([[f"{value} too"] for value in values[:, 0]], object)
    return values * 9 + 4


def _passes(values: Values, labels: Any, block: int = BLOCK) -> Callable[[], Iterator[Block]]:
    """Passes over the rows in blocks, as a table gives them."""

    def blocks() -> Iterator[Block]:
        for start in range(0, len(values), block):
            rows = slice(start, start + block)
            yield Block(values[rows], None if labels is None else labels[rows], np.arange(len(values))[rows] // 2)

    return blocks
