"""Reading back: training tables and feature sets as arrays, data frames and fitted objects."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader, arrow_vectors
from featstore.catalog.connection import Catalog
from featstore.catalog.feature_sets import FeatureSet
from featstore.catalog.training_tables import log_metrics
from featstore.errors import CorruptError, NotFoundError, did_you_mean
from featstore.runs import utc_now
from featstore.tables.writing import DATA

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
        _require_split(split, rows.column("split").unique().to_pylist(), f"The table {self.name!r}")
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
            _labels(labels.to_pylist(), kind),
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


@dataclass(frozen=True, slots=True)
class FeatureSetView:
    """The current vectors of one version of a feature set, by sample_key. ``split`` is of one scheme."""

    feature_set: FeatureSet
    rows: pa.Table
    segments: dict[int, Path]

    @property
    def name(self) -> str:
        return self.feature_set.name

    @property
    def version(self) -> int:
        return self.feature_set.version

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def arrays(
        self, *, split: str | None = None, modality: str | None = None
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.str_]]:
        """``(X, y, sample_keys)`` in sample_key order.

        Args:
            split, modality: only these samples.

        Returns:
            X in the stored dtype, (rows, dim) or (rows, tokens, dim); y in the labels' declared type (float with NaN
            where an int or float label is missing, None where a text is); sample_keys as text.

        Raises:
            NotFoundError: no such split or modality here.
        """
        rows = self._chosen(split, modality)
        kinds = set(rows.column("label_type").to_pylist()) - {None}
        kind = kinds.pop() if len(kinds) == 1 else "str"
        segments, positions = (rows.column(c).to_numpy() for c in ("segment", "row"))
        if rows.num_rows:
            with self._reader() as reader:
                vectors = reader.gather(segments, positions)
        else:
            vectors = np.empty((0, *self.feature_set.shape), self.feature_set.dtype)
        keys = np.array(rows.column("sample_key").to_pylist(), dtype=np.str_)
        return vectors, _labels(rows.column("label").to_pylist(), kind), keys

    def to_arrow(self) -> pa.Table:
        """``sample_key, patient_id, modality, split, site, label, vector``, zero-copy where the arrays are mapped."""
        import pyarrow as pa

        segments, positions = (self.rows.column(c).to_numpy() for c in ("segment", "row"))
        if len(self):
            vectors = arrow_vectors(self._reader(), segments, positions)
        else:
            vectors = pa.chunked_array([], pa.list_(pa.float32(), prod(self.feature_set.shape)))
        return self.rows.drop_columns(["label_type", "segment", "row"]).append_column("vector", vectors)

    def to_pandas(self) -> pd.DataFrame:
        """One row a sample; the column ``vector`` holds one array a row."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def _reader(self) -> FeatureReader:
        # A segment that a run has only reserved holds no row of ours, and need not be there yet.
        used = self.rows.column("segment").unique().to_pylist()
        return FeatureReader({id: self.segments[id] for id in used}, committed=True)

    def _chosen(self, split: str | None, modality: str | None) -> pa.Table:
        import pyarrow.compute as pc

        rows = self.rows
        for column, value in (("split", split), ("modality", modality)):
            if value is not None:
                what = f"The feature set {self.feature_set}"
                _require_split(value, rows.column(column).unique().to_pylist(), what, column)
                rows = rows.filter(pc.equal(rows.column(column), value))
        return rows


def _require_split(value: str, known: list[str | None], what: str, column: str = "split") -> None:
    have = sorted(k for k in known if k is not None)
    if value not in have:
        raise NotFoundError(
            f"{what} has no {column} {value!r}.{did_you_mean(value, have)}",
            hint=f"it has: {', '.join(have) or 'none'}",
        )


def _matrix(column: pa.ChunkedArray) -> npt.NDArray[np.float32]:
    width = column.type.list_size
    flat = np.concatenate([chunk.flatten().to_numpy() for chunk in column.chunks]) if column.num_chunks else np.zeros(0)
    return flat.astype(np.float32, copy=False).reshape(len(column), width)


def _labels(values: list[Any], kind: str) -> npt.NDArray[Any]:
    if kind == "str":
        return np.array(values, dtype=object if None in values else np.str_)
    if None in values:
        return np.array([np.nan if v is None else float(v) for v in values], np.float64)
    return (
        np.array([int(v) for v in values], np.int64)
        if kind == "int"
        else np.array([float(v) for v in values], np.float64)
    )
