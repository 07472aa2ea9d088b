"""A tree: a folder with one .npy file a group of rows, and tables that say what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from featstore import UsageError
from featstore_exporters import csv
from featstore_exporters.columns import as_array, by_group, is_vector, vector_column
from featstore_exporters.npy import write_header

INDEX = "index.csv"


@dataclass(slots=True)
class _File:
    """One file, and whose rows it holds: by column, the values that they have."""

    path: str
    rows: int
    values: dict[str, set[Any]] = field(default_factory=dict)

    def only(self, column: str) -> Any:
        """The one value that all rows have; None where they have several."""
        found = self.values.get(column, set())
        return next(iter(found)) if len(found) == 1 else None


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write ``<group>`` files below ``path``: (rows, *shape), float32 or float16, rows in the order that they come in.

    ``index.csv`` has a row a vector: ``file, row``, then the other columns. Where every file holds one patient's rows
    of one modality, ``features_<modality>.csv`` has a row a file: ``patient_id, feature_path, label, num_slices``,
    paths below ``path``.

    Raises:
        UsageError: the rows aren't grouped, or a group isn't named ``….npy``.
    """
    del wide  # an array has no column names
    vector = schema.field(vector_column(schema))
    others = [other for other in schema if not is_vector(other.type)]
    index = pa.schema([pa.field("file", pa.string()), pa.field("row", pa.int64()), *others])
    files: list[_File] = []
    path.mkdir()

    def written() -> Iterator[pa.RecordBatch]:
        for name, rows, parts in by_group(schema, batches):
            if not name.endswith(".npy"):
                raise UsageError(
                    f"The files of a tree are .npy files, and the layout gives {name!r}.", hint="--layout '….npy'"
                )
            file = _File(name, rows)
            files.append(file)
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            done = 0
            with open(path / name, "xb") as array:  # fails where two names are one to this file system
                write_header(array, rows, vector)
                for batch in parts:
                    array.write(as_array(batch, vector).data)
                    _note(file, batch)
                    columns = [pa.array([name] * batch.num_rows), pa.array(np.arange(done, done + batch.num_rows))]
                    done += batch.num_rows
                    yield pa.RecordBatch.from_arrays([*columns, *(batch.column(o.name) for o in others)], schema=index)

    csv.write(path / INDEX, index, written(), wide=False)
    _write_lists(path, schema, files)


def _note(file: _File, batch: pa.RecordBatch) -> None:
    for column in ("patient_id", "modality", "label"):
        if column in batch.schema.names:
            file.values.setdefault(column, set()).update(batch.column(column).unique().to_pylist())


def _write_lists(path: Path, schema: pa.Schema, files: list[_File]) -> None:
    if not files or any(file.only("patient_id") is None or file.only("modality") is None for file in files):
        return
    by_modality: dict[str, list[_File]] = {}
    for file in files:
        by_modality.setdefault(file.only("modality"), []).append(file)
    label = schema.field("label").type if "label" in schema.names else pa.string()
    for modality, of_it in by_modality.items():
        columns = {
            "patient_id": pa.array([file.only("patient_id") for file in of_it], pa.string()),
            "feature_path": pa.array([file.path for file in of_it], pa.string()),
            "label": pa.array([file.only("label") for file in of_it], label),
            "num_slices": pa.array([file.rows for file in of_it], pa.int64()),
        }
        table = pa.table(columns)
        if "/" in modality or "\0" in modality:
            raise UsageError(
                f"The modality {modality!r} can't be part of a file's name.", hint="leave it out: --modality, --where"
            )
        csv.write(path / f"features_{modality}.csv", table.schema, table.to_batches(), wide=False)
