"""Reproducing: a version again, from the very rows and vectors that it was made of, and a comparison of bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.catalog import feature_sets, training_tables
from featstore.catalog.alignment import KEYS
from featstore.catalog.connection import Catalog
from featstore.errors import CorruptError
from featstore.plugins import Plugins
from featstore.runs import RunFolder, versions
from featstore.tables.aggregate import PooledInput
from featstore.tables.data import DATA
from featstore.tables.fuse import Fusion, Steps
from featstore.tables.made_of import PLACES, altered, kept_pointers, kept_rows, read, read_schema, reader_of
from featstore.tables.materialize import poolers
from featstore.tables.mending import digest
from featstore.tables.recipe import Recipe
from featstore.tables.recipe_plain import from_json
from featstore.tables.rows import Rows
from featstore.tables.tabular import TabularPart
from featstore.tables.writing import batches, masks, new_folder, schema
from featstore.threads import one_thread

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.tables.training import TrainingTable


@dataclass(slots=True)
class ReproduceResult:
    """How a version compares with what the same rows and vectors give now.

    Attributes:
        same: every file of data has the same bytes.
        apart: where they differ: column → largest absolute difference, or None where it isn't one of numbers.
        packages: those of other versions than then: name → (then, now).
    """

    table: str
    same: bool
    apart: dict[str, float | None] = field(default_factory=dict)
    packages: dict[str, tuple[str | None, str | None]] = field(default_factory=dict)


def reproduce(store: Path, catalog: Catalog, plugins: Plugins, table: TrainingTable) -> ReproduceResult:
    """Make a version again beside the old one, compare, and throw it away.

    Samples, vectors, tabular rows and splits that came later don't matter: the rows that it was made of are kept.

    Raises:
        CorruptError: something that it was made of is gone or damaged.
    """
    recipe, kept = from_json(table.recipe), kept_rows(table.path, table.entity)
    keys = KEYS[table.entity]
    columns = [name for name in kept.column_names if not name.startswith(PLACES)]
    rows = Rows(kept.select(columns), keys, table.folds, recipe.label.kind == "classes")
    with catalog.read() as connection:
        made_of = training_tables.inputs(connection, table.name, table.version)
        paths = {
            i.alias: feature_sets.segment_paths(connection, i.feature_set) for i in made_of if i.feature_set is not None
        }
        dims = {
            i.alias: feature_sets.by_id(connection, i.feature_set).shape[-1]
            for i in made_of
            if i.feature_set is not None
        }
        runs = {i.tabular: training_tables.run_name(connection, i.runs[0]) for i in made_of if i.tabular is not None}
        then = training_tables.packages(connection, table.name, table.version)
    known = {*paths, *(f"{PLACES}{name}" for name in runs)}
    if lost := [n for n in (*(i.alias for i in recipe.inputs), *(f"{PLACES}{t.name}" for t in recipe.tables))
                if n not in known or (n.startswith(PLACES) and n not in kept.column_names)]:  # fmt: skip
        raise CorruptError(
            f"{table}: what {', '.join(lost)} was made of isn't known any more.", hint="restore the store from a backup"
        )
    result = ReproduceResult(str(table), same=True)
    now = versions()
    result.packages = {
        name: (then.get(name), now.get(name)) for name in sorted({*then, *now}) if then.get(name) != now.get(name)
    }
    pools = poolers(recipe, plugins)
    pointers = kept_pointers(table.path, len(rows), recipe)
    learns = bool(Steps.of(recipe, plugins).learning())
    with new_folder(store) as temporary, one_thread(learns):
        for fold in rows.names:
            inputs = {
                i.alias: _pooled(store, pointers, paths[i.alias], i.alias, len(rows), dims[i.alias], pools[i.alias])
                for i in recipe.inputs
            }
            tabular = _tabular(store, recipe, kept, runs, table.path / fold / DATA)
            fusion = Fusion.fit(inputs, tabular, rows.facts(fold), Steps.of(recipe, plugins))
            has = masks(recipe, fusion)
            form = schema(rows, fusion, has)
            again = Path(temporary) / f"{fold or 'all'}.parquet"
            plugins.exporter(again).write(again, form, batches(rows, fold, fusion, has, form), wide=False)
            if digest(again) != digest(table.path / fold / DATA):
                result.same = False
                for name, apart in _apart(table.path / fold / DATA, again).items():
                    result.apart[name] = _larger(result.apart.get(name, apart), apart)
    return result


def _pooled(
    store: Path, pointers: pa.Table, paths: dict[int, str], alias: str, rows: int, dim: int, pool: Any
) -> PooledInput:
    import pyarrow.compute as pc

    mine = pointers.filter(pc.equal(pointers.column("alias"), alias))
    return PooledInput.of(reader_of(store, paths, mine, alias), mine, rows, dim, pool)


def _tabular(store: Path, recipe: Recipe, kept: pa.Table, runs: dict[str, str], data: Path) -> dict[str, TabularPart]:
    """The tabular inputs from the rows that their runs took in, whatever the tables hold by now."""
    import pyarrow.compute as pc

    form = read_schema(data)
    parts = {}
    for spec in recipe.tables:
        folder = RunFolder.of(store, runs[spec.name]).path
        # A table keeps the spelling of its name; rows that replaced it may have come under another one.
        named = [file for file in folder.glob("*.parquet") if file.stem.lower() == spec.name.lower()]
        rows = read(named[0] if named else folder / f"{spec.name}.parquet")
        order = ["patient_id"] if spec.time is None else ["patient_id", spec.time]
        if gone := [n for n, where in [*((k, rows.column_names) for k in order), *((c, rows.column_names) for c in
                    spec.columns), *((c, form.names) for c in spec.columns)] if n not in where]:  # fmt: skip
            raise altered(data, f"it, or the rows of {spec.name!r}, has no column {gone[0]!r}")
        rows = rows.sort_by([(key, "ascending") for key in order]).select(list(spec.columns))
        for place, name in enumerate(spec.columns):  # as DuckDB gave them
            rows = rows.set_column(place, name, rows.column(name).cast(form.field(name).type))
        places = kept.column(f"{PLACES}{spec.name}")
        if (pc.max(places).as_py() or 0) >= max(1, rows.num_rows):
            raise altered(data.parent / "rows.parquet", f"it points at rows that {spec.name!r} hasn't")
        parts[spec.name] = TabularPart.align(spec, rows, places)
    return parts


def _larger(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else max(one, other)


def _apart(old: Path, new: Path) -> dict[str, float | None]:
    """Column → how far two files of the same rows are apart, where they are; None where that is no number."""
    import pyarrow as pa

    one, other = read(old), read(new)
    found: dict[str, float | None] = {}
    for name in dict.fromkeys([*one.column_names, *other.column_names]):
        both = name in one.column_names and name in other.column_names
        if both and one.column(name).equals(other.column(name)):
            continue
        found[name] = None
        if both and one.column(name).type == other.column(name).type and pa.types.is_fixed_size_list(one[name].type):
            a, b = (np.concatenate([c.flatten().to_numpy() for c in t.column(name).chunks]) for t in (one, other))
            if a.shape == b.shape:
                found[name] = float(np.nanmax(np.abs(a - b), initial=0.0))
                if found[name] == 0.0 and (np.isnan(a) == np.isnan(b)).all():
                    del found[name]  # NaN isn't equal to itself
    return found
