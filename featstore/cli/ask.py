"""sql, ls, show, status."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.alignment import print_report
from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, plural, print_facts, print_json, print_rows, print_table

if TYPE_CHECKING:
    from featstore.store import Store

format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True
)


@click.command()
@with_store
@click.argument("query")
@format_option
def sql(store: Store, query: str, form: str) -> None:
    """Ask one SELECT about samples, patients, splits, features, coverage, runs, failures, tables, metrics, lineage.

    \b
    featstore sql "select modality, split, count(*) n from features group by all"
    featstore sql "select patient_id, vector from vectors.r18 limit 3"
    """
    print_rows(store.sql(query), form)


@click.command()
@with_store
@click.argument("noun", metavar="features|runs|schemes|tables|samples|plugins")
@format_option
def ls(store: Store, noun: str, form: str) -> None:
    """List what the store holds."""
    rows = store.ls(noun)
    if rows.num_rows or form != "table":
        print_rows(rows, form)
    else:
        note(f"There are no {noun} yet.")


@click.command()
@with_store
@click.argument("name")
@click.option("--recipe", "as_recipe", is_flag=True, help="Print a training table's recipe, as materialize takes it.")
@json_option
def show(store: Store, name: str, as_recipe: bool, as_json: bool) -> None:
    """Show everything about one feature set, table, run, split scheme or sample, NAME or NAME@vK."""
    if as_recipe:
        from featstore.tables import recipe_file

        recipe = recipe_file.from_json(store.table(name).recipe)
        if as_json:
            print_json(recipe.to_json())
        else:
            click.echo(recipe_file.to_yaml(recipe), nl=False)
        return
    found = store.show(name)
    if as_json:
        print_json(found)
        return
    for kind, facts in found.items():
        click.secho(kind, bold=True)
        if isinstance(facts, list):
            print_table(list(facts[0]), [list(row.values()) for row in facts])
        elif kind == "training table":
            _print_table_version(store, facts)
        else:
            print_facts({key: _parsed(value) for key, value in facts.items()})


def _print_table_version(store: Store, facts: dict[str, Any]) -> None:
    from featstore.tables import recipe_file

    recipe, report = (json.loads(facts.pop(key)) for key in ("recipe", "report"))
    print_facts(facts)
    click.secho("recipe", bold=True)
    click.echo(recipe_file.to_yaml(recipe_file.from_json(recipe)))
    print_report(report, store.path / facts["path"])


def _parsed(value: object) -> object:
    """JSON columns come as text."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            pass
    return value


@click.command()
@with_store
@json_option
def status(store: Store, as_json: bool) -> None:
    """Count what the store holds, and say what is unfinished or failed."""
    facts = store.status()
    if as_json:
        print_json(facts)
        return
    lists = {key: facts.pop(key) for key in ("modalities", "splits", "unfinished")}
    print_facts(facts)
    for title, rows in lists.items():
        if rows:
            print_table(list(rows[0]), [list(row.values()) for row in rows], title=title)
    for run in lists["unfinished"]:
        if run["state"] == "interrupted":
            note(f"Run {run['run_id']} was interrupted: the command that began it goes on with it.")
        elif run["state"] == "damaged":
            note(f"Run {run['run_id']} can't go on, its folder is damaged: the next extract makes its rows anew.")
    if facts["failed_inputs"]:
        note(f"{plural(facts['failed_inputs'], 'input')} failed.\n  next: featstore errors")
