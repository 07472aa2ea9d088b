"""The laws of fusers: they learn from what they are given to fit, and from nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import FeatstoreError
from featstore.seeding import seeded
from featstore.spec import Fuser, FuserSpec, Parts
from featstore.testing.inputs import SEED
from featstore.testing.laws import Broken, Laws, close, require, worst

Matrix = npt.NDArray[np.float64]
WIDTHS = {"a": 6, "p": 6, "clinical": 6}  # equal, so that fusers that add parts up can work too
TRAIN, OTHERS = 60, 24


@dataclass(slots=True)
class FuserCase:
    """A fuser, fitted on some rows, and other rows."""

    spec: FuserSpec
    tolerance: float
    train: Parts = field(init=False)
    others: Parts = field(init=False)
    fuser: Fuser = field(init=False)
    reference: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.train, self.others = _parts(TRAIN, SEED), _parts(OTHERS, SEED + 1)

    def fitted(self, parts: Parts | None = None) -> Fuser:
        """A new fuser, fitted."""
        fuser = self.spec.load()
        fuser.fit(_passes(parts or self.train))
        return fuser

    def fuse(self, parts: Parts, fuser: Fuser | None = None) -> Matrix:
        """Transform, as (rows, width)."""
        return np.asarray((fuser or self.fuser).transform(parts))


LAWS = Laws[FuserCase]()


@LAWS.gate(FeatstoreError)
def loads(case: FuserCase) -> str:
    """``spec.load()`` gives a new Fuser each time."""
    one, other = case.spec.load(), case.spec.load()
    require(isinstance(one, Fuser), f"load gave {type(one).__name__}, which is no featstore.Fuser")
    require(one is not other, "load gave the same object twice: two tables would share what they learn")
    return type(one).__name__


@LAWS.gate()
def fuses(case: FuserCase) -> str:
    """After ``fit``, parts (rows, width_i) become one float64 array (rows, width), finite; one width for any rows."""
    case.fuser = case.fitted()
    case.reference = case.fuse(case.others)
    shape = case.reference.shape
    require(len(shape) == 2 and shape[0] == OTHERS and shape[1] > 0, f"{OTHERS} rows give {shape}")
    require(case.reference.dtype == np.float64, f"it gives {case.reference.dtype}, not float64")
    require(bool(np.isfinite(case.reference).all()), "it gives values that aren't finite")
    for rows in (1, 2):
        fused = case.fuse(_rows(case.others, slice(rows)))
        require(fused.shape == (rows, shape[1]), f"{rows} rows give {fused.shape}, and {OTHERS} rows {shape}")
    return f"{' + '.join(map(str, WIDTHS.values()))} → {shape[1]}"


@LAWS.law
def writes_nothing(case: FuserCase) -> str:
    """Neither ``fit`` nor ``transform`` writes into its parts."""
    train, others = _copy(case.train), _copy(case.others)
    case.fuse(others, case.fitted(train))
    for alias in WIDTHS:
        require(bool((train[alias] == case.train[alias]).all()), "fit changed its parts")
        require(bool((others[alias] == case.others[alias]).all()), "transform changed its parts")
    return "unchanged"


@LAWS.law
def looks_at_each_row_alone(case: FuserCase) -> str:
    """``transform`` of a row doesn't depend on the other rows, nor on their order."""
    turned = case.fuse(_rows(case.others, slice(None, None, -1)))
    apart = [close(turned, case.reference[::-1], case.tolerance, "turned round")]
    for row in (0, OTHERS // 2, OTHERS - 1):
        part = slice(row, row + 1)
        alone = case.fuse(_rows(case.others, part))
        apart.append(close(alone, case.reference[part], case.tolerance, f"row {row}, alone and among others"))
    return worst(apart)


@LAWS.law
def learns_in_fit_only(case: FuserCase) -> str:
    """``transform`` learns nothing: rows that were seen in between, test rows among them, change no result."""
    case.fuse({alias: part * 100 for alias, part in case.others.items()})
    again = case.fuse(case.others)
    return worst([close(again, case.reference, 0.0, "after other rows were transformed")])


@LAWS.law
def learns_for_itself(case: FuserCase) -> str:
    """What one fuser learns doesn't reach another one of the same spec."""
    case.fitted({alias: part * 9 + 4 for alias, part in case.train.items()})
    again = case.fuse(case.others)
    return worst([close(again, case.reference, 0.0, "after another one was fitted")])


@LAWS.law
def is_deterministic(case: FuserCase) -> str:
    """Fitted again on the same rows, it gives the same bytes: the same recipe makes the same table."""
    with seeded(4321):  # what draws from the process's own numbers gets others
        again = case.fuse(case.others, case.fitted())
    return worst([close(again, case.reference, 0.0, "fitted again")])


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
    """``estimators()`` can be saved by skops, and loaded without trusting more types than a table may hold."""
    from skops import io as skops

    from featstore.tables.training import TRUSTED

    estimators = dict(case.fuser.estimators())
    require(all(isinstance(name, str) for name in estimators), "the names of its estimators must be texts")
    learns = type(case.fuser).fit is not Fuser.fit
    require(not learns or bool(estimators), "it learns, and gives no estimators to keep with the table")
    data = skops.dumps(estimators)
    untrusted = set(skops.get_untrusted_types(data=data)) - set(TRUSTED)
    if untrusted:
        raise Broken(f"skops wouldn't load {', '.join(sorted(untrusted))}; keep scikit-learn or NumPy objects")
    skops.loads(data, trusted=list(TRUSTED))
    return ", ".join(estimators) or "nothing to keep"


# -------------------------------------------------------------------------------------------------- helpers
def _parts(rows: int, seed: int) -> dict[str, Matrix]:
    """Parts that have something in common: a few hidden causes, seen by each in its own way, and noise."""
    causes = np.random.default_rng(seed).normal(size=(rows, 3))
    ways = np.random.default_rng(SEED)
    noise = np.random.default_rng(seed + 100)
    return {
        alias: causes @ ways.normal(size=(3, width)) + 0.3 * noise.normal(size=(rows, width)) + 2
        for alias, width in WIDTHS.items()
    }


def _rows(parts: Parts, rows: slice) -> dict[str, Matrix]:
    return {alias: np.ascontiguousarray(part[rows]) for alias, part in parts.items()}


def _copy(parts: Parts) -> dict[str, Matrix]:
    return {alias: part.copy() for alias, part in parts.items()}


def _passes(parts: Parts) -> Callable[[], Iterator[Any]]:
    """Passes over the rows in blocks, as a table gives them."""

    def blocks() -> Iterator[Any]:
        for start in range(0, len(parts["a"]), 25):
            yield {alias: part[start : start + 25] for alias, part in parts.items()}

    return blocks
