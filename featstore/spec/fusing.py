"""Steps and fusers: the inputs of a training table → one vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

#: float64 (rows, width).
Matrix: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


class Parts(dict[str, Matrix]):
    """The rows of a block, by alias: float64 (rows, width) each, in one row order. Missing inputs are NaN rows.

    Attributes:
        labels: (rows,), or None where the table has none: int64, float64 or text; of survival, a structured array of
            ``event`` (bool) and ``time`` (float64).
        patients: int64 (rows,): equal numbers are rows of one patient. What is cross-fitted keeps them together.
        train: bool (rows,): those that ``fit`` gets.
    """

    def __init__(
        self,
        parts: Mapping[str, Matrix] | Iterable[tuple[str, Matrix]] = (),
        *,
        labels: np.ndarray[Any, Any] | None = None,
        patients: np.ndarray[Any, Any] | None = None,
        train: np.ndarray[Any, Any] | None = None,
    ) -> None:
        super().__init__(parts)
        self.labels, self.patients, self.train = labels, patients, train


class Fuser(ABC):
    """Makes one vector of several inputs; learns from train rows only.

    Attributes:
        labelled: it learns from labels, and is refused where a table has none.
    """

    labelled: bool = False

    def fit(self, blocks: Callable[[], Iterator[Parts]]) -> None:
        """Learn from the train rows. ``blocks()`` starts a new pass over them, in bounded memory.

        Raises:
            UsageError: these parts can't be fused so, and what the user could do.
        """
        return None

    @abstractmethod
    def transform(self, parts: Parts) -> Matrix:
        """Fuse one block: every part (rows, width_i) → (rows, width)."""

    def estimators(self) -> Mapping[str, object]:
        """Fitted scikit-learn or NumPy objects to keep with the table; what skops can save."""
        return {}

    def restore(self, estimators: Mapping[str, object]) -> None:
        """Take back what :meth:`estimators` gave, in place of :meth:`fit`: new patients go through what was fitted."""
        if estimators:
            raise NotImplementedError(f"{type(self).__name__} has estimators, and no restore().")


@dataclass(frozen=True, slots=True)
class FuserSpec:
    """A fuser that can be listed.

    Attributes:
        load: numbers and words → a new, unfitted :class:`Fuser`: ``kronecker(8)`` calls ``load(8.0)``. Raises
            :class:`~featstore.errors.UsageError` for arguments that it can't take.
        trusted: full names of types in its estimators that skops doesn't trust by itself.
    """

    name: str
    load: Callable[..., Fuser]
    revision: str = "1"
    description: str = ""
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Some train rows, as a step learns from them.

    Attributes:
        values: float64 (rows, width), NaN where missing; for steps that take categories, object (rows, columns) of
            text, None where missing.
        labels, patients: as in :class:`Parts`.
    """

    values: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any] | None = None
    patients: np.ndarray[Any, Any] | None = None


class Transformer(Protocol):
    """What a step has learned: scikit-learn's own interface, and something that skops can save."""

    def transform(self, X: Any) -> Any: ...


class Step(ABC):
    """One step on the way from an input, or from the fused vector, to the table.

    Attributes:
        learns: it needs train rows; False for what looks at each row alone, such as a norm.
        labelled: it learns from labels.
    """

    learns: bool = True
    labelled: bool = False

    @abstractmethod
    def fit(self, blocks: Callable[[], Iterator[Block]]) -> Transformer:
        """Learn from train rows only, in bounded memory; ``blocks()`` starts a new pass over them.

        Returns:
            a fitted estimator: (rows, width) → (rows, width′). Nothing else is kept of the step.

        Raises:
            UsageError, ConflictError: these rows can't be learned from, and what the user could do.
        """


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step that can be listed.

    Attributes:
        load: numbers and words → a new :class:`Step`: ``impute(median)`` calls ``load("median")``. Raises
            :class:`~featstore.errors.UsageError` for arguments that it can't take.
        takes: ``"numbers"``, or ``"categories"``: one column of text of a clinical table, which becomes numbers.
        trusted: full names of types in its estimators that skops doesn't trust by itself.
    """

    name: str
    load: Callable[..., Step]
    takes: Literal["numbers", "categories"] = "numbers"
    revision: str = "1"
    description: str = ""
    trusted: tuple[str, ...] = ()
