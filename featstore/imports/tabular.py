"""Vectors in tables: CSV and Parquet, as one list column or as numbered columns."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.errors import InputError, NotFoundError, UsageError
from featstore.imports.columns import Columns, read_table
from featstore.imports.vectors import BLOCK_BYTES, Contents, Streamed, check, check_claim
from featstore.ingest.columns import NULLS, READ_BLOCK

if TYPE_CHECKING:
    import pyarrow as pa

_LISTS = ("features", "vector", "embedding")
#: What numbered columns of vectors are called, before the number; others are taken where they are the only ones.
_PREFIXES = ("features", "feature", "feat", "vector", "embedding", "emb", "f", "")


def open_table(path: Path, wanted: str | None, key: str | None = None) -> Contents:
    """Open a CSV or Parquet of vectors.

    Args:
        wanted: the list column, or what the numbered columns begin with; found out if not given.
        key: the column that names the rows, where it is none of the usual ones: it is text.

    Raises:
        NotFoundError, InputError: it isn't there or is no such file. UsageError: which columns are the vectors?
    """
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.")
    import pyarrow as pa

    try:
        contents = _open_csv(path, wanted, key) if path.suffix.lower() == ".csv" else _open_parquet(path, wanted, key)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise _unreadable(path, error) from error
    check(contents.vectors, path.name)
    return contents


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} can't be read: {str(error).splitlines()[0]}")


def _open_parquet(path: Path, wanted: str | None, key: str | None) -> Contents:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)
    schema: pa.Schema = file.schema_arrow
    count = file.metadata.num_rows
    lists = [field.name for field in schema if _is_list(field.type)]
    others = [field.name for field in schema if not _is_nested(field.type)]
    column = _list_column(lists, wanted)
    if column is None:
        numbers = {n for n in others if pa.types.is_floating(schema.field(n).type)}
        chosen = numbered(others, wanted, among=numbers)
        dtypes = {schema.field(name).type.to_pandas_dtype() for name in chosen}
        shape: tuple[int, ...] = (len(chosen),)
        dtype: np.dtype[Any] = np.result_type(*dtypes)
        others = [name for name in others if name not in chosen]
    else:
        chosen = [column]
        shape, dtype = _list_shape(path, schema.field(column), file), _list_dtype(schema.field(column))
    check_claim(path.name, count * prod(shape) * dtype.itemsize, path.stat().st_size)

    def start() -> Iterator[npt.NDArray[Any]]:
        rows = max(1, BLOCK_BYTES // (8 * prod(shape)))
        try:
            for batch in pq.ParquetFile(path).iter_batches(rows, columns=chosen):
                yield _matrix(batch, chosen, column, shape, dtype, path)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error

    names = [f"{path.name}#row={row}" for row in range(count)]
    columns = Columns.of(read_table(path, only=others, names=schema.names), key) if others else None
    if columns is not None and (declared := _facts(schema).get("label_type")) in ("int", "float", "str"):
        columns.label_type = declared
    return Contents(Streamed(count, shape, dtype, start), [path], names, columns)


def _facts(schema: pa.Schema) -> dict[str, Any]:
    """What a featstore export says of itself."""
    try:
        found = json.loads((schema.metadata or {}).get(b"featstore", b"{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _list_column(lists: Sequence[str], wanted: str | None) -> str | None:
    if wanted is not None:
        return wanted if wanted in lists else None
    if len(lists) < 2:
        return lists[0] if lists else None
    known = [name for name in lists if name in _LISTS]
    if len(known) == 1:
        return known[0]
    raise UsageError(
        f"Several columns could be the vectors: {', '.join(lists)}.", hint=f"say which: --vectors {lists[0]}"
    )


def _list_dtype(field: pa.Field) -> np.dtype[Any]:
    dtype: np.dtype[Any] = np.dtype(field.type.value_type.to_pandas_dtype())
    return dtype


def _list_shape(path: Path, field: pa.Field, file: Any) -> tuple[int, ...]:
    """The shape of a row: as the column's own metadata say it, else by the length of the lists."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(field.type):
        length = field.type.list_size
    else:
        first = next(file.iter_batches(1, columns=[field.name]), None)
        value = first.column(0)[0].as_py() if first is not None and len(first) else None
        length = len(value) if value is not None else _first_length(file, field.name)
    said = (field.metadata or {}).get(b"shape")
    if said is None:
        return (length,)
    try:
        shape = tuple(int(size) for size in json.loads(said))
    except (ValueError, TypeError) as error:
        raise InputError(f"The column {field.name!r} of {path.name} says a shape that is none: {said!r}.") from error
    if prod(shape) != length:
        raise InputError(f"A row of {field.name!r} in {path.name} has {length} values, and the shape {shape}.")
    return shape


def _first_length(file: Any, name: str) -> int:
    import pyarrow.compute as pc

    for batch in file.iter_batches(4096, columns=[name]):
        lengths = pc.list_value_length(batch.column(0)).drop_null()
        if len(lengths):
            return int(lengths[0].as_py())
    return 0


