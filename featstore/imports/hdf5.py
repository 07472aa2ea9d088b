"""Vectors in HDF5: one data set of features, one a partition, or one beside the coordinates of patches."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import FeatstoreError, InputError, SetupError
from featstore.imports.columns import Columns
from featstore.imports.partitions import META, is_partition, open_partitions
from featstore.imports.vectors import BLOCK_BYTES, Contents, Streamed, check, check_claim
from featstore.ingest.layout import FIELDS

if TYPE_CHECKING:
    import pyarrow as pa

_FEATURES = ("features", "feats")
COORDS = "coords"
#: Longest text of a file's attribute that becomes an attribute of its samples.
_MOST_TEXT = 200
#: Groups in groups that are looked into: hard links may go in circles.
_DEEPEST = 6
LABEL_TYPES = ("int", "float", "str")


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file, read-only.

    Raises:
        SetupError: h5py isn't here. InputError: the file is no HDF5, or damaged.
    """
    try:
        import h5py
    except ImportError as error:
        raise SetupError(f"{path.name} needs h5py, which isn't here.", hint="pip install 'featstore[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FeatstoreError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # whatever part of it is damaged
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise InputError(f"{path} can't be read as HDF5: {why}") from error


def open_h5(path: Path, key: str | None = None) -> Contents:
    """Open an HDF5 file of vectors: ``features`` or ``feats`` (n, …), else every data set of floats a partition.

    Columns are its data sets of n values; ``labels`` is the label. A partition's own are ``<partition>_metadata`` (n,
    columns), text, with their names in its attribute ``columns``, and ``<partition>_sample_key``.

    Args:
        key: a data set of the rows' names, beside those that are known.

    Raises:
        InputError: it is no such file, leads elsewhere by links, or has no vectors.
    """
    with opened(path) as file:
        sets = _datasets(file, path)
        name = next((n for n in _FEATURES if n in sets), None)
        if name is not None:
            vectors = vectors_of(path, name, sets[name], patches=_coords(sets, sets[name]) is not None)
            names = [f"{path.name}#row={row}" for row in range(vectors.count)]
            table = _table(sets, path, vectors.count, {name, COORDS})
            return typed(Contents(vectors, [path], names, Columns.of(table, key) if table else None), file.attrs)
        parts = {
            n: vectors_of(path, n, d) for n, d in sets.items() if n != COORDS and is_partition(n, d.ndim, d.dtype.kind)
        }
        if not parts:
            known = ", ".join(f"{n} {d.dtype} {d.shape}" for n, d in list(sets.items())[:8])
            raise InputError(
                f"{path} has no vectors.",
                hint=f"they are in features or feats, or one data set a partition; it has: {known or 'nothing'}",
            )
        tables = {n: _partition_table(sets, path, n, part.count, key) for n, part in parts.items()}
        contents = open_partitions([path], path, parts, tables, key)
        return typed(contents, file.attrs)


def _partition_table(sets: Mapping[str, Any], path: Path, name: str, rows: int, key: str | None) -> dict[str, pa.Array]:
    found = {}
    if (meta := sets.get(name + META)) is not None and "columns" in meta.attrs:
        found = _text_table(meta, path, rows)
    for column in {"sample_key", key or "sample_key"}:
        if (keys := sets.get(f"{name}_{column}")) is not None:
            found[column] = _column(keys, path, rows, f"{name}_{column}")
    return found


def typed(contents: Contents, facts: Any) -> Contents:
    """The contents; the labels with the type that the file declares, where it does."""
    declared = facts.get("label_type") if facts else None
    if contents.columns is not None and isinstance(declared, str) and declared in LABEL_TYPES:
        contents.columns.label_type = declared  # type: ignore[assignment]
    return contents


def open_patches(path: Path) -> tuple[Streamed, list[str], dict[str, str]] | None:
    """Open the features of one slide, if the file has coordinates.

    Returns:
        the vectors, each row's ``x=512&y=1024``, and what the file says of them all; None where it has no coordinates.

    Raises:
        InputError: as :func:`open_h5`, and for coordinates that are no numbers or stand twice.
    """
    with opened(path) as file:
        sets = _datasets(file, path)
        name = next((n for n in _FEATURES if n in sets), None)
        if name is None or (coords := _coords(sets, sets[name])) is None:
            return None
        vectors = vectors_of(path, name, sets[name], patches=True)
        check_claim(f"{path.name}#/{COORDS}", coords.size * coords.dtype.itemsize, path.stat().st_size)
        points = np.asarray(coords[...]).reshape(-1, 2)
        if len(points) != vectors.count or points.dtype.kind not in "iuf" or not np.isfinite(points).all():
            raise InputError(
                f"{path} has coordinates {points.dtype} {coords.shape} for {vectors.count} rows: one (x, y) a row."
            )
        facts: dict[str, str] = {}
        for holder in (file, sets[name], coords):
            facts |= _scalars(holder.attrs)
    places = [f"x={_number(x)}&y={_number(y)}" for x, y in points.tolist()]
    if len(set(places)) < len(places):
        twice = sorted({place for place in places if places.count(place) > 1})[:5] if len(places) < 10_000 else []
        raise InputError(
            f"{len(places) - len(set(places))} coordinates of {path} stand more than once"
            + (f", such as {', '.join(twice)}" if twice else "") + ": they can't name its rows."
        )  # fmt: skip
    return vectors, places, facts


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _coords(sets: Mapping[str, Any], features: Any) -> Any | None:
    """Coordinates (n, 2) or (1, n, 2), where there are any."""
    found = sets.get(COORDS)
    if found is None:
        return None
    if found.ndim not in (2, 3) or found.shape[-1] != 2 or (found.ndim == 3 and found.shape[0] != 1):
        raise InputError(f"coords of {found.file.filename} has the shape {found.shape}, where it has (n, 2).")
    return found


def vectors_of(path: Path, name: str, dataset: Any, *, patches: bool = False) -> Streamed:
    """A data set as vectors. Patches may come as (1, n, dim), a batch of one slide."""
    shape = dataset.shape
    batch_of_one = patches and len(shape) == 3 and shape[0] == 1
    count, item = (shape[1], shape[2:]) if batch_of_one else (shape[0] if shape else 0, shape[1:])
    what = f"{path.name}#/{name}"
    if not dataset.size or dataset.id.get_storage_size() == 0:
        raise InputError(f"{what} has no values.")
    check_claim(what, dataset.size * dataset.dtype.itemsize, path.stat().st_size)
    if dataset.chunks and prod(dataset.chunks) * dataset.dtype.itemsize > 16 * BLOCK_BYTES:
        raise InputError(f"{what} is stored in chunks {dataset.chunks}, too large to be read in parts.")
    vectors = Streamed(count, item, dataset.dtype, partial(_blocks, path, name, batch_of_one, count))
    check(vectors, what)
    return vectors


def _blocks(path: Path, name: str, batch_of_one: bool, count: int) -> Iterator[npt.NDArray[Any]]:
    with opened(path) as file:
        dataset = file[name]
        rows = max(1, BLOCK_BYTES // (prod(dataset.shape[1 + batch_of_one :]) * dataset.dtype.itemsize))
        for start in range(0, count, rows):
            yield dataset[0, start : start + rows] if batch_of_one else dataset[start : start + rows]


def _datasets(file: Any, path: Path) -> dict[str, Any]:
    """The data sets of a file, by their names from its root on."""
    import h5py

    check_links(file, path)
    found: dict[str, Any] = {}

    def look(group: Any, prefix: str, depth: int) -> None:
        for name, item in group.items():
            if isinstance(item, h5py.Dataset):
                found[prefix + name] = item
            elif isinstance(item, h5py.Group) and depth < _DEEPEST:
                look(item, f"{prefix}{name}/", depth + 1)

    look(file, "", 1)
    return found


def check_links(group: Any, path: Path, depth: int = 1) -> None:
    """Refuse what leads to other files, anywhere in a file: one from elsewhere must not choose what is read here.

    Raises:
        InputError: a link, or a data set that keeps its values in other files.
    """
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise InputError(f"{path}#/{name} is a link, and may lead to another file.", hint="copy what it leads to")
        item = group[name]
        if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise InputError(f"{path}#{item.name} keeps its values in other files.", hint="copy them into this one")
        if isinstance(item, h5py.Group) and depth < _DEEPEST:
            check_links(item, path, depth + 1)


def _table(sets: Mapping[str, Any], path: Path, rows: int, without: set[str]) -> pa.Table | None:
    """The columns that a file has beside its features: data sets of one value a row."""
    import pyarrow as pa

    found = {
        "label" if name == "labels" else name: _column(dataset, path, rows, name)
        for name, dataset in sets.items()
        if name not in without and dataset.shape == (rows,)
    }
    return pa.table(found) if found else None


def _column(dataset: Any, path: Path, rows: int, name: str) -> pa.Array:
    import h5py
    import pyarrow as pa

    if dataset.shape != (rows,):
        raise InputError(f"{path}#/{name} has the shape {dataset.shape}, where there are {rows} rows.")
    check_claim(f"{path.name}#/{name}", rows * dataset.dtype.itemsize, path.stat().st_size)
    if h5py.check_string_dtype(dataset.dtype) is not None:
        return pa.array(_texts(dataset, path), pa.string())
    if dataset.dtype.kind not in "biuf":
        raise InputError(f"{path}#/{name} holds {dataset.dtype}, which is neither text nor numbers.")
    return pa.array(dataset[...])


def _texts(dataset: Any, path: Path) -> list[str | None]:
    try:
        return [text or None for text in dataset.asstr()[...].tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}#{dataset.name} isn't UTF-8.") from error


def _text_table(dataset: Any, path: Path, rows: int) -> dict[str, pa.Array]:
    """A data set of text (rows, columns), with the columns' names in its attribute."""
    import h5py
    import pyarrow as pa

    names = [n.decode() if isinstance(n, bytes) else str(n) for n in np.ravel(dataset.attrs["columns"]).tolist()]
    if dataset.shape != (rows, len(names)) or h5py.check_string_dtype(dataset.dtype) is None:
        raise InputError(
            f"{path}#{dataset.name} is {dataset.dtype} {dataset.shape}, where it should be text {(rows, len(names))}."
        )
    check_claim(posixpath.basename(dataset.name), dataset.size * dataset.dtype.itemsize, path.stat().st_size)
    try:
        values = dataset.asstr()[...]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}#{dataset.name} isn't UTF-8.") from error
    return {
        name: pa.array([text or None for text in values[:, column].tolist()], pa.string())
        for column, name in enumerate(names)
    }


def _scalars(attributes: Any) -> dict[str, str]:
    """Attributes that are one short value each, as text."""
    found = {}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, (str, int, float, bool)) and len(str(value)) <= _MOST_TEXT and name not in FIELDS:
            found[str(name)] = str(value)
    return found


def is_patches(path: Path) -> bool:
    """Whether a file holds features beside coordinates.

    Raises:
        InputError, SetupError: as :func:`opened`.
    """
    with opened(path) as file:
        return COORDS in file and any(name in file for name in _FEATURES)
