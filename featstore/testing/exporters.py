"""The laws of exporters: every row and value is in the file, the same each time, in bounded memory."""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import tracemalloc
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import UsageError
from featstore.spec import ExporterSpec
from featstore.testing.inputs import SEED
from featstore.testing.laws import Laws, close, refusal, require

if TYPE_CHECKING:
    import pyarrow as pa

DIM = 5


@dataclass(slots=True)
class ExporterCase:
    """An exporter with a folder to write to."""

    spec: ExporterSpec
    folder: Path
    _number: Iterator[int] = field(default_factory=itertools.count)

    def write(self, table: pa.Table, *, wide: bool = False, rows: int = 32, groups: bool = False) -> Path:
        """Write a table into a new folder, in batches of ``rows``; returns the file's path."""
        batches = iter(table.to_batches(max_chunksize=rows))
        return self.write_batches(table.schema, batches, len(table), wide=wide, groups=groups)

    def write_batches(
        self,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        rows: int,
        *,
        wide: bool = False,
        groups: bool = False,
    ) -> Path:
        """Write batches, of ``rows`` in all, into a new folder; returns the file's path.

        Args:
            groups: put the rows into two groups, as it is always done for an exporter that has a layout of its own.
        """
        inner = self.folder / str(next(self._number))
        inner.mkdir()
        path = inner / f"table{self.spec.suffix}"
        facts: dict[str, Any] = {"name": "laws", "version": 1, "rows": rows}
        if groups or (self.spec.grouped and self.spec.layout):
            ending = Path(self.spec.layout).suffix
            parts = [(f"one{ending}", rows // 2), (f"two{ending}", rows - rows // 2)]
            facts["groups"] = [[name, count] for name, count in parts if count]
        self.spec.write(path, schema.with_metadata({b"featstore": json.dumps(facts).encode()}), batches, wide=wide)
        return path


LAWS = Laws[ExporterCase]()


@LAWS.law
def names_its_ending(case: ExporterCase) -> str:
    """``suffix`` is an ending with its dot, in lower case."""
    suffix = case.spec.suffix
    proper = isinstance(suffix, str) and len(suffix) > 1 and suffix.startswith(".") and suffix == suffix.lower()
    require(proper, f"suffix is {suffix!r}, and must be an ending such as '.parquet'")
    return suffix


@LAWS.gate()
def writes_a_table(case: ExporterCase) -> str:
    """A training table gives the file at ``path``, with ``wide`` too, and nothing outside its folder."""
    outside = set(case.folder.iterdir())
    paths = [case.write(table(70), wide=wide) for wide in (False, True)]
    for path in paths:
        require(path.exists(), f"there is no {path.name}")
        what = "a folder" if path.is_dir() else "a file"
        require(path.is_dir() == case.spec.folder, f"{path.name} is {what}, and folder is {case.spec.folder}")
        require(path.is_dir() or path.stat().st_size > 0, f"{path.name} is empty")
    made = set(case.folder.iterdir()) - outside - {path.parent for path in paths}
    require(not made, f"it also made {', '.join(sorted(path.name for path in made))} outside its folder")
    return ", ".join(sorted(path.name for path in paths[0].parent.iterdir()))


@LAWS.law
def keeps_every_value(case: ExporterCase) -> str:
    """What is read back has every row in order, float32 vectors to the bit, and missing ones as NaN, never zeros."""
    read = _READERS.get(case.spec.suffix)
    if read is None:
        return f"not tried: {case.spec.suffix} can't be read here; read it back in a test of yours"
    rows = table(70)
    expected = vectors(rows)
    for wide in (False, True):
        found = np.asarray(read(case.write(rows, wide=wide), "fused"), np.float32)
        close(found, expected, 0.0, f"the vectors{' with wide' if wide else ''}")
    return f"{len(expected)} rows"


@LAWS.law
def keeps_tokens_as_they_are(case: ExporterCase) -> str:
    """Tokens of a feature set are there to the bit, in C order: float16 stays float16 where a format has types."""
    read = _READERS.get(case.spec.suffix)
    rows, expected = tokens(40)
    path = case.write(rows)
    if read is None:
        return f"written; {case.spec.suffix} can't be read here"
    found = np.asarray(read(path, "features"))
    if found.dtype != np.float64:  # text has no types
        require(found.dtype == np.float16, f"they are {found.dtype}, and were float16")
    found = found.astype(np.float16)
    close(found.reshape(len(found), -1), expected.reshape(len(expected), -1), 0.0, "the tokens")
    return f"{len(expected)} rows of {found.shape[1:]}"


@LAWS.law
def keeps_groups_apart(case: ExporterCase) -> str:
    """An exporter that groups rows has every row of every group, in order; others aren't asked to."""
    if not case.spec.grouped:
        return "it doesn't group"
    rows, expected = tokens(40)
    path = case.write(rows, groups=True, rows=7)
    read = _GROUP_READERS.get(case.spec.suffix)
    if read is None:
        return f"written; {case.spec.suffix} can't be read here"
    found = [np.asarray(read(path, group + Path(case.spec.layout).suffix)) for group in ("one", "two")]
    close(np.concatenate(found).reshape(40, -1), expected.reshape(40, -1), 0.0, "the groups' tokens")
    return f"groups of {len(found[0])} and {len(found[1])} rows"


@LAWS.law
def writes_the_same_bytes_again(case: ExporterCase) -> str:
    """The same rows give the same bytes: no time, no random id."""
    one, other = (_digest(case.write(table(70)).parent) for _ in range(2))
    require(one == other, f"these differ: {', '.join(name for name in one if one[name] != other.get(name))}")
    return ", ".join(one)


@LAWS.law
def takes_batches_of_any_size(case: ExporterCase) -> str:
    """Batches of one row and empty ones are taken like any others."""
    read = _READERS.get(case.spec.suffix)
    rows = table(9)
    whole = case.write(rows)
    ones = [batch for single in rows.to_batches(max_chunksize=1) for batch in (single, single.slice(0, 0))]
    path = case.write_batches(rows.schema, iter(ones), len(rows))
    if read is not None:
        close(read(path, "fused"), read(whole, "fused"), 0.0, "batches of one row")
    return f"{len(ones)} batches"


@LAWS.law
def writes_a_table_without_rows(case: ExporterCase) -> str:
    """No rows give a file without rows, or a UsageError; nothing else."""
    rows = table(3)
    how, path = refusal(lambda: case.write_batches(rows.schema, iter([]), 0), UsageError)
    require(how in ("accepted", "refused"), f"no batches give {how}")
    if how == "refused":
        return "refused"
    require(path.exists(), f"there is no {path.name}")
    if read := _READERS.get(case.spec.suffix):
        require(len(read(path, "fused")) == 0, f"it has {len(read(path, 'fused'))} rows")
    return "no rows"


@LAWS.law
def holds_few_batches(case: ExporterCase) -> str:
    """It streams: what it holds doesn't grow with the table."""
    few, many = 16, 48
    (batches, memory, size), (more_batches, more_memory, _) = (_held(case, count) for count in (few, many))
    seen = f"{more_batches} of {many} batches at once, {more_memory / 2**20:.1f} of {size * many / 2**20:.0f} MiB"
    before = f"of {few} batches {batches}, {memory / 2**20:.1f} MiB"
    grows = more_batches > batches * 1.5 + 2 or more_memory > memory * 1.5 + 2 * size
    require(not grows, f"it held {seen}; {before}")
    return f"at most {seen}"


# -------------------------------------------------------------------------------------------------- helpers
def table(rows: int, *, seed: int = SEED, dim: int = DIM) -> pa.Table:
    """A small training table: ids that look like numbers, labels, text, a mask, and vectors, some of them missing."""
    import pyarrow as pa

    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, dim)).astype(np.float32)
    matrix[3::11] = np.nan  # an input that a patient doesn't have
    numbers = [f"{number:03}" for number in range(rows)]
    return pa.table(
        {
            "patient_id": pa.array(numbers),
            "split": pa.array([("train", "val", None)[n % 3] for n in range(rows)]),
            "label": pa.array(rng.integers(0, 3, rows)),
            "note": pa.array(["=1+1", 'a, "b"', "Größe", None][n % 4] for n in range(rows)),
            "has_a": pa.array(~np.isnan(matrix[:, 0])),
            "fused": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), dim),
        }
    )


