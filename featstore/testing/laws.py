"""Laws, and what was found of each: the frame of every check in this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from featstore.errors import FeatstoreError, SetupError

Case = TypeVar("Case")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one law.

    Attributes:
        law: its name, such as ``keeps-order``.
        ok: whether it holds.
        seen: what was seen: a number, a shape, or what is wrong.
        rule: the law in a sentence.
        tried: False where an earlier law, without which this one can't be tried, is broken.
    """

    law: str
    ok: bool
    seen: str
    rule: str
    tried: bool = True


class ConformanceError(AssertionError):
    """A plugin breaks laws; the message has each of them. ``findings`` are all that there are."""

    def __init__(self, what: str, findings: Sequence[Finding]) -> None:
        broken = [finding for finding in findings if finding.tried and not finding.ok]
        lines = [f"  {finding.law}: {finding.seen}\n    {finding.rule}" for finding in broken]
        super().__init__("\n".join([f"{what} breaks {len(broken)} of {len(findings)} laws:", *lines]))
        self.findings = list(findings)


class Broken(Exception):
    """A law doesn't hold; the text says what was seen."""


@dataclass(frozen=True, slots=True)
class Law(Generic[Case]):
    """One law.

    Attributes:
        check: says what it saw, or raises :class:`Broken`; any other error is a break as well.
        gate: nothing after it can be tried where it doesn't hold.
        lets: errors that aren't the plugin's fault, and are raised to the caller.
    """

    name: str
    rule: str
    check: Callable[[Case], str]
    gate: bool = False
    lets: tuple[type[Exception], ...] = (SetupError,)


@dataclass
class Laws(Generic[Case]):
    """The laws of one kind of plugin, in the order in which they are tried. Written as functions::

    LAWS = Laws[Something]()

    @LAWS.law
    def keeps_order(case: Something) -> str:
        \"\"\"Row i belongs to input i.\"\"\"
    """

    laws: list[Law[Case]] = field(default_factory=list)

    def law(self, check: Callable[[Case], str]) -> Callable[[Case], str]:
        """Add a law: its name is the function's, its rule the docstring's first paragraph."""
        self.laws.append(_law(check))
        return check

    def gate(self, *lets: type[Exception]) -> Callable[[Callable[[Case], str]], Callable[[Case], str]]:
        """Add a law without which no later one can be tried."""

        def add(check: Callable[[Case], str]) -> Callable[[Case], str]:
            self.laws.append(_law(check, gate=True, lets=(SetupError, *lets)))
            return check

        return add

    def findings(self, case: Case) -> list[Finding]:
        """Try every law on a case."""
        found: list[Finding] = []
        closed = ""
        for law in self.laws:
            if closed:
                found.append(Finding(law.name, False, f"not tried, because of {closed}", law.rule, tried=False))
                continue
            try:
                seen, ok = law.check(case), True
            except Broken as broken:
                seen, ok = str(broken), False
            except law.lets:
                raise
            except Exception as error:
                seen, ok = said(error), False
            found.append(Finding(law.name, ok, seen, law.rule))
            closed = law.name if law.gate and not ok else ""
        return found


def _law(check: Callable[[Case], str], *, gate: bool = False, lets: tuple[type[Exception], ...] = (SetupError,)) -> Any:
    rule = inspect.cleandoc(check.__doc__ or "").partition("\n\n")[0]
    return Law(check.__name__.replace("_", "-"), " ".join(rule.split()), check, gate, lets)


def conclude(what: str, findings: list[Finding], strict: bool) -> list[Finding]:
    """The findings; with ``strict``, raises :class:`ConformanceError` where a law is broken."""
    if strict and not all(finding.ok for finding in findings):
        raise ConformanceError(what, findings)
    return findings


def require(holds: bool, otherwise: str) -> None:
    """Raise :class:`Broken` unless it holds. (An ``assert`` would be left out by ``python -O``.)"""
    if not holds:
        raise Broken(otherwise)


def said(error: BaseException) -> str:
    """An error on one line."""
    message = error.message if isinstance(error, FeatstoreError) else str(error)
    text = " ".join(message.split())
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__


def refusal(call: Callable[[], Any], *expected: type[Exception]) -> tuple[str, Any]:
    """How a call is refused, and what it gave instead.

    Returns:
        ``"refused"`` where it raises one of ``expected``, the error's text where it raises another, and ``"accepted"``
        with its result where it raises none.
    """
    try:
        return "accepted", call()
    except SetupError:
        raise
    except expected:
        return "refused", None
    except Exception as error:
        return said(error), None


def deviation(found: Any, expected: Any) -> float:
    """How far two arrays of one shape are apart: the largest difference in a row, as a share of its largest value.

    Infinite where shapes differ, or one has a NaN and the other hasn't.
    """
    one, other = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if one.shape != other.shape:
        return float("inf")
    if not one.size:
        return 0.0
    rows, others = one.reshape(len(one), -1), other.reshape(len(other), -1)
    if (np.isnan(rows) != np.isnan(others)).any():
        return float("inf")
    with np.errstate(invalid="ignore"):  # inf - inf: equal infinities
        apart = np.where(rows == others, 0.0, np.abs(np.nan_to_num(rows - others, nan=0.0, posinf=np.inf)))
    scale = np.abs(np.nan_to_num(others)).max(axis=1, initial=0.0)
    return float((apart.max(axis=1) / np.where(scale > 0, scale, 1.0)).max())


def close(found: Any, expected: Any, tolerance: float, what: str) -> float:
    """Raise :class:`Broken` where two arrays are further apart than ``tolerance``; returns how far they are."""
    apart = deviation(found, expected)
    require(apart <= tolerance, f"{what}: they differ by {apart:.2g}, and {tolerance:.0e} is allowed")
    return apart


def worst(deviations: Iterable[float]) -> str:
    """The largest deviation, for what was seen."""
    return f"differs by {max(deviations, default=0.0):.1g}"
