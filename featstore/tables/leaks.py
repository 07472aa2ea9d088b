"""Looking for leaks in a table that was made, or in a feature set with a split scheme."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import numbers
from featstore.catalog import feature_sets, splits, training_tables
from featstore.catalog import leakage as catalog
from featstore.catalog.alignment_inputs import VectorInput, pointers
from featstore.catalog.connection import Catalog, first
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.files import inside
from featstore.keys import Ref
from featstore.tables.compared import Read
from featstore.tables.data import DATA
from featstore.tables.equal import equal_leaks, gathering, stored
from featstore.tables.features import FeatureSetView
from featstore.tables.leakage import Leak, check
from featstore.tables.made_of import altered, kept_pointers, kept_rows, read, read_schema, reading, require_unaltered
from featstore.tables.near import near_leaks
from featstore.tables.recipe_plain import from_json

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(slots=True)
class LeakReport:
    """What was looked at, and what was found.

    Attributes:
        name: ``NAME@vK``.
        scheme: whose splits; None: the table's own, or none.
        threshold: the cosine from which two vectors are nearly the same.
        everyone: patients of the same split were compared, too.
        rows: how many there are.
        leaks: one a way in which it leaks; nothing where it is clean.
        pooled: feature sets whose vectors were pooled before nearly equal ones were looked for: two slices that are
            alike may be pooled with others that aren't.
    """

    name: str
    scheme: str | None
    threshold: float
    everyone: bool
    rows: int
    leaks: list[Leak]
    pooled: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Subject:
    """What is looked at. Its rows and inputs are aligned in a connection."""

    name: str
    inputs: list[VectorInput]
    reads: Mapping[str, Read]
    label: str = "label"
    columns: pa.Table | None = None
    stale: str | None = None


def leaks(
    store: Path,
    catalog_file: Catalog,
    name: str,
    *,
    threshold: float = 0.999,
    scheme: str | None = None,
    everyone: bool = False,
) -> LeakReport:
    """Look for everything that ``materialize`` refuses, and for nearly equal vectors; nothing is changed.

    Args:
        name: a training table, whose rows are compared, or a feature set, whose samples are; ``NAME`` or ``NAME@vK``.
        threshold: the cosine from which two vectors are nearly the same.
        scheme: whose splits, ``NAME`` or ``NAME@vK``. The table's own if not given; of a feature set, ``default``.
        everyone: compare the patients of one split with one another, too.

    Raises:
        NotFoundError: no such table, feature set or scheme. CorruptError: a file of the table's is gone or damaged.
        UsageError: nothing says who is in which split, or ``threshold`` is no cosine above 0.
    """
    if not 0 < threshold <= 1:
        raise UsageError(f"--threshold is a cosine above 0 and at most 1, not {threshold:g}.")
    with catalog_file.read() as connection:
        ref = Ref.parse(name)
        if first(connection.execute("SELECT 1 FROM core.training_table WHERE name = ? LIMIT 1", [ref.name])):
            subject = _table(store, connection, ref, scheme)
        elif feature_sets.exists(connection, ref.name):
            scheme = scheme or (None if everyone and not _has_default(connection) else "default")
            subject = _feature_set(store, connection, ref, scheme)
        else:
            raise _unknown(connection, ref.name)
        rows = catalog.rows(connection)
        if not everyone and not rows.num_rows - rows.column("split").null_count:
            raise UsageError(
                f"Nothing says who of {subject.name} is in which split.", hint="--scheme default, or --all"
            )
        found = check(connection, subject.inputs, label=subject.label, columns=subject.columns, everyone=everyone)
        places = {s.alias: pointers(connection, n, s.alias)[0] for n, s in enumerate(subject.inputs)}
        paths = {s.alias: feature_sets.segment_paths(connection, s.feature_set.id) for s in subject.inputs}
    found += _stale(subject)
    found += equal_leaks(rows, stored(store, subject.inputs, places, paths), everyone=everyone)
    found += near_leaks(subject.reads, rows, threshold, everyone=everyone)
    pooled = list(dict.fromkeys(str(item.feature_set) for item in subject.inputs if item.aggregated))
    return LeakReport(subject.name, scheme, threshold, everyone, rows.num_rows, found, pooled)


def _has_default(connection: duckdb.DuckDBPyConnection) -> bool:
    return first(connection.execute("SELECT 1 FROM core.scheme WHERE lower(name) = 'default' LIMIT 1")) is not None


def _unknown(connection: duckdb.DuckDBPyConnection, name: str) -> NotFoundError:
    query = "SELECT name FROM core.training_table UNION SELECT name FROM core.feature_set ORDER BY 1"
    known = [str(row[0]) for row in connection.execute(query).fetchall()]
    return NotFoundError(
        f"There is no training table or feature set {name!r}.{did_you_mean(name, known)}", hint="featstore ls tables"
    )


def _feature_set(store: Path, connection: duckdb.DuckDBPyConnection, ref: Ref, scheme: str | None) -> _Subject:
    """Each current vector is a row of its own."""
    import pyarrow as pa

    found = feature_sets.get(connection, ref)
    scheme_id = splits.scheme_id(connection, scheme) if scheme else None
    vectors = feature_sets.rows(connection, found.id, scheme_id)
    if not vectors.num_rows:
        raise NotFoundError(f"{found} has no vectors.", hint=f"featstore extract --name {ref.name}")
    item = VectorInput(ref.name, found, None, False)
    catalog.align_rows(connection, vectors, None)
    places = vectors.select(["sample_key", "segment", "row"])
    places = places.append_column("position", pa.array(range(places.num_rows), pa.int64()))
    catalog.use_pointers(connection, 0, item, places)
    catalog.use_current(connection, 0, item)
    paths = feature_sets.segment_paths(connection, found.id)
    view = FeatureSetView(found, vectors, {id: inside(store, path) for id, path in paths.items()})
    gather = gathering(view.reader(vectors))
    segments, at = (numbers(vectors.column(name)) for name in ("segment", "row"))
    read = {ref.name: lambda start, stop: gather(segments[start:stop], at[start:stop])}
    return _Subject(str(found), [item], read)


def _table(store: Path, connection: duckdb.DuckDBPyConnection, ref: Ref, scheme: str | None) -> _Subject:
    """Each row of the table's is one; of folds, whose vectors are the same in each, the first is read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    row = training_tables.get(connection, ref)
    name, folder = f"{row['name']}@v{row['version']}", inside(store, row["path"])
    file = folder / ("fold0" if row["folds"] else "") / DATA
    rows = kept_rows(folder, row["entity"])
    recipe, form = from_json(row["recipe"]), read_schema(file)
    places = kept_pointers(folder, rows.num_rows, recipe)
    catalog.align_rows(connection, rows, splits.scheme_id(connection, scheme) if scheme else None)
    items = []
    for item in training_tables.inputs(connection, row["name"], row["version"]):
        if item.feature_set is not None:
            found = feature_sets.get(connection, _ref(connection, item.feature_set))
            items.append(VectorInput(item.alias, found, item.modality, item.aggregation is not None))
            mine = places.filter(pc.equal(places.column("alias"), item.alias))
            catalog.use_pointers(connection, len(items) - 1, items[-1], mine)
    names = [name for table in recipe.tables for name in table.columns]
    if gone := [name for name in (*(item.alias for item in items), *names) if name not in form.names]:
        raise altered(file, f"it has no column {gone[0]!r}")
    columns = read(file, ["patient_id", *names])
    if columns.num_rows != rows.num_rows:
        raise altered(file, f"it has {columns.num_rows} rows, and rows.parquet has {rows.num_rows}")
    if odd := [item.alias for item in items if not pa.types.is_fixed_size_list(form.field(item.alias).type)]:
        raise altered(file, f"its column {odd[0]!r} holds no vectors")
    require_unaltered(folder, row["folds"] or 0, row["data_hash"], name)
    reads = {item.alias: _Column(file, item.alias).read for item in items}
    return _Subject(name, items, reads, str(row["label"]), columns.select(names) if names else None, row["stale"])


