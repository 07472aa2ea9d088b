"""probe: a small model on a training table, and what it is worth on each split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import metrics
from featstore.catalog.connection import Catalog
from featstore.errors import UsageError
from featstore.keys import FOLD
from featstore.learn import notes
from featstore.learn.measuring import measure_all, summarize
from featstore.learn.request import ProbeRequest
from featstore.learn.results import ProbeResult
from featstore.learn.rows import read, scale_note
from featstore.learn.saving import parameters, save
from featstore.learn.tasks import Task
from featstore.learn.trials import Chosen, Fold, choose, fit_all
from featstore.plugins import Plugins
from featstore.runs import utc_now
from featstore.tables.made_of import require_train_rows
from featstore.threads import one_thread

if TYPE_CHECKING:
    from featstore.tables import TrainingTable


def probe(store: Path, catalog: Catalog, plugins: Plugins, table: TrainingTable, **options: Any) -> ProbeResult:
    """Train a small model on a table's train rows, tune it on val, and measure it on every split.

    The table is taken as it is: materialize aligns, imputes and standardizes, or nobody does. Rows without a label, and
    rows whose label no train row has, are measured nowhere; the notes count them. Measures come with 95 % percentile
    intervals of a bootstrap over patients. Of a table of folds, each fold is trained and measured on its own, with one
    value of the parameter for all; and ``val`` of all folds together, where the model that has not seen a row predicts
    it. All is kept: the measures in the catalog, models and predictions in the run's folder. The same seed and table
    give the same numbers, to the bit.

    Args:
        options: the fields of :class:`~featstore.learn.ProbeRequest`.

    Raises:
        UsageError: the options; the table has no labels, those of survival, or missing values; train has no labelled
            rows, or one class; a value of the parameter, or the threshold, is to be tuned, and val can't say.
        CorruptError: the table's data are gone, or were changed.
        LeakageError: its train rows aren't those that its steps were fitted on.
    """
    request, started = ProbeRequest(**options), utc_now()
    require_train_rows(catalog, table)
    table.verify()
    with catalog.read() as connection:
        planned = metrics.scheme_splits(connection, table.name, table.version)
    said = [f"The table is stale: {table.stale}."] if table.stale else []
    with one_thread():
        task, folds = _fit(table, request, said)
        value, tried = choose(folds, task, request)
        chosen = [Chosen.of(fold, task, value, youden=request.youden) for fold in folds]
        measured = measure_all(chosen, _splits(folds, planned), task, request)
    said += [*notes.of_rows(folds, task), notes.of_tuning(request, tried, value, folds, task.metric)]
    said += notes.of_splits(measured, task, request)
    result = ProbeResult(
        f"{table.name}@v{table.version}", request.model, parameters(request, value, task), list(task.classes),
        None if task.positive is None else task.classes[task.positive], tried, measured, summarize(measured),
        list(dict.fromkeys(filter(None, said))),
    )  # fmt: skip
    return save(store, catalog, plugins, table, result, chosen, started)


def _fit(table: TrainingTable, request: ProbeRequest, said: list[str]) -> tuple[Task, list[Fold]]:
    """Fit every value on every fold. The features of one fold at a time are in memory."""
    tasks: list[Task] = []
    folds: list[Fold] = []
    for number in range(table.folds) if table.folds else [None]:
        rows = read(table, number)
        tasks.append(Task.of(table, rows, request, "" if number is None else f", fold{number}"))
        if lacking := sorted({*tasks[-1].classes} ^ {*tasks[0].classes}):
            raise UsageError(
                f"The folds don't learn the same classes: {', '.join(map(str, lacking))} is in the train rows of some "
                "of them only.",
                hint="split with --stratify label, or leave out so rare a class with --where",
            )
        said += filter(None, [] if folds else [scale_note(table, rows)])
        folds.append(fit_all("" if number is None else f"fold{number}", rows, tasks[0], request, said.append))
    return tasks[0], folds


def _splits(folds: list[Fold], planned: list[str]) -> list[str]:
    """The splits of the table and those of its scheme that have no row in it; ``train`` and ``val`` first."""
    have = {split for fold in folds for split in fold.rows.splits if split is not None}
    have |= {split for split in planned if not (folds[0].name and FOLD.fullmatch(split))}
    return sorted(have, key=lambda split: (split != "train", split != "val", split))
