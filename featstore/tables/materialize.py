"""Materializing: recipe → aligned inputs → fitted fusion → files → a version that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.catalog import alignment, feature_sets, sandbox, splits, tabular
from featstore.catalog.alignment import KEYS, Alignment, Wanted
from featstore.catalog.alignment_inputs import VectorInput
from featstore.catalog.alignment_labels import Column, Labels
from featstore.catalog.alignment_tables import DatedTable
from featstore.catalog.connection import Catalog
from featstore.catalog.splits import Scheme
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.plugins import Plugins
from featstore.runs import utc_now
from featstore.tables import leakage
from featstore.tables.aggregate import PooledInput
from featstore.tables.confounders import confounders
from featstore.tables.equal import equal_leaks, stored
from featstore.tables.fuse import Fusion, Steps
from featstore.tables.keeping import MaterializeResult, keep
from featstore.tables.leakage import Leak
from featstore.tables.made_of import reader_of
from featstore.tables.near import near_leaks
from featstore.tables.placing import check_target
from featstore.tables.recipe import Entity, Input, Recipe
from featstore.tables.rows import Rows
from featstore.tables.spelling import alike
from featstore.tables.tabular import TabularPart
from featstore.tables.writing import Made, new_folder, write_fold
from featstore.threads import one_thread

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: From coarse to fine.
_ENTITIES: tuple[Entity, ...] = ("patient", "visit", "sample")


@dataclass(slots=True)
class Aligned:
    """A recipe resolved against the catalog.

    Attributes:
        sets: the vector inputs, in the recipe's order.
        paths: alias → segment → its path below the store's, of all of its feature set.
        tabular: the tabular inputs, aligned to the rows.
        leaks: what the catalog knows to leak.
    """

    alignment: Alignment
    rows: Rows
    sets: list[VectorInput]
    paths: dict[str, dict[int, str]]
    tabular: dict[str, TabularPart]
    scheme: Scheme | None
    leaks: list[Leak]

    def inputs(self, store: Path, pools: Mapping[str, Any]) -> dict[str, PooledInput]:
        """The vector inputs, to be read and pooled on demand."""
        found = {}
        for item in self.sets:
            pointers, dim = self.alignment.pointers[item.alias], item.feature_set.shape[-1]
            reader = reader_of(store, self.paths[item.alias], pointers, item.alias)
            found[item.alias] = PooledInput.of(reader, pointers, len(self.rows), dim, pools[item.alias])
        return found


def materialize(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    recipe: Recipe,
    *,
    out: Path | None = None,
    wide: bool = False,
) -> MaterializeResult:
    """Make a training table, or find that its latest version is what would be made.

    Args:
        out: also export it there; the ending picks the exporter. Of a scheme of folds, one file a fold.
        wide: one column a feature in ``out``.

    Raises:
        NotFoundError, UsageError, ConflictError, LeakageError, SqlError: what of the recipe can't be had, and why;
            the store is as it was.
    """
    started = utc_now()
    if wide and out is None:
        raise UsageError("--wide says how a file is written, and there is no --out.", hint="--out table.parquet")
    if out:
        check_target(store, out, plugins.exporter(out))
    learns = bool(Steps.of(recipe, plugins).learning())  # what it names must be there before anything is read
    pools = poolers(recipe, plugins)
    aligned = align(catalog, recipe)
    rows, report = aligned.rows, aligned.alignment.report
    inputs = aligned.inputs(store, pools)
    leaks = aligned.leaks + equal_leaks(
        rows.table, stored(store, aligned.sets, aligned.alignment.pointers, aligned.paths)
    )
    if recipe.near_duplicates is not None:
        reads = {alias: pooled.block for alias, pooled in inputs.items()}
        leaks += near_leaks(reads, rows.table, recipe.near_duplicates)
    report["allowed"] = leakage.refuse(leaks, recipe.allow)  # before anything is fitted, which may take hours
    with new_folder(store) as temporary:
        folder = Path(temporary) / "table"
        folder.mkdir()
        made = Made(recipe, aligned.alignment, rows, aligned.sets, aligned.scheme, report, folder)
        with one_thread(learns):
            for fold in rows.names:
                fusion = Fusion.fit(inputs, aligned.tabular, rows.facts(fold), Steps.of(recipe, plugins))
                write_fold(plugins, made, fold, fusion)
                complete(report, fusion, recipe, fold)
                if aligned.scheme and fold in aligned.scheme.sites:
                    report["folds"][fold]["site"] = aligned.scheme.sites[fold]
        return keep(store, catalog, plugins, made, started, out=out, wide=wide)


def poolers(recipe: Recipe, plugins: Plugins) -> dict[str, Any]:
    """Alias → what makes one row of several; None where there is one."""
    return {i.alias: plugins.pooler(i.aggregation, "groups") if i.aggregation else None for i in recipe.inputs}


def align(catalog: Catalog, recipe: Recipe, *, without: pa.Table | None = None) -> Aligned:
    """Resolve a recipe's names, and line its inputs up.

    Args:
        without: keys of rows that aren't wanted.
    """
    if recipe.where is None:
        with catalog.read() as connection:
            return _aligned(connection, recipe, None, without)
    while True:
        with catalog.read() as connection:
            state = splits.state(connection)
        chosen = sandbox.predicate(catalog, "samples", "sample_key", recipe.where, "--where")
        with catalog.read() as connection:
            if state == splits.state(connection):
                return _aligned(connection, recipe, chosen, without)
        # Something came in since the condition was looked at: look again, or part of it would be left out.


def _aligned(
    connection: duckdb.DuckDBPyConnection, recipe: Recipe, chosen: pa.Table | None, without: pa.Table | None
) -> Aligned:
    scheme = splits.scheme(connection, recipe.scheme) if recipe.scheme else None
    tables = {t.name: tabular.fetch(connection, t.name, t.time) for t in recipe.tables}
    labels = _labels(connection, recipe)
    sets = [_vector_input(connection, recipe, item) for item in recipe.inputs]
    if recipe.entity == "sample" and all(s.per != "sample" for s in sets):
        raise UsageError(
            "A table of samples has the samples of an input for rows, and every input here is pooled.",
            hint=f"leave the aggregation out of one: --input {sets[0].alias}={sets[0].feature_set}/MODALITY",
        )
    wanted = Wanted(
        recipe.entity, sets, [DatedTable(t.name, t.time, t.within_s) for t in recipe.tables], labels,
        scheme=(scheme.id, scheme.name) if scheme else None, join=recipe.join,
        min_modalities=recipe.min_modalities, chosen=chosen, as_of=_as_of(connection, recipe), without=without,
    )  # fmt: skip
    found = alignment.align(connection, wanted)
    classes = recipe.label.kind == "classes"
    parts = {t.name: TabularPart.align(t, tables[t.name], found.table_rows[t.name]) for t in recipe.tables}
    leaks = leakage.check(connection, sets, label=str(recipe.label), columns=_columns(parts))
    texts = {label for counts in found.report["by_split"].values() for label in counts["labels"]}
    found.report["labels_alike"] = alike(map(str, texts))
    found.report["confounders"] = confounders(connection, len(sets), classes=classes) if labels else []
    paths = {s.alias: feature_sets.segment_paths(connection, s.feature_set.id) for s in sets}
    rows = Rows(found.rows, KEYS[recipe.entity], scheme.folds if scheme else 0, classes)
    return Aligned(found, rows, sets, paths, parts, scheme, leaks)


def _columns(parts: Mapping[str, TabularPart]) -> pa.Table:
    """The clinical columns of all tables, side by side."""
    import pyarrow as pa

    fields = [(name, part.raw.column(name)) for part in parts.values() for name in part.raw.column_names]
    return pa.table([column for _, column in fields], names=[name for name, _ in fields])


def _vector_input(connection: duckdb.DuckDBPyConnection, recipe: Recipe, item: Input) -> VectorInput:
    found = feature_sets.get(connection, item.ref)
    if len(found.shape) != 1:
        raise UsageError(
            f"{found} keeps tokens, {found.shape[0]} × {found.shape[1]} a sample; a table takes vectors.",
            hint="extract it with a pooler that gives a vector: --pooler mean",
        )
    # In a table of samples, what is pooled is pooled over the patient; what isn't is the sample's own.
    usual: Entity = "patient" if recipe.entity == "sample" and item.aggregation else recipe.entity
    per = item.per or usual
    most = item.max_samples or recipe.max_samples
    if most is not None and item.aggregation in {"first", "last"}:
        raise UsageError(
            f"{item.alias}: {item.aggregation} of {most} samples spread over a row's isn't the {item.aggregation}.",
            hint="leave out max_samples there, or pool otherwise: mean",
        )
    if _ENTITIES.index(per) > _ENTITIES.index(recipe.entity):
        raise UsageError(
            f"{item.alias}: per {per} is finer than a row of this table, a {recipe.entity}.",
            hint=f"entity: {per}, or leave per out",
        )
    return VectorInput(
        item.alias, found, item.modality, item.aggregation is not None, per,
        most, item.order_by or recipe.order_by,
    )  # fmt: skip


def _labels(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> Labels:
    label = recipe.label
    if label.time is not None and label.event is not None:
        return Labels(time=_column(connection, label.time), event=_column(connection, label.event))
    if label.column is None:
        return Labels()
    if label.column == "label":
        return Labels(own=True, kind=label.kind)
    return Labels(value=_column(connection, label.column), kind=label.kind)


def _as_of(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> str | tuple[str, str] | None:
    if recipe.as_of in {None, "acquired_at"}:
        return recipe.as_of
    column = _column(connection, str(recipe.as_of), "--as-of", "acquired_at")
    tabular.fetch(connection, column.table, column.column)  # it must hold times
    return column.table, column.column


def _column(connection: duckdb.DuckDBPyConnection, text: str, flag: str = "--label", instead: str = "label") -> Column:
    """The table and column of ``TABLE.COLUMN``, where both may hold dots.

    Raises:
        UsageError, NotFoundError: there is none, with a suggestion.
    """
    if "." not in text:
        raise UsageError(
            f"{flag} {text!r} is neither {instead!r} nor TABLE.COLUMN.{did_you_mean(text, [instead])}",
            hint=f"{flag} {instead}",
        )
    words = text.split(".")
    known = tabular.names(connection)
    tables = [t for n in range(1, len(words)) if (t := ".".join(words[:n])) in known]
    rows = tabular.fetch(connection, tables[-1] if tables else words[0])
    for table in tables:
        rows = tabular.fetch(connection, table)
        column = text.removeprefix(f"{table}.")
        if column in rows.column_names:
            if rows.num_rows > len(rows.column("patient_id").unique()):
                raise UsageError(
                    f"{table!r} is dated, with several rows a patient: it can't say one {flag.strip('-')}.",
                    hint="ingest-table one row a patient for it",
                )
            return Column(table, column)
    raise NotFoundError(
        f"The table {tables[-1]!r} has no column {column!r}.{did_you_mean(column, rows.column_names)}",
        hint=f"columns: {', '.join(rows.column_names)}",
    )


def complete(report: dict[str, Any], fusion: Fusion, recipe: Recipe, fold: str) -> None:
    """Add to the alignment report what became known while fitting; of folds, what the first says, and each its own."""
    train, width = int(fusion.facts.train.sum()), fusion.width
    if fold:
        unseen = {name: dict(part.unseen) for name, part in fusion.tabular.items() if part.unseen}
        report.setdefault("folds", {})[fold] = {"train_rows": train, "width": width, "unseen": unseen}
        if fold != "fold0":
            return
    for item in recipe.inputs:
        report["inputs"][item.alias]["aggregation"] = item.aggregation
        report["inputs"][item.alias]["missing"] = int((~fusion.inputs[item.alias].present).sum())
    for name, part in fusion.tabular.items():
        report["tables"][name] |= {
            "missing": int((~part.present).sum()), "unseen": dict(part.unseen), "alike": part.alike(),
            "features": part.names(fusion.fitted.encode.get(name, {})),
            "gaps": {mask.removeprefix("has_"): int((~has).sum()) for mask, has in part.masks().items()},
        }  # fmt: skip
    report["nearly_constant"] = nearly_constant(fusion.fitted.steps.get("standardize"))
    report["incomplete"] = fusion.incomplete
    report["train_rows"] = train
    report["width"] = width


def recipe_columns(catalog: Catalog, tables: list[str]) -> Mapping[str, list[str]]:
    """Table → its columns, to find whose a bare column name is."""
    if not tables:
        return {}
    with catalog.read() as connection:
        return {name: [c for c in tabular.fetch(connection, name).column_names if c != "patient_id"] for name in tables}


def nearly_constant(scaler: Any) -> int:
    """How many standardized features hardly vary among the train rows: elsewhere they may be thousands of sigma.

    Those whose standard deviation is below a 100,000th of the median one; constant ones are only centred.
    """
    if not hasattr(scaler, "var_"):
        return 0
    spread = np.sqrt(scaler.var_[scaler.var_ > 0])
    return int((spread < 1e-5 * np.median(spread)).sum()) if len(spread) else 0
