"""materialize."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.alignment import print_report
from featstore.cli.options import json_option, pairs, with_store
from featstore.cli.output import note, plural, print_json

if TYPE_CHECKING:
    from featstore.store import Store
    from featstore.tables import MaterializeResult


@click.command()
@with_store
@click.argument("recipe", required=False, metavar="[RECIPE.yaml]")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change the recipe file's; repeatable.")
@click.option("--name", help="Name of the training table.")
@click.option(
    "--entity",
    type=click.Choice(["patient", "visit", "sample"]),
    default="patient",
    show_default=True,
    help="What a row is.",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[ALIAS=]NAME[@vK][/MODALITY][:AGG]",
    help="Repeatable; AGG pools a row's samples.",
)
@click.option(
    "--input-step",
    "input_steps",
    multiple=True,
    metavar="ALIAS=STEP",
    help="What an input or table goes through before the fuser; repeatable.",
)
@click.option(
    "--max-samples-per-patient",
    "max_samples",
    type=int,
    metavar="N",
    help="Pool at most N samples of a row, spread evenly.",
)
@click.option("--order-by", metavar="COLUMN", help="acquired_at or an attribute, for poolers such as first and last.")
@click.option("--table", "tables", multiple=True, help="A table taken in by ingest-table; repeatable.")
@click.option("--numeric", multiple=True, metavar="[TABLE.]COLUMN", help="A number to fuse; repeatable.")
@click.option("--categorical", multiple=True, metavar="[TABLE.]COLUMN", help="A category to fuse; repeatable.")
@click.option("--encode", multiple=True, metavar="[TABLE=]onehot|ordinal", help="How categories become numbers.")
@click.option("--as-of", metavar="acquired_at|TABLE.COLUMN", help="The time of a row: nothing later is joined to it.")
@click.option(
    "--time",
    multiple=True,
    metavar="[TABLE.]COLUMN",
    help="When a dated table's rows are from: the latest before --as-of counts.",
)
@click.option("--within", multiple=True, metavar="[TABLE=]90d", help="How old they may be: 90d, 12h, 4w.")
@click.option("--label", metavar="label|TABLE.COLUMN|none", help="Default: label, the patients' own.")
@click.option("--label-kind", type=click.Choice(["classes", "number"]), help="Default: number where it is a float.")
@click.option("--survival", metavar="TIME,EVENT", help="In place of --label: TABLE.COLUMN each.")
@click.option("--scheme", help="The split scheme; what is learned is learned from its train rows only.")
@click.option("--where", metavar="SQL", help="Condition on the view samples.")
@click.option(
    "--join",
    type=click.Choice(["inner", "left", "outer"]),
    help="Rows with every input (inner, the default), with the first, with any.",
)
@click.option("--min-modalities", type=int, metavar="K", help="In place of --join: rows with at least K inputs.")
@click.option(
    "--missing",
    metavar="none|mean|median|zero|knn",
    help="What fills missing values; has_ columns say where. Default: none.",
)
@click.option("--impute", type=click.Choice(["none", "mean"]), help="--missing, by its former name.")
@click.option("--fuser", default="concat", show_default=True)
@click.option(
    "--step",
    "steps",
    multiple=True,
    metavar="NAME[(ARGS)]",
    help="What the fused vector goes through: standardize, 'pca(32)'; repeatable, in order.",
)
@click.option("--standardize", is_flag=True, help="--step standardize: zero mean and unit variance.")
@click.option("--pca", type=float, metavar="N", help="Then --step 'pca(N)': components, or a share of the variance.")
@click.option(
    "--near-duplicates", type=float, metavar="COSINE", help="Refuse vectors of two splits' patients that are so alike."
)
@click.option(
    "--allow",
    multiple=True,
    metavar="KIND=REASON",
    help="A leak that is known and wanted, such as same-content; the reason is kept. Repeatable.",
)
@click.option("--out", metavar="FILE", help="Also write it there: .parquet, .csv, .npy, .npz, .h5, .zarr, .h5ad.")
@click.option("--wide", is_flag=True, help="One column a feature in --out.")
@json_option
def materialize(store: Store, as_json: bool, **given: Any) -> None:
    """Make a versioned training table: align by patient, fit on train, fuse, write.

    From a recipe file, or from flags; `featstore show TABLE --recipe` prints either as a file.

    \b
    featstore materialize grade.yaml --set scheme=cv --out grade.parquet
    featstore materialize --name grade --input a=r18/A:mean --scheme default --step standardize --step 'pca(32)'
    """  # fmt: skip
    file, settings = given.pop("recipe"), given.pop("settings")
    given["allow"] = pairs(given["allow"], "--allow")
    result = _from_file(store, file, settings, **given) if file else _from_flags(store, settings, **given)
    if as_json:
        print_json(asdict(result))
        return
    print_report(result.report, result.path, unchanged=result.unchanged)
    state = "is unchanged" if result.unchanged else "was written"
    shape = f"{plural(result.rows, 'row')} × {result.width} fused features"
    note(f"{result.name}@v{result.version} {state}: {shape}, {result.path}")
    if result.out:
        note(f"Exported to {', '.join(map(str, result.out))}.")


def _from_file(
    store: Store, file: str, settings: Sequence[str], *, name: str | None, allow: Mapping[str, str], out: str | None,
    wide: bool, **flags: Any,
) -> MaterializeResult:  # fmt: skip
    context = click.get_current_context()
    left = {click.core.ParameterSource.DEFAULT, click.core.ParameterSource.DEFAULT_MAP}
    words = {p.name: p.opts[0] for p in context.command.params}
    beside = sorted(words[key] for key in flags if context.get_parameter_source(key) not in left)
    if beside:
        raise click.UsageError(
            f"{', '.join(beside)} can't stand beside a recipe file, which says it itself: change the file, or use "
            "--set KEY=VALUE."
        )
    from featstore.tables import recipe_file

    recipe = recipe_file.read(Path(file), settings=settings, name=name, allow=allow)
    return store.materialize(recipe, out=out, wide=wide)


def _from_flags(store: Store, settings: Sequence[str], **fields: Any) -> MaterializeResult:
    if settings:
        raise click.UsageError("--set changes a recipe file, and none is given.")
    for key, flag in (("name", "--name"), ("inputs", "--input")):
        if not fields[key]:
            raise click.UsageError(f"Missing option '{flag}', or a recipe file.")
    return store.materialize(**fields)
