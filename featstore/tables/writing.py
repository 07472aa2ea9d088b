"""Writing: aligned and fused rows → one version of a table, on the disk and in the catalog, or neither."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
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
from featstore.tables.data import DATA, TableData
from featstore.tables.fuse import Fusion
from featstore.tables.placing import Made, placing
from featstore.tables.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger("featstore")


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
    tables = store / "tables"
    tables.mkdir(exist_ok=True)
    # Made where it will stay, because a rename can't leave its disk. No table's name begins with a dot.
    with TemporaryDirectory(dir=tables, prefix=".tmp-", ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary) / "table"
        folder.mkdir()
        keep = plugins.exporter(Path(DATA))
        keep.write(folder / DATA, schema, fused.batches(schema), wide=False)
        digest = _digest(folder / DATA)
        # What can't be exported is refused here, before anything is recorded.
        with _exporting(plugins, folder / DATA, keep, out, wide) if out else nullcontext():
            run_id = None
            if latest := _latest(catalog, fused, digest):
                version, path = latest[0], inside(store, latest[1])
            else:
                _complete(folder, fused)
                version, path, run_id = _record(store, catalog, plugins, fused, started, digest, folder)
    return MaterializeResult(
        recipe.name, version, fused.alignment.patients.num_rows, fused.fusion.width, path, run_id is None, run_id,
        fused.report, out,
    )  # fmt: skip


def _exporting(plugins: Plugins, data: Path, keep: ExporterSpec, out: Path, wide: bool) -> AbstractContextManager[Made]:
    exporter = plugins.exporter(out)
    as_it_is = exporter is keep and not wide

    def export(path: Path) -> None:
        TableData(data).write(None if as_it_is else exporter, path, wide=wide)

    return placing(out, export)


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
    store: Path, catalog: Catalog, plugins: Plugins, fused: Fused, started: datetime, digest: str, folder: Path
) -> tuple[int, Path, str]:
    """Move the finished folder into place and add its rows, in one transaction; returns version, path and run."""
    recipe = fused.recipe
    facts = finished("materialize", started, recipe.to_json(), plugins)
    # The transaction is the outer one: an interrupt after the commit must not take the run's folder away again.
    with catalog.write() as connection, RunFolder.creating(store, "materialize") as create_run:
        version = training_tables.next_version(connection, recipe.name)
        path = store / "tables" / recipe.name / f"v{version}"
        row = training_tables.Row(
            recipe.name, version, recipe.label, fused.scheme, fused.alignment.patients.num_rows,
            path.relative_to(store).as_posix(), digest, recipe.to_json(), fused.report,
        )  # fmt: skip
        run = create_run()
        training_tables.put(connection, row, _inputs(fused), run.run_id, facts)
        run.record(**facts, table={"name": recipe.name, "version": version, "data_hash": digest})
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_aside(path, run.run_id)
        folder.rename(path)
        fsync(path.parent)
    return version, path, run.run_id


def _inputs(fused: Fused) -> list[training_tables.Input]:
    """The vector inputs in the recipe's order, then the tables, the label's among them."""
    aligned, aggregation = fused.alignment, {item.alias: item.agg for item in fused.recipe.inputs}
    vectors = [
        training_tables.Input(
            s.alias, aligned.runs[s.alias], feature_set=s.feature_set.id,
            modality=str(fused.report["inputs"][s.alias]["modality"]), aggregation=aggregation[s.alias],
        )
        for s in fused.sets
    ]  # fmt: skip
    return vectors + [training_tables.Input(t, [run], tabular=t) for t, run in aligned.table_runs.items()]


def _put_aside(path: Path, run_id: str) -> None:
    """Rename what stands where a new version goes and the catalog doesn't know.

    A kill between rename and commit leaves such a folder; but a catalog restored from a backup is older than the tables
    beside it, and they are real. So nothing is deleted.
    """
    if path.exists():
        aside = path.with_name(f"{path.name}.orphan-{run_id}")
        path.rename(aside)
        log.warning("%s isn't in the catalog (was it restored from a backup?): kept as %s.", path, aside.name)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