def _matrix(
    batch: pa.RecordBatch,
    chosen: Sequence[str],
    column: str | None,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    path: Path,
) -> npt.NDArray[Any]:
    """A batch's vectors (n, *shape). A row without a vector, and a value that is missing, are NaN."""
    import pyarrow.compute as pc

    if column is None:
        found = np.empty((len(batch), len(chosen)), dtype)
        for position, name in enumerate(chosen):
            found[:, position] = batch.column(name).to_numpy(zero_copy_only=False)
        return found
    array = batch.column(column)
    lengths = pc.list_value_length(array)
    odd = pc.fill_null(pc.not_equal(lengths, prod(shape)), False).to_numpy(zero_copy_only=False)
    if odd.any():
        raise InputError(
            f"The vectors of {path.name} have different lengths: {prod(shape)} and {lengths[int(odd.argmax())]}.",
            hint="import those of one length at a time",
        )
    found = np.full((len(batch), prod(shape)), np.nan, dtype)
    # .flatten() leaves out null rows, and knows the offset of a slice
    there = lengths.is_valid().to_numpy(zero_copy_only=False)
    values = array.drop_null().flatten().to_numpy(zero_copy_only=False)
    found[there] = values.reshape(-1, prod(shape))
    return found.reshape(len(batch), *shape)


def _open_csv(path: Path, wanted: str | None, key: str | None) -> Contents:
    import pyarrow.csv as csv

    parsing = csv.ParseOptions(newlines_in_values=True)
    reading = csv.ReadOptions(block_size=READ_BLOCK)
    with csv.open_csv(path, parse_options=parsing, read_options=reading) as reader:
        names: list[str] = reader.schema.names
    chosen = numbered(names, wanted)
    others = [name for name in names if name not in chosen]
    options = csv.ConvertOptions(
        column_types=dict.fromkeys(chosen, "float32"), include_columns=chosen, null_values=list(NULLS)
    )

    def start() -> Iterator[npt.NDArray[Any]]:
        import pyarrow as pa

        try:
            with csv.open_csv(path, parse_options=parsing, convert_options=options, read_options=reading) as batches:
                for batch in batches:
                    yield _matrix(batch, chosen, None, (len(chosen),), np.dtype(np.float32), path)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(path, error) from error

    if others:
        columns = Columns.of(read_table(path, only=others, names=names), key)
        count = columns.rows
    else:
        columns, count = None, sum(len(block) for block in start())
    vectors = Streamed(count, (len(chosen),), np.float32, start)
    return Contents(vectors, [path], [f"{path.name}#row={row}" for row in range(count)], columns, text_values=True)


def numbered(names: Sequence[str], wanted: str | None, among: Collection[str] | None = None) -> list[str]:
    """The columns ``features_0``, ``features_1``, … by number, whatever their order.

    >>> numbered(["id", "f10", "f2", "f0", "f1", *(f"f{i}" for i in range(3, 10))], None)[-2:]
    ['f9', 'f10']

    Args:
        wanted: what they begin with; found out if not given.
        among: only these columns hold numbers; all may if not given.

    Raises:
        UsageError: there are none, several series, or numbers are missing among them.
    """
    series: dict[str, dict[int, str]] = {}
    for name in names:
        match = re.fullmatch(r"(.*?)([0-9]{1,9})", name, re.DOTALL)
        if match is None or (among is not None and name not in among):
            continue
        group, number = series.setdefault(match[1], {}), int(match[2])
        if number in group and (wanted is None or wanted == match[1]):
            raise UsageError(f"The columns {group[number]!r} and {name!r} have one number.")
        group[number] = name
    if wanted is not None:
        prefix = next((p for p in (wanted, f"{wanted}_") if p in series), None)
    else:
        prefix = _the_series(series)
    if prefix is None:
        said = f"no list column {wanted!r}, and none like {wanted}0" if wanted is not None else "no columns of vectors"
        raise UsageError(
            f"The table has {said}.", hint="they are one list column, or columns that end with 0, 1, 2, …: --vectors"
        )
    group = series[prefix]
    # Looked for among as many numbers as there are columns: one called x999999999 must not make a list of that length.
    missing = [number for number in range(min(max(group) + 1, len(group) + 5)) if number not in group][:5]
    if missing:
        raise UsageError(
            f"The columns {prefix}0 … {prefix}{max(group)} lack the numbers {', '.join(map(str, missing))}"
            f"{', …' if len(missing) == 5 else ''}.",
            hint="vectors are numbered from 0 on, without gaps; name others with --vectors",
        )
    return [group[number] for number in sorted(group)]


def _the_series(series: Mapping[str, Mapping[int, str]]) -> str | None:
    """The one prefix whose numbered columns are vectors."""
    known = {prefix for prefix in series if prefix.rstrip("_.- ").lower() in _PREFIXES}
    found = [prefix for prefix, group in series.items() if prefix in known or len(group) > 1]
    if len(found) > 1:
        well_known = [prefix for prefix in found if prefix in known]
        found = well_known if len(well_known) == 1 else found
    if len(found) > 1:
        raise UsageError(
            f"Several series of columns could be the vectors: {', '.join(f'{p}0, …' for p in found)}.",
            hint=f"say which: --vectors {found[0]}",
        )
    return found[0] if found else None


def _is_list(type_: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(test(type_) for test in tests) and bool(pa.types.is_primitive(type_.value_type))


def _is_nested(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_nested(type_))
