"""Tabular data: a clinical CSV becomes a real table of the catalog, keyed by patient_id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.catalog import tabular as catalog
from featstore.catalog.connection import Catalog
from featstore.errors import ConflictError, UsageError
from featstore.ingest.columns import check_ids, read_rows, require
from featstore.keys import check_name
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class TabularResult:
    """What an ``ingest-table`` did.

    Attributes:
        run_id: None where the catalog has these very rows already.
        known: how many of the rows' patients have samples here.
        lookalikes: ids that match no patient but would, but for case, spaces or leading zeros: (theirs, ours).
    """

    name: str
    run_id: str | None
    rows: int
    columns: dict[str, str]
    known: int
    lookalikes: list[tuple[str, str]]


def add_table(
    store: Path, catalog_file: Catalog, plugins: Plugins, path: Path, *, name: str, replace: bool = False
) -> TabularResult:
    """Read a CSV or Parquet file with one row a patient, and keep it as the table ``name``.

    Raises:
        NotFoundError: no such file, or no column ``patient_id``.
        ConflictError: two rows of one patient, or a table of that name with other rows and not ``replace``.
        UsageError: a name that the catalog needs for itself, or no rows.
    """
    started = utc_now()
    check_name(name, "table")
    rows = read_rows(path, text=["patient_id"])
    require(rows, ["patient_id"], f"The table {path.name}")
    if not rows.num_rows or rows.num_columns < 2:
        raise UsageError(f"{path.name} has no {'rows' if not rows.num_rows else 'columns beside patient_id'}.")
    check_ids(rows.column("patient_id"), "patient_id")
    _check_unique(rows)
    rows = rows.sort_by("patient_id")
    digest = content_hash(rows)
    # As in ingest: an interrupt after the commit must not take the run's folder away again.
    with catalog_file.write() as connection, RunFolder.creating(store, "ingest-table") as create_run:
        known, lookalikes = catalog.match_patients(connection, rows)
        columns = {field.name: str(field.type) for field in rows.schema}
        result = TabularResult(name, None, rows.num_rows, columns, known, lookalikes)
        if catalog.same(connection, name, digest, replace=replace):
            return result
        run = create_run()
        run.save_rows(name, rows)
        facts = finished("ingest-table", started, {"name": name, "file": path.name}, plugins)
        run.record(**facts)
        catalog.put(connection, name, rows, digest, run.run_id, facts)
        result.run_id = run.run_id
    return result


def _check_unique(rows: pa.Table) -> None:
    counts = rows.group_by("patient_id").aggregate([("patient_id", "count")]).to_pylist()
    twice = sorted(row["patient_id"] for row in counts if row["patient_id_count"] > 1)
    if twice:
        raise ConflictError(
            f"{len(twice)} patient(s) have more than one row, such as {twice[0]!r}.",
            hint="keep one row a patient (the latest, or one file a visit)",
        )


def content_hash(rows: pa.Table) -> str:
    """SHA-256 over names, types and values, in row order."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks(), max_chunksize=65536)
    return hashlib.sha256(sink.getvalue()).hexdigest()
