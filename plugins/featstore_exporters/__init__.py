"""Exporters: a training table → Parquet, CSV or NPY, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from featstore import ExporterSpec, hookimpl

if TYPE_CHECKING:
    import pyarrow as pa

# pyarrow takes long to import, so each writer is imported when it writes.


def _write_parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    from featstore_exporters.parquet import write

    write(path, schema, batches, wide=wide)


def _write_csv(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    from featstore_exporters.csv import write

    write(path, schema, batches, wide=wide)


def _write_npy(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    from featstore_exporters.npy import write

    write(path, schema, batches, wide=wide)


@hookimpl
def featstore_exporters() -> Iterable[ExporterSpec]:
    yield ExporterSpec("parquet", ".parquet", _write_parquet, description="vectors as fixed-size lists, or wide")
    yield ExporterSpec("csv", ".csv", _write_csv, description="one column a feature; float32 round-trips")
    yield ExporterSpec("npy", ".npy", _write_npy, description="float32 (rows, dim), with <stem>.index.csv beside")
