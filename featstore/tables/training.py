"""Reading back training tables: as arrays, data frames and fitted objects."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.catalog import training_tables
from featstore.catalog.connection import Catalog
from featstore.catalog.metrics import Metric, add
from featstore.errors import CorruptError
from featstore.keys import Ref
from featstore.plugins import Plugins
from featstore.runs import utc_now
from featstore.tables.data import DATA, FITTED, fold_name
from featstore.tables.features import require_value, typed_labels
from featstore.tables.fitted import TRUSTED
from featstore.tables.made_of import require_unaltered
from featstore.tables.rows import SURVIVAL

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from featstore.tables.apply import ApplyResult
    from featstore.tables.reproduce import ReproduceResult


@dataclass(frozen=True, slots=True)
class TrainingTable:
    """One version of a training table.

    Attributes:
        entity: what a row is: ``patient``, ``visit`` or ``sample``.
        folds: how many folds it has, each with its own data and fitted objects; 0 for none. ``fold`` is then wanted.
        stale: what has changed since it was made; None where nothing has.
    """

    name: str
    version: int
    path: Path
    recipe: dict[str, Any] = field(repr=False)
    report: dict[str, Any] = field(repr=False)
    created_at: datetime
    entity: str
    folds: int
    stale: str | None
    _store: Path = field(repr=False)
    _catalog: Catalog = field(repr=False)
    _plugins: Plugins = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name}@v{self.version}"

    def folder(self, fold: int | None = None) -> Path:
        """Where the data and the fitted objects lie.

        Raises:
            UsageError: the table has folds and ``fold`` isn't one of them, or has none and it was given.
        """
        return self.path / fold_name(str(self), self.folds, fold)

    def to_arrow(self, *, split: str | None = None, fold: int | None = None) -> pa.Table:
        """All columns, or those rows that are in one split.

        Raises:
            NotFoundError: the table has no such split. CorruptError: its file is gone or damaged.
            UsageError: it has folds, and none was named.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            rows = pq.ParquetFile(self.folder(fold) / DATA).read()
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(
                f"The data of {self} can't be read: {str(error).splitlines()[0]}",
                hint=f"restore {self.path} from a backup, or materialize another version",
            ) from error
        if split is None:
            return rows
        require_value(split, rows.column("split").unique().to_pylist(), f"The table {self.name!r}")
        return rows.filter(pc.equal(rows.column("split"), split))

    def splits(self, *, fold: int | None = None) -> list[str]:
        """The splits that rows are in, sorted."""
        return sorted(s for s in self.to_arrow(fold=fold).column("split").unique().to_pylist() if s is not None)

    def arrays(
        self, *, split: str | None = None, fold: int | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.str_]]:
        """``(X, y, patient_ids)``, in row order.

        Returns:
            X, float32 (rows, width), of ``fused``; y, labels in their declared type, or, of survival, a structured
            array of ``event`` (bool) and ``time`` (float64); patient_ids as text, one a row.

        Raises:
            NotFoundError: the table has no such split. UsageError: it has folds, and none was named.
        """
        rows = self.to_arrow(split=split, fold=fold)
        if "event" in rows.column_names:
            y = np.empty(len(rows), SURVIVAL)
            for name in ("event", "time"):
                y[name] = rows.column(name).to_numpy()
        else:
            labels = rows.column("label")
            y = typed_labels(labels.to_pylist(), {"int64": "int", "double": "float"}.get(str(labels.type), "str"))
        return _matrix(rows.column("fused")), y, np.array(rows.column("patient_id").to_pylist(), dtype=np.str_)

    def to_pandas(self, *, fold: int | None = None) -> pd.DataFrame:
        """All rows; a vector column holds one array a row."""
        frame: pd.DataFrame = self.to_arrow(fold=fold).to_pandas()
        return frame

    def fitted(self, *, fold: int | None = None) -> dict[str, Any]:
        """What was learned from the train rows: scikit-learn objects.

        Returns:
            ``{"encode": {table: {column: …}}, "inputs": {alias: {step: …}}, "missing": …, "fuser": {…}, "steps":
            {"standardize": …, "pca": …}}``, each key where there is something.

        Raises:
            CorruptError: the file is gone.
            Exception: skops' own, where the file holds a type that isn't trusted; nothing of it is run.
        """
        file = self.folder(fold) / FITTED
        if not file.exists():
            if self.report.get("fitted", True):  # or new patients would be left as they are, and nobody told
                raise CorruptError(f"{file} is missing: what {self} has learned is lost.", hint="restore it")
            return {}
        from skops import io as skops

        return dict(skops.load(file, trusted=[*TRUSTED, *self._plugins.trusted()]))

    def apply(
        self,
        out: str | os.PathLike[str],
        *,
        where: str | None = None,
        fold: int | None = None,
        everyone: bool = False,
        wide: bool = False,
    ) -> ApplyResult:
        """Put new patients through the same fitted steps; see :func:`featstore.tables.apply.apply`."""
        from featstore.tables.apply import apply

        return apply(
            self._store, self._catalog, self._plugins, self, Path(out), where=where, fold=fold, everyone=everyone,
            wide=wide,
        )  # fmt: skip

    def reproduce(self) -> ReproduceResult:
        """Make this version again and compare bytes; see :func:`featstore.tables.reproduce.reproduce`."""
        from featstore.tables.reproduce import reproduce

        return reproduce(self._store, self._catalog, self._plugins, self)

    def verify(self) -> None:
        """Read all data, and compare them with what the catalog knows of them.

        Raises:
            CorruptError: they aren't the very bytes that were made, or are gone.
        """
        with self._catalog.read() as connection:
            known = training_tables.get(connection, Ref(self.name, self.version))["data_hash"]
        require_unaltered(self.path, self.folds, known, str(self))

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Keep metrics of a model that was trained on this version, in the view ``metrics``."""
        with self._catalog.write() as connection:
            found = [Metric(split, name, float(value)) for name, value in metrics.items()]
            add(connection, self.name, self.version, found, None, utc_now())


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    width = column.type.list_size
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]) if column.num_chunks else np.zeros(0)
    return flat.astype(np.float32, copy=False).reshape(len(column), width)
