"""Applying: new patients through the steps that a table has fitted, without fitting anything."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.catalog import training_tables
from featstore.catalog.alignment import KEYS
from featstore.catalog.connection import Catalog
from featstore.errors import ConflictError, LeakageError, UsageError
from featstore.keys import Ref
from featstore.plugins import Plugins
from featstore.spec import ExporterSpec
from featstore.tables.data import DATA, TableData, unless_same
from featstore.tables.fitted import Fitted
from featstore.tables.fuse import Fusion, Steps
from featstore.tables.leakage import Leak, refuse
from featstore.tables.made_of import read, read_schema, require_train_rows
from featstore.tables.materialize import align, complete, poolers
from featstore.tables.placing import check_target, placing
from featstore.tables.recipe import Label, Recipe
from featstore.tables.recipe_plain import from_json
from featstore.tables.rows import Rows
from featstore.tables.writing import batches, new_folder, schema
from featstore.threads import one_thread

if TYPE_CHECKING:
    import pyarrow as pa

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

    Needed are the same inputs, of the very feature-set versions and modalities that the table has; labels and splits
    aren't, and aren't in what is written.

    Args:
        out: the ending picks the exporter.
        where: a condition on the view ``samples``, in place of the recipe's own.
        fold: of a table of folds: by whose fitted objects.
        everyone: also those who are in the table.

    Raises:
        NotFoundError: nobody is left. UsageError: everyone, of a fuser that learns from labels.
        LeakageError: the table's train rows aren't those that it was fitted on; or samples have other contents by now
            than their vectors were made of.
        ConflictError: the inputs have become others than the table's. CorruptError: what it has learned isn't there.
    """
    check_target(store, out, plugins.exporter(out))
    folder = table.folder(fold)
    require_train_rows(catalog, table)
    recipe, form = from_json(table.recipe), read_schema(folder / DATA)
    steps = Steps.of(recipe, plugins)
    if everyone and steps.fuser.labelled:
        raise UsageError(
            f"{recipe.fuser!r} has learned from the labels of rows of {table}, and what it says of them here isn't "
            "what it says of them there: to a model, they would look too good.",
            hint="leave out --everyone, and take the rows of the table from the table",
        )
    fitted = Fitted.restore(steps, table.fitted(fold=fold), form, str(table))
    wanted = _unlabelled(catalog, table, recipe)
    if where is not None:
        wanted = replace(wanted, where=where)
    aligned = align(catalog, wanted, without=None if everyone else read(folder / DATA, list(KEYS[recipe.entity])))
    _refuse_outdated(aligned.leaks, recipe)
    if columns := [column for part in recipe.tables for column in part.columns]:
        known = read(folder / DATA, ["split", *columns])
        train = known.filter([split == "train" for split in known.column("split").to_pylist()])
        for part in aligned.tabular.values():
            part.compare(train, str(table))
    inputs = aligned.inputs(store, poolers(wanted, plugins))
    fusion = Fusion.restored(inputs, aligned.tabular, aligned.rows.facts(""), fitted)
    width = TableData(folder / DATA).width()
    if fusion.width != width:
        raise ConflictError(
            f"The new rows have {fusion.width} fused features, and {table} has {width}.",
            hint=f"featstore reproduce {table}   says whether it can still be made",
        )
    with new_folder(store) as temporary:
        made = Path(temporary) / DATA
        with one_thread(bool(steps.learning())):
            _write(plugins.exporter(made), made, aligned.rows, fusion, form)
        complete(aligned.alignment.report, fusion, wanted, "")
        exporter = unless_same(plugins, plugins.exporter(out), wide=wide)
        with placing(out, lambda path: _export(TableData(made, {"name": table.name}), exporter, path, wide)):
            pass
    return ApplyResult(str(table), len(aligned.rows), fusion.width, out, aligned.alignment.report)


def _refuse_outdated(leaks: list[Leak], recipe: Recipe) -> None:
    """Older versions of feature sets are wanted here: the table's own. Other contents aren't."""
    for leak in leaks:
        if leak.kind == "outdated" and leak.kind not in recipe.allow:
            try:
                refuse([leak], {})
            except LeakageError as error:  # its hint is for a recipe, which can't be changed here
                raise LeakageError(error.message, hint=leak.hint, rows=error.rows) from None


def _write(exporter: ExporterSpec, path: Path, rows: Rows, fusion: Fusion, table: pa.Schema) -> None:
    """The rows with the table's columns, masks included, but without split and label."""
    has = _masks(fusion, table)
    form = schema(rows, fusion, has)
    names = [name for name in form.names if name not in {"split", "label"}]
    kept = (batch.select(names) for batch in batches(rows, "", fusion, has, form))
    exporter.write(path, form.empty_table().select(names).schema, kept, wide=False)


def _masks(fusion: Fusion, table: pa.Schema) -> dict[str, npt.NDArray[np.bool_]]:
    """The table's masks, in its order: a model must find the same columns, whatever the new rows lack."""
    every = {alias: pooled.present for alias, pooled in fusion.inputs.items()}
    for name, part in fusion.tabular.items():
        every[name] = part.present
        every |= {column: part.has(column) for column in part.raw.column_names}
    after = table.names[table.get_field_index("fused") + 1 :]
    return {name: every[name.removeprefix("has_")] for name in after}


def _export(data: TableData, exporter: Any, path: Path, wide: bool) -> None:
    data.write(exporter, path, wide=wide)


def _unlabelled(catalog: Catalog, table: TrainingTable, recipe: Recipe) -> Recipe:
    """The recipe of rows that nothing is known of but their inputs, of the versions and modalities that the table has.

    A recipe may leave a modality out where its condition leaves one only: under another condition it may be another.
    """
    with catalog.read() as connection:
        pinned = training_tables.versions(connection, table.name, table.version)
        made_of = training_tables.inputs(connection, table.name, table.version)
    modality = {item.alias: item.modality for item in made_of}
    inputs = tuple(
        replace(i, ref=Ref(i.ref.name, pinned[i.alias]), modality=modality[i.alias] or i.modality)
        for i in recipe.inputs
    )
    return replace(recipe, inputs=inputs, label=Label(None), scheme=None, near_duplicates=None, allow={})
