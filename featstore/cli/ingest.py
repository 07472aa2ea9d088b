"""ingest, ingest-table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, note_lookalikes, note_unmatched, plural, print_json
from featstore.errors import UsageError

if TYPE_CHECKING:
    from featstore.store import Store


@click.command()
@with_store
@click.argument("root", required=False, metavar="[FOLDER|FILE|URL]")
@click.option(
    "--layout",
    "layouts",
    multiple=True,
    help="Path template below FOLDER; the first that matches wins; repeatable. Or 'dicom': the headers tell.",
)
@click.option(
    "--expand",
    multiple=True,
    metavar="KEY=VALUE,…",
    help="How files become samples: axis=2,step=3 (NIfTI), axis=0 (NPY), text=COLUMN (CSV).",
)
@click.option(
    "--mask-layout",
    metavar="TEMPLATE",
    help="Where a sample's mask is: '{folder}/{stem}_mask.png'; for region poolers.",
)
@click.option(
    "--manifest",
    metavar="FILE",
    help="A CSV or Parquet with path, patient_id, modality [, label, site, split, mask_uri, …].",
)
@click.option(
    "--root", "manifest_root", metavar="DIR", help="Where a manifest's relative paths start (its own folder)."
)
@click.option("--dataset", help="First part of the sample keys (the folder's or manifest's name).")
@click.option("--patient-id", metavar="TEMPLATE", help="Make patient ids of fields, such as '{site}-{patient_id}'.")
@click.option("--modality", help="The modality, where the layout doesn't say it: a name, or a template.")
@click.option(
    "--label-type",
    type=click.Choice(["int", "float", "str"]),
    help="Type of labels that no layout gives (a manifest's is told from the text).",
)
@click.option("--same-patients-across-sites", is_flag=True, help="One id under two sites is one person.")
@click.option("--allow-missing", is_flag=True, help="Take a manifest's rows whose files aren't there.")
@json_option
def ingest(
    store: Store,
    root: str | None,
    layouts: tuple[str, ...],
    expand: tuple[str, ...],
    mask_layout: str | None,
    manifest: str | None,
    manifest_root: str | None,
    dataset: str | None,
    patient_id: str | None,
    modality: str | None,
    label_type: Any,
    same_patients_across_sites: bool,
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Take samples into the catalog: files of a FOLDER or URL by --layout, those of a --manifest, or one FILE's parts.

    HDF5 rows and DICOM frames are samples of their own; NIfTI volumes, arrays and tables of texts with --expand.

    \b
    A layout names parts of the path: {patient_id} and {modality}, {label}, {site}, {visit_id},
    {acquired_at}, {split}; other names become attributes. {label:int} and {label:float} are numbers.
    """
    if (root is None) == (manifest is None):
        raise UsageError("Give either a FOLDER with --layout, a FILE that holds samples, or a --manifest.")
    if root is not None:
        for value, flag in ((manifest_root, "--root"), (allow_missing, "--allow-missing")):
            if value:
                raise UsageError(f"{flag} goes with a --manifest.")
        result = store.ingest(
            root, layouts=layouts, expand=expand, mask_layout=mask_layout, dataset=dataset, patient_id=patient_id,
            modality=modality, label_type=label_type, same_patients_across_sites=same_patients_across_sites,
        )  # fmt: skip
    else:
        if layouts or modality or mask_layout:
            raise UsageError(
                "--layout, --mask-layout and --modality go with a FOLDER, not with a --manifest.",
                hint="a manifest says it in its columns, a mask in mask_uri",
            )
        assert manifest is not None
        result = store.ingest_manifest(
            manifest, root=manifest_root, expand=expand, dataset=dataset, patient_id=patient_id, label_type=label_type,
            allow_missing=allow_missing, same_patients_across_sites=same_patients_across_sites,
        )  # fmt: skip
    if as_json:
        print_json(asdict(result))
        return
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(result.modalities.items()))
    note(
        f"Data set {result.dataset!r}: {plural(result.added, 'sample')} added, {result.changed:,} changed, "
        f"{result.unchanged:,} unchanged; {plural(result.patients_added, 'new patient')}. By modality: {counts}."
    )
    if result.alone:
        note(
            f"Nothing says which patients {plural(result.alone, 'sample')} are of: each is an entity of its own "
            "(--patient-id TEMPLATE says otherwise)."
        )
    if result.masked:
        note(f"With a mask: {plural(result.masked, 'sample')}.")
    if result.unclaimed:
        note(
            f"{plural(len(result.unclaimed), 'mask')} belong to no sample and were left out, such as "
            f"{result.unclaimed[0]!r}."
        )
    if result.unmatched:
        note(
            f"{plural(len(result.unmatched), 'file')} matched no layout and were left out, "
            f"such as {result.unmatched[0]!r}."
        )
    if result.unreadable:
        reasons: dict[str, list[str]] = {}
        for path, why in result.unreadable.items():
            reasons.setdefault(why, []).append(path)
        note(f"{plural(len(result.unreadable), 'file')} can't be read:")
        for why, paths in sorted(reasons.items(), key=lambda item: -len(item[1]))[:8]:
            note(f"  {len(paths):,}, such as {paths[0]!r}: {why}")
        if result.left_out:
            note(f"  {result.left_out:,} of them were left out: nothing else says whose they are.")
        if result.left_out < len(result.unreadable):
            note(f"  {len(result.unreadable) - result.left_out:,} were taken all the same, and fail when extracted.")
        note("  next: mend those that should have been read, and ingest again")
    if result.replaced:
        note(f"{plural(result.replaced, 'file')} without vectors gave way to the samples that they hold.")
    note_lookalikes(result.lookalikes)
    if result.known_elsewhere:
        note(
            f"{plural(result.known_elsewhere, 'patient')} known already from other data sets, such as "
            f"{', '.join(result.known_such_as)}.\n  next: nothing, if they are the same people; if not, begin anew in "
            "another store, with --patient-id '{dataset}-{patient_id}'"
        )
    if result.missing:
        note(f"{plural(result.missing, 'sample')} of this data set were not seen this time; they stay in the catalog.")
    if result.changed:
        note("Changed files are pending again: featstore extract makes their vectors anew.")


@click.command("ingest-table")
@with_store
@click.argument("file")
@click.option("--name", required=True, help="What the table is called in SQL and in --table.")
@click.option("--time", metavar="COLUMN", help="It is dated: one row a patient and time, as laboratory values are.")
@click.option("--replace", is_flag=True, help="Put these rows in place of those of that name.")
@json_option
def ingest_table(store: Store, file: str, name: str, time: str | None, replace: bool, as_json: bool) -> None:
    """Keep a CSV or Parquet, keyed by patient_id, as a table of the catalog."""
    result = store.ingest_table(file, name=name, time=time, replace=replace)
    if as_json:
        print_json(asdict(result))
        return
    what = f"{plural(result.rows, 'row')}, columns {', '.join(f'{c} ({t})' for c, t in result.columns.items())}"
    note(f"Table {name!r}: {what}." if result.run_id else f"Table {name!r} holds these very rows already.")
    if lost := result.patients - result.known:
        note(f"{lost:,} of its {plural(result.patients, 'patient')} {'has' if lost == 1 else 'have'} no samples here.")
    note_unmatched(result.lookalikes)
