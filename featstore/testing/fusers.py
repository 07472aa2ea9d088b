"""The laws of fusers: they learn from what they are given to fit, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import FeatstoreError, UsageError
from featstore.seeding import seeded
from featstore.spec import Fuser, FuserSpec, Parts
from featstore.testing.inputs import SEED
from featstore.testing.laws import Broken, Laws, close, refusal, require, said, worst

Matrix = npt.NDArray[np.float64]
#: Inputs that a fuser is tried with: three, or where it refuses those, two. Of one width, as some need it.
INPUTS = (("a", "p", "clinical"), ("a", "p"))
WIDTH, TRAIN, OTHERS, BLOCK = 6, 60, 24, 25


@dataclass(slots=True)
class FuserCase:
    """A fuser, fitted on some rows, and other rows.

    Attributes:
        train: rows with labels, two a patient. ``others`` are told to be none of them.
        reference: what it makes of the others; ``of_train``, of the train rows.
    """

    spec: FuserSpec
    tolerance: float
    arguments: tuple[float | str, ...] = ()
    train: Parts = field(init=False)
    others: Parts = field(init=False)
    fuser: Fuser = field(init=False)
    reference: Matrix = field(init=False)
    of_train: Matrix = field(init=False)

    def new(self) -> Fuser:
        """A new fuser, not fitted."""
        return self.spec.load(*self.arguments)

    def fitted(self, parts: Parts | None = None, block: int = BLOCK) -> Fuser:
        """A new fuser, fitted."""
        fuser = self.new()
        fuser.fit(_passes(self.train if parts is None else parts, block))
        return fuser

    def choose(self) -> None:
        """Make inputs that it takes, and fit it.

        Raises:
            Broken: it refuses all of them.
        """
        refused = ""
        for aliases in INPUTS:
            self.train, self.others = _parts(aliases, TRAIN, SEED), _parts(aliases, OTHERS, SEED + 1)
            self.others.train = np.zeros(OTHERS, bool)
            try:
                self.fuser = self.fitted()
                self.reference, self.of_train = self.fuse(self.others), self.fuse(self.train)
                return
            except UsageError as error:
                refused = refused or said(error)
        raise Broken(f"it takes neither three inputs nor two: {refused}")

    def fuse(self, parts: Parts, fuser: Fuser | None = None) -> Matrix:
        """Transform, as (rows, width)."""
        return np.asarray((fuser or self.fuser).transform(parts))


LAWS = Laws[FuserCase]()


@LAWS.gate(FeatstoreError)
def loads(case: FuserCase) -> str:
    """``spec.load(*arguments)`` gives a new Fuser each time."""
    one, other = case.new(), case.new()
    require(isinstance(one, Fuser), f"load gave {type(one).__name__}, which is no featstore.Fuser")
    require(one is not other, "load gave the same object twice: two tables would share what they learn")
    return type(one).__name__


@LAWS.gate()
def fuses(case: FuserCase) -> str:
    """After ``fit``, parts (rows, width_i) become one float64 array (rows, width), finite; one width for any rows."""
    case.choose()
    width = case.reference.shape[1:]
    for fused, rows in ((case.reference, OTHERS), (case.of_train, TRAIN)):
        require(fused.ndim == 2 and len(fused) == rows and fused.size > 0, f"{rows} rows give {fused.shape}")
        require(fused.dtype == np.float64, f"it gives {fused.dtype}, not float64")
        require(bool(np.isfinite(fused).all()), "it gives values that aren't finite")
    for rows in (1, 2):
        fused = case.fuse(_rows(case.others, slice(rows)))
        require(fused.shape == (rows, *width), f"{rows} rows give {fused.shape}, and {OTHERS} rows {(OTHERS, *width)}")
    return f"{' + '.join(str(part.shape[1]) for part in case.train.values())} → {width[0]}"


@LAWS.law
def writes_nothing(case: FuserCase) -> str:
    """Neither ``fit`` nor ``transform`` writes into its parts."""
    train, others = _copy(case.train), _copy(case.others)
    case.fuse(others, case.fitted(train))
    for alias in case.train:
        require(bool((train[alias] == case.train[alias]).all()), "fit changed its parts")
        require(bool((others[alias] == case.others[alias]).all()), "transform changed its parts")
    return "unchanged"


@LAWS.law
def looks_at_each_row_alone(case: FuserCase) -> str:
    """``transform`` of a row doesn't depend on the other rows, nor on their order."""
    apart = []
    for parts, reference in ((case.others, case.reference), (case.train, case.of_train)):
        turned = case.fuse(_rows(parts, slice(None, None, -1)))
        apart.append(close(turned, reference[::-1], case.tolerance, "turned round"))
        for row in (0, len(reference) // 2, len(reference) - 1):
            part = slice(row, row + 1)
            alone = case.fuse(_rows(parts, part))
            apart.append(close(alone, reference[part], case.tolerance, f"row {row}, alone and among others"))
    return worst(apart)


@LAWS.law
def looks_at_no_label(case: FuserCase) -> str:
    """``transform`` doesn't look at labels: a row's result is the same with another one, and with none."""
    apart = []
    for parts, reference in ((case.others, case.reference), (case.train, case.of_train)):
        assert parts.labels is not None
        for labels, what in ((1 - parts.labels, "with other labels"), (None, "without labels")):
            apart.append(close(case.fuse(_like(parts, labels=labels)), reference, 0.0, what))
    return worst(apart)


@LAWS.law
def learns_in_fit_only(case: FuserCase) -> str:
    """``transform`` learns nothing: rows that were seen in between, test rows among them, change no result."""
    case.fuse(_like(case.others, {alias: part * 100 for alias, part in case.others.items()}))
    again = case.fuse(case.others)
    return worst([close(again, case.reference, 0.0, "after other rows were transformed")])


@LAWS.law
def learns_for_itself(case: FuserCase) -> str:
    """What one fuser learns doesn't reach another one of the same spec."""
    case.fitted(_like(case.train, {alias: part * 9 + 4 for alias, part in case.train.items()}))
    again = case.fuse(case.others)
    return worst([close(again, case.reference, 0.0, "after another one was fitted")])


@LAWS.law
def is_deterministic(case: FuserCase) -> str:
    """Fitted again on the same rows, it gives the same bytes: the same recipe makes the same table."""
    with seeded(4321):  # what draws from the process's own numbers gets others
        again = case.fuse(case.others, case.fitted())
    return worst([close(again, case.reference, 0.0, "fitted again")])


@LAWS.law
def is_the_same_in_any_blocks(case: FuserCase) -> str:
    """What it learns doesn't depend on how the train rows are cut into blocks."""
    apart = [
        close(case.fuse(case.others, case.fitted(block=size)), case.reference, case.tolerance, f"blocks of {size}")
        for size in (1, 7, TRAIN)
    ]
    return worst(apart)


@LAWS.law
def says_whether_it_learns_from_labels(case: FuserCase) -> str:
    """``labelled`` is true if labels are learned from, and a table without any is then refused with UsageError."""
    if case.new().labelled:
        how, _ = refusal(lambda: case.fitted(_like(case.train, labels=None)), UsageError)
        require(how == "refused", f"without labels, fit is {how}")
        return "labels are learned from, and asked for"
    assert case.train.labels is not None
    for labels in (1 - case.train.labels, None):
        again = case.fuse(case.others, case.fitted(_like(case.train, labels=labels)))
        close(again, case.reference, 0.0, "labelled is false, and with other labels or none")
    return "labels aren't looked at"


@LAWS.law
def keeps_missing_inputs_to_their_rows(case: FuserCase) -> str:
    """A missing input is a row of NaN: it can be fitted and fused beside, and changes no other row."""
    holed = _copy(case.others)
    holed["p"][3] = np.nan
    fused = case.fuse(holed)
    require(fused.shape == case.reference.shape, f"the result becomes {fused.shape}")
    others = np.arange(OTHERS) != 3
    apart = close(fused[others], case.reference[others], case.tolerance, "rows beside a missing input")
    train = _copy(case.train)
    train["a"][::5] = np.nan
    case.fuse(case.others, case.fitted(train))
    return f"{worst([apart])}; the row itself is {'finite' if np.isfinite(fused[3]).all() else 'NaN in part'}"


@LAWS.law
def can_be_kept(case: FuserCase) -> str:
    """``estimators()`` can be saved by skops, and ``restore()`` makes the same fuser of what is loaded, to the bit.

    No types are trusted but skops' own, those that every table may hold, and ``spec.trusted``.
    """
    estimators = dict(case.fuser.estimators())
    require(all(isinstance(name, str) for name in estimators), "the names of its estimators must be texts")
    learns = type(case.fuser).fit is not Fuser.fit
    require(not learns or bool(estimators), "it learns, and gives no estimators to keep with the table")
    restored = case.new()
    restored.restore(kept(estimators, case.spec.trusted))
    for parts, reference in ((case.others, case.reference), (case.train, case.of_train)):
        close(case.fuse(parts, restored), reference, 0.0, "saved, loaded and restored")
    return ", ".join(estimators) or "nothing to keep"


# -------------------------------------------------------------------------------------------------- helpers
def kept(estimators: Any, trusted: tuple[str, ...]) -> Any:
    """What is saved with a table, as it is loaded from there.

    Raises:
        Broken: skops wouldn't load it.
    """
    from skops import io as skops

    from featstore.tables.fitted import TRUSTED

    allowed = {*TRUSTED, *trusted}
    data = skops.dumps(estimators)
    untrusted = set(skops.get_untrusted_types(data=data)) - allowed
    if untrusted:
        raise Broken(f"skops wouldn't load {', '.join(sorted(untrusted))}; keep scikit-learn or NumPy objects")
    return skops.loads(data, trusted=sorted(allowed))


def made_rows(rows: int, seed: int, ways: np.random.Generator) -> Callable[[], Matrix]:
    """A function for matrices (rows, width) with something in common: a few hidden causes, seen in different ways."""
    causes = np.random.default_rng(seed).normal(size=(rows, 3))
    noise = np.random.default_rng(seed + 100)
    return lambda: causes @ ways.normal(size=(3, WIDTH)) + 0.3 * noise.normal(size=(rows, WIDTH)) + 2


def made_labels(values: Matrix) -> npt.NDArray[np.int64]:
    """Two classes that the rows tell something of, int64 (rows,)."""
    return (values[:, 0] > np.median(values[:, 0])).astype(np.int64)


def _parts(aliases: tuple[str, ...], rows: int, seed: int) -> Parts:
    make = made_rows(rows, seed, np.random.default_rng(SEED))
    parts = {alias: make() for alias in aliases}
    labels, patients = made_labels(parts["a"] + parts["p"]), seed * 1000 + np.arange(rows) // 2
    return Parts(parts, labels=labels, patients=patients, train=np.ones(rows, bool))


def _like(parts: Parts, values: Any = None, labels: Any = "its own") -> Parts:
    """Rows of the same patients with other values, or other labels."""
    labels = parts.labels if isinstance(labels, str) else labels
    values = parts if values is None else values
    return Parts(values, labels=labels, patients=parts.patients, train=parts.train)


def _rows(parts: Parts, rows: slice) -> Parts:
    some = Parts({alias: np.ascontiguousarray(part[rows]) for alias, part in parts.items()})
    some.labels, some.patients, some.train = (
        None if of_rows is None else of_rows[rows] for of_rows in (parts.labels, parts.patients, parts.train)
    )
    return some


def _copy(parts: Parts) -> Parts:
    return _like(parts, {alias: part.copy() for alias, part in parts.items()})


def _passes(parts: Parts, block: int) -> Callable[[], Iterator[Parts]]:
    """Passes over the rows in blocks, as a table gives them."""
    return lambda: (_rows(parts, slice(start, start + block)) for start in range(0, len(parts["a"]), block))
