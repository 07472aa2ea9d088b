"""What one should know before one believes a probe's numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from featstore.learn.request import MODELS, ProbeRequest
from featstore.learn.results import SplitMeasures
from featstore.learn.tasks import Task
from featstore.learn.trials import Fold

#: Labels of so many classes, and of nearly as many as rows, were rather meant as numbers.
_MANY_CLASSES = 20


def of_rows(folds: Sequence[Fold], task: Task) -> Iterator[str]:
    """Which rows are left out, and why."""
    unlabelled, unseen, nowhere = set(), set(), set()
    for fold in folds:
        for i, (label, split) in enumerate(zip(fold.rows.labels, fold.rows.splits, strict=True)):
            if split is None:
                nowhere.add(i)
            elif label is None:
                unlabelled.add((split, i))
            elif not fold.known[i]:
                unseen.add((split, str(label), i))
    for split, count in sorted(Counter(split for split, _ in unlabelled).items()):
        yield f"{split}: {_rows(count)} without a label, predicted and not measured."
    for (split, label), count in sorted(Counter((split, label) for split, label, _ in unseen).items()):
        yield (
            f"{split}: {_rows(count)} with the label {label!r}, which no train row has. No probe can say it: they are "
            "left out of every measure, and kept among the predictions."
        )
    if nowhere:
        yield f"{_rows(len(nowhere))} in no split, predicted and not measured."
    rows = sum(fold.within("train").sum() for fold in folds) / len(folds)
    if len(task.classes) > _MANY_CLASSES and 2 * len(task.classes) > rows:
        yield (
            f"The labels are {len(task.classes)} classes of {rows:.0f} train rows. If they are numbers, "
            "materialize with --label-kind number."
        )


def of_tuning(
    request: ProbeRequest, tried: Sequence[dict[str, Any]], value: float, folds: Sequence[Fold], metric: str
) -> str:
    """What was tuned on val, by which measure, and what would have been as good."""
    if not any(fold.within("val").any() for fold in folds):
        return "There is no row in a split val: nothing was tuned."
    parameter, tuned = MODELS[request.model].parameter, []
    if tried:
        best = max(one[metric] for one in tried)
        equal = [f"{one[parameter]:g}" for one in tried if one[metric] == best and one[parameter] != value]
        tuned.append(f"{parameter} = {value:g}, of {', '.join(f'{one[parameter]:g}' for one in tried)}, by {metric}")
        tuned[0] += f" (the first of equals: {' and '.join(equal)} would do as well)" if equal else ""
    tuned += ["the threshold"] if request.youden else []
    return f"Chosen on val: {' and '.join(tuned)}. So the numbers of val are too good." if tuned else ""


def of_splits(measured: Sequence[SplitMeasures], task: Task, request: ProbeRequest) -> Iterator[str]:
    """Empty splits, what isn't defined and why, and resamples that were left out."""
    undefined: dict[tuple[str, str], list[str]] = {}
    fewest: tuple[int, str, str] | None = None
    for found in measured:
        where = _where(found)
        if not found.rows:
            yield f"{where}: no row to measure."
        for metric, one in found.measures.items():
            if one.value is None:
                undefined.setdefault((where, one.reason), []).append(metric)
            elif one.low is None and one.reason:
                undefined.setdefault((where, f"no interval: {one.reason}"), []).append(metric)
            elif one.low is not None and one.resamples < (fewest or (request.bootstrap,))[0]:
                fewest = one.resamples, metric, where
        absent = [label for label, count in found.labels.items() if not count]
        if len(task.classes) > 2 and 0 < len(absent) < len(task.classes) - 1:
            yield f"{where}: no row of the class {', '.join(absent)}; means over classes are over the others."
    for (where, reason), metrics in undefined.items():
        yield f"{where}: {', '.join(metrics)}: {reason}."
    if fewest:
        yield (
            f"{fewest[2]}: {fewest[1]} isn't defined in {request.bootstrap - fewest[0]:,} of {request.bootstrap:,} "
            "resamples (a class is lacking, or told apart without error): left out of its interval; others less often."
        )


def _where(found: SplitMeasures) -> str:
    return f"{found.split} of {found.fold if found.fold != 'all' else 'all folds'}" if found.fold else found.split


def _rows(count: int) -> str:
    return f"{count:,} row{'' if count == 1 else 's'}"
