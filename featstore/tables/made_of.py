"""What a version of a table was made of: the rows and pointers that are kept beside its data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.catalog import training_tables
from featstore.catalog.alignment import KEYS
from featstore.catalog.connection import Catalog
from featstore.errors import CorruptError, LeakageError
from featstore.tables.data import DATA
from featstore.tables.rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from featstore.tables.training import TrainingTable

#: Before the name of a tabular data set: the column of ``rows.parquet`` that says which of its rows goes where.
PLACES = "row of "


def kept_rows(path: Path) -> pa.Table:
    """The table's rows: keys, split, label, and the places in tabular data sets.

    Raises:
        CorruptError: they aren't there, or can't be read.
    """
    return read(path / "rows.parquet")


def kept_pointers(path: Path) -> pa.Table:
    """``position, alias, segment, row, sample_key``: which stored vectors are in which row."""
    return read(path / "pointers.parquet")


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a Parquet file, all columns or some.

    Raises:
        CorruptError: it isn't there, or can't be read.
    """
    with _readable(path) as file:
        return file.read(columns)


def read_schema(path: Path) -> pa.Schema:
    """The columns of a Parquet file.

    Raises:
        CorruptError: it isn't there, or can't be read.
    """
    with _readable(path) as file:
        return file.schema_arrow


@contextmanager
def _readable(path: Path) -> Iterator[pq.ParquetFile]:
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


def require_train_rows(catalog: Catalog, table: TrainingTable) -> None:
    """Raise where the rows that say ``train`` aren't those that the fitted objects learned from.

    Raises:
        LeakageError: what is tested on may have been learned from.
    """
    with catalog.read() as connection:
        known = training_tables.fits(connection, table.name, table.version)
    keys = KEYS[table.entity]
    for fold, digest in known.items():
        rows = Rows(read(table.path / fold / DATA, [*keys, "split"]), keys)
        if rows.train_hash("") != digest:
            where = f" in {fold}" if fold else ""
            raise LeakageError(
                f"The steps of {table} were fitted on other rows than those that say 'train'{where}: its data were "
                "changed since.",
                hint=f"featstore reproduce {table}   makes them again; restore them from a backup",
            )
