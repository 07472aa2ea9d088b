"""NPZ: every column as an array of its own in one file, as ``numpy.load`` reads it without pickle."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featstore import UsageError
from featstore_exporters.arrays import array_names, as_text, as_values
from featstore_exporters.columns import as_array, dtype_of, is_text, is_vector, provenance, shape_of

#: Every member's time: the same rows give the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)


def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """Write an array a column: vectors (rows, *shape) in their own dtype, the others (rows,) in theirs.

    Text is unicode of the column's greatest length. Where a column has missing values, ``<column>_missing`` (bool) says
    where, and NaN or "" stands there: whole numbers and bools become float64 then. The archive's comment is a JSON
    object of what was exported: name, version, fingerprint, ….

    Vectors lie uncompressed, one after another, so that other tools can map them.

    Raises:
        UsageError: two arrays would have one name, or NumPy would read a name or a text as another one.
    """
    del wide  # an array has its shape
    names = _names(schema)
    with TemporaryDirectory(dir=path.parent, prefix=".tmp-") as temporary:
        spool = _Spool(Path(temporary), schema)
        spool.take(batches)
        _check(names, spool.missing)
        with zipfile.ZipFile(path, "w") as archive:
            archive.comment = json.dumps(provenance(schema), sort_keys=True).encode()[:65535]
            for field in schema:
                header, values = spool.array(field)
                _put(archive, names[field.name], header, values)
                if field.name in spool.missing:
                    _put(archive, f"{names[field.name]}_missing", _header("|b1", spool.rows), spool.masks(field))


def _names(schema: pa.Schema) -> dict[str, str]:
    """Column → the name of its array."""
    names = array_names(schema) | {f.name: f.name for f in schema if is_vector(f.type)}
    for name, array in names.items():
        # numpy.load takes "a.npy" for the file of the array a; a zip archive ends a name at its first NUL.
        if array.endswith(".npy") or "\0" in array:
            raise UsageError(
                f"NumPy would read the column {name!r} under another name.", hint="rename it, or write Parquet"
            )
    return names


def _check(names: dict[str, str], missing: dict[str, int]) -> None:
    for column in missing:
        if f"{names[column]}_missing" in names.values():
            raise UsageError(
                f"{names[column]}_missing is a column, and would say where {column} is missing.",
                hint="rename it, or write Parquet",
            )


def _header(descr: str, *shape: int) -> dict[str, Any]:
    return {"descr": descr, "fortran_order": False, "shape": shape}


def _put(
    archive: zipfile.ZipFile, name: str, header: dict[str, Any], values: Iterator[npt.NDArray[Any]] | Path
) -> None:
    """Add an array to the archive, from its blocks in turn or from a file of its bytes."""
    info = zipfile.ZipInfo(f"{name}.npy", _TIME)
    info.create_system = 3  # or it would say which system wrote it
    info.external_attr = 0o600 << 16
    if header["descr"][1] == "U":  # four bytes a character, most of them zero
        info.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(info, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        if isinstance(values, Path):
            with open(values, "rb") as file:
                shutil.copyfileobj(file, member, 2**20)
        else:
            for block in values:
                member.write(np.ascontiguousarray(block, header["descr"]).tobytes())


class _Spool:
    """The rows on the disk: a file of bytes a vector column, and one of Arrow batches for the others.

    An archive takes one array after the other, and rows come with all of their columns.

    Attributes:
        missing: column → how many of its values are missing; those with any.
        rows: how many came.
    """

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._files = {f.name: folder / f"{number}.bytes" for number, f in enumerate(schema) if is_vector(f.type)}
        self._others = folder / "columns.arrow"
        others = [f for f in schema if not is_vector(f.type)]
        self._place = {f.name: place for place, f in enumerate(others)}
        self._mask_place = {f.name: len(others) + place for place, f in enumerate(schema)}
        # What is neither number nor bool is kept as text; and of every column, where it is missing.
        types = [f.type if _is_number(f.type) else pa.large_string() for f in others] + [pa.bool_()] * len(schema)
        self._kept = pa.schema([(str(place), type_) for place, type_ in enumerate(types)])
        self._longest: dict[str, int] = {}
        self.missing: dict[str, int] = {}
        self.rows = 0

    def take(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Write what comes, a batch at a time."""
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(path, "wb")) for name, path in self._files.items()}
            sink = stack.enter_context(pa.OSFile(str(self._others), "wb"))
            others = stack.enter_context(pa.ipc.new_file(sink, self._kept))
            for batch in batches:
                for name, file in files.items():
                    file.write(as_array(batch, self._schema.field(name)).data)
                others.write_batch(self._plain(batch))
                self.rows += batch.num_rows

    def _plain(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that are no vectors, and for every column where it is missing."""
        columns = [self._column(f, batch.column(f.name)) for f in self._schema if not is_vector(f.type)]
        masks = []
        for field in self._schema:
            column = batch.column(field.name)
            masks.append(pc.is_null(column))
            if missing := masks[-1].true_count:
                self.missing[field.name] = self.missing.get(field.name, 0) + missing
        return pa.RecordBatch.from_arrays([*columns, *masks], schema=self._kept)

    def _column(self, field: pa.Field, column: pa.Array) -> pa.Array:
        if _is_number(field.type):
            return column
        if is_text(field.type):
            texts = column.cast(pa.large_string())
        else:
            texts = pa.array(as_text(column), pa.large_string(), mask=pc.is_null(column).to_numpy(zero_copy_only=False))
        if pc.any(pc.ends_with(texts, "\0")).as_py():
            raise UsageError(
                f"A text in {field.name!r} ends with a NUL character, which NumPy would drop.", hint="write Parquet"
            )
        longest = pc.max(pc.utf8_length(texts)).as_py() or 0
        self._longest[field.name] = max(self._longest.get(field.name, 1), longest)
        return texts

    def array(self, field: pa.Field) -> tuple[dict[str, Any], Iterator[npt.NDArray[Any]] | Path]:
        """The header of a column's array, and its values."""
        if is_vector(field.type):
            return _header(dtype_of(field).str, self.rows, *shape_of(field)), self._files[field.name]
        floats = field.name in self.missing
        if not _is_number(field.type):
            dtype = np.dtype(("<U", self._longest.get(field.name, 1)))
            return _header(dtype.str, self.rows), (as_text(c) for c in self._read(self._place[field.name]))
        dtype = as_values(pa.array([], field.type), floats=floats).dtype
        values = (as_values(c, floats=floats) for c in self._read(self._place[field.name]))
        return _header(dtype.newbyteorder("<").str, self.rows), values

    def masks(self, field: pa.Field) -> Iterator[npt.NDArray[Any]]:
        """Where a column is missing."""
        return (c.to_numpy(zero_copy_only=False) for c in self._read(self._mask_place[field.name]))

    def _read(self, place: int) -> Iterator[pa.Array]:
        """One column of the batches, without reading the others."""
        options = pa.ipc.IpcReadOptions(included_fields=[place])
        with pa.OSFile(str(self._others)) as source:
            file = pa.ipc.open_file(source, options=options)
            for number in range(file.num_record_batches):
                yield file.get_batch(number).column(0)


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_boolean(type_))