def _held(case: ExporterCase, count: int) -> tuple[int, int, int]:
    """How many of ``count`` batches it held at once, how many bytes in Arrow or NumPy, and the size of a batch."""
    import pyarrow as pa

    held: list[weakref.ref[Any]] = []
    most = size = peak = 0
    allocated = pa.total_allocated_bytes()

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal most, size, peak
        for number in range(count):
            batch = table(1024, seed=number, dim=64).combine_chunks().to_batches()[0]
            size = max(size, batch.nbytes)
            held.append(weakref.ref(batch))
            yield batch
            del batch
            most = max(most, sum(ref() is not None for ref in held))
            peak = max(peak, pa.total_allocated_bytes() - allocated)

    tracemalloc.start()
    try:
        case.write_batches(table(1, dim=64).schema, batches(), 1024 * count)
        copies = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    require(len(held) == count, f"it took {len(held)} of {count} batches")
    return most, max(peak, copies), size


def tokens(rows: int) -> tuple[pa.Table, np.ndarray[Any, Any]]:
    """Rows as a feature set has them, and their vectors: float16 (rows, 2, 3), also the largest and the smallest."""
    import pyarrow as pa

    rng = np.random.default_rng(SEED)
    values = rng.normal(size=(rows, 2, 3)).astype(np.float16)
    values[0] = [[65504, -65504, 6e-8], [-0.0, 0.1, 1 / 3]]
    field = pa.field("features", pa.list_(pa.float16(), 6), metadata={b"shape": b"[2, 3]"})
    texts = {
        "sample_key": [f"set/{n}.png" for n in range(rows)],
        "patient_id": [f"{n // 2:03}" for n in range(rows)],
        "modality": ["A" for _ in range(rows)],
        "split": [("train", None)[n % 2] for n in range(rows)],
        "note": ["'=1", "=1", "Größe", None] * (rows // 4),
    }
    fields = [pa.field(name, pa.string()) for name in texts]
    columns = [pa.array(column, pa.string()) for column in texts.values()]
    label = pa.array([None if n % 5 == 0 else n % 3 for n in range(rows)], pa.int64())
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 6)
    schema = pa.schema([*fields, pa.field("label", pa.int64()), field])
    return pa.Table.from_arrays([*columns, label, vectors], schema=schema), values


