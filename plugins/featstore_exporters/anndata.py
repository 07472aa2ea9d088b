"""AnnData files (.h5ad), written as the rows come: an AnnData object in memory would hold all vectors at once.

The format is AnnData's on-disk format, https://anndata.readthedocs.io/en/stable/fileformat-prose.html: each element
says by ``encoding-type`` and ``encoding-version`` what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from featstore import UsageError
from featstore_exporters.arrays import ROWS, Create, array_names, write_columns
from featstore_exporters.columns import facts, is_vector, provenance, shape_of, vector_column
from featstore_exporters.hdf5 import creating, explaining, import_h5py

#: The name that AnnData gives to an index without one.
INDEX = "_index"


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write ``X`` (rows, width) in its own dtype, tokens flattened in C order, and the other columns to ``obs``.

    X is ``features`` or ``fused``, or else the only vector column; other vector columns are in ``obsm``. Observations
    are named by sample_key, or else by patient_id; variables ``<name>_0``, …. What is missing is NaN or "" in ``obs``;
    a column without any value isn't there. ``uns["featstore"]`` says what was exported, and a row's ``shape``.

    Raises:
        SetupError: h5py isn't installed. UsageError: there is no vector column, or several and none is the main one.
    """
    del wide  # X has its shape
    with import_h5py().File(path, "w") as file, explaining():
        write_object(file, schema, batches, name=facts(schema).get("name"))


def write_object(group: Any, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, name: str | None) -> None:
    """Write one AnnData object into an opened file or group. ``name`` is that of the variables."""
    main, keys = vector_column(schema), key_column(schema)
    shape = shape_of(schema.field(main))
    # What X and obsm hold of a row is flat, whatever its shape is.
    flat = pa.schema([f.remove_metadata() if is_vector(f.type) else f for f in schema], metadata=schema.metadata)
    vectors = {f.name: "X" if f.name == main else f"obsm/{f.name}" for f in flat if is_vector(f.type)}
    obs = group.create_group("obs")
    names = array_names(flat)
    columns = {name: f"obs/{array}" for name, array in names.items()}
    write_columns(group, _encoded(creating(group)), flat, batches, vectors=vectors, columns=columns)
    if keys not in obs:  # there are no rows
        write_texts(obs, keys, [], 0)
    frame(obs, keys, [array for array in names.values() if array in obs and array != keys])
    width = prod(shape)
    var = group.create_group("var")
    write_texts(var, INDEX, variables(name or main, width), width)
    frame(var, INDEX, [])
    uns = dictionary(group, "uns")
    _write_facts(uns, provenance(schema) | {"shape": np.array(shape)})
    for other in ("layers", "obsm", "obsp", "varm", "varp"):
        dictionary(group, other)
    encode(group, "anndata", "0.1.0")


def key_column(schema: pa.Schema) -> str:
    """The column that names the rows.

    Raises:
        UsageError: there is neither sample_key nor patient_id.
    """
    for name in ("sample_key", "patient_id"):
        if name in schema.names:
            return name
    raise UsageError("AnnData names its rows, and this table has neither sample_key nor patient_id.")


def variables(name: str, width: int) -> Iterator[str]:
    """The names of the variables."""
    return (f"{name}_{i}" for i in range(width))


def encode(element: Any, type_: str, version: str = "0.2.0") -> None:
    """Say what an element is."""
    element.attrs.update({"encoding-type": type_, "encoding-version": version})


def dictionary(group: Any, name: str) -> Any:
    """A mapping in a group: made, or one that is there already."""
    made = group.require_group(name)
    encode(made, "dict", "0.1.0")
    return made


def frame(group: Any, index: str, columns: list[str]) -> None:
    """Say that a group is a data frame."""
    encode(group, "dataframe")
    group.attrs.update({"_index": index, "column-order": columns})


def write_texts(group: Any, name: str, texts: Iterable[str], rows: int) -> None:
    """Write many texts, some thousands at a time."""
    array, stream = _encoded(creating(group))(name, (rows,), str), iter(texts)
    for start in range(0, rows, ROWS):
        block = list(islice(stream, ROWS))
        array[start : start + len(block)] = np.array(block, object)


def _encoded(create: Create) -> Create:
    def encoded(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        made = create(name, shape, dtype)
        encode(made, "string-array" if dtype is str else "array")
        return made

    return encoded


def _write_facts(uns: Any, facts: dict[str, Any]) -> None:
    ours = dictionary(uns, "featstore")
    for name, value in facts.items():
        made = ours.create_dataset(name, data=value)
        kind = "array" if isinstance(value, np.ndarray) else "string" if isinstance(value, str) else "numeric-scalar"
        encode(made, kind)
