"""Reading back feature sets: their current vectors, as arrays, data frames and Arrow tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import FeatureReader, arrow_vectors
from featstore.catalog import feature_sets, splits
from featstore.catalog.connection import first
from featstore.catalog.feature_sets import FeatureSet
from featstore.errors import NotFoundError, did_you_mean
from featstore.files import inside

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class FeatureSetView:
    """The current vectors of one version of a feature set, by sample_key. ``split`` is of one scheme."""

    feature_set: FeatureSet
    rows: pa.Table
    segments: dict[int, Path]

    @classmethod
    def of(cls, store: Path, connection: duckdb.DuckDBPyConnection, found: FeatureSet, scheme: str) -> FeatureSetView:
        """The vectors that a feature set has now.

        Raises:
            NotFoundError: there is no such split scheme; ``default`` need not be there.
        """
        exists = first(connection.execute("SELECT 1 FROM core.scheme WHERE lower(name) = lower(?)", [scheme]))
        # The one that isn't there and isn't the default raises, with a suggestion.
        scheme_id = splits.scheme_id(connection, scheme) if exists or scheme != "default" else None
        rows = feature_sets.rows(connection, found.id, scheme_id)
        paths = feature_sets.segment_paths(connection, found.id)
        return cls(found, rows, {id: inside(store, path) for id, path in paths.items()})

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
        rows = self.chosen(split, modality)
        kinds = set(rows.column("label_type").to_pylist()) - {None}
        kind = kinds.pop() if len(kinds) == 1 else "str"
        segments, positions = (rows.column(c).to_numpy() for c in ("segment", "row"))
        if rows.num_rows:
            with self.reader(rows) as reader:
                vectors = reader.gather(segments, positions)
        else:
            vectors = np.empty((0, *self.feature_set.shape), self.feature_set.dtype)
        keys = np.array(rows.column("sample_key").to_pylist(), dtype=np.str_)
        return vectors, typed_labels(rows.column("label").to_pylist(), kind), keys

    def to_arrow(self) -> pa.Table:
        """``sample_key, patient_id, modality, split, site, label, vector``, zero-copy where the arrays are mapped."""
        import pyarrow as pa

        segments, positions = (self.rows.column(c).to_numpy() for c in ("segment", "row"))
        if len(self):
            vectors = arrow_vectors(self.reader(self.rows), segments, positions)
        else:
            vectors = pa.chunked_array([], pa.list_(pa.float32(), prod(self.feature_set.shape)))
        return self.rows.drop_columns(["label_type", "segment", "row"]).append_column("vector", vectors)

    def to_pandas(self) -> pd.DataFrame:
        """One row a sample; the column ``vector`` holds one array a row."""
        frame: pd.DataFrame = self.to_arrow().to_pandas()
        return frame

    def reader(self, rows: pa.Table) -> FeatureReader:
        """A reader of the segments that hold ``rows``, at least one."""
        # A segment that a run has only reserved holds no row of ours, and need not be there yet.
        used = rows.column("segment").unique().to_pylist()
        return FeatureReader({id: self.segments[id] for id in used}, committed=True)

    def chosen(self, split: str | None, modality: str | None) -> pa.Table:
        """Those of :attr:`rows` that are in a split and of a modality; all where None.

        Raises:
            NotFoundError: no such split or modality here.
        """
        import pyarrow.compute as pc

        rows = self.rows
        for column, value in (("split", split), ("modality", modality)):
            if value is not None:
                what = f"The feature set {self.feature_set}"
                require_value(value, rows.column(column).unique().to_pylist(), what, column)
                rows = rows.filter(pc.equal(rows.column(column), value))
        return rows


def require_value(value: str, known: list[str | None], what: str, column: str = "split") -> None:
    """Raise NotFoundError where a column that has ``known`` doesn't hold ``value``."""
    have = sorted(k for k in known if k is not None)
    if value not in have:
        raise NotFoundError(
            f"{what} has no {column} {value!r}.{did_you_mean(value, have)}",
            hint=f"it has: {', '.join(have) or 'none'}",
        )


def label_type(rows: pa.Table) -> pa.DataType:
    """The Arrow type of the labels of rows, from their ``label_type``: text where they disagree."""
    import pyarrow as pa

    kinds = set(rows.column("label_type").unique().to_pylist()) - {None}
    return {"int": pa.int64(), "float": pa.float64()}.get(kinds.pop() if len(kinds) == 1 else "str", pa.string())


def typed_labels(values: list[Any], kind: str) -> npt.NDArray[Any]:
    """Labels in their declared type; a missing one is NaN, among text None."""
    if kind == "str":
        return np.array(values, dtype=object if None in values else np.str_)
    if None in values:
        return np.array([np.nan if v is None else float(v) for v in values], np.float64)
    return (
        np.array([int(v) for v in values], np.int64)
        if kind == "int"
        else np.array([float(v) for v in values], np.float64)
    )
