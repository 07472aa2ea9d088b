"""Vectors in several data sets of one file, a partition each: what HDF5 files and Zarr groups have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import InputError
from featstore.imports.columns import Columns
from featstore.imports.vectors import Contents, Joined, Vectors

if TYPE_CHECKING:
    import pyarrow as pa

#: What the names of a partition's own columns end with: a table of text, and one column.
META, KEY = "_metadata", "_sample_key"


def is_partition(name: str, ndim: int, kind: str) -> bool:
    """Whether a data set is a partition's vectors, and not what is said of them."""
    return ndim in (2, 3) and kind == "f" and not name.endswith((META, KEY))


def open_partitions(
    files: list[Path],
    path: Path,
    parts: Mapping[str, Vectors],
    tables: Mapping[str, dict[str, pa.Array]],
    key: str | None,
) -> Contents:
    """Join partitions. What a partition is called is its rows' split, unless its own columns say the split.

    Args:
        files: all that is read.
        path: for names and messages.
        parts: partition → vectors.
        tables: partition → its own columns.

    Raises:
        InputError: the partitions have other columns, or vectors of other shapes.
    """
    import pyarrow as pa

    names: list[str] = []
    starts: dict[str, int] = {}
    found: list[pa.Table] = []
    for name, part in parts.items():
        starts[name] = len(names)
        names += [f"{path.name}#/{name}/{row}" for row in range(part.count)]
        found.append(pa.table({"split": pa.array([name] * part.count)} | tables[name]))
    if len({frozenset(table.column_names) for table in found}) > 1:
        said = "; ".join(f"{n} {', '.join(t.column_names)}" for n, t in zip(parts, found, strict=True))
        raise InputError(f"The partitions of {path} don't say the same of their rows: {said}.")
    columns = Columns.of(pa.concat_tables([table.select(found[0].column_names) for table in found]), key)
    return Contents(Joined(list(parts.values()), list(parts)), files, names, columns, partitions=starts, alone=True)
