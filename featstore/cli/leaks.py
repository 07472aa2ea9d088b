"""leaks, trained-on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, note_unmatched, plural, print_json, print_table

if TYPE_CHECKING:
    from featstore.store import Store

#: Pairs of each kind that are shown on the screen; --json gives up to 1,000.
SHOWN = 20


@click.command()
@with_store
@click.argument("name", metavar="TABLE|FEATURES")
@click.option(
    "--threshold", type=float, default=0.999, show_default=True, help="Cosine of nearly equal vectors, less their mean."
)
@click.option("--scheme", metavar="NAME[@vK]", help="Whose splits (a table's own; of features: default).")
@click.option("--all", "everyone", is_flag=True, help="Compare patients of the same split, too.")
@json_option
def leaks(store: Store, name: str, threshold: float, scheme: str | None, everyone: bool, as_json: bool) -> int:
    """Look for what one split would learn of another: equal contents, equal and nearly equal vectors, and the rest.

    Exit code 1 where something is found. Every pair of vectors is compared: of 100,000 rows it takes minutes.
    """
    report = store.leaks(name, threshold=threshold, scheme=scheme, everyone=everyone)
    if as_json:
        print_json(asdict(report))
        return int(bool(report.leaks))
    for leak in report.leaks:
        columns = list(dict.fromkeys(column for row in leak.rows for column in row if row[column] is not None))
        cells = [[row.get(column) for column in columns] for row in leak.rows[:SHOWN]]
        click.secho(f"{leak.kind}: {leak.message}", bold=True)
        print_table([c.replace("_", " ") for c in columns], cells)
        if leak.found > len(cells):
            note(f"… {leak.found - len(cells):,} more; --json gives {len(leak.rows):,}.")
        note(f"  next: {leak.hint}")
    if not report.leaks:
        note(f"{report.name} is clean: {plural(report.rows, 'row')}, no cosine of {threshold:g} or more.")
    for features in report.pooled:
        note(f"Nearly equal vectors were looked for as pooled. Each of {features}'s own: featstore leaks {features}")
    return int(bool(report.leaks))


@click.command("trained-on")
@with_store
@click.argument("name", metavar="FEATURES[@vK]")
@click.option("--scheme", metavar="NAME[@vK]", help="They are the patients of some splits of this scheme …")
@click.option("--split", "splits", multiple=True, help="… namely of these; repeatable.  [default: train]")
@click.option("--where", metavar="SQL", help="They are those who meet this condition on the view patients.")
@click.option("--patients", metavar="FILE.csv", help="They are listed in its column patient_id.")
@json_option
def trained_on(
    store: Store,
    name: str,
    scheme: str | None,
    splits: tuple[str, ...],
    where: str | None,
    patients: str | None,
    as_json: bool,
) -> None:
    """Say whom an encoder was trained or fine-tuned on: a table that holds them out is then refused.

    It is said of the weights, and so of all feature sets that they made.
    """
    result = store.trained_on(name, scheme=scheme, split=splits, where=where, patients=patients)
    if as_json:
        print_json(asdict(result))
        return
    note(f"{plural(result.added, 'patient')} added, {result.known:,} known before: {', '.join(result.feature_sets)}.")
    if later := result.added + result.known - result.here:
        note(f"{result.here:,} in the store now; {plural(later, 'patient')} will count as soon as they are.")
    note_unmatched(result.lookalikes)
