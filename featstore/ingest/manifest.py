"""Manifests: a table with one row a sample."""

from __future__ import annotations

import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from featstore import locations
from featstore.errors import NotFoundError, UsageError
from featstore.ingest.columns import as_text, check_ids, read_rows, require
from featstore.ingest.layout import FIELDS, LabelType
from featstore.ingest.scan import Found, Mask, Scan
from featstore.keys import split_fragment

if TYPE_CHECKING:
    import pyarrow as pa

#: Files behind URLs that are asked about at once.
_AT_ONCE = 32


def read_manifest(
    path: Path,
    *,
    root: str | os.PathLike[str] | None = None,
    label_type: LabelType | None = None,
    allow_missing: bool = False,
) -> Scan:
    """Read a CSV or Parquet manifest.

    Columns: ``path`` (absolute, a URL, or below ``root``; may end with a ``#fragment``), ``patient_id``, ``modality``,
    and if wanted ``label, site, visit_id, acquired_at, split`` and ``mask_uri`` (the file that marks the sample's
    region, as ``path`` is; ``seg.png#label=1,2`` takes labels of a label map); every other column becomes an attribute.
    Empty cells, ``NA``, ``NaN`` and ``NULL`` are no value.

    Args:
        root: the folder or URL where relative paths start; the manifest's own folder if not given.
        label_type: how labels come back; told from their text if not given.
        allow_missing: take rows whose file isn't there; each becomes a failure when it is extracted.

    Raises:
        NotFoundError: a required column, or files, are missing. ConflictError: ids that are missing.
        UsageError: no rows.
    """
    text = ["path", "mask_uri", *(field for field in FIELDS if field not in {"label", "acquired_at"})]
    # Only labels are typed, and not even they where the type is given: an attribute "1.50" isn't 1.5.
    rows = read_rows(path, text=text, typed=["label"] if label_type is None else [])
    require(rows, ["path", "patient_id", "modality"], f"The manifest {path.name}")
    if not rows.num_rows:
        raise UsageError(f"The manifest {path.name} has no rows.")
    for name in ("path", "patient_id", "modality"):
        check_ids(rows.column(name), name)
    if "label" in rows.column_names:
        label_type = label_type or label_type_of(rows.column("label"))
    columns = {name: texts_of(rows.column(name), name) for name in rows.column_names}
    paths = [text or "" for text in columns.pop("path")]
    masks = columns.pop("mask_uri", None) or [None] * len(paths)
    base = os.fspath(root or path.parent)
    base = locations.check_url(base) if locations.is_url(base) else str(Path(base).resolve())
    found, missing = [], []
    stats = _stats(base, {text for text in (*paths, *masks) if text is not None})
    for position, (text_path, text_mask) in enumerate(zip(paths, masks, strict=True)):
        fields = {name: value for name, values in columns.items() if (value := values[position]) is not None}
        below, size, mtime_ns = stats[text_path]
        mask = None if text_mask is None else Mask(*stats[text_mask])
        missing += [text for text, there in ((text_path, size), (text_mask, mask.size if mask else 0)) if there < 0]
        found.append(Found(below, fields, size, mtime_ns, mask))
    if missing and not allow_missing:
        raise NotFoundError(
            f"{len(missing)} of {len(paths)} files of {path.name} aren't there, such as {missing[0]!r} "
            f"(looked for below {base}).",
            hint="correct the paths, give --root FOLDER, or --allow-missing to record them as failures",
        )
    return Scan(found, [], label_type, masks_told="mask_uri" in rows.column_names)


def _stats(base: str, texts: Collection[str]) -> dict[str, tuple[str, int, int]]:
    """Each path below ``base`` (absolute, a URL, or with ``..``, where it is elsewhere), with size and time, or -1."""
    if not (locations.is_url(base) or any(map(locations.is_url, texts))):
        return {text: _stat(base, text) for text in texts}
    with ThreadPoolExecutor(_AT_ONCE) as pool:  # a URL's answer takes long to come, and costs nothing to wait for
        return dict(zip(texts, pool.map(lambda text: _stat(base, text), texts), strict=True))


def _stat(base: str, text: str) -> tuple[str, int, int]:
    file, fragment = split_fragment(text)
    full = locations.join(base, locations.check_url(file) if locations.is_url(file) else file)
    try:
        size, mtime_ns = locations.stat(full)
    except OSError:
        size = mtime_ns = -1
    prefix = base.rstrip("/") + "/"
    if full.startswith(prefix):
        below = full[len(prefix) :]
    else:
        below = full if locations.is_url(full) or os.path.isabs(file) else os.path.relpath(full, base)
    return below + (f"#{fragment}" if fragment else ""), size, mtime_ns


def label_type_of(column: pa.ChunkedArray) -> LabelType:
    """How a column of labels comes back: by its type, which for a CSV was told from the text."""
    import pyarrow as pa

    if pa.types.is_integer(column.type) or pa.types.is_boolean(column.type):
        return "int"
    return "float" if pa.types.is_floating(column.type) else "str"


def texts_of(column: pa.ChunkedArray, name: str) -> list[str | None]:
    import pyarrow as pa

    if pa.types.is_floating(column.type):
        return [None if value is None or value != value else repr(value) for value in column.to_pylist()]
    if pa.types.is_boolean(column.type) and name == "label":
        column = column.cast(pa.int8())
    return list(as_text(column, name).to_pylist())
