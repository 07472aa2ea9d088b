"""The laws of exporters: every row and value is in the file, the same each time, in bounded memory."""

from __future__ import annotations

import csv
import hashlib
import itertools
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

    def write(self, table: pa.Table, *, wide: bool = False, rows: int = 32) -> Path:
        """Write a table into a new folder, in batches of ``rows``; returns the file's path."""
        return self.write_batches(table.schema, iter(table.to_batches(max_chunksize=rows)), wide=wide)

    def write_batches(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], *, wide: bool = False) -> Path:
        """Write batches into a new folder; returns the file's path."""
        inner = self.folder / str(next(self._number))
        inner.mkdir()
        path = inner / f"table{self.spec.suffix}"
        self.spec.write(path, schema, batches, wide=wide)
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
        found = np.asarray(read(case.write(rows, wide=wide)), np.float32)
        close(found, expected, 0.0, f"the vectors{' with wide' if wide else ''}")
    return f"{len(expected)} rows"


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
    path = case.write_batches(rows.schema, iter(ones))
    if read is not None:
        close(read(path), read(whole), 0.0, "batches of one row")
    return f"{len(ones)} batches"


@LAWS.law
def writes_a_table_without_rows(case: ExporterCase) -> str:
    """No rows give a file without rows, or a UsageError; nothing else."""
    rows = table(3)
    how, path = refusal(lambda: case.write_batches(rows.schema, iter([])), UsageError)
    require(how in ("accepted", "refused"), f"no batches give {how}")
    if how == "refused":
        return "refused"
    require(path.exists(), f"there is no {path.name}")
    if read := _READERS.get(case.spec.suffix):
        require(len(read(path)) == 0, f"it has {len(read(path))} rows")
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
        case.write_batches(table(1, dim=64).schema, batches())
        copies = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    require(len(held) == count, f"it took {len(held)} of {count} batches")
    return most, max(peak, copies), size


def vectors(rows: pa.Table) -> np.ndarray[Any, Any]:
    """The vectors of a table, float32 (rows, dim)."""
    column = rows.column("fused").combine_chunks()
    return np.asarray(column.values, np.float32).reshape(len(rows), column.type.list_size)


def _digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _from_arrow(rows: pa.Table) -> Any:
    if "fused" in rows.column_names:
        return vectors(rows)
    wide = [name for name in rows.column_names if name.startswith("fused_")]
    return np.stack([rows.column(name).to_numpy() for name in wide], axis=1) if len(rows) else []


def _from_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    return _from_arrow(pq.ParquetFile(path).read())


def _from_ipc(path: Path) -> Any:
    import pyarrow as pa

    with pa.OSFile(str(path)) as file:
        return _from_arrow(pa.ipc.open_file(file).read_all())


def _from_csv(path: Path) -> Any:
    with path.open(newline="", encoding="utf-8") as file:
        return [[float(row[f"fused_{i}"] or "nan") for i in range(DIM)] for row in csv.DictReader(file)]


def _from_npy(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".parquet": _from_parquet, ".csv": _from_csv, ".npy": _from_npy, ".arrow": _from_ipc, ".feather": _from_ipc,
}  # fmt: skip
