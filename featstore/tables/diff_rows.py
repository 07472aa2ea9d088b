"""The rows of two versions of a table: who came, who went and why, who is in another split or has another label."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.tables.data import DATA, ROWS
from featstore.tables.diff_data import Positions, match, open_file, read, unequal

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.tables.training import TrainingTable

LOST = "lost.parquet"
#: What tells rows apart. A sample's key does by itself.
_KEYS = {"patient": ["patient_id"], "visit": ["patient_id", "visit_id"], "sample": ["sample_key"]}
_LABELS = ("label", "time", "event")


@dataclass(frozen=True, slots=True)
class RowsDiff:
    """Tables of keys, in the order of the version that has them.

    Attributes:
        common: how many rows both have; None where they can't be matched, since they aren't of one entity.
        added, lost: the keys, and the ``reason`` why the other version left the row out, where it says so.
        split, label: the keys, ``before`` and ``after``; of labels also the ``column``: label, time or event.
    """

    common: int | None
    added: pa.Table
    lost: pa.Table
    split: pa.Table
    label: pa.Table

    @property
    def same(self) -> bool:
        """Both have the same rows, with the same splits and labels."""
        return self.common is not None and not any(
            table.num_rows for table in (self.added, self.lost, self.split, self.label)
        )

    def to_json(self) -> dict[str, Any]:
        """Every row."""
        tables = [f.name for f in fields(self) if f.name != "common"]
        return {"common": self.common, **{name: getattr(self, name).to_pylist() for name in tables}}


def keys_of(paths: tuple[Path, Path], entity: str) -> tuple[pa.Table, Positions]:
    """The keys of the first file's rows, and where each row is in the second, or −1."""
    keys = [read(path, _KEYS[entity]) for path in paths]
    return keys[0], match(keys[0], keys[1], paths)[0]


def compare_rows(a: TrainingTable, b: TrainingTable) -> RowsDiff:
    """Compare the rows of two versions, by key.

    Raises:
        CorruptError: data can't be read, or have a key twice.
    """
    import pyarrow as pa

    empty = pa.table({name: pa.array([], pa.string()) for name in _KEYS[a.entity]})
    if a.entity != b.entity:
        return RowsDiff(None, empty, empty, empty, empty)
    names = _KEYS[a.entity]
    paths = _rows_file(a), _rows_file(b)
    one, other = (_rows(path, names) for path in paths)
    there, back = match(one.select(names), other.select(names), paths)
    here = np.flatnonzero(there >= 0)
    both = one.take(here), other.take(there[here])
    keys = both[0].select(names)
    labels = []
    for name in _LABELS:
        if name in one.column_names and name in other.column_names:
            found = _changed(keys, _comparable(both, name))
            labels.append(found.append_column("column", pa.array([name] * len(found), pa.string())))
    return RowsDiff(
        len(here),
        _why(other.take(np.flatnonzero(back < 0)).select(names), a, names),
        _why(one.take(np.flatnonzero(there < 0)).select(names), b, names),
        _changed(keys, _comparable(both, "split")),
        pa.concat_tables(labels) if labels else keys.slice(0, 0),
    )


def _rows_file(table: TrainingTable) -> Path:
    """Where the rows are told; versions of before have them in their data alone."""
    path = table.path / ROWS
    return path if path.exists() else table.path / DATA


def _rows(path: Path, names: list[str]) -> pa.Table:
    with open_file(path) as file:
        there = file.schema_arrow.names
    return read(path, [*names, *(n for n in ("split", *_LABELS, "label_type") if n in there)])


def _comparable(both: tuple[pa.Table, pa.Table], name: str) -> tuple[pa.Array, pa.Array]:
    """A column of both, in one type: as numbers where both are numbers, so that 1 equals 1.0; else as they are told."""
    import pyarrow as pa

    columns = [table.column(name).combine_chunks() for table in both]
    if name == "label" and all(_are_numbers(table) for table in both):
        return columns[0].cast(pa.float64()), columns[1].cast(pa.float64())
    if columns[0].type != columns[1].type:
        return columns[0].cast(pa.string()), columns[1].cast(pa.string())
    return columns[0], columns[1]


def _are_numbers(rows: pa.Table) -> bool:
    """Whether labels are numbers: by their type, or by what is declared of their text."""
    import pyarrow as pa

    if "label_type" not in rows.column_names:
        type_ = rows.schema.field("label").type
        return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_))
    declared = set(rows.column("label_type").unique().to_pylist()) - {None}
    return bool(declared) and declared <= {"int", "float"}


def _changed(keys: pa.Table, columns: tuple[pa.Array, pa.Array]) -> pa.Table:
    """The rows where two columns differ: keys, ``before``, ``after`` as text."""
    import pyarrow as pa

    where = np.flatnonzero(unequal(*columns))
    found = keys.take(where)
    for name, column in zip(("before", "after"), columns, strict=True):
        found = found.append_column(name, column.take(pa.array(where)).cast(pa.string()))
    return found


def _why(keys: pa.Table, other: TrainingTable, names: list[str]) -> pa.Table:
    """Rows that the other version hasn't, with the reason that it gives."""
    import pyarrow as pa

    path = other.path / LOST
    reasons = pa.nulls(len(keys), pa.string())
    if path.exists() and len(keys):
        lost = read(path)
        places, _ = match(keys, lost.select(names), (path, path))
        found = lost.column("reason").combine_chunks()
        reasons = found.take(pa.array(places, mask=places < 0)).cast(pa.string())
    return keys.append_column("reason", reasons)
