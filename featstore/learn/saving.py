"""Keeping what a probe found: the run's folder, its row, and the measures, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import metrics
from featstore.catalog.connection import Catalog
from featstore.catalog.runs import add_run
from featstore.learn.measures import ECE_BINS
from featstore.learn.request import MODELS, ProbeRequest
from featstore.learn.results import ProbeResult
from featstore.learn.tasks import Task
from featstore.learn.trials import Chosen
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.tables import TrainingTable

_VERSIONS = ("featstore", "numpy", "scikit-learn")


def parameters(request: ProbeRequest, value: float, task: Task) -> dict[str, Any]:
    """All that decides the numbers: what was asked for, the value that was taken, and what computed them."""
    model = MODELS[request.model]
    own: dict[str, Any] = {model.parameter: value}
    own |= {"max_iter": request.max_iter, "class_weight": request.class_weight} if model.weighs else {}
    own |= {"tried": list(request.values)} if len(request.values) > 1 else {}
    if task.classes:
        positive = None if task.positive is None else task.classes[task.positive]
        own |= {"threshold": "youden" if request.youden else 0.5, "positive": positive, "ece_bins": ECE_BINS}
    own |= {"seed": request.seed, "bootstrap": request.bootstrap}
    return own | {"versions": {name: metadata.version(name) for name in _VERSIONS}}


def save(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    table: TrainingTable,
    result: ProbeResult,
    chosen: Sequence[Chosen],
    started: datetime,
) -> ProbeResult:
    """Keep a result; it comes back with its run.

    The models are written to ``probe.skops`` (of folds ``probe-fold0.skops``, …), what they say of every row to
    ``predictions.parquet``, the result to ``run.json``. On any error nothing is kept.
    """
    predicted = predictions(chosen)
    request = {"table": result.table, "model": result.model, "parameters": result.parameters}
    facts = finished("probe", started, request, plugins)
    # The transaction is the outer one: an interrupt after the commit must not take the run's folder away again.
    with catalog.write() as connection, RunFolder.creating(store, "probe") as create_run:
        run = create_run()
        for each in chosen:
            each.probe.save(run.path / f"{'-'.join(filter(None, ['probe', each.fold.name]))}.skops")
        run.save_rows("predictions", predicted)
        result = replace(result, run_id=run.run_id, path=run.path)
        kept = {name: value for name, value in asdict(result).items() if name not in {"run_id", "path"}}
        run.record(**facts, result=kept)
        number = add_run(connection, run.run_id, facts, done=predicted.num_rows)
        metrics.add(connection, table.name, table.version, _metrics(result), number, utc_now())
    return result


def _metrics(result: ProbeResult) -> list[metrics.Metric]:
    return [
        metrics.Metric(
            found.split, name, one.value, result.model, result.parameters | _threshold(found.threshold), found.fold,
            one.low, one.high,
        )
        for found in result.splits
        for name, one in found.measures.items()
        if one.value is not None
    ]  # fmt: skip


def _threshold(value: float | None) -> dict[str, float]:
    return {} if value is None else {"score_above": value}


def predictions(chosen: Sequence[Chosen]) -> pa.Table:
    """What the models say of every row, whatever its split, fold by fold.

    Columns: the table's key columns and ``split``; ``fold``; ``label``; of classes ``score_<class>`` (the probability,
    or of svm the decision value), of svm with enough patients ``probability_<class>`` too, and ``predicted``; of
    numbers ``predicted`` alone.
    """
    import pyarrow as pa

    tables = []
    for each in chosen:
        facts, probe, rows = each.fold.rows.facts, each.probe, len(each.scores)
        columns = {name: facts.column(name) for name in facts.column_names if name != "label"}
        columns |= {"fold": pa.array([each.fold.name] * rows, pa.string()), "label": facts.column("label")}
        if probe.classes:
            columns |= {f"score_{c}": pa.array(each.scores[:, i]) for i, c in enumerate(probe.classes)}
            probabilities = probe.probabilities(each.scores)
            if probe.model == "svm" and probabilities is not None:
                columns |= {f"probability_{c}": pa.array(probabilities[:, i]) for i, c in enumerate(probe.classes)}
            called = [probe.classes[i] for i in probe.called(each.scores)]
            columns["predicted"] = pa.array(called, facts.schema.field("label").type)
        else:
            columns["predicted"] = pa.array(each.scores[:, 0])
        tables.append(pa.table(columns))
    return pa.concat_tables(tables, promote_options="default").combine_chunks()
