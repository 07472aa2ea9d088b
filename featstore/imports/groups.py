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
from featstore.imports.partitions import KEY, META, is_partition, open_partitions, the_features
from featstore.imports.vectors import BLOCK_BYTES, Contents, Streamed, Vectors, check, check_claim, shaped

#: Compressors of Zarr's format 2 that only compress.
_CODECS = {"blosc", "zstd", "gzip", "zlib", "lz4", "bz2", "lzma"}


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
    try:
        members = group.members(max_depth=None)
    except Exception as error:  # as above
        raise InputError(f"{path} can't be read as a Zarr group: {error!r}") from error
    arrays = {name: item for name, item in members if hasattr(item, "chunks")}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    nbytes = sum(file.stat().st_size for file in files)
    found = sorted(name for name, array in arrays.items() if is_partition(name, array.ndim, array.dtype.kind))
    tables = [name for name, array in arrays.items() if name.endswith(META) and "columns" in array.attrs]
    features = the_features(path, found, tables, arrays)
    if features is not None:
        vectors = _array(arrays[features], path, features, nbytes)
        table = {
            "label" if name == "labels" else name: _column(array, path, name)
            for name, array in sorted(arrays.items())
            if name != features and array.shape == (vectors.count,)
        }
        names = [f"{path.name}#row={row}" for row in range(vectors.count)]
        contents = Contents(vectors, files, names, Columns.of(pa.table(table), key) if table else None)
        return hdf5.typed(contents, group.attrs)
    parts = {name: _array(arrays[name], path, name, nbytes) for name in found}
    if not parts:
        raise InputError(f"{path} has no vectors; it has: {', '.join(sorted(arrays)) or 'nothing'}.")
    said = {name: _partition_table(arrays, path, name, part.count) for name, part in parts.items()}
    return hdf5.typed(open_partitions(files, path, parts, said, key), group.attrs)


def _array(array: Any, path: Path, name: str, nbytes: int) -> Streamed:
    what = f"{path.name}/{name}"
    _check_codecs(array, what)
    if array.ndim < 2:
        raise InputError(f"{what} has the shape {array.shape}, where it has (n, dim).")
    check_claim(what, array.size * array.dtype.itemsize, nbytes)
    if prod(array.chunks) * array.dtype.itemsize > 16 * BLOCK_BYTES:
        raise InputError(f"{what} is stored in chunks {array.chunks}, too large to be read in parts.")
    vectors = Streamed(array.shape[0], array.shape[1:], array.dtype, partial(_zarr_blocks, path, name))
    check(vectors, what)
    return vectors


def _check_codecs(array: Any, what: str) -> None:
    """Refuse arrays of Zarr's format 2 that aren't plain: their filters may run what the file says."""
    if array.metadata.zarr_format == 3:
        return
    names = {getattr(codec, "codec_id", None) for codec in array.compressors}
    if array.dtype.kind not in "biufSU" or array.filters or not names <= _CODECS:
        raise InputError(
            f"{what} is stored in Zarr's format 2 with objects or filters, which aren't read.",
            hint="save it in format 3, or as text of a fixed length",
        )


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
    _check_codecs(array, f"{path}/{name}")
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
        sets = file.own_rows()
        prefix = _modality(file.file, path, modality) if path.suffix.lower() == ".h5mu" else ""
        if f"{prefix}X" not in file.file or f"{prefix}obs" not in file.file:
            raise InputError(f"{path} has no {prefix}X, or no {prefix}obs.")
        if f"{prefix}X" not in sets:
            raise InputError(f"X of {path} is sparse.", hint="save it dense: adata.X = adata.X.toarray()")
        vectors: Vectors = hdf5.vectors_of(path, f"{prefix}X", sets[f"{prefix}X"])
        _check_obs(file.file[f"{prefix}obs"], sets, f"{prefix}obs", path)
        columns, own = _obs(file.file[f"{prefix}obs"], path, key)
        told = f"{prefix}uns/featstore/"
        facts = {n.removeprefix(told): d.all() for n, d in sets.items() if n.startswith(told)}
    if columns.rows != vectors.count:
        raise InputError(f"obs of {path} has {columns.rows} rows, and X {vectors.count}.")
    if "shape" in facts:
        vectors = shaped(vectors, [int(size) for size in np.ravel(facts["shape"])], path.name)
    names = [f"{path.name}#row={row}" for row in range(vectors.count)]
    contents = Contents(vectors, [path], names, columns, key=own)
    kind = facts.get("label_type")
    return hdf5.typed(contents, {"label_type": kind.decode() if isinstance(kind, bytes) else kind})


def _check_obs(group: Any, sets: Mapping[str, Any], name: str, path: Path) -> None:
    """Look at what anndata is going to read.

    Raises:
        InputError: columns that are no part of it, or values that can't be read in bounded memory.
    """
    columns = [group.attrs.get("_index", ""), *np.ravel(group.attrs.get("column-order", [])).tolist()]
    if odd := [column for column in columns if not isinstance(column, str) or "/" in column]:
        raise InputError(f"{path}#/{name} names a column {odd[0]!r}, which is none of its own.")
    if name in sets:
        raise InputError(f"{path}#/{name} is one data set, as old files have it.", hint="read and write it by anndata")
    for below, rows in sets.items():
        if below.startswith(f"{name}/"):
            if rows.dtype is None or (rows.dtype.kind not in "biufS" and not rows.is_text):
                raise InputError(f"{path}#/{below} holds {rows.dtype}, which is neither text nor numbers.")
            rows.check_all()


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
