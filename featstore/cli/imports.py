"""import."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.extract import FAILED_INPUTS
from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, note_lookalikes, plural, print_json
from featstore.errors import UsageError

if TYPE_CHECKING:
    from featstore.imports import ImportResult
    from featstore.store import Store


@click.command("import")
@with_store
@click.argument("source", metavar="FILE_OR_FOLDER")
@click.option("--name", required=True, help="Name of the feature set.")
@click.option("--index", metavar="FILE", help="A CSV or Parquet that says which sample each row is.")
@click.option(
    "--key",
    metavar="COLUMN",
    help="What names the rows, in the index and the file (sample_key, key, id, image_path, path, file).",
)
@click.option("--in-order", is_flag=True, help="The index has the rows of the file, in its order.")
@click.option("--vectors", metavar="COLUMN", help="The vectors' column, or what their numbered columns begin with.")
@click.option(
    "--layout", metavar="TEMPLATE", help="Of a folder's files, such as '{split}/{modality}/{patient_id}.npy'."
)
@click.option("--dataset", help="First part of the sample keys that are made of another key (NAME).")
@click.option("--modality", help="The modality, where nothing else says it.")
@click.option("--patient-id", metavar="TEMPLATE", help="Make patient ids of columns: '{site}-{patient_id}'.")
@click.option("--label-type", type=click.Choice(["int", "float", "str"]), help="Type of the labels.")
@click.option("--same-patients-across-sites", is_flag=True, help="One id under two sites is one person.")
@click.option("--new-samples", is_flag=True, help="Make those samples that aren't in the store, beside those that are.")
@click.option("--new-version", is_flag=True, help="Keep the vectors as a new version, beside those of the same origin.")
@click.option("--backbone", default="unknown", help="What made the vectors, in your words.")
@click.option("--model-version", default="unknown", help="Which weights it had, in your words.")
@click.option("--layer", default="unknown", help="Of the backbone, in your words.")
@click.option("--pooler", default="unknown", help="How they were pooled, in your words.")
@click.option("--shape", metavar="N,M", help="Of one vector that the file has in a row: tokens in a CSV.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="To store them in (as they come).")
@json_option
def import_(store: Store, source: str, shape: str | None, as_json: bool, **options: Any) -> int:
    """Take in features that were extracted elsewhere: a FILE, or a FOLDER of files.

    \b
    .npy               with --index META.csv, by its column row or --in-order
    .csv .parquet      one list column or numbered columns; rows have their key
    .h5 .h5ad .h5mu    features/feats, with coords; or a data set a partition
    FOLDER             of .npy or .h5 by --layout; clip-retrieval's; a Zarr group
    """
    if shape is not None:
        if not re.fullmatch(r"[0-9]+(,[0-9]+)?", shape):
            raise UsageError(f"--shape {shape!r} isn't N or N,M, such as 962,768.")
        options["shape"] = tuple(map(int, shape.split(",")))
    result = store.import_features(source, **options)
    failed = result.failed + result.failed_before
    if as_json:
        print_json(asdict(result))
    else:
        _say(result)
        if failed:
            note("  next: featstore errors   (mend the file, then import it again)")
    return FAILED_INPUTS if failed else 0


def _say(result: ImportResult) -> None:
    shape = " × ".join(map(str, result.shape))
    name = f"{result.name}@v{result.version}" if result.version else result.name
    facts = [f"{plural(result.added, 'vector')} of {shape} {result.dtype} imported", f"{result.unchanged:,} unchanged"]
    if result.failed or result.failed_before:
        facts.append(f"{result.failed:,} failed (NaN, infinite or too large)")
    if result.failed_before:
        facts.append(f"{result.failed_before:,} failed before")
    note(f"{name}: {', '.join(facts)}.")
    by = "in order, as you said" if result.in_order else f"by {result.key}" if result.key else ""
    by = by or ("by their coordinates" if result.coordinates else "by their places")
    made = f"{plural(result.samples_added, 'sample')} and {plural(result.patients_added, 'patient')} made"
    note(f"Rows matched {by}; {made if result.samples_added else 'no sample is new'}.")
    if result.in_order and result.key:
        note(f"They are called by {result.key}.")
    if result.source_dtype not in (result.dtype, "text") and result.source_dtype != "float16":
        note(f"The values were {result.source_dtype}, and are rounded to {result.dtype}.")
    if result.other_versions:
        others = ", ".join(f"v{version}" for version in result.other_versions)
        note(f"{result.name} has other versions, made otherwise or of other vectors: {others}.")
    if result.ignored:
        count = plural(len(result.ignored), "column")
        are, were = ("is", "was") if len(result.ignored) == 1 else ("are", "were")
        note(f"{count} of samples that are in the store {are} new, and {were} left out: {', '.join(result.ignored)}.")
    if result.unmatched:
        count = plural(len(result.unmatched), "file")
        note(f"{count} with vectors matched no layout and were left out, such as {result.unmatched[0]!r}.")
    note_lookalikes(result.lookalikes)
    if result.known_elsewhere:
        note(
            f"{plural(result.known_elsewhere, 'patient')} known already from other data sets, such as "
            f"{', '.join(result.known_such_as)}: taken for the same people."
        )
