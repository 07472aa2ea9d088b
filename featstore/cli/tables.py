"""apply, reproduce."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from featstore.cli.alignment import note_table
from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, plural, print_json, print_table

if TYPE_CHECKING:
    from featstore.store import Store


@click.command()
@with_store
@click.argument("table")
@click.option("--to", "out", required=True, metavar="FILE", help="The ending picks the format, such as .parquet.")
@click.option("--where", metavar="SQL", help="Condition on the view samples, in place of the recipe's own.")
@click.option("--fold", type=int, help="Of a table of folds: whose fitted steps.")
@click.option("--everyone", is_flag=True, help="Also those who are in the table.")
@click.option("--wide", is_flag=True, help="One column a feature.")
@json_option
def apply(
    store: Store, table: str, out: str, where: str | None, fold: int | None, everyone: bool, wide: bool, as_json: bool
) -> None:
    """Put patients who aren't in a table through its fitted steps, without fitting anything.

    \b
    featstore apply grade --to new.parquet
    """
    result = store.table(table).apply(out, where=where, fold=fold, everyone=everyone, wide=wide)
    if as_json:
        print_json(asdict(result))
        return
    for lost in result.report["lost"]:
        note(f"{lost['rows']:,} left out, {lost['reason']}, such as {', '.join(lost['such_as'][:3])}.")
    for name, facts in result.report["tables"].items():
        note_table(name, facts, result.report["entity"])
    shape = f"{plural(result.rows, 'row')} × {result.width} fused features"
    note(f"{shape} through the steps of {result.table}: {result.out}")


@click.command()
@with_store
@click.argument("table")
@json_option
def reproduce(store: Store, table: str, as_json: bool) -> int:
    """Make a version of a table again, from the rows and vectors that it was made of, and compare the bytes.

    Exit code 1 where they differ.
    """
    result = store.table(table).reproduce()
    if as_json:
        print_json(asdict(result))
    else:
        if result.packages:
            print_table(
                ["package", "then", "now"], [[name, *versions] for name, versions in result.packages.items()],
                title="Other versions than then",
            )  # fmt: skip
        if result.apart:
            print_table(
                ["column", "apart by at most"],
                [[name, "not a vector of one width" if by is None else by] for name, by in result.apart.items()],
                title="Differences",
            )  # fmt: skip
        note(f"{result.table} {'is made again to the same bytes' if result.same else 'comes out otherwise now'}.")
    return int(not result.same)
