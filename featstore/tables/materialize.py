"""Materializing: align, fit, write, record: one version of one training table."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader
from featstore.catalog import alignment, feature_sets, sandbox, splits, tabular, training_tables
from featstore.catalog.alignment import Alignment, VectorInput
from featstore.catalog.connection import Catalog
from featstore.errors import NotFoundError, UsageError
from featstore.files import fsync, replacing, write_json
from featstore.plugins import Plugins
from featstore.runs import RunFolder, provenance, utc_now
from featstore.tables.aggregate import PooledInput
from featstore.tables.fuse import Fusion
from featstore.tables.recipe import Recipe
from featstore.tables.tabular import TabularPart

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

DATA = "data.parquet"


@dataclass(slots=True)
class MaterializeResult:
    """What a materialize did.

    Attributes:
        unchanged: the latest version has these very bytes by this very recipe, so no new one was made.
        report: the alignment report.
        out: the exported file, where one was asked for.
    """

    name: str
    version: int
    rows: int
    width: int
    path: Path
    unchanged: bool
    run_id: str | None
    report: dict[str, Any] = field(default_factory=dict)
    out: Path | None = None


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
    exporter = plugins.exporter(out) if out else None
    if wide and out is None:
        raise UsageError("--wide says how a file is written, and there is no --out.", hint="--out table.parquet")
    if out and not out.resolve().parent.is_dir():
        raise NotFoundError(f"There is no folder {out.resolve().parent}.", hint="make it, or choose another --out")
    fuser = plugins.fuser(recipe.fuser).load()
    pools = {i.alias: plugins.pooler(i.agg, "groups") if i.agg else None for i in recipe.inputs}
    aligned = _align(catalog, recipe)
    patients = aligned.alignment.patients
    ids = patients.column("patient_id").to_pylist()
    train = np.array([s == "train" for s in patients.column("split").to_pylist()], bool)
    inputs = {
        item.alias: PooledInput.of(
            FeatureReader({k: store / p for k, p in aligned.segments[item.alias].items()}),
            aligned.alignment.pointers[item.alias], len(ids), item.feature_set.shape[-1], pools[item.alias],
        )
        for item in aligned.sets
    }  # fmt: skip
    parts = {t.name: TabularPart.align(t, aligned.tables[t.name], ids) for t in recipe.tables}
    fusion = Fusion.of(recipe, fuser, inputs, parts, train)
    fusion.fit()
    report = _complete(aligned.alignment.report, fusion, recipe)
    return _write(store, catalog, plugins, recipe, aligned, fusion, report, out, exporter, wide)


def _align(catalog: Catalog, recipe: Recipe) -> _Aligned:
    chosen = None
    if recipe.where is not None:
        chosen = sandbox.predicate(catalog, "samples", "sample_key", recipe.where, "--where")
    with catalog.read() as connection:
        scheme = splits.scheme_id(connection, recipe.scheme) if recipe.scheme else None
        tables = {t.name: tabular.fetch(connection, t.name) for t in recipe.tables}
        _check_label(connection, recipe)
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
            connection, sets, list(tables), scheme=scheme, scheme_name=recipe.scheme, label=recipe.label,
            join=recipe.join, chosen=chosen,
        )  # fmt: skip
        segments = {s.alias: feature_sets.segment_paths(connection, s.feature_set.id) for s in sets}
    return _Aligned(aligned, sets, segments, tables, scheme)


def _check_label(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    if recipe.label == "label":
        return
    table, dot, column = recipe.label.partition(".")
    if not dot:
        raise UsageError(
            f"--label {recipe.label!r} is neither 'label', the patients' own, nor TABLE.COLUMN.",
            hint="--label label",
        )
    rows = tabular.fetch(connection, table)
    if column not in rows.column_names:
        raise NotFoundError(
            f"The table {table!r} has no column {column!r}.", hint=f"columns: {', '.join(rows.column_names)}"
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
    report["train_rows"] = int(fusion.train.sum())
    report["width"] = fusion.width
    return report


# ------------------------------------------------------------------------------------------------ writing
def _schema(aligned: _Aligned, fusion: Fusion, recipe: Recipe) -> pa.Schema:
    import pyarrow as pa

    fields = [
        ("patient_id", pa.string()),
        ("split", pa.string()),
        ("label", label_type(aligned.alignment.patients)),
    ]
    fields += [(alias, pa.list_(pa.float32(), pooled.width)) for alias, pooled in fusion.inputs.items()]
    fields += [(f.name, f.type) for part in fusion.tabular.values() for f in part.raw.schema]
    fields.append(("fused", pa.list_(pa.float32(), fusion.width)))
    return pa.schema(fields + [(name, pa.bool_()) for name in _masks(fusion, recipe)])


def label_type(patients: pa.Table) -> pa.DataType:
    """The Arrow type of a table's labels, from their declared type."""
    import pyarrow as pa

    kinds = set(patients.column("label_type").to_pylist()) - {None}
    return {"int": pa.int64(), "float": pa.float64()}.get(kinds.pop() if len(kinds) == 1 else "str", pa.string())


def _masks(fusion: Fusion, recipe: Recipe) -> dict[str, npt.NDArray[np.bool_]]:
    """What is there and what isn't: never left to be guessed from zeros."""
    masks: dict[str, npt.NDArray[np.bool_]] = {}
    if recipe.join != "inner":
        masks |= {f"has_{alias}": pooled.present for alias, pooled in fusion.inputs.items()}
        masks |= {f"has_{name}": part.present for name, part in fusion.tabular.items()}
    for part in fusion.tabular.values():
        masks |= part.masks()
    return masks


