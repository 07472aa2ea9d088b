"""MuData files (.h5mu): several AnnData objects in one file, with the rows that they share.

The format is that of https://mudata.readthedocs.io/en/latest/io/spec.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featstore_exporters.anndata import (
    INDEX,
    dictionary,
    encode,
    frame,
    key_column,
    variables,
    write_object,
    write_texts,
)
from featstore_exporters.arrays import ROWS
from featstore_exporters.columns import facts, shape_of, vector_column
from featstore_exporters.hdf5 import explaining, import_h5py

#: A MuData file begins with its name, in a block that HDF5 leaves to its users.
_BLOCK = 512
_NAME = b"MuData (format-version=0.1.0;creator=featstore)"


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write a file with one modality; see :func:`write_several`."""
    del wide
    write_several(path, {str(facts(schema).get("name", vector_column(schema))): (schema, batches)})


def write_several(path: Path, parts: Mapping[str, tuple[pa.Schema, Iterable[pa.RecordBatch]]]) -> None:
    """Write each part as a modality, as :mod:`featstore_exporters.anndata` writes it alone.

    The file's own observations are all that any modality has, in the order in which they come first; ``obsmap`` says
    which row of a modality is which. Names of rows are held in memory, vectors aren't.

    Raises:
        SetupError: h5py isn't installed. UsageError: a part has no vector column, or several and none is the main one.
    """
    widths = {name: prod(shape_of(schema.field(vector_column(schema)))) for name, (schema, _) in parts.items()}
    keys: dict[str, pa.ChunkedArray] = {}
    with import_h5py().File(path, "w", userblock_size=_BLOCK) as file, explaining():
        modalities = file.create_group("mod")
        for name, (schema, batches) in parts.items():
            held: list[pa.Array] = []
            write_object(modalities.create_group(name), schema, _noting(held, key_column(schema), batches), name=name)
            keys[name] = pa.chunked_array(held, pa.string())
        modalities.attrs["mod-order"] = list(parts)
        every = pc.unique(pa.chunked_array([chunk for part in keys.values() for chunk in part.chunks], pa.string()))
        rows = {name: pc.fill_null(pc.index_in(every, part), -1).to_numpy() + 1 for name, part in keys.items()}
        _write_axis(file, "obs", _texts(every), rows)
        total, first, columns = sum(widths.values()), 0, {}
        for name, width in widths.items():
            columns[name] = np.zeros(total, np.int64)
            columns[name][first : first + width] = np.arange(1, width + 1)
            first += width
        _write_axis(file, "var", (text for name, width in widths.items() for text in variables(name, width)), columns)
        for other in ("obsp", "varp", "uns"):
            dictionary(file, other)
        encode(file, "MuData", "0.1.0")
        file.attrs["axis"] = 0
    with open(path, "r+b") as raw:
        raw.write(_NAME.ljust(_BLOCK, b"\0"))


def _noting(held: list[pa.Array], column: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        held.append(batch.column(column).cast(pa.string()))
        yield batch


def _write_axis(file: Any, axis: str, names: Iterable[str], places: Mapping[str, npt.NDArray[np.integer[Any]]]) -> None:
    """The names along one axis, and where each modality has them: counted from 1, 0 where it doesn't."""
    group = file.create_group(axis)
    write_texts(group, INDEX, names, len(next(iter(places.values()))))
    frame(group, INDEX, [])
    maps, masks = dictionary(file, f"{axis}map"), dictionary(file, f"{axis}m")
    for modality, where in places.items():
        encode(maps.create_dataset(modality, data=where.astype(np.uint32)), "array")
        encode(masks.create_dataset(modality, data=(where > 0)[:, None]), "array")


def _texts(array: pa.Array) -> Iterator[str]:
    for start in range(0, len(array), ROWS):
        yield from array.slice(start, ROWS).to_pylist()