def _ref(connection: duckdb.DuckDBPyConnection, feature_set: int) -> Ref:
    found = first(connection.execute("SELECT name, version FROM core.feature_set WHERE id = ?", [feature_set]))
    assert found
    return Ref(str(found[0]), int(found[1]))


@dataclass(frozen=True, slots=True)
class _Column:
    """Vectors of a Parquet file, some rows at a time."""

    path: Path
    name: str

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        with reading(self.path) as file:
            metadata = file.metadata
            ends = np.cumsum([metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)])
            first, last = (int(np.searchsorted(ends, at, "right")) for at in (start, stop - 1))
            groups = range(first, last + 1)
            rows = file.read_row_groups(list(groups), columns=[self.name]).column(self.name).combine_chunks()
        before = int(ends[groups[0]]) - metadata.row_group(groups[0]).num_rows
        part = rows.slice(start - before, stop - start)
        return np.asarray(part.flatten()).reshape(stop - start, rows.type.list_size)


#: How the reasons of the column ``tables.stale`` begin that the checks name row by row.
_LOOKED_AT = ("the feature set ", "samples of ")


def _stale(subject: _Subject) -> list[Leak]:
    """What the catalog says has changed since a table was made; feature sets and samples were looked at already."""
    because = [text for text in (subject.stale or "").split("; ") if text and not text.startswith(_LOOKED_AT)]
    if not because:
        return []
    message = f"{subject.name} is stale: {'; '.join(because)}."
    hint = "materialize it again, which makes a new version"
    return [Leak("stale", message, [{"because": text} for text in because], len(because), hint)]
