"""Selecting: which vectors of a feature set leave, in which order and groups, with all that is known of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.catalog import exported, feature_sets, sandbox
from featstore.catalog.connection import Catalog
from featstore.catalog.feature_sets import FeatureSet
from featstore.errors import NotFoundError, UsageError
from featstore.keys import Ref, attribute_name, fill
from featstore.tables.features import FeatureSetView, label_type

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.arrays import FeatureReader

#: Of vectors in one batch; at least one row, which may be larger.
BATCH_NBYTES = 8 * 1024 * 1024
#: Rows in one batch, where vectors are short.
BATCH_ROWS = 16_384
VECTOR = "features"
#: What every exported feature set has, in this order. The samples' attributes follow.
COLUMNS = ("sample_key", "patient_id", "visit_id", "modality", "split", "site", "label")
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Selection:
    """Rows that leave, in their order.

    Attributes:
        columns: one row a vector: :data:`COLUMNS`, then the attributes; text, nulls where there is nothing.
        label: the Arrow type that labels leave in.
        segments, positions: int64 (rows,), where each row's vector is.
        groups: (name, rows) of each group, in order; None where rows aren't grouped.
    """

    feature_set: FeatureSet
    columns: pa.Table
    label: pa.DataType
    reader: FeatureReader
    segments: np.ndarray[Any, np.dtype[np.int64]]
    positions: np.ndarray[Any, np.dtype[np.int64]]
    provenance: dict[str, Any] = field(default_factory=dict)
    groups: list[tuple[str, int]] | None = None

    def __len__(self) -> int:
        return int(self.columns.num_rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dim) or (rows, tokens, dim)."""
        return len(self), *self.reader.item_shape

    @property
    def dtype(self) -> str:
        return str(self.reader.dtype)

    def schema(self) -> pa.Schema:
        """What :class:`~featstore.spec.ExportFunction` promises."""
        import pyarrow as pa

        shape = list(self.reader.item_shape)
        vector = pa.list_(pa.from_numpy_dtype(self.reader.dtype), prod(shape))
        fields = [pa.field(f.name, self.label if f.name == "label" else pa.string()) for f in self.columns.schema]
        fields.append(pa.field(VECTOR, vector, metadata={b"shape": json.dumps(shape).encode()}))
        facts = {
            "name": self.feature_set.name, "version": self.feature_set.version,
            "fingerprint": self.feature_set.fingerprint, **self.provenance, "rows": len(self),
        }  # fmt: skip
        if self.columns.column("label").null_count < len(self):
            facts["label_type"] = {pa.int64(): "int", pa.float64(): "float"}.get(self.label, "str")
        if self.groups is not None:
            facts["groups"] = self.groups
        return pa.schema(fields, metadata={b"featstore": json.dumps(facts, ensure_ascii=False).encode()})

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, some 8 MiB of vectors at a time."""
        import pyarrow as pa

        schema, width = self.schema(), prod(self.reader.item_shape)
        values = schema.field(VECTOR).type.value_type
        rows = min(max(1, BATCH_NBYTES // (width * self.reader.dtype.itemsize)), BATCH_ROWS)
        with self.reader as reader:
            for start in range(0, len(self), rows):
                part = slice(start, start + rows)
                vectors = reader.gather(self.segments[part], self.positions[part])
                flat = pa.Array.from_buffers(values, vectors.size, [None, pa.py_buffer(vectors)])
                table = self.columns.slice(start, rows)
                arrays = [
                    _typed(column, self.label) if name == "label" else column.combine_chunks()
                    for name, column in zip(table.column_names, table.columns, strict=True)
                ]
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, width))
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def grouped(self, template: str) -> Selection:
        """The same rows, by group, in their order within each.

        Args:
            template: names a row's group from its columns and the feature set's ``{name}`` and ``{version}``.

        Raises:
            UsageError: the template asks for what isn't there, or for some rows isn't, or gives an unsafe path.
        """
        names = _fields(template)
        own = {"name": self.feature_set.name, "version": str(self.feature_set.version)}
        # An attribute goes by its own name here, also where its column had to take another.
        there = {attribute_name(column): column for column in self.columns.column_names if column not in COLUMNS}
        there |= {column: column for column in self.columns.column_names}
        columns = {name: self.columns.column(there[name]).to_pylist() for name in names if name in there}
        known = dict.fromkeys(there, "") | own
        fill(template, known, "--layout")  # raises for a field that nothing has
        columns = {name: values for name, values in columns.items() if name not in own}
        _require_complete(template, columns, len(self))
        paths: dict[tuple[str, ...], str] = {}
        groups = []
        for values in zip(*columns.values(), strict=True) if columns else [()] * len(self):
            if values not in paths:
                paths[values] = _path(template, own | dict(zip(columns, values, strict=True)))
            groups.append(paths[values])
        order = np.array(sorted(range(len(groups)), key=groups.__getitem__), np.int64)  # stable
        counts = Counter(groups)
        return replace(
            self, columns=self.columns.take(order), segments=self.segments[order], positions=self.positions[order],
            groups=[(name, counts[name]) for name in sorted(counts)],
        )  # fmt: skip


def select(
    store: Path,
    catalog: Catalog,
    ref: Ref,
    *,
    split: str | None = None,
    scheme: str = "default",
    modality: str | None = None,
    where: str | None = None,
) -> Selection:
    """The current vectors of a feature set, in the natural order of their sample keys.

    Args:
        split: only of this split of ``scheme``.
        modality: only of this modality.
        where: a condition on the view ``samples``.

    Raises:
        NotFoundError: no such feature set, scheme, split or modality, or no vector is left. SqlError: a bad ``where``.
    """
    import pyarrow.compute as pc

    keys = sandbox.predicate(catalog, "samples", "sample_key", where, "--where") if where is not None else None
    with catalog.read() as connection:
        found = feature_sets.get(connection, ref)
        view = FeatureSetView.of(store, connection, found, scheme)
        details = exported.details(connection, found.id)
        provenance = exported.provenance(connection, found.id)
    if not len(view):
        raise NotFoundError(f"{found} has no vectors yet.", hint="featstore status   (then extract it)")
    rows = view.chosen(split, modality)
    if keys is not None:
        rows = rows.filter(pc.is_in(rows.column("sample_key"), keys.column("sample_key")))
    if not rows.num_rows:
        chosen = {"--split": split, "--modality": modality, "--where": where}
        said = " ".join(f"{flag} {value!r}" for flag, value in chosen.items() if value is not None)
        raise NotFoundError(f"{found} has no vector of {said}.", hint=f"featstore show {found}")
    return Selection(
        found, _columns(rows, details), _label_type(rows), view.reader(rows), rows.column("segment").to_numpy(),
        rows.column("row").to_numpy(), provenance,
    )  # fmt: skip


def _columns(rows: pa.Table, details: pa.Table) -> pa.Table:
    """What leaves beside the vectors, in the order of ``rows``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = details.take(pc.index_in(rows.column("sample_key"), details.column("sample_key")))
    columns = {name: found.column(name) if name == "visit_id" else rows.column(name) for name in COLUMNS}
    for name in found.column_names[2:]:
        values = found.column(name)
        if values.null_count < len(values):  # else an attribute of samples that stay
            columns[name] = values
    return pa.table(columns).cast(pa.schema([(name, pa.string()) for name in columns]))


