"""probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, print_json, print_table

if TYPE_CHECKING:
    from featstore.learn import FoldSummary, Measured, ProbeResult, SplitMeasures
    from featstore.store import Store

#: Measures in tables narrow enough to read on 100 columns: title → measure → heading.
_TABLES: Mapping[str, Mapping[str, str]] = {
    "Measures": {
        "auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity",
        "r2": "R²", "mae": "MAE", "rmse": "RMSE", "pearson_r": "Pearson r",
    },
    "Other measures": {"average_precision": "average precision", "balanced_accuracy": "balanced accuracy"},
    "Calibration": {
        "brier": "Brier score", "ece": "calibration error", "calibration_slope": "slope",
        "calibration_intercept": "intercept",
    },
}  # fmt: skip


@click.command()
@with_store
@click.argument("table")
@click.option(
    "--model",
    default="logistic",
    show_default=True,
    metavar="logistic|svm|knn|ridge",
    help="Of classes the first three, of numbers the last two.",
)
@click.option("--C", "C", type=float, multiple=True, help="Of logistic and svm, 1 by default; several: val chooses.")
@click.option("--alpha", type=float, multiple=True, help="Of ridge, 1 by default; several: val chooses.")
@click.option("--k", type=int, multiple=True, help="Of knn, 5 by default; several: val chooses.")
@click.option("--max-iter", type=int, default=1000, show_default=True, help="Of logistic and svm.")
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--class-weight", type=click.Choice(["balanced"]), help="Each class weighs as much as any other.")
@click.option(
    "--threshold",
    type=click.Choice(["0.5", "youden"]),
    default="0.5",
    show_default=True,
    help="The model's own decision, or the one that is best on val.",
)
@click.option("--positive", metavar="LABEL", help="Of two classes, the positive one; else the larger.")
@click.option("--bootstrap", type=int, default=1000, show_default=True, help="Resamples of patients; 0: no intervals.")
@json_option
def probe(store: Store, table: str, as_json: bool, **options: Any) -> None:
    """Train a small model on TABLE's train rows, tune it on val, measure it on every split.

    \b
    featstore probe grade --model logistic --C 0.01 --C 0.1 --C 1
    featstore sql "select split, metric, value, low, high from metrics where run_id = '…'"
    """
    result = store.probe(table, **options)
    if as_json:
        print_json(asdict(result))
        return
    _print_splits(result)
    for text in result.notes:
        note(text)
    note(f"Kept as {result.run_id}, with predictions.parquet and the model: {result.path}")


def _print_splits(result: ProbeResult) -> None:
    first = ["split", *(["fold"] if result.folds else [])]
    counted = [
        [*_place(found, result), found.rows, found.patients, *(found.labels.get(str(c), 0) for c in result.classes[:8])]
        for found in result.splits
    ]
    print_table([*first, "rows", "patients", *_classes(result)], counted, title=_title(result))
    shown = dict.fromkeys(metric for found in result.splits for metric in found.measures)
    for title, headings in _TABLES.items():
        names = [name for name in headings if name in shown]
        if names:
            rows = [[*_place(found, result), *(_cell(found.measures.get(n)) for n in names)] for found in result.splits]
            rows += _summaries(result, names)
            print_table([*first, *(headings[n] for n in names)], rows, title=title)


def _place(found: SplitMeasures, result: ProbeResult) -> list[Any]:
    return [found.split, *([found.fold] if result.folds else [])]


def _title(result: ProbeResult) -> str:
    given = {k: v for k, v in result.parameters.items() if k in {"C", "alpha", "k"}}
    told = [f"{result.table}, {result.model}", *(f"{name} = {value:g}" for name, value in given.items())]
    return ", ".join(told + ([f"positive: {result.positive}"] if result.positive is not None else []))


def _classes(result: ProbeResult) -> list[str]:
    return [f"label {label}" for label in result.classes[:8]]


def _cell(one: Measured | None) -> str:
    if one is None or one.value is None:
        return "–"
    return _number(one.value) + (f" [{_number(one.low)}, {_number(one.high)}]" if one.low is not None else "")


def _number(value: float | None) -> str:
    """Two decimals, as far as they tell anything."""
    assert value is not None
    return f"{round(value, 2) + 0.0:.2f}" if abs(value) < 100 else f"{value:.4g}"  # + 0.0: no -0.00


def _summaries(result: ProbeResult, names: Sequence[str]) -> list[list[Any]]:
    """A row a split with mean ± sd over the folds."""
    by_split: dict[str, dict[str, FoldSummary]] = {}
    for one in result.folds:
        by_split.setdefault(one.split, {})[one.metric] = one
    return [[split, "mean ± sd", *(_spread(found.get(name)) for name in names)] for split, found in by_split.items()]


def _spread(one: FoldSummary | None) -> str:
    if one is None:
        return "–"
    return _number(one.mean) + (f" ± {_number(one.sd)}" if one.sd is not None else "")
