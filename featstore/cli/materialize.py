"""materialize."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, note_lookalikes, plural, print_json, print_table

if TYPE_CHECKING:
    from featstore.store import Store
    from featstore.tables import MaterializeResult


@click.command()
@with_store
@click.option("--name", required=True, help="Name of the training table.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="[ALIAS=]NAME[@vK][/MODALITY][:AGG]",
    help="Repeatable; AGG pools a patient's rows.",
)
@click.option("--table", "tables", multiple=True, help="A table taken in by ingest-table; repeatable.")
@click.option("--numeric", multiple=True, metavar="COLUMN", help="A number to fuse; repeatable.")
@click.option("--categorical", multiple=True, metavar="COLUMN", help="A category to fuse, one-hot; repeatable.")
@click.option("--label", default="label", show_default=True, help="label, TABLE.COLUMN, or none.")
@click.option("--scheme", help="The split scheme; what is learned is learned from its train rows only.")
@click.option("--where", metavar="SQL", help="Condition on the view samples.")
@click.option("--join", type=click.Choice(["inner", "left", "outer"]), default="inner", show_default=True)
@click.option("--fuser", default="concat", show_default=True)
@click.option(
    "--impute",
    type=click.Choice(["none", "mean"]),
    default="none",
    show_default=True,
    help="For missing values; has_ columns say where.",
)
@click.option("--standardize", is_flag=True, help="To zero mean and unit variance.")
@click.option("--pca", type=float, metavar="N", help="Components, or a share of the variance below 1.")
@click.option("--out", metavar="FILE", help="Also write it there: .parquet, .csv, .npy, .h5, .zarr, .h5ad.")
@click.option("--wide", is_flag=True, help="One column a feature in --out.")
@json_option
def materialize(store: Store, as_json: bool, **fields: Any) -> None:
    """Make a versioned training table: align by patient, fit on train, fuse, write."""
    result = store.materialize(**fields)
    if as_json:
        print_json(asdict(result))
        return
    _print_report(result)
    state = "is unchanged" if result.unchanged else "was written"
    shape = f"{plural(result.rows, 'row')} × {result.width} fused features"
    note(f"{result.name}@v{result.version} {state}: {shape}, {result.path}")
    if result.out:
        note(f"Exported to {result.out}.")


def _print_report(result: MaterializeResult) -> None:
    report = result.report
    inputs = [
        [alias, facts["feature_set"], facts["modality"], facts["aggregation"] or "", facts["patients"],
         facts["samples"], facts["failed_samples"], facts["pending_samples"], facts["missing"]]
        for alias, facts in report["inputs"].items()
    ]  # fmt: skip
    print_table(
        ["input", "feature set", "modality", "aggregation", "patients", "samples", "failed", "pending", "missing here"],
        inputs, title="Inputs",
    )  # fmt: skip
    if pending := sum(facts["pending_samples"] for facts in report["inputs"].values()):
        note(f"{plural(pending, 'sample')} have no current vector and are left out.\n  next: featstore extract")
    for name, facts in report["tables"].items():
        gaps = "".join(f", {column} is missing for {n}" for column, n in facts["gaps"].items())
        note(f"Table {name!r}: {facts['rows']:,} rows, {facts['patients']:,} of them patients here{gaps}.")
        for theirs, ours in facts["lookalikes"]:
            note(f"  {theirs!r} matches nobody, but looks like the patient {ours!r}.")
        for column, values in facts["unseen"].items():
            note(f"  {column} has values that no train row has, encoded as zeros: {', '.join(values[:5])}.")
    note_lookalikes(report["lookalikes"])
    if report["nearly_constant"]:
        note(
            f"{plural(report['nearly_constant'], 'feature')} hardly vary among the train rows; standardized, they can "
            "be very large in other splits. Look at the range of fused before a model does."
        )
    for lost in report["lost"]:
        such_as = ", ".join(lost["such_as"][:3])
        note(f"{plural(lost['patients'], 'patient')} left out, {lost['reason']}, such as {such_as}.")
    labels = sorted({label for counts in report["by_split"].values() for label in counts["labels"]})[:8]
    print_table(
        ["split", "rows", *(f"label {label}" for label in labels)],
        [
            [split or "(none)", counts["rows"], *(counts["labels"].get(label, 0) for label in labels)]
            for split, counts in report["by_split"].items()
        ],
        title="Rows",
    )  # fmt: skip