def _label_type(rows: pa.Table) -> pa.DataType:
    """The labels' declared type, where Arrow has it: an int of more than 64 bits stays text."""
    import pyarrow as pa

    declared = label_type(rows)
    try:
        _typed(rows.column("label").unique(), declared)
    except (OverflowError, pa.ArrowInvalid):
        return pa.string()
    return declared


def _typed(labels: pa.ChunkedArray | pa.Array, type_: pa.DataType) -> pa.Array:
    import pyarrow as pa

    kind = {pa.int64(): int, pa.float64(): float}.get(type_, str)
    return pa.array([None if value is None else kind(value) for value in labels.to_pylist()], type_)


def _fields(template: str) -> list[str]:
    """The fields of a ``--layout``.

    Raises:
        UsageError: it has none, or a brace without its partner.
    """
    if set("{}") & set(_FIELD.sub("", template)):
        raise UsageError(f"--layout {template!r} has a brace without its partner.")
    names = list(dict.fromkeys(_FIELD.findall(template)))
    if not names:
        raise UsageError(
            f"--layout {template!r} has no field, and would put all rows into one place.",
            hint="such as {split}/{modality}/{patient_id}.npy",
        )
    return names


def _require_complete(template: str, columns: dict[str, list[str | None]], rows: int) -> None:
    """Raise UsageError where a row has nothing to fill a field with."""
    for name, values in columns.items():
        if missing := values.count(None):
            hint = "--split takes those of one split" if name == "split" else f"--where '{name} is not null'"
            if name not in COLUMNS:
                hint = f"--where \"attributes['{attribute_name(name)}'] is not null\""
            raise UsageError(
                f"--layout {template!r} asks for {{{name}}}, which {missing:,} of the {rows:,} rows don't have.",
                hint=f"{hint}; or leave it out of the layout",
            )


def _path(template: str, values: dict[str, str]) -> str:
    """A group's name.

    Raises:
        UsageError: it would not stay where it belongs, or can't be the name of a file.
    """
    for name in _fields(template):
        if not values[name] or re.search(r"[/\\\x00-\x1f\x7f]", values[name]):
            raise UsageError(
                f"--layout {template!r} can't take the {name} {values[name]!r}: it is no part of a file's name.",
                hint=f"leave {{{name}}} out, or those rows: --where",
            )
    path = fill(template, values, "--layout")
    for part in path.split("/"):
        if not part or part.startswith(".") or len(part.encode()) > 255:
            what = "an empty name" if not part else f"the name {part!r}"
            raise UsageError(
                f"--layout {template!r} gives {what}, in {path!r}: a file's name begins with no dot, and has at most "
                "255 bytes.",
                hint="write the layout as a path below --out",
            )
    return path
