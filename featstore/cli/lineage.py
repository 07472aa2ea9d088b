"""lineage, diff."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import console, note, plural, print_json, print_table

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.tree import Tree

    from featstore.store import Store
    from featstore.tables.diff import TableDiff

#: Rows that are named on the screen; --json names all.
SHOWN = 10


@click.command()
@with_store
@click.argument("name", metavar="TABLE[@vK]")
@click.option("--samples", is_flag=True, help="Name every sample.")
@json_option
def lineage(store: Store, name: str, samples: bool, as_json: bool) -> None:
    """Draw where a training table is from: feature sets, runs, models, samples, splits, tables.

    Of a feature set: its encoder, runs and samples, and the tables that use it. tables/NAME or features/NAME says
    which, where both are called so. --json gives everything, every sample's key among it.
    """
    found = store.lineage(name, samples=samples or as_json)
    if as_json:
        print_json(found)
        return
    console().print(_table(found) if found["kind"] == "training table" else _feature_set(found))


@click.command()
@with_store
@click.argument("before", metavar="TABLE[@vK]")
@click.argument("after", metavar="[TABLE[@vK]]", required=False)
@click.option("--exit-code", is_flag=True, help="Exit with 1 where they differ.")
@json_option
def diff(store: Store, before: str, after: str | None, exit_code: bool, as_json: bool) -> int:
    """Show what changed between two versions of a training table, or lies between two tables.

    One name alone is compared with the version before it. Rows are matched by key, values compared one by one.
    """
    found = store.diff(before, after)
    if as_json:
        print_json(found.to_json())
    else:
        _print_diff(found)
    return int(exit_code and not found.same)


# -------------------------------------------------------------------------------------------------- lineage
def _table(found: Mapping[str, Any]) -> Tree:
    folds = f" × {found['folds']} folds" if found["folds"] else ""
    tree = _tree(
        f"{found['name']}@v{found['version']}: {plural(found['rows'], 'row')} × {found['width']} features{folds}, "
        f"by {found['entity']}, {found['path']}"
    )
    if found["stale"]:
        _add(tree, f"stale: {found['stale']}", style="bold red")
    _add_run(tree, found["run"])
    _add(tree, f"label {found['label']}")
    if scheme := found["scheme"]:
        counts = ", ".join(f"{split} {n:,}" for split, n in scheme["splits"].items())
        later = f", the latest is v{scheme['latest']}" if scheme["latest"] != scheme["version"] else ""
        branch = _add(tree, f"scheme {scheme['name']}@v{scheme['version']}{later}: {counts} patients")
        _add_run(branch, scheme["run"])
    for entry in found["inputs"]:
        words = [f"modality {entry['modality']}", entry["aggregation"] or "one row each"]
        branch = _add(tree, f"{entry['alias']} = {entry['encoder']['feature_set']}, {', '.join(words)}", style="bold")
        _add_encoder(branch, entry["encoder"])
        for run in entry["runs"]:
            _add_run(branch, run)
        _add_samples(branch, entry, "" if entry["exact"] else " now; the version doesn't say which went into it")
    for entry in found["tables"]:
        anew = ", taken in anew since" if entry["taken_in_anew"] else ""
        branch = _add(tree, f"table {entry['name']}{anew}", style="bold")
        for run in entry["runs"]:
            _add_run(branch, run)
    for fit in found["fits"]:
        where = f" of {fit['fold']}" if fit["fold"] else ""
        _add(tree, f"fitted on {plural(fit['train_rows'], 'train row')}{where}, hash {fit['train_hash'][:12]}")
    for leak in found["allowed"]:
        _add(tree, f"allowed: {leak['kind']}, {plural(leak['found'], 'case')}: {leak['reason']}", style="bold red")
    return tree


def _feature_set(found: Mapping[str, Any]) -> Tree:
    tree = _tree(f"{found['name']}@v{found['version']}")
    _add_encoder(tree, found["encoder"])
    for run in found["runs"]:
        _add_run(tree, run)
    _add_samples(tree, found, "")
    for table in found["tables"]:
        _add(tree, f"used by {table}")
    return tree


def _add_encoder(branch: Tree, encoder: Mapping[str, Any]) -> None:
    model = encoder["model"]
    how = [f"{key} {encoder[key]}" for key in ("layer", "facet", "pooler") if encoder.get(key)]
    shape = " × ".join(map(str, encoder["shape"]))
    at = _add(branch, ", ".join([encoder["backbone"], *how, f"{shape} {encoder['dtype']}"]))
    weights = [f"weights {encoder['weights'][:12]}"]
    weights += [f"{key} {model[key]}" for key in ("checkpoint", "pretrained", "source") if key in model]
    if encoder["trained_on"]:
        weights.append(f"trained on {plural(encoder['trained_on'], 'patient')}")
    _add(at, ", ".join(weights))
    settings = encoder["preprocessing"] | model.get("settings", {})
    if settings:
        _add(at, "preprocessing " + ", ".join(f"{key} {value}" for key, value in settings.items()))


def _add_run(branch: Tree, run: Mapping[str, Any]) -> None:
    facts = [f"run {run['run_id']}", run["started_at"][:19].replace("T", " ")]
    if "samples" in run:
        facts.append(plural(run["samples"], "sample"))
    facts += [f"{key} {run[key]}" for key in ("device", "threads", "seed") if key in run]
    if git := run.get("git"):
        facts.append(f"git {git['commit'][:9]}{' with changes' if git['dirty'] else ''}")
    facts += [f"{name} {run['packages'][name]}" for name in ("featstore", "torch") if name in run.get("packages", {})]
    _add(branch, ", ".join(facts))


def _add_samples(branch: Tree, entry: Mapping[str, Any], how: str) -> None:
    for counts in entry["samples"]:
        changed = f", {counts['changed']:,} of them changed since" if counts["changed"] else ""
        _add(
            branch,
            f"{plural(counts['samples'], 'sample')} of {plural(counts['patients'], 'patient')}: {counts['dataset']}, "
            f"modality {counts['modality']}{changed}{how}",
        )
    for key in entry.get("sample_keys", ()):
        _add(branch, key)


def _tree(text: str) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    return Tree(Text(text, style="bold"))


def _add(branch: Tree, text: str, *, style: str = "") -> Tree:
    from rich.text import Text

    return branch.add(Text(text, style=style))


# ----------------------------------------------------------------------------------------------------- diff
def _print_diff(found: TableDiff) -> None:
    rows = found.rows
    if found.same:
        bytes_ = "the very same bytes" if found.same_bytes else "every value, though not every byte of the file"
        note(f"{found.before} and {found.after} are the same: recipe, inputs, {rows.common:,} rows, {bytes_}.")
        return
    heads = ["", found.before, found.after]
    for title in ("recipe", "inputs", "scheme", "packages"):
        changes = getattr(found, title)
        if changes:
            print_table(heads, [[c.what, _shown(c.before), _shown(c.after)] for c in changes], title=title.capitalize())
    if rows.common is not None:
        note(f"{rows.common:,} rows in both.")
    _print_keys("added", rows.added)
    _print_keys("lost", rows.lost)
    _print_keys("in another split", rows.split)
    _print_keys("with another label", rows.label)
    if found.columns:
        cells: list[list[Any]] = [[c.fold, c.column, c.change, c.before, c.after] for c in found.columns]
        _print(["fold", "column", "", found.before, found.after], cells, title="Columns")
    if found.values:
        cells = [[c.fold, c.column, c.rows, c.gaps, c.largest, _key(c.row.values())] for c in found.values]
        heads = ["fold", "column", "rows that differ", "only one has it", "largest difference", "in row"]
        _print(heads, cells, title="Values")
    elif rows.common and not found.same_bytes:
        note("Every value that both have is equal.")
    elif found.same_bytes:
        note("The data are the very same bytes.")
    for text in found.not_compared:
        note(f"Not compared: {text}.")


def _print(heads: Sequence[str], cells: Sequence[Sequence[Any]], *, title: str) -> None:
    """Print a table, without the first column where it is empty: there are no folds."""
    start = 0 if any(row[0] for row in cells) else 1
    print_table(heads[start:], [row[start:] for row in cells], title=title)


def _print_keys(what: str, rows: pa.Table) -> None:
    if not rows.num_rows:
        return
    shown = rows.slice(0, SHOWN)
    print_table(
        shown.column_names, [list(row.values()) for row in shown.to_pylist()], title=f"Rows {what}: {len(rows):,}"
    )
    if len(rows) > SHOWN:
        note(f"… {len(rows) - SHOWN:,} more; --json names all.")


def _key(words: Iterable[str | None]) -> str:
    return ", ".join(word or "" for word in words)


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
