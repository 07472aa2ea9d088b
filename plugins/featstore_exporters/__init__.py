"""Exporters: training tables, and the vectors of feature sets, as other tools read them; in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from featstore import ExporterSpec, hookimpl

if TYPE_CHECKING:
    import pyarrow as pa

    from featstore.spec import ExportFunction


def _writer(module: str) -> ExportFunction:
    """The ``write`` of a module that is imported when it writes: pyarrow, h5py and zarr take long to import."""

    def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
        import_module(f"featstore_exporters.{module}").write(path, schema, batches, wide=wide)

    return write


def _write_several(path: Path, parts: Mapping[str, tuple[pa.Schema, Iterable[pa.RecordBatch]]]) -> None:
    from featstore_exporters.mudata import write_several

    write_several(path, parts)


@hookimpl
def featstore_exporters() -> Iterable[ExporterSpec]:
    yield ExporterSpec("parquet", ".parquet", _writer("parquet"), description="vectors as fixed-size lists, or wide")
    yield ExporterSpec(
        "csv", ".csv", _writer("csv"), description="one column a feature, in the shortest text that reads back equal"
    )
    yield ExporterSpec(
        "npy", ".npy", _writer("npy"), index=True,
        description="(rows, …) in the stored dtype, with <stem>.index.csv beside",
    )  # fmt: skip
    yield ExporterSpec("npz", ".npz", _writer("npz"), description="an array a column, without pickle")
    yield ExporterSpec(
        "h5", ".h5", _writer("hdf5"), grouped=True,
        description="HDF5: features, labels, sample_key, …; with --layout a data set a group, and <group>_metadata",
    )  # fmt: skip
    yield ExporterSpec(
        "zarr", ".zarr", _writer("zarr"), folder=True, grouped=True, description="Zarr v3: features, sample_key, …"
    )
    yield ExporterSpec(
        "tree", ".tree", _writer("tree"), folder=True, grouped=True, layout="{modality}/{patient_id}.npy",
        description="a folder of .npy files with index.csv, and features_<modality>.csv where a file is a patient's",
    )  # fmt: skip
    yield ExporterSpec("h5ad", ".h5ad", _writer("anndata"), description="AnnData: X, and the columns in obs")
    yield ExporterSpec(
        "h5mu", ".h5mu", _writer("mudata"), write_several=_write_several,
        description="MuData: a modality a feature set, by sample_key",
    )  # fmt: skip