def _batches(aligned: _Aligned, fusion: Fusion, recipe: Recipe, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    patients = aligned.alignment.patients
    masks = _masks(fusion, recipe)
    labels = patients.column("label").cast(schema.field("label").type)
    for start, stop in fusion.blocks():
        span = stop - start
        parts = fusion.parts(start, stop)
        columns = [
            patients.column("patient_id").slice(start, span).combine_chunks(),
            patients.column("split").slice(start, span).combine_chunks(),
            labels.slice(start, span).combine_chunks(),
        ]
        columns += [_vectors(parts[alias]) for alias in fusion.inputs]
        for part in fusion.tabular.values():
            columns += [c.slice(start, span).combine_chunks() for c in part.raw.columns]
        columns.append(_vectors(fusion.apply(parts)))
        columns += [pa.array(mask[start:stop]) for mask in masks.values()]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _vectors(block: npt.NDArray[np.float64]) -> pa.FixedSizeListArray:
    import pyarrow as pa

    flat = np.ascontiguousarray(block, np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), block.shape[1])


def _write(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    recipe: Recipe,
    aligned: _Aligned,
    fusion: Fusion,
    report: dict[str, Any],
    out: Path | None,
    exporter: Any,
    wide: bool,
) -> MaterializeResult:
    import yaml
    from skops import io as skops

    schema = _schema(aligned, fusion, recipe)
    run = RunFolder.create(store, "materialize")
    folder = run.path / "table"
    folder.mkdir()
    try:
        plugins.exporter(Path(DATA)).write(folder / DATA, schema, _batches(aligned, fusion, recipe, schema), wide=False)
        digest = _digest(folder / DATA)
        result = MaterializeResult(
            recipe.name,
            0,
            aligned.alignment.patients.num_rows,
            fusion.width,
            folder,
            False,
            run.run_id,
            report,
        )
        latest = _latest(catalog, recipe, aligned, digest)
        if latest:
            result.version, result.path, result.unchanged, result.run_id = (
                latest[0],
                store / latest[1],
                True,
                None,
            )
        else:
            write_json(folder / "report.json", report)
            (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_json(), sort_keys=False, allow_unicode=True))
            skops.dump(fusion.estimators(), folder / "fitted.skops")
            _record(store, catalog, plugins, recipe, aligned, digest, run, folder, result)
        if out and exporter:
            _export(result.path / DATA, exporter, out, wide)
            result.out = out
        return result
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not (run.path / "run.json").exists():  # nothing was recorded, so there was no run
            run.path.rmdir()


def _latest(catalog: Catalog, recipe: Recipe, aligned: _Aligned, digest: str) -> tuple[int, str] | None:
    """Version and path of the table's latest version, if it is by the same recipe, of the same inputs, and equal."""
    inputs = [(s.alias, s.feature_set.id) for s in aligned.sets]
    with catalog.read() as connection:
        return training_tables.same_as_latest(connection, recipe.to_json(), inputs, aligned.scheme, digest)


def _record(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    recipe: Recipe,
    aligned: _Aligned,
    digest: str,
    run: RunFolder,
    folder: Path,
    result: MaterializeResult,
) -> None:
    """Move the finished folder into place and add its rows, in one transaction; on any error, neither is there."""
    for file in folder.iterdir():
        fsync(file)
    facts = {
        "kind": "materialize", "state": "done", "started_at": utc_now().isoformat(), "request": recipe.to_json(),
        "provenance": provenance("materialize", plugins),
    }  # fmt: skip
    with catalog.write() as connection:
        result.version = training_tables.next_version(connection, recipe.name)
        result.path = store / "tables" / recipe.name / f"v{result.version}"
        training_tables.put(
            connection,
            training_tables.Row(
                recipe.name, result.version, recipe.label, aligned.scheme, result.rows,
                str(result.path.relative_to(store)), digest, recipe.to_json(), result.report,
            ),
            [(s.alias, s.feature_set.id, None, result.report["inputs"][s.alias]["modality"], _agg(recipe, s.alias),
              aligned.alignment.runs[s.alias]) for s in aligned.sets],
            list(aligned.tables), run.run_id, facts,
        )  # fmt: skip
        result.path.parent.mkdir(parents=True, exist_ok=True)
        if result.path.exists():  # a kill between this rename and the commit left it: the catalog never knew it
            shutil.rmtree(result.path)
        folder.rename(result.path)
        fsync(result.path.parent)
    run.record(**facts, table={"name": recipe.name, "version": result.version, "data_hash": digest})


def _agg(recipe: Recipe, alias: str) -> str | None:
    return next(i.agg for i in recipe.inputs if i.alias == alias)


def _export(data: Path, exporter: Any, out: Path, wide: bool) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(data) as file, replacing(out) as temporary:
        exporter.write(temporary, file.schema_arrow, file.iter_batches(4096), wide=wide)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def recipe_columns(catalog: Catalog, tables: list[str]) -> Mapping[str, list[str]]:
    """Table → its columns, to find whose a bare column name is."""
    with catalog.read() as connection:
        return {name: [c for c in tabular.fetch(connection, name).column_names if c != "patient_id"] for name in tables}
