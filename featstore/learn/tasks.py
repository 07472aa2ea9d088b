"""What is learned from a table: its classes, or its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import UsageError
from featstore.learn.measures import ClassMeasures, NumberMeasures
from featstore.learn.models import Probe
from featstore.learn.request import ProbeRequest
from featstore.learn.rows import Rows, label_kind

if TYPE_CHECKING:
    from featstore.tables import TrainingTable

Array = npt.NDArray[Any]
Measures = ClassMeasures | NumberMeasures


@dataclass(frozen=True)
class Task:
    """What is learned.

    Attributes:
        classes: the classes of the train rows in their order; empty where labels are numbers.
        positive: the index of the positive one of two classes.
    """

    classes: tuple[Any, ...] = ()
    positive: int | None = None

    @classmethod
    def of(cls, table: TrainingTable, rows: Rows, request: ProbeRequest, where: str) -> Task:
        """What there is to learn from the train rows.

        Raises:
            UsageError: the model doesn't learn such labels, there are no two train rows with a label, or all are of one
                class; ``positive`` isn't one of two classes.
        """
        kind = label_kind(table, rows)
        request.check_labels(kind)
        train = [label for label, split in zip(rows.labels, rows.splits, strict=True) if split == "train"]
        labels = [label for label in train if label is not None]
        name = f"{table.name}@v{table.version}{where}"
        if len(labels) < 2:
            what = f"{len(labels)} of its {len(train)} train rows have a label" if train else "it has no train rows"
            raise UsageError(
                f"There is nothing to learn from {name}: {what}.",
                hint="materialize with --scheme SCHEME, whose split train has patients with labels",
            )
        if kind == "number":
            return cls()
        classes = tuple(sorted(set(labels)))
        if len(classes) == 1:
            raise UsageError(
                f"There is nothing to learn from {name}: all {len(labels)} train rows are of the class {classes[0]!r}.",
                hint="split with --stratify label",
            )
        return cls(classes, _positive(classes, request))

    @property
    def metric(self) -> str:
        """What values of a parameter are chosen by, on val."""
        return "auc" if self.classes else "r2"

    def encode(self, labels: Sequence[Any]) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Labels as indices of classes, or as numbers; and which of them are known."""
        if not self.classes:
            numbers = np.array([np.nan if label is None else float(label) for label in labels], np.float64)
            return numbers, ~np.isnan(numbers)
        index = {label: i for i, label in enumerate(self.classes)}
        codes = np.array([index.get(label, -1) for label in labels], np.int64)
        return codes, codes >= 0

    def measures(self, probe: Probe, y: Array, scores: Array) -> Measures:
        """What is measured of rows whose labels are known."""
        if not self.classes:
            return NumberMeasures(y, scores[:, 0])
        names = [str(c) for c in self.classes]
        return ClassMeasures(y, scores, probe.probabilities(scores), probe.called(scores), self.positive, names)

    def count(self, y: Array) -> dict[str, int]:
        """Rows by class."""
        counts = Counter(y.tolist())
        return {str(label): counts[code] for code, label in enumerate(self.classes)}


def _positive(classes: tuple[Any, ...], request: ProbeRequest) -> int | None:
    names = [str(c) for c in classes]
    if len(classes) > 2 and (request.positive is not None or request.youden):
        raise UsageError(
            f"A positive class and its threshold are of two classes; there are {len(classes)}: {', '.join(names)}.",
            hint="leave out --positive and --threshold",
        )
    if request.positive is None:
        return 1 if len(classes) == 2 else None
    if str(request.positive) not in names:
        raise UsageError(
            f"No train row has the label {str(request.positive)!r}.", hint=f"--positive with one of {', '.join(names)}"
        )
    return names.index(str(request.positive))
