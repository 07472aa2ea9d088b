"""Materializing: recipe → aligned inputs → fitted fusion, and on to :mod:`featstore.tables.writing`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.arrays import FeatureReader
from featstore.catalog import alignment, feature_sets, sandbox, splits, tabular
from featstore.catalog.alignment import Alignment, LabelColumn, VectorInput
from featstore.catalog.connection import Catalog
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.files import inside
from featstore.plugins import Plugins
from featstore.runs import utc_now
from featstore.tables.aggregate import PooledInput
from featstore.tables.fuse import Fusion, learns
from featstore.tables.placing import check_target
from featstore.tables.recipe import Recipe
from featstore.tables.tabular import TabularPart
from featstore.tables.writing import Fused, MaterializeResult, write

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(slots=True)
class _Aligned:
    """The recipe resolved against the catalog."""

    alignment: Alignment
    sets: list[VectorInput]
    segments: dict[str, dict[int, str]]
    tables: dict[str, pa.Table]
    scheme: int | None


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
        out: also export it there; the ending picks the exporter.
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
    fuser = plugins.fuser(recipe.fuser).load()
    if learns(fuser):
        recipe.require_scheme(f"The fuser {recipe.fuser!r} learns")
    pools = {i.alias: plugins.pooler(i.agg, "groups") if i.agg else None for i in recipe.inputs}
    aligned = _align(catalog, recipe)
    patients = aligned.alignment.patients
    ids = patients.column("patient_id").to_pylist()
    train = np.array([s == "train" for s in patients.column("split").to_pylist()], bool)
    inputs = {
        item.alias: PooledInput.of(
            FeatureReader({k: inside(store, p) for k, p in aligned.segments[item.alias].items()}, committed=True),
            aligned.alignment.pointers[item.alias], len(ids), item.feature_set.shape[-1], pools[item.alias],
        )
        for item in aligned.sets
    }  # fmt: skip
    parts = {t.name: TabularPart.align(t, aligned.tables[t.name], ids) for t in recipe.tables}
    fusion = Fusion.of(recipe, fuser, inputs, parts, train)
    fusion.fit()
    report = _complete(aligned.alignment.report, fusion, recipe)
    fused = Fused(recipe, aligned.alignment, aligned.sets, aligned.scheme, fusion, report)
    return write(store, catalog, plugins, fused, started, out=out, wide=wide)


def _align(catalog: Catalog, recipe: Recipe) -> _Aligned:
    chosen = None
    if recipe.where is not None:
        chosen = sandbox.predicate(catalog, "samples", "sample_key", recipe.where, "--where")
    with catalog.read() as connection:
        scheme = splits.scheme_id(connection, recipe.scheme) if recipe.scheme else None
        tables = {t.name: tabular.fetch(connection, t.name) for t in recipe.tables}
        label = _label_column(connection, recipe.label)
        sets = []
        for item in recipe.inputs:
            found = feature_sets.get(connection, item.ref)
            if len(found.shape) != 1:
                raise UsageError(
                    f"{found} keeps tokens, {found.shape[0]} × {found.shape[1]} a sample; a table takes vectors.",
                    hint="extract it with a pooler that gives a vector: --pooler mean",
                )
            sets.append(VectorInput(item.alias, found, item.modality, item.agg is not None))
        aligned = alignment.align(
            connection, sets, list(tables), scheme=scheme, scheme_name=recipe.scheme, label=label,
            labelled=recipe.label != "none", join=recipe.join, chosen=chosen,
        )  # fmt: skip
        paths = {s.alias: feature_sets.segment_paths(connection, s.feature_set.id) for s in sets}
    # Only segments that hold some of these vectors: one that was only reserved need not be there.
    used = {alias: rows.column("segment").unique().to_pylist() for alias, rows in aligned.pointers.items()}
    segments = {alias: {id: paths[alias][id] for id in used[alias]} for alias in used}
    return _Aligned(aligned, sets, segments, tables, scheme)


def _label_column(connection: duckdb.DuckDBPyConnection, label: str) -> LabelColumn | None:
    """The table and column of ``TABLE.COLUMN``, where both may hold dots; None for the patients' own label."""
    if label in {"label", "none"}:
        return None
    if "." not in label:
        raise UsageError(
            f"--label {label!r} is neither 'label' (the patients' own), TABLE.COLUMN, nor none.", hint="--label label"
        )
    words = label.split(".")
    known = tabular.names(connection)
    tables = [t for n in range(1, len(words)) if (t := ".".join(words[:n])) in known]
    rows = tabular.fetch(connection, tables[-1] if tables else words[0])
    for table in tables:
        rows = tabular.fetch(connection, table)
        column = label.removeprefix(f"{table}.")
        if column in rows.column_names:
            return LabelColumn(table, column)
    raise NotFoundError(
        f"The table {tables[-1]!r} has no column {column!r}.{did_you_mean(column, rows.column_names)}",
        hint=f"columns: {', '.join(rows.column_names)}",
    )


def _complete(report: dict[str, Any], fusion: Fusion, recipe: Recipe) -> dict[str, Any]:
    """Add to the alignment report what became known while fitting."""
    for item in recipe.inputs:
        report["inputs"][item.alias]["aggregation"] = item.agg
        report["inputs"][item.alias]["missing"] = int((~fusion.inputs[item.alias].present).sum())
    for name, part in fusion.tabular.items():
        report["tables"][name] |= {
            "missing": int((~part.present).sum()), "unseen": part.unseen, "features": part.names(),
            "gaps": {mask.removeprefix("has_"): int((~has).sum()) for mask, has in part.masks().items()},
        }  # fmt: skip
    report["nearly_constant"] = nearly_constant(fusion.estimators().get("standardize"))
    report["train_rows"] = int(fusion.train.sum())
    report["width"] = fusion.width
    return report


def recipe_columns(catalog: Catalog, tables: list[str]) -> Mapping[str, list[str]]:
    """Table → its columns, to find whose a bare column name is."""
    with catalog.read() as connection:
        return {name: [c for c in tabular.fetch(connection, name).column_names if c != "patient_id"] for name in tables}


def nearly_constant(scaler: Any) -> int:
    """How many standardized features hardly vary among the train rows: elsewhere they may be thousands of sigma.

    Those whose standard deviation is below a 100,000th of the median one; constant ones are only centred.
    """
    if scaler is None:
        return 0
    spread = np.sqrt(scaler.var_[scaler.var_ > 0])
    return int((spread < 1e-5 * np.median(spread)).sum()) if len(spread) else 0
