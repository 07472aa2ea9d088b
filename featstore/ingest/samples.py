"""From files found to rows of the catalog, with identity checked at the door."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.catalog import identity
from featstore.catalog import samples as catalog
from featstore.catalog.connection import Catalog, registered
from featstore.errors import ConflictError, InputError, UsageError
from featstore.ingest.columns import infer
from featstore.ingest.layout import FIELDS, LabelType, fill
from featstore.ingest.manifest import label_type_of
from featstore.ingest.scan import Found, Scan
from featstore.keys import check_name, split_fragment
from featstore.locations import is_url, join
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now

if TYPE_CHECKING:
    import pyarrow as pa

#: Rows that are Python objects at once, before they are Arrow's: those take several times the memory.
PART = 100_000
#: Fields in which a space around the value would make another value of it, unseen.
_SPACELESS = ("patient_id", "modality", "site", "visit_id", "split")


@dataclass(slots=True)
class IngestResult:
    """What an ingest did.

    Attributes:
        run_id: the run; None where nothing was new.
        added, changed, unchanged: samples. A changed one has other bytes by size or time, and is pending again.
        missing: samples of this data set that the catalog knows and this ingest did not see.
        unmatched: files that no layout matched.
        masked: samples of this ingest that have a mask.
        unclaimed: masks, by --mask-layout, that belong to no sample; they were left out.
        lookalikes: patients of this ingest and others whose ids look alike ("007" and "7"): the first 20 pairs.
        known_elsewhere: patients new to this data set of whom others have samples; they may be other people.
        known_such_as: the first five of them.
        alone: samples that nothing says a patient of: each is an entity of its own.
        unreadable: files whose samples can't be listed, with the reason. Those of which it is known what they are, by
            layout or manifest, were taken whole, to fail when they are extracted; the others were left out.
        left_out: of the unreadable.
        replaced: samples that were whole files without vectors, and whose parts are samples now.
    """

    dataset: str
    run_id: str | None
    added: int
    changed: int
    unchanged: int
    patients_added: int
    missing: int
    unmatched: list[str] = field(default_factory=list)
    modalities: dict[str, int] = field(default_factory=dict)
    lookalikes: list[tuple[str, str]] = field(default_factory=list)
    known_elsewhere: int = 0
    known_such_as: list[str] = field(default_factory=list)
    masked: int = 0
    unclaimed: list[str] = field(default_factory=list)
    alone: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    replaced: int = 0


def add_samples(
    store: Path,
    catalog_file: Catalog,
    plugins: Plugins,
    scan: Scan,
    *,
    root: str | os.PathLike[str],
    dataset: str,
    patient_id: str | None = None,
    modality: str | None = None,
    label_type: LabelType | None = None,
    same_patients_across_sites: bool = False,
) -> IngestResult:
    """Check what was found, keep its rows in a run, and put them into the catalog in one transaction.

    Args:
        root: the folder or URL that ``scan``'s paths are below.
        dataset: the first part of every sample key.
        patient_id: a template that makes the id from other fields, such as ``{site}-{patient_id}``.
        modality: for trees that don't say it; may be a template of what the files say, ``{modality}-{series}``.
        label_type: of the labels, where ``scan`` doesn't tell.
        same_patients_across_sites: one id under two sites is one person.

    Raises:
        UsageError, ConflictError: what is wrong and in which rows; the store is as it was.
    """
    started = utc_now()
    check_name(dataset, "data set", hint="name it with --dataset NAME")
    root = os.fspath(root) if is_url(os.fspath(root)) else str(Path(root).resolve())
    if label_type and scan.label_type not in (None, label_type):
        raise UsageError(f"--label-type {label_type} is not what the layout says, {{label:{scan.label_type}}}.")
    scan.label_type = scan.label_type or label_type or _told_type(scan)
    rows = sample_rows(scan, root, dataset, patient_id, modality)
    unreadable = {item.path: item.error for item in scan.found if item.error}
    if not rows.num_rows:
        path, why = next(iter(unreadable.items()))
        raise InputError(f"None of the files can be read. {path!r}: {why}")
    paths = [f.path for f in scan.found] + [f.mask.path for f in scan.found if f.mask]
    files = dict.fromkeys(split_fragment(path)[0] for path in paths)
    unknown = [file for file in files if not plugins.reads(file)]
    if unknown:
        raise UsageError(
            f"{len(unknown)} of the files can't be read by any reader, such as {unknown[0]!r}.",
            hint="narrow the layout (… /*.png), or see: featstore ls plugins",
        )
    modalities = {pair["values"]: pair["counts"] for pair in rows.column("modality").value_counts().to_pylist()}
    # The transaction is the outer one: an interrupt after the commit must not take the run's folder away again.
    with catalog_file.write() as connection, RunFolder.creating(store, "ingest") as create_run:
        checks = catalog.Checks(same_patients_across_sites=same_patients_across_sites)
        counts = catalog.compare(connection, rows, dataset, root, checks)
        result = IngestResult(
            dataset, None, counts.added, counts.changed, counts.unchanged, counts.patients_added, counts.missing,
            scan.unmatched, modalities, masked=sum(item.mask is not None for item in scan.found),
            unclaimed=scan.unclaimed, alone=sum(_is_alone(item, patient_id) for item in scan.found),
            unreadable=unreadable, left_out=len(scan.found) - rows.num_rows, replaced=counts.replaced,
        )  # fmt: skip
        with registered(connection, incoming=rows):
            patients = "SELECT patient_id FROM incoming"
            result.lookalikes = identity.lookalikes(connection, patients)
            result.known_elsewhere, result.known_such_as = identity.known_elsewhere(connection, patients, dataset)
        if not counts.anything:
            return result
        run = create_run()
        run.save_rows("samples", rows)
        request = {"dataset": dataset, "root": root, "same_patients": same_patients_across_sites}
        facts = finished("ingest", started, request, plugins)
        run.record(**facts)
        catalog.apply(connection, rows, run.run_id, facts, counts)
        result.run_id = run.run_id
    return result


def _told_type(scan: Scan) -> LabelType | None:
    """How labels come back that the files themselves give: told from their text, as a manifest's are."""
    import pyarrow as pa

    labels = [label for item in scan.found if (label := item.said.get("label")) is not None]
    return label_type_of(infer(pa.chunked_array([labels], pa.string()))) if labels else None


