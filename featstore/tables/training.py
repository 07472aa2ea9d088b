"""Reading back training tables: as arrays, data frames and fitted objects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.catalog.connection import Catalog
from featstore.catalog.training_tables import log_metrics
from featstore.errors import CorruptError
from featstore.runs import utc_now
from featstore.tables.data import DATA
from featstore.tables.features import require_value, typed_labels

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: The only types beyond skops' own trusted ones that a fitted table may hold. Never "whatever the file holds".
TRUSTED = ("numpy.dtype",)


@dataclass(frozen=True, slots=True)
class TrainingTable:
    """One version of a training table."""

    name: str
    version: int
    path: Path
    recipe: dict[str, Any]
    report: dict[str, Any]
    created_at: datetime
    _catalog: Catalog

    def to_arrow(self, *, split: str | None = None) -> pa.Table:
        """All columns, or those rows that are in one split.

        Raises:
            NotFoundError: the table has no such split. CorruptError: its file is gone or damaged.
        """
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            rows = pq.ParquetFile(self.path / DATA).read()
        except (OSError, pa.ArrowException) as error:
            raise CorruptError(
                f"The data of {self.name}@v{self.version} can't be read: {str(error).splitlines()[0]}",
                hint=f"restore {self.path} from a backup, or materialize another version",
            ) from error
        if split is None:
            return rows
        require_value(split, rows.column("split").unique().to_pylist(), f"The table {self.name!r}")
        return rows.filter(pc.equal(rows.column("split"), split))

    def arrays(
        self, *, split: str | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], npt.NDArray[np.str_]]:
        """``(X, y, patient_ids)``: float32 (rows, width) of ``fused``, labels in their declared type, ids as text.

        Raises:
            NotFoundError: the table has no such split.
        """
        rows = self.to_arrow(split=split)
        labels = rows.column("label")
        kind = {"int64": "int", "double": "float"}.get(str(labels.type), "str")
        return (
            _matrix(rows.column("fused")),
            typed_labels(labels.to_pylist(), kind),
            np.array(rows.column("patient_id").to_pylist(), dtype=np.str_),
        )

    def to_pandas(self) -> pd.DataFrame:
        """All rows; a vector column holds one array a row."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def fitted(self) -> dict[str, Any]:
        """What was learned from the train rows: scikit-learn objects by step (``standardize``, ``pca``, ``onehot``…).

        Raises:
            Exception: skops' own, where the file holds a type that isn't trusted; nothing of it is run.
        """
        from skops import io as skops

        return dict(skops.load(self.path / "fitted.skops", trusted=list(TRUSTED)))

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Keep metrics of a model that was trained on this version, in the view ``metrics``."""
        with self._catalog.write() as connection:
            log_metrics(connection, self.name, self.version, split, metrics, utc_now())


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    width = column.type.list_size
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]) if column.num_chunks else np.zeros(0)
    return flat.astype(np.float32, copy=False).reshape(len(column), width)
