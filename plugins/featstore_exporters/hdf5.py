"""HDF5: data sets that lie in one piece, so that other tools can map them, written as the rows come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from featstore import SetupError, UsageError
from featstore_exporters.arrays import Create, array_names, write_columns, write_groups
from featstore_exporters.columns import facts, is_vector, provenance, vector_column


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write a data set a column: each vector column (rows, *shape) in its own dtype, ``label`` as ``labels``.

    Text is UTF-8 of any length. "" and NaN stand for what is missing; a column without any value isn't there.

    Grouped, each group is one data set under its name, and ``<group>_metadata`` holds the other columns as text
    (rows, columns), which its attribute ``columns`` names; "" is missing.

    The file's attributes say what was exported: name, version, fingerprint, backbone, layer, pooler.

    Raises:
        SetupError: h5py isn't installed. UsageError: text with a NUL, which HDF5 can't hold.
    """
    del wide  # a data set has its shape
    with import_h5py().File(path, "w") as file, explaining():
        file.attrs.update(provenance(schema))
        create = creating(file)
        if "groups" in facts(schema):
            write_groups(create, schema, batches, vector_column(schema))
            return
        vectors = {field.name: field.name for field in schema if is_vector(field.type)}
        write_columns(file, create, schema, batches, vectors=vectors, columns=array_names(schema, label="labels"))


@contextmanager
def explaining() -> Iterator[None]:
    """Say what HDF5 can't hold."""
    try:
        yield
    except ValueError as error:
        if "embedded NULL" not in str(error):
            raise
        raise UsageError("A text has a NUL character, which HDF5 can't hold.", hint="write Parquet or CSV") from error


def import_h5py() -> Any:
    """h5py.

    Raises:
        SetupError: it isn't installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise SetupError(
            f"HDF5 files are written by h5py, which can't be imported: {error}.", hint="pip install 'featstore[hdf5]'"
        ) from error
    return h5py


def creating(group: Any) -> Create:
    """What makes data sets in a group: contiguous, NaN or "" where nothing was written."""
    text = import_h5py().string_dtype("utf-8")

    def create(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        fill = float("nan") if dtype is not str and dtype.kind == "f" else None
        return group.create_dataset(name, shape, text if dtype is str else dtype, fillvalue=fill)

    return create