def _is_alone(item: Found, template: str | None) -> bool:
    """Whether a sample is an entity of its own: a row of a data set, and nothing says whose."""
    return item.alone and template is None and not (item.fields.get("patient_id") or item.said.get("patient_id"))


def sample_rows(scan: Scan, root: str, dataset: str, template: str | None, modality: str | None) -> pa.Table:
    """The rows to be, one a sample, as an Arrow table with the columns of :data:`catalog.SCHEMA`."""
    import pyarrow as pa

    parts = [
        _part(scan.found[start : start + PART], scan, root, dataset, template, modality)
        for start in range(0, len(scan.found), PART)
    ]
    return pa.concat_tables(parts)


def _part(
    found: Sequence[Found],
    scan: Scan,
    root: str,
    dataset: str,
    template: str | None,
    modality: str | None,
) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, list[object]] = {name: [] for name in catalog.SCHEMA.names}
    for item in found:
        key = f"{dataset}/{item.path.lstrip('/')}"
        fields = _fields(item, key, dataset, template, modality)
        if item.error and not (fields.get("patient_id") and fields.get("modality")):
            continue  # what it doesn't say can't be known: it is left out, and the user is told
        _check_fields(fields, item)
        columns["sample_key"].append(key)
        columns["uri"].append(_uri(root, item.path))
        columns["size"].append(item.size)
        columns["mtime_ns"].append(item.mtime_ns)
        columns["label"].append(_label(fields.get("label"), scan.label_type, item))
        columns["acquired_at"].append(_time(fields.get("acquired_at"), item))
        for name in ("patient_id", "modality", "site", "visit_id", "split"):
            columns[name].append(fields.get(name) or None)
        columns["mask_uri"].append(_uri(root, item.mask.path) if item.mask else None)
        columns["mask_size"].append(item.mask.size if item.mask else None)
        columns["mask_mtime_ns"].append(item.mask.mtime_ns if item.mask else None)
        columns["masks_told"].append(scan.masks_told)
        columns["attributes"].append(sorted((k, v) for k, v in fields.items() if k not in FIELDS))
    columns["label_type"] = [None if label is None else (scan.label_type or "str") for label in columns["label"]]
    return pa.table(columns, schema=catalog.SCHEMA)


def _fields(item: Found, key: str, dataset: str, template: str | None, modality: str | None) -> Mapping[str, str]:
    """What is known of a sample: the layout's or manifest's word goes first, then the user's, then the file's own."""
    fields = {**item.said, **item.fields} if item.said else dict(item.fields)
    if modality is not None and "modality" not in item.fields:
        fields["modality"] = fill(modality, fields | {"sample_key": key, "dataset": dataset}, "--modality")
    if template is not None:
        words = fields | {"sample_key": key, "dataset": dataset, "path": split_fragment(item.path)[0]}
        fields["patient_id"] = fill(template, words, "--patient-id")
    elif _is_alone(item, template):
        fields["patient_id"] = key
    return fields


def _check_fields(fields: Mapping[str, str], item: Found) -> None:
    if not fields.get("patient_id"):
        raise UsageError(
            f"Nothing says which patient {item.path!r} is of.",
            hint="put {patient_id} into the layout, or give --patient-id TEMPLATE "
            "('{sample_key}' where each sample stands for itself, '{patient_id|visit_id}' takes the visit where there "
            "is no patient)",
        )
    if not fields.get("modality"):
        raise UsageError(
            f"Nothing says which modality {item.path!r} is.",
            hint="put {modality} into the layout, or give --modality NAME",
        )
    for name in _SPACELESS:
        if (value := fields.get(name)) is not None and value != value.strip():
            raise ConflictError(
                f"{name} {value!r} of {item.path!r} has spaces around it.",
                hint=f"correct the {name}: with and without spaces it would be two",
            )
    if split := fields.get("split"):
        check_name(split, "split")


def _uri(root: str, path: str) -> str:
    file, fragment = split_fragment(path)
    uri = _file_uri(root, file)
    return uri if fragment is None else f"{uri}#{fragment}"


@lru_cache(maxsize=64)  # the rows of one file come one after the other
def _file_uri(root: str, file: str) -> str:
    uri = join(root, file)
    if split_fragment(uri)[1] is not None:
        raise UsageError(
            f"The name {uri!r} can't be told from a part of a file, because of its '#'.",
            hint="rename the file or folder",
        )
    return uri


def _label(text: str | None, kind: LabelType | None, item: Found) -> str | None:
    """A label's canonical text: "03" and "3" are one class where labels are whole numbers."""
    if text is None or text == "":
        return None
    try:
        if kind == "int":
            return str(int(re.sub(r"\.0*$", "", text)))  # "1.0": whole numbers beside a missing one, saved by pandas
        if kind == "float":
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
            return repr(value)
    except ValueError:
        raise ConflictError(f"The label {text!r} of {item.path!r} is no {kind}.") from None
    return text


def _time(text: str | None, item: Found) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConflictError(
            f"acquired_at {text!r} of {item.path!r} is no ISO 8601 time.",
            hint="write 2026-01-31 or 2026-01-31T09:30",
        ) from None
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
