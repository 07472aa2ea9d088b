"""Applying: new patients through the steps that a table has fitted, without fitting anything."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import training_tables
from featstore.catalog.connection import Catalog
from featstore.errors import ConflictError
from featstore.keys import Ref
from featstore.plugins import Plugins
from featstore.tables.data import TableData
from featstore.tables.fitted import Fitted
from featstore.tables.fuse import Fusion
from featstore.tables.made_of import kept_rows, require_train_rows
from featstore.tables.materialize import align, complete, poolers
from featstore.tables.placing import check_target, placing
from featstore.tables.recipe import Label, Recipe
from featstore.tables.recipe_plain import from_json
from featstore.tables.writing import batches, masks, new_folder, schema

if TYPE_CHECKING:
    from featstore.tables.training import TrainingTable


@dataclass(slots=True)
class ApplyResult:
    """What an apply did.

    Attributes:
        report: the alignment report of the new rows.
    """

    table: str
    rows: int
    width: int
    out: Path
    report: dict[str, Any] = field(default_factory=dict)


def apply(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    table: TrainingTable,
    out: Path,
    *,
    where: str | None = None,
    fold: int | None = None,
    everyone: bool = False,
    wide: bool = False,
) -> ApplyResult:
    """Write the fused vectors of patients (visits, samples) who aren't in a table, as it would have made them.

    Needed are the same inputs, of the very feature-set versions that the table has; labels and splits aren't.

    Args:
        out: the ending picks the exporter.
        where: a condition on the view ``samples``, in place of the recipe's own.
        fold: of a table of folds: by whose fitted objects.
        everyone: also those who are in the table.

    Raises:
        NotFoundError: nobody is left. LeakageError: the table's train rows aren't those that it was fitted on.
        ConflictError: the inputs have become others than the table's.
    """
    check_target(store, out, plugins.exporter(out))
    folder = table.folder(fold)
    require_train_rows(catalog, table)
    recipe = from_json(table.recipe)
    wanted = _unlabelled(catalog, table, recipe)
    if where is not None:
        wanted = replace(wanted, where=where)
    aligned = align(catalog, wanted, without=None if everyone else kept_rows(table.path).select(_keys(recipe)))
    fitted = Fitted.restore(plugins.fuser(recipe.fuser), table.fitted(fold=fold))
    inputs = aligned.inputs(store, poolers(wanted, plugins))
    fusion = Fusion.restored(inputs, aligned.tabular, aligned.rows.facts(""), fitted)
    width = TableData(folder / "data.parquet").width()
    if fusion.width != width:
        raise ConflictError(
            f"The new rows have {fusion.width} fused features, and {table} has {width}.",
            hint=f"featstore reproduce {table}   says whether it can still be made",
        )
    complete(aligned.alignment.report, fusion, wanted, "")
    has = masks(wanted, fusion)
    form = schema(aligned.rows, fusion, has)
    with new_folder(store) as temporary:
        made = Path(temporary) / "data.parquet"
        plugins.exporter(made).write(made, form, batches(aligned.rows, "", fusion, has, form), wide=False)
        as_it_is = plugins.exporter(out) is plugins.exporter(made) and not wide
        exporter = None if as_it_is else plugins.exporter(out)
        with placing(out, lambda path: _export(TableData(made, {"name": table.name}), exporter, path, wide)):
            pass
    return ApplyResult(str(table), len(aligned.rows), fusion.width, out, aligned.alignment.report)


def _export(data: TableData, exporter: Any, path: Path, wide: bool) -> None:
    data.write(exporter, path, wide=wide)


def _keys(recipe: Recipe) -> list[str]:
    from featstore.catalog.alignment import KEYS

    return list(KEYS[recipe.entity])


def _unlabelled(catalog: Catalog, table: TrainingTable, recipe: Recipe) -> Recipe:
    """The recipe of rows that nothing is known of but their inputs, of the versions that the table has."""
    with catalog.read() as connection:
        pinned = training_tables.versions(connection, table.name, table.version)
    inputs = tuple(replace(i, ref=Ref(i.ref.name, pinned[i.alias])) for i in recipe.inputs)
    return replace(recipe, inputs=inputs, label=Label(None), scheme=None, near_duplicates=None, allow={})
