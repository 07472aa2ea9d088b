"""The data of a training table: one Parquet file, as exporters take it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.errors import CorruptError, UsageError
from featstore.plugins import Plugins
from featstore.spec import ExporterSpec
from featstore.tables.features import require_value

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

DATA, CARD = "data.parquet", "card.md"
#: Which rows and vectors a version was made of, and what it has learned.
ROWS, POINTERS, FITTED = "rows.parquet", "pointers.parquet", "fitted.skops"
#: Of vectors in one batch; at least one row.
BATCH_NBYTES = 8 * 1024 * 1024
BATCH_ROWS = 4096


def unless_same(
    plugins: Plugins, exporter: ExporterSpec, *, wide: bool, split: str | None = None
) -> ExporterSpec | None:
    """The exporter; None where the data is already what it would write."""
    return None if exporter is plugins.exporter(Path(DATA)) and not wide and split is None else exporter


def fold_name(table: str, folds: int, fold: int | None) -> str:
    """The folder of one fold's data, below the version's own; ``""`` where there are none.

    Args:
        table: what to call it in an error, ``NAME@vK``.

    Raises:
        UsageError: the table has folds and ``fold`` isn't one of them, or has none and it was given.
    """
    if fold is None and not folds:
        return ""
    if not folds:
        raise UsageError(f"The table {table} has no folds.", hint="leave fold out")
    if fold is None or not 0 <= fold < folds:
        raise UsageError(
            f"The table {table} has {folds} folds, each with its own data: "
            f"{'which' if fold is None else f'{fold} is none of them'}.",
            hint=f"fold=0 … fold={folds - 1} (--fold 0)",
        )
    return f"fold{fold}"


@dataclass(frozen=True, slots=True)
class TableData:
    """The rows of one version of a training table.

    Attributes:
        facts: what the schema's metadata says beside ``rows``.
        split: only these rows; all where None.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    split: str | None = None

    def write(self, exporter: ExporterSpec | None, path: Path, *, wide: bool) -> tuple[int, int]:
        """Write the rows to ``path``; returns their number and the width of ``fused``.

        Args:
            exporter: None where the data is already what it would write: that is copied.

        Raises:
            NotFoundError: there is no such split. CorruptError: the file is gone or damaged.
            UsageError: the exporter can't write this table.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(
                f"{self.path} can't be read: {str(error).splitlines()[0]}", hint="restore it from a backup"
            ) from error
        with file:
            rows = self._rows(file)
            if exporter is None and self.split is None:
                shutil.copyfile(self.path, path)
            else:
                metadata = {b"featstore": json.dumps(self.facts | {"rows": rows}, ensure_ascii=False).encode()}
                schema = file.schema_arrow.with_metadata(metadata)
                assert exporter is not None
                exporter.write(path, schema, self._batches(file, schema), wide=wide)
            return rows, int(file.schema_arrow.field("fused").type.list_size)

    def width(self) -> int:
        """Of ``fused``."""
        import pyarrow.parquet as pq

        return int(pq.read_schema(self.path).field("fused").type.list_size)

    def _rows(self, file: pq.ParquetFile) -> int:
        if self.split is None:
            return int(file.metadata.num_rows)
        splits = file.read(["split"]).column("split").to_pylist()
        require_value(self.split, list(set(splits)), f"The table {self.facts.get('name')!r}")
        return int(splits.count(self.split))

    def _batches(self, file: pq.ParquetFile, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.compute as pc

        floats = sum(f.type.list_size for f in schema if pa.types.is_fixed_size_list(f.type))
        for batch in file.iter_batches(max(1, min(BATCH_ROWS, BATCH_NBYTES // (4 * max(1, floats))))):
            if self.split is not None:
                batch = batch.filter(pc.equal(batch.column("split"), self.split))
            yield pa.RecordBatch.from_arrays(batch.columns, schema=schema)
