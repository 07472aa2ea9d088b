"""What a version of a table was made of: the rows and pointers that are kept beside its data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from featstore.arrays import FeatureReader, numbers
from featstore.catalog import training_tables
from featstore.catalog.alignment import KEYS
from featstore.catalog.connection import Catalog
from featstore.errors import CorruptError, LeakageError
from featstore.files import inside
from featstore.tables.data import DATA, POINTERS, ROWS
from featstore.tables.mending import digest, of_all
from featstore.tables.recipe import Recipe
from featstore.tables.rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from featstore.tables.training import TrainingTable

#: Before the name of a tabular data set: the column of ``rows.parquet`` that says which of its rows goes where.
PLACES = "row of "


def kept_rows(path: Path, entity: str = "patient") -> pa.Table:
    """The table's rows: keys, split, label, and the places in tabular data sets.

    Args:
        entity: what a row is, for its keys.

    Raises:
        CorruptError: they aren't there, can't be read, or aren't what featstore writes.
    """
    file = path / ROWS
    rows = read(file)
    survival = ("time", "event") if "event" in rows.column_names else ()
    _require(file, rows, dict.fromkeys((*KEYS[entity], "split", "label", "label_type"), "string"), nulls=True)
    _require(file, rows, dict(zip(survival, ("double", "bool"), strict=False)))
    _require(file, rows, {"patient_id": "string"})
    places = [name for name in rows.column_names if name.startswith(PLACES)]
    _require(file, rows, dict.fromkeys(places, "int64"), nulls=True)
    for name in places:
        _within(file, rows, name)
    return rows


def kept_pointers(path: Path, rows: int | None = None, recipe: Recipe | None = None) -> pa.Table:
    """``position, alias, segment, row, sample_key``: which stored vectors are in which row.

    Args:
        rows: how many the table has, where that is known.
        recipe: the table's, which says whose pointers there must be.

    Raises:
        CorruptError: they aren't there, can't be read, or aren't what featstore writes.
    """
    file = path / POINTERS
    pointers = read(file)
    numbers = ("position", "segment", "row")
    _require(file, pointers, dict.fromkeys(numbers, "int64") | {"alias": "string", "sample_key": "string"})
    for name in numbers:
        _within(file, pointers, name, rows if name == "position" else None)
    if recipe:
        named, known = set(pointers.column("alias").unique().to_pylist()), {i.alias for i in recipe.inputs}
        if named - known or (recipe.every_input and known - named):
            raise altered(file, f"it has vectors of {_shown(named)}, and the table is made of {_shown(known)}")
    return pointers


def _shown(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "nothing"


def reader_of(store: Path, paths: Mapping[int, str], rows: pa.Table, alias: str) -> FeatureReader:
    """Reads the vectors that an input was made of.

    Only segments that hold some of them are opened: one that was only reserved need not be there. Of an input that no
    row has, any segment that is there tells the shape.

    Args:
        paths: segment → its path below the store's, as the catalog knows them.
        rows: ``segment, row``.

    Raises:
        CorruptError: there are no such segments, or rows in them.
    """
    used = rows.column("segment").unique().to_pylist()
    if not used:
        any_one = [id for id, path in paths.items() if inside(store, path).is_dir()][:1]
        return FeatureReader({id: inside(store, paths[id]) for id in any_one}, committed=True)
    if strange := sorted(set(used) - set(paths)):
        raise CorruptError(
            f"{alias} was made of segments that the catalog doesn't know: {', '.join(map(str, strange[:5]))}.",
            hint="materialize again; or restore the store from a backup",
        )
    reader = FeatureReader({id: inside(store, paths[id]) for id in used}, committed=True)
    ends = np.array([reader.segments[id].layout.rows for id in used])
    segments, at = (numbers(rows.column(c)) for c in ("segment", "row"))
    order = np.argsort(used)
    if (at >= ends[order][np.searchsorted(np.array(used)[order], segments)]).any():
        raise CorruptError(f"{alias} was made of rows that its segments don't have.", hint="restore it from a backup")
    return reader


def _require(file: Path, rows: pa.Table, types: Mapping[str, str], *, nulls: bool = False) -> None:
    for name, wanted in types.items():
        if rows.column_names.count(name) != 1:
            raise altered(file, f"it has {'no' if name not in rows.column_names else 'more than one'} column {name!r}")
        column = rows.column(name)
        if str(column.type) != wanted:
            raise altered(file, f"its column {name!r} holds {column.type}, not {wanted}")
        if column.null_count and not nulls:
            raise altered(file, f"its column {name!r} has gaps")


def _within(file: Path, rows: pa.Table, name: str, end: int | None = None) -> None:
    """Raise where numbers are below 0, or not below ``end``."""
    import pyarrow.compute as pc

    found = pc.min_max(rows.column(name)).as_py()
    if found["min"] is not None and (found["min"] < 0 or (end is not None and found["max"] >= end)):
        raise altered(file, f"its column {name!r} points outside of what is there")


def altered(file: Path, why: str) -> CorruptError:
    """A file that can be read, but isn't as featstore wrote it."""
    return CorruptError(
        f"{file} isn't as featstore wrote it: {why}.", hint="materialize again; or restore it from a backup"
    )


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, all columns or some.

    Raises:
        CorruptError: it isn't there, or can't be read.
    """
    with reading(path) as file:
        return file.read(columns)


def read_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file.

    Raises:
        CorruptError: it isn't there, or can't be read.
    """
    with reading(path) as file:
        return file.schema_arrow


@contextmanager
def reading(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file, for the block.

    Raises:
        CorruptError: it isn't there, or can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException) as error:
        raise CorruptError(
            f"{path} can't be read: {str(error).splitlines()[0]}",
            hint="versions of an older featstore may not have it: materialize again; or restore it from a backup",
        ) from error


def require_unaltered(path: Path, folds: int, data_hash: str, name: str) -> None:
    """Raise where the data of a version aren't the very bytes that were made.

    Args:
        path: of the version.
        folds: how many it has; 0 for none.
        data_hash: SHA-256 of the data, as the catalog knows it.

    Raises:
        CorruptError: they aren't, or a file is gone.
    """
    files = {fold: path / fold / DATA for fold in ([f"fold{n}" for n in range(folds)] or [""])}
    try:
        same = of_all({fold: digest(file) for fold, file in files.items()}) == data_hash
    except OSError as error:
        raise CorruptError(
            f"The data of {name} can't be read: {error}", hint="restore them from a backup, or materialize again"
        ) from error
    if not same:
        raise CorruptError(
            f"The data of {name} were changed since they were made: their SHA-256 isn't the catalog's.",
            hint=f"featstore reproduce {name}   says what differs; restore them from a backup, or materialize again",
        )


def require_train_rows(catalog: Catalog, table: TrainingTable) -> None:
    """Raise where the rows that say ``train`` aren't those that the fitted objects learned from.

    Raises:
        LeakageError: what is tested on may have been learned from.
    """
    with catalog.read() as connection:
        known = training_tables.fits(connection, table.name, table.version)
    keys = KEYS[table.entity]
    for fold, trained in known.items():
        rows = Rows(read(table.path / fold / DATA, [*keys, "split"]), keys)
        if rows.train_hash("") != trained:
            where = f" in {fold}" if fold else ""
            raise LeakageError(
                f"The steps of {table} were fitted on other rows than those that say 'train'{where}: its data were "
                "changed since.",
                hint=f"featstore reproduce {table}   makes them again; restore them from a backup",
            )
