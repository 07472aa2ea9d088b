"""Vectors in Zarr groups and in AnnData files, as featstore export and others write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore.errors import InputError, SetupError, UsageError
from featstore.imports import hdf5
from featstore.imports.columns import Columns
from featstore.imports.partitions import KEY, META, is_partition, open_partitions
from featstore.imports.vectors import BLOCK_BYTES, Contents, Streamed, Vectors, check, check_claim, shaped

_FEATURES = "features"


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr group."""
    return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()


def open_zarr(path: Path, key: str | None = None) -> Contents:
    """Open a Zarr group: ``features`` (n, …) and columns of n values each; else an array a partition, and what
    :mod:`featstore.imports.partitions` says of them.

    Raises:
        InputError: it is no such group.
    """
    import pyarrow as pa

    group = _zarr(path)
    arrays = {name: item for name, item in group.members(max_depth=None) if hasattr(item, "chunks")}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    nbytes = sum(file.stat().st_size for file in files)
    if _FEATURES in arrays:
        vectors = _array(arrays[_FEATURES], path, _FEATURES, nbytes)
        table = {
            "label" if name == "labels" else name: _column(array, path, name)
            for name, array in sorted(arrays.items())
            if name != _FEATURES and array.shape == (vectors.count,)
        }
        names = [f"{path.name}#row={row}" for row in range(vectors.count)]
        contents = Contents(vectors, files, names, Columns.of(pa.table(table), key) if table else None)
        return hdf5.typed(contents, group.attrs)
    parts = {
        name: _array(array, path, name, nbytes)
        for name, array in sorted(arrays.items())
        if is_partition(name, array.ndim, array.dtype.kind)
    }
    if not parts:
        raise InputError(f"{path} has no vectors; it has: {', '.join(sorted(arrays)) or 'nothing'}.")
    tables = {name: _partition_table(arrays, path, name, part.count) for name, part in parts.items()}
    return hdf5.typed(open_partitions(files, path, parts, tables, key), group.attrs)


def _array(array: Any, path: Path, name: str, nbytes: int) -> Streamed:
    what = f"{path.name}/{name}"
    if array.ndim < 2:
        raise InputError(f"{what} has the shape {array.shape}, where it has (n, dim).")
    check_claim(what, array.size * array.dtype.itemsize, nbytes)
    if prod(array.chunks) * array.dtype.itemsize > 16 * BLOCK_BYTES:
        raise InputError(f"{what} is stored in chunks {array.chunks}, too large to be read in parts.")
    vectors = Streamed(array.shape[0], array.shape[1:], array.dtype, partial(_zarr_blocks, path, name))
    check(vectors, what)
    return vectors


def _partition_table(arrays: Mapping[str, Any], path: Path, name: str, rows: int) -> dict[str, Any]:
    import pyarrow as pa

    found = {}
    if (meta := arrays.get(name + META)) is not None and "columns" in meta.attrs:
        columns = [str(column) for column in meta.attrs["columns"]]
        if meta.shape != (rows, len(columns)):
            raise InputError(f"{path}/{name}{META} is {meta.shape}, where it should be {(rows, len(columns))}.")
        values = _values(meta, path, name + META)
        for place, column in enumerate(columns):
            found[column] = pa.array([str(text) or None for text in values[:, place].tolist()], pa.string())
    if (keys := arrays.get(name + KEY)) is not None:
        found["sample_key"] = _column(keys, path, name + KEY)
    return found


def _zarr(path: Path) -> Any:
    import zarr

    try:
        return zarr.open_group(path, mode="r")
    except Exception as error:  # zarr has its own errors for each part of the metadata
        raise InputError(f"{path} can't be read as a Zarr group: {error!r}") from error


def _column(array: Any, path: Path, name: str) -> Any:
    import pyarrow as pa

    values = _values(array, path, name)
    if values.dtype.kind not in "biuf":
        return pa.array([None if text is None or text == "" else str(text) for text in values.tolist()], pa.string())
    return pa.array(values)


def _values(array: Any, path: Path, name: str, rows: slice = slice(None)) -> npt.NDArray[Any]:
    try:
        return np.asarray(array[rows])
    except Exception as error:  # each codec has its own way to say that bytes are broken
        raise InputError(f"{path}/{name} can't be read: {error!r}") from error


def _zarr_blocks(path: Path, name: str) -> Iterator[npt.NDArray[Any]]:
    array = _zarr(path)[name]
    rows = max(1, BLOCK_BYTES // (prod(array.shape[1:]) * array.dtype.itemsize))
    for start in range(0, array.shape[0], rows):
        yield _values(array, path, name, slice(start, start + rows))


def open_h5ad(path: Path, key: str | None = None, modality: str | None = None) -> Contents:
    """Open an AnnData file: ``X`` (n, dim), dense, and ``obs``; or one modality of a MuData file.

    Rows are named by ``obs_names``, which are sample keys where they are called so.

    Args:
        modality: of a MuData file, where it has several.

    Raises:
        SetupError: anndata isn't here. InputError: it is no such file, or X is sparse.
        UsageError: which modality?
    """
    with hdf5.opened(path) as file:
        hdf5.check_links(file, path)
        prefix = _modality(file, path, modality) if path.suffix.lower() == ".h5mu" else ""
        if f"{prefix}X" not in file or f"{prefix}obs" not in file:
            raise InputError(f"{path} has no {prefix}X, or no {prefix}obs.")
        x = file[f"{prefix}X"]
        if not hasattr(x, "shape"):
            raise InputError(f"X of {path} is sparse.", hint="save it dense: adata.X = adata.X.toarray()")
        vectors: Vectors = hdf5.vectors_of(path, f"{prefix}X", x)
        columns, own = _obs(file[f"{prefix}obs"], path, key)
        facts = file.get(f"{prefix}uns/featstore")
        facts = {} if facts is None else {n: d[()] for n, d in facts.items() if hasattr(d, "shape")}
    if columns.rows != vectors.count:
        raise InputError(f"obs of {path} has {columns.rows} rows, and X {vectors.count}.")
    if "shape" in facts:
        vectors = shaped(vectors, [int(size) for size in np.ravel(facts["shape"])], path.name)
    names = [f"{path.name}#row={row}" for row in range(vectors.count)]
    contents = Contents(vectors, [path], names, columns, key=own)
    told = facts.get("label_type")
    return hdf5.typed(contents, {"label_type": told.decode() if isinstance(told, bytes) else told})


def _modality(file: Any, path: Path, wanted: str | None) -> str:
    known = list(file["mod"]) if "mod" in file else []
    if wanted is None and len(known) == 1:
        wanted = known[0]
    if wanted not in known:
        raise UsageError(
            f"{path.name} has the modalities {', '.join(known) or 'none'}.", hint="say which one: --vectors NAME"
        )
    return f"mod/{wanted}/"


def _obs(group: Any, path: Path, key: str | None) -> tuple[Columns, str]:
    """The columns of a data frame, its index among them, and what that is called."""
    import pyarrow as pa

    try:
        from anndata.io import read_elem
    except ImportError as error:
        raise SetupError(
            f"{path.name} needs anndata, which isn't here.", hint="pip install 'featstore[anndata]'"
        ) from error
    frame = read_elem(group)
    name = "sample_key" if frame.index.name == "sample_key" else "obs_names"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    if name not in table.column_names:
        table = table.add_column(0, name, pa.array([str(text) for text in frame.index], pa.string()))
    return Columns.of(table, key or name), name
