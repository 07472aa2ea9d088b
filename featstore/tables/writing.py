"""Writing: aligned and fused rows → one version of a table, on the disk and in the catalog, or neither."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.catalog import training_tables
from featstore.catalog.alignment import Alignment, VectorInput
from featstore.catalog.connection import Catalog
from featstore.files import fsync, inside, write_json
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished
from featstore.spec import ExporterSpec
from featstore.tables.export import exporting
from featstore.tables.fuse import Fusion
from featstore.tables.recipe import Recipe

if TYPE_CHECKING:
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


@dataclass(frozen=True, slots=True)
class Fused:
    """A recipe with everything that was made of it, ready to be written.

    Attributes:
        sets: the vector inputs, in the recipe's order.
        scheme: the id of the split scheme's version, or None.
    """

    recipe: Recipe
    alignment: Alignment
    sets: list[VectorInput]
    scheme: int | None
    fusion: Fusion
    report: dict[str, Any]

    def schema(self) -> pa.Schema:
        """patient_id, split, label, the inputs' vectors, the tables' columns, fused, and the masks."""
        import pyarrow as pa

        fusion = self.fusion
        fields = [("patient_id", pa.string()), ("split", pa.string()), ("label", label_type(self.alignment.patients))]
        fields += [(alias, pa.list_(pa.float32(), pooled.width)) for alias, pooled in fusion.inputs.items()]
        fields += [(f.name, f.type) for part in fusion.tabular.values() for f in part.raw.schema]
        fields.append(("fused", pa.list_(pa.float32(), fusion.width)))
        return pa.schema(fields + [(name, pa.bool_()) for name in self.masks()])

    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """What is there and what isn't: never left to be guessed from zeros."""
        masks: dict[str, npt.NDArray[np.bool_]] = {}
        if self.recipe.join != "inner":
            masks |= {f"has_{alias}": pooled.present for alias, pooled in self.fusion.inputs.items()}
            masks |= {f"has_{name}": part.present for name, part in self.fusion.tabular.items()}
        for part in self.fusion.tabular.values():
            masks |= part.masks()
        return masks

    def batches(self, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """The rows, a block at a time."""
        import pyarrow as pa

        fusion, patients = self.fusion, self.alignment.patients
        masks = self.masks()
        columns = [patients.column("patient_id"), patients.column("split")]
        columns.append(patients.column("label").cast(schema.field("label").type))
        clinical = [column for part in fusion.tabular.values() for column in part.raw.columns]
        for start, stop in fusion.blocks():
            parts = fusion.parts(start, stop)
            arrays = [column.slice(start, stop - start).combine_chunks() for column in columns]
            arrays += [_vectors(parts[alias]) for alias in fusion.inputs]
            arrays += [column.slice(start, stop - start).combine_chunks() for column in clinical]
            arrays.append(_vectors(fusion.apply(parts)))
            arrays += [pa.array(mask[start:stop]) for mask in masks.values()]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def label_type(patients: pa.Table) -> pa.DataType:
    """The Arrow type of a table's labels, from their declared type."""
    import pyarrow as pa

    kinds = set(patients.column("label_type").unique().to_pylist()) - {None}
    return {"int": pa.int64(), "float": pa.float64()}.get(kinds.pop() if len(kinds) == 1 else "str", pa.string())


def _vectors(block: npt.NDArray[np.float64]) -> pa.FixedSizeListArray:
    import pyarrow as pa

    flat = np.ascontiguousarray(block, np.float32).reshape(-1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), block.shape[1])


def write(
    store: Path, catalog: Catalog, plugins: Plugins, fused: Fused, started: datetime, *, out: Path | None, wide: bool
) -> MaterializeResult:
    """Write the next version of a table, unless its latest is by this very recipe and has these very bytes.

    On any error the store and ``out`` are as they were.
    """
    recipe, schema = fused.recipe, fused.schema()
    run = RunFolder.create(store, "materialize")
    folder = run.path / "table"
    folder.mkdir()
    result = MaterializeResult(
        recipe.name, 0, fused.alignment.patients.num_rows, fused.fusion.width, folder, False, run.run_id, fused.report,
        out,
    )  # fmt: skip
    try:
        keep = plugins.exporter(Path(DATA))
        keep.write(folder / DATA, schema, fused.batches(schema), wide=False)
        digest = _digest(folder / DATA)
        # What can't be exported is refused here, before anything is recorded.
        with _exporting(plugins, folder / DATA, keep, out, wide) if out else nullcontext():
            if latest := _latest(catalog, fused, digest):
                result.version, result.path = latest[0], inside(store, latest[1])
                result.unchanged, result.run_id = True, None
            else:
                _complete(folder, fused)
                _record(store, catalog, plugins, fused, started, digest, run, folder, result)
    finally:
        if not (run.path / "run.json").exists():  # nothing was recorded, so there was no run
            shutil.rmtree(run.path, ignore_errors=True)
    return result


def _exporting(plugins: Plugins, data: Path, keep: ExporterSpec, out: Path, wide: bool) -> AbstractContextManager[None]:
    exporter = plugins.exporter(out)
    return exporting(data, None if exporter is keep and not wide else exporter, out, wide=wide)


def _latest(catalog: Catalog, fused: Fused, digest: str) -> tuple[int, str] | None:
    """Version and path of the table's latest version, if it is by the same recipe, of the same inputs, and equal."""
    inputs = [(s.alias, s.feature_set.id) for s in fused.sets]
    with catalog.read() as connection:
        return training_tables.same_as_latest(connection, fused.recipe.to_json(), inputs, fused.scheme, digest)


def _complete(folder: Path, fused: Fused) -> None:
    """Write what lies beside the data."""
    import yaml
    from skops import io as skops

    write_json(folder / "report.json", fused.report)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fused.recipe.to_json(), sort_keys=False, allow_unicode=True))
    skops.dump(fused.fusion.estimators(), folder / "fitted.skops")
    for file in folder.iterdir():
        fsync(file)


def _record(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    fused: Fused,
    started: datetime,
    digest: str,
    run: RunFolder,
    folder: Path,
    result: MaterializeResult,
) -> None:
    """Move the finished folder into place and add its rows, in one transaction."""
    recipe = fused.recipe
    facts = finished("materialize", started, recipe.to_json(), plugins)
    aggregation = {item.alias: item.agg for item in recipe.inputs}
    inputs = [
        (s.alias, s.feature_set.id, None, str(fused.report["inputs"][s.alias]["modality"]), aggregation[s.alias],
         fused.alignment.runs[s.alias])
        for s in fused.sets
    ]  # fmt: skip
    try:
        with catalog.write() as connection:
            result.version = training_tables.next_version(connection, recipe.name)
            result.path = store / "tables" / recipe.name / f"v{result.version}"
            row = training_tables.Row(
                recipe.name, result.version, recipe.label, fused.scheme, result.rows,
                result.path.relative_to(store).as_posix(), digest, recipe.to_json(), fused.report,
            )  # fmt: skip
            training_tables.put(connection, row, inputs, [t.name for t in recipe.tables], run.run_id, facts)
            result.path.parent.mkdir(parents=True, exist_ok=True)
            if result.path.exists():  # a kill between this rename and the commit left it: the catalog never knew it
                shutil.rmtree(result.path)
            folder.rename(result.path)
            fsync(result.path.parent)
            run.record(**facts, table={"name": recipe.name, "version": result.version, "data_hash": digest})
    except BaseException:
        (run.path / "run.json").unlink(missing_ok=True)  # not committed: there was no such run
        raise


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
