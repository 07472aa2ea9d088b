"""export."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, plural, print_json

if TYPE_CHECKING:
    from featstore.store import Store


@click.command()
@with_store
@click.argument("names", nargs=-1, required=True, metavar="NAME[@vK]...")
@click.option(
    "--out", required=True, metavar="PATH", help="A file, replaced when the new one is complete; or a folder."
)
@click.option(
    "--format",
    metavar="FORMAT",
    help="npy, npz, csv, h5, parquet, zarr, tree, h5ad, h5mu, or a plugin's; else the ending of --out says it.",
)
@click.option("--split", help="Only this split.")
@click.option("--fold", type=int, help="Of a table of folds: this one.")
@click.option("--scheme", help="The split scheme (default).")
@click.option("--modality", help="Only this modality.")
@click.option("--where", metavar="SQL", help="Condition on the view samples.")
@click.option(
    "--layout",
    metavar="TEMPLATE",
    help="Which rows go together, in formats that group: the file of a tree ({modality}/{patient_id}.npy), the data "
    "set of an h5 or zarr ({split}).",
)
@click.option("--wide", is_flag=True, help="One column a feature, where the format has columns.")
@json_option
def export(store: Store, names: tuple[str, ...], as_json: bool, **fields: Any) -> None:
    """Write the vectors of a feature set, or a training table, to a file or folder for the next tool.

    NAME is a feature set, or a training table (features/NAME, tables/NAME where both have it). h5mu takes several
    feature sets. tree and zarr make folders.
    """
    result = store.export(*names, **fields)
    if as_json:
        print_json(asdict(result))
        return
    for item in result.contents:
        shape = " × ".join(map(str, item.shape[1:]))
        note(f"{item.name}@v{item.version}: {plural(item.shape[0], 'row')} of {shape} {item.dtype}.")
    note(
        f"Exported to {result.out} ({result.format}): {plural(result.files, 'file')}, {plural(result.nbytes, 'byte')}."
    )