def vectors(rows: pa.Table, name: str = "fused") -> np.ndarray[Any, Any]:
    """The vectors of a table, (rows, dim)."""
    column = rows.column(name).combine_chunks()
    return np.asarray(column.values).reshape(len(rows), column.type.list_size)


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _from_arrow(rows: pa.Table, name: str) -> Any:
    if name in rows.column_names:
        return vectors(rows, name)
    wide = [column for column in rows.column_names if column.startswith(f"{name}_")]
    return np.stack([rows.column(column).to_numpy() for column in wide], axis=1) if len(rows) else []


def _from_parquet(path: Path, name: str) -> Any:
    import pyarrow.parquet as pq

    return _from_arrow(pq.ParquetFile(path).read(), name)


def _from_ipc(path: Path, name: str) -> Any:
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        return _from_arrow(pa.ipc.open_file(file).read_all(), name)


def _from_csv(path: Path, name: str) -> Any:
    with path.open(newline="", encoding="utf-8") as file:
        columns = [column for column in next(csv.reader(file)) if column.startswith(f"{name}_")]
        file.seek(0)
        return [[float(row[column] or "nan") for column in columns] for row in csv.DictReader(file)]


def _from_npy(path: Path, name: str) -> Any:
    return np.load(path, allow_pickle=False)


def _from_npz(path: Path, name: str) -> Any:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays[name]


def _from_hdf5(path: Path, name: str) -> Any:
    import h5py

    with h5py.File(path) as file:
        return file[name][:]


def _from_zarr(path: Path, name: str) -> Any:
    import zarr

    return zarr.open_array(path / name, mode="r")[:]


def _from_tree(path: Path, name: str) -> Any:
    with (path / "index.csv").open(newline="", encoding="utf-8") as file:
        rows = [(row["file"], int(row["row"])) for row in csv.DictReader(file)]
    return np.array([np.load(path / file)[row] for file, row in rows])


def _from_anndata(path: Path, name: str) -> Any:
    return _from_hdf5(path, "X")


def _from_mudata(path: Path, name: str) -> Any:
    return _from_hdf5(path, "mod/laws/X")


#: Ending → what reads the vectors of a column. Where a format has its types, they come in their own.
_READERS: Mapping[str, Callable[[Path, str], Any]] = {
    ".parquet": _from_parquet, ".csv": _from_csv, ".npy": _from_npy, ".npz": _from_npz, ".arrow": _from_ipc,
    ".feather": _from_ipc, ".h5": _from_hdf5, ".zarr": _from_zarr, ".tree": _from_tree,
    ".h5ad": _from_anndata, ".h5mu": _from_mudata,
}  # fmt: skip
#: Ending → what reads the vectors of a group.
_GROUP_READERS: Mapping[str, Callable[[Path, str], Any]] = {
    ".h5": _from_hdf5, ".zarr": _from_zarr, ".tree": lambda path, group: np.load(path / group),
}  # fmt: skip
