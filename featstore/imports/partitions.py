"""Vectors in several data sets of one file, a partition each: what HDF5 files and Zarr groups have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import InputError
from featstore.imports.columns import Columns
from featstore.imports.vectors import Contents, Joined, Vectors

if TYPE_CHECKING:
    import pyarrow as pa

#: What the names of a partition's own columns end with: a table of text, and one column.
META, KEY = "_metadata", "_sample_key"
#: What the one data set of all vectors is called.
FEATURES = ("features", "feats")


def is_partition(name: str, ndim: int, kind: str) -> bool:
    """Whether a data set is a partition's vectors, and not what is said of them."""
    return ndim in (2, 3) and kind == "f" and not name.endswith((META, KEY))


def the_features(path: Path, parts: Collection[str], tables: Collection[str], names: Collection[str]) -> str | None:
    """The data set that holds all vectors by its name, or None where each is a partition.

    Args:
        parts: all that could be vectors.
        tables: ``<partition>_metadata`` that tell their columns: with one for it, a data set is a partition.
        names: of all data sets.

    Raises:
        InputError: others beside it look like vectors too.
    """
    name = next((n for n in FEATURES if n in names), None)
    if name is None or name + META in tables:
        return None
    if others := sorted(set(parts) - {name}):
        raise InputError(
            f"{path} has vectors in {name}, and in {', '.join(others)} too.",
            hint="one file a partition, or all of them named otherwise: each data set is then a partition of its own",
        )
    return name


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
