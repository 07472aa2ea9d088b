"""Vectors in HDF5: one data set of features, one a partition, or one beside the coordinates of patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import FeatstoreError, InputError, SetupError
from featstore.imports.columns import Columns
from featstore.imports.partitions import FEATURES, META, is_partition, open_partitions, the_features
from featstore.imports.vectors import BLOCK_BYTES, Contents, Streamed, check, check_claim
from featstore.ingest.layout import FIELDS

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.hdf5.files import Opened
    from featstore.hdf5.rows import Rows

COORDS = "coords"
#: Longest text of a file's attribute that becomes an attribute of its samples.
_MOST_TEXT = 200
LABEL_TYPES = ("int", "float", "str")


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """An HDF5 file, read-only.

    Raises:
        SetupError: h5py isn't here. InputError: the file is no HDF5, or damaged.
    """
    try:
        from featstore.hdf5.files import Opened
    except ImportError as error:
        raise SetupError(f"{path.name} needs h5py, which isn't here.", hint="pip install 'featstore[hdf5]'") from error
    try:
        with open(path, "rb") as stored, closing(Opened(stored)) as file:
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
        sets = file.own_rows()
        parts = {n: d for n, d in sets.items() if n != COORDS and _is_partition(n, d)}
        name = the_features(path, parts, [n for n in sets if _describes(sets, n)], sets)
        if name is not None:
            vectors = vectors_of(path, name, sets[name], patches=_coords(sets) is not None)
            names = [f"{path.name}#row={row}" for row in range(vectors.count)]
            table = _table(sets, path, vectors.count, {name, COORDS})
            return typed(Contents(vectors, [path], names, Columns.of(table, key) if table else None), file.file.attrs)
        if not parts:
            known = ", ".join(f"{n} {d.dtype} {d.shape}" for n, d in list(sets.items())[:8])
            raise InputError(
                f"{path} has no vectors.",
                hint=f"they are in features or feats, or one data set a partition; it has: {known or 'nothing'}",
            )
        vectors_in = {n: vectors_of(path, n, d) for n, d in parts.items()}
        tables = {n: _partition_table(sets, path, n, part.count, key) for n, part in vectors_in.items()}
        return typed(open_partitions([path], path, vectors_in, tables, key), file.file.attrs)


def _is_partition(name: str, rows: Rows) -> bool:
    return rows.dtype is not None and is_partition(name, len(rows.shape), rows.dtype.kind)


def _describes(sets: Mapping[str, Rows], name: str) -> bool:
    return name.endswith(META) and "columns" in sets[name].data.attrs


def _partition_table(
    sets: Mapping[str, Rows], path: Path, name: str, rows: int, key: str | None
) -> dict[str, pa.Array]:
    found = {}
    if name + META in sets and _describes(sets, name + META):
        found = _text_table(sets[name + META], path, rows)
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
        sets = file.own_rows()
        name = next((n for n in FEATURES if n in sets), None)
        if name is None or (coords := _coords(sets)) is None:
            return None
        the_features(path, {n: d for n, d in sets.items() if n != COORDS and _is_partition(n, d)}, (), sets)
        vectors = vectors_of(path, name, sets[name], patches=True)
        points = np.asarray(coords.all()).reshape(-1, 2)
        if len(points) != vectors.count or points.dtype.kind not in "iuf" or not np.isfinite(points).all():
            raise InputError(
                f"{path} has coordinates {points.dtype} {coords.shape} for {vectors.count} rows: one (x, y) a row."
            )
        facts: dict[str, str] = {}
        for holder in (file.file, sets[name].data, coords.data):
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


def _coords(sets: Mapping[str, Rows]) -> Rows | None:
    """Coordinates (n, 2) or (1, n, 2), where there are any."""
    found = sets.get(COORDS)
    if found is None:
        return None
    if len(found.shape) not in (2, 3) or found.shape[-1] != 2 or (len(found.shape) == 3 and found.shape[0] != 1):
        raise InputError(f"The data set coords has the shape {found.shape}, where it has (n, 2).")
    return found


def vectors_of(path: Path, name: str, rows: Rows, *, patches: bool = False) -> Streamed:
    """A data set as vectors. Patches may come as (1, n, dim), a batch of one slide."""
    dataset, shape = rows.data, rows.shape
    batch_of_one = patches and len(shape) == 3 and shape[0] == 1
    count, item = (shape[1], shape[2:]) if batch_of_one else (shape[0] if shape else 0, shape[1:])
    what = f"{path.name}#/{name}"
    if rows.dtype is None or not dataset.size or dataset.id.get_storage_size() == 0:
        raise InputError(f"{what} has no values.")
    check_claim(what, dataset.size * dataset.dtype.itemsize, path.stat().st_size)
    if dataset.chunks and prod(dataset.chunks) * dataset.dtype.itemsize > 16 * BLOCK_BYTES:
        raise InputError(f"{what} is stored in chunks {dataset.chunks}, too large to be read in parts.")
    vectors = Streamed(count, item, dataset.dtype, partial(_blocks, path, name, batch_of_one, count))
    check(vectors, what)
    return vectors


def _blocks(path: Path, name: str, batch_of_one: bool, count: int) -> Iterator[npt.NDArray[Any]]:
    with opened(path) as file:
        checked = file.rows(f"/{name}")
        checked.check_streamed()
        dataset = checked.data
        rows = max(1, BLOCK_BYTES // (prod(dataset.shape[1 + batch_of_one :]) * dataset.dtype.itemsize))
        for start in range(0, count, rows):
            yield dataset[0, start : start + rows] if batch_of_one else dataset[start : start + rows]


def _table(sets: Mapping[str, Rows], path: Path, rows: int, without: set[str]) -> pa.Table | None:
    """The columns that a file has beside its features: data sets of one value a row."""
    import pyarrow as pa

    found = {
        "label" if name == "labels" else name: _column(dataset, path, rows, name)
        for name, dataset in sets.items()
        if name not in without and dataset.shape == (rows,)
    }
    return pa.table(found) if found else None


def _column(dataset: Rows, path: Path, rows: int, name: str) -> pa.Array:
    import h5py
    import pyarrow as pa

    if dataset.shape != (rows,):
        raise InputError(f"{path}#/{name} has the shape {dataset.shape}, where there are {rows} rows.")
    if dataset.dtype is not None and h5py.check_string_dtype(dataset.dtype) is not None:
        return pa.array(_texts(dataset, path), pa.string())
    if dataset.dtype is None or dataset.dtype.kind not in "biuf":
        raise InputError(f"{path}#/{name} holds {dataset.dtype}, which is neither text nor numbers.")
    return pa.array(dataset.all())


def _texts(dataset: Rows, path: Path) -> list[str | None]:
    dataset.check_all()
    try:
        return [text or None for text in dataset.data.asstr()[...].tolist()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}#{dataset.name} isn't UTF-8.") from error


def _text_table(dataset: Rows, path: Path, rows: int) -> dict[str, pa.Array]:
    """A data set of text (rows, columns), with the columns' names in its attribute."""
    import h5py
    import pyarrow as pa

    names = [n.decode() if isinstance(n, bytes) else str(n) for n in np.ravel(dataset.data.attrs["columns"]).tolist()]
    if dataset.shape != (rows, len(names)) or dataset.dtype is None or h5py.check_string_dtype(dataset.dtype) is None:
        raise InputError(
            f"{path}#{dataset.name} is {dataset.dtype} {dataset.shape}, where it should be text {(rows, len(names))}."
        )
    dataset.check_all()
    try:
        values = dataset.data.asstr()[...]
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
        names = file.data_sets()
        return f"/{COORDS}" in names and any(f"/{name}" in names for name in FEATURES)
