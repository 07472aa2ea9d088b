"""Measuring every split of every fold, with intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.learn.bootstrap import interval, resampled
from featstore.learn.measures import ClassMeasures, NumberMeasures
from featstore.learn.request import ProbeRequest
from featstore.learn.results import ALL, FoldSummary, Measured, SplitMeasures
from featstore.learn.tasks import Measures, Task
from featstore.learn.trials import Chosen

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Part:
    """Rows that are measured together; ``measures`` is None where there are none."""

    split: str
    fold: str
    patients: Array
    threshold: float | None
    measures: Measures | None


def measure_all(
    chosen: Sequence[Chosen], splits: Sequence[str], task: Task, request: ProbeRequest
) -> list[SplitMeasures]:
    """Measure the splits of every fold, then ``val`` of all folds together."""
    return [_measured(part, task, request) for part in _parts(chosen, splits, task)]


def _parts(chosen: Sequence[Chosen], splits: Sequence[str], task: Task) -> Iterator[_Part]:
    for each in chosen:
        for split in splits:
            yield _part(split, each.fold.name, [each], task)
    if chosen[0].fold.name:
        yield _part("val", ALL, chosen, task)


def _part(split: str, fold: str, chosen: Sequence[Chosen], task: Task) -> _Part:
    """The rows of a split, of one fold or of several: each as the model of its own fold sees it."""
    patients: list[Any] = []
    measures: list[Measures] = []
    for each in chosen:
        within = each.fold.within(split)
        if within.any():
            patients += each.fold.rows.patients[within].tolist()
            measures.append(task.measures(each.probe, each.fold.y[within], each.scores[within]))
    threshold = chosen[0].probe.threshold if len(chosen) == 1 else None
    return _Part(split, fold, np.array(patients, object), threshold, _joined(measures) if measures else None)


def _joined(parts: Sequence[Measures]) -> Measures:
    first = parts[0]
    if isinstance(first, NumberMeasures):
        numbers = [part for part in parts if isinstance(part, NumberMeasures)]
        return NumberMeasures(np.concatenate([p.y for p in numbers]), np.concatenate([p.values for p in numbers]))
    classes = [part for part in parts if isinstance(part, ClassMeasures)]
    probabilities = [part.probabilities for part in classes if part.probabilities is not None]
    return ClassMeasures(
        np.concatenate([p.y for p in classes]),
        np.concatenate([p.scores for p in classes]),
        np.concatenate(probabilities) if len(probabilities) == len(classes) else None,
        np.concatenate([p.predicted for p in classes]),
        first.positive,
        first.classes,
    )


def _measured(part: _Part, task: Task, request: ProbeRequest) -> SplitMeasures:
    people = len(set(part.patients.tolist()))
    if part.measures is None:
        return SplitMeasures(part.split, part.fold, 0, 0, {}, part.threshold, {})
    values = part.measures(np.ones((1, len(part.patients))))
    # Of one patient, every resample is the split itself: an interval without width would look like certainty.
    count = request.bootstrap if people > 1 else 0
    resamples = resampled(part.measures, part.patients, count, request.seed)
    found = {}
    for metric, (value,) in values.items():
        if np.isnan(value):
            found[metric] = Measured(None, reason=part.measures.reason(metric))
        elif not count:
            found[metric] = Measured(float(value), reason="one patient" if request.bootstrap else "")
        elif ends := interval(resamples[metric]):
            found[metric] = Measured(float(value), *ends)
        else:
            found[metric] = Measured(float(value), reason="most resamples have no such value")
    labels = task.count(part.measures.y) if task.classes else {}
    return SplitMeasures(part.split, part.fold, len(part.patients), people, labels, part.threshold, found)


def summarize(measured: Sequence[SplitMeasures]) -> list[FoldSummary]:
    """Mean and standard deviation of every measure over the folds; nothing where there are none."""
    values: dict[tuple[str, str], list[float]] = {}
    for found in measured:
        for metric, one in found.measures.items() if found.fold not in {"", ALL} else ():
            if one.value is not None:
                values.setdefault((found.split, metric), []).append(one.value)
    return [
        FoldSummary(split, metric, float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else None, len(v))
        for (split, metric), v in values.items()
    ]
