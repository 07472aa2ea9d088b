"""Tabular data: a clinical CSV becomes a real table of the catalog, keyed by patient_id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.catalog import identity
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
        patients: how many the rows are of.
        known: how many of these have samples here.
        lookalikes: ids that match no patient but would, but for case, spaces or leading zeros: (theirs, ours).
    """

    name: str
    run_id: str | None
    rows: int
    columns: dict[str, str]
    patients: int
    known: int
    lookalikes: list[tuple[str, str]]


def add_table(
    store: Path,
    catalog_file: Catalog,
    plugins: Plugins,
    path: Path,
    *,
    name: str,
    time: str | None = None,
    replace: bool = False,
) -> TabularResult:
    """Read a CSV or Parquet file with one row a patient, and keep it as the table ``name``.

    Times with a zone are kept as what they are in UTC, without one.

    Args:
        time: a column of times: the table is dated, with one row a patient and time.

    Raises:
        NotFoundError: no such file, or no column ``patient_id`` or ``time``.
        ConflictError: two rows of one patient (and time), a row without a time, or a table of that name with other rows
            and not ``replace``.
        UsageError: a name that the catalog needs for itself, no rows, or a column of no times.
    """
    started = utc_now()
    check_name(name, "table")
    rows = read_rows(path, text=["patient_id"])
    require(rows, ["patient_id"], f"The table {path.name}")
    if not rows.num_rows or rows.num_columns < 2:
        raise UsageError(f"{path.name} has no {'rows' if not rows.num_rows else 'columns beside patient_id'}.")
    check_ids(rows.column("patient_id"), "patient_id")
    rows = _naive(rows)
    if time is not None:
        _check_times(rows, time, path.name)
    keys = ["patient_id"] if time is None else ["patient_id", time]
    _check_unique(rows, keys)
    rows = rows.sort_by([(key, "ascending") for key in keys])
    digest = content_hash(rows)
    # As in ingest: an interrupt after the commit must not take the run's folder away again.
    with catalog_file.write() as connection, RunFolder.creating(store, "ingest-table") as create_run:
        known, lookalikes = identity.match_patients(connection, rows)
        patients = len(rows.column("patient_id").unique())
        columns = {field.name: str(field.type) for field in rows.schema}
        result = TabularResult(name, None, rows.num_rows, columns, patients, known, lookalikes)
        if catalog.same(connection, name, digest, replace=replace):
            return result
        run = create_run()
        run.save_rows(name, rows)
        facts = finished("ingest-table", started, {"name": name, "file": path.name, "time": time}, plugins)
        run.record(**facts)
        catalog.put(connection, name, rows, digest, run.run_id, facts, time=time)
        result.run_id = run.run_id
    return result


def _naive(rows: pa.Table) -> pa.Table:
    import pyarrow as pa

    for place, field in enumerate(rows.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is not None:
            rows = rows.set_column(place, field.name, rows.column(place).cast(pa.timestamp(field.type.unit)))
    return rows


def _check_times(rows: pa.Table, time: str, file: str) -> None:
    import pyarrow as pa

    require(rows, [time], f"The table {file}")
    kind = rows.schema.field(time).type
    if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        raise UsageError(
            f"The column {time!r} of {file} holds {kind}, not times.",
            hint="write them as 2024-05-31 or 2024-05-31T12:00:00",
        )
    if rows.column(time).null_count:
        patient = rows.filter(rows.column(time).is_null()).column("patient_id")[0].as_py()
        raise ConflictError(
            f"{rows.column(time).null_count} row(s) have no {time}, such as one of patient {patient!r}.",
            hint="leave them out: nobody can say what they come before",
        )


def _check_unique(rows: pa.Table, keys: list[str]) -> None:
    counts = rows.group_by(keys).aggregate([("patient_id", "count")]).to_pylist()
    twice = sorted((tuple(row[key] for key in keys) for row in counts if row["patient_id_count"] > 1), key=str)
    if not twice:
        return
    if len(keys) > 1:
        raise ConflictError(
            f"{len(twice)} time(s) of a patient have more than one row, such as {twice[0][0]!r} at {twice[0][1]}.",
            hint="keep one row a patient and time",
        )
    raise ConflictError(
        f"{len(twice)} patient(s) have more than one row, such as {twice[0][0]!r}.",
        hint="keep one row a patient; or say what dates them: --time COLUMN",
    )


def content_hash(rows: pa.Table) -> str:
    """SHA-256 over names, types and values, in row order."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks(), max_chunksize=65536)
    return hashlib.sha256(sink.getvalue()).hexdigest()
