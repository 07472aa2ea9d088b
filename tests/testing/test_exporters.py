"""The laws of exporters: ours keep all of them, and each way of being wrong is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from featstore import ExporterSpec, UsageError
from featstore.plugins import Plugins
from featstore.testing import check_exporter

OURS = [item.name for item in Plugins.load().registered("exporter")]


def proper(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    """The example of the hook's own docstring: an Arrow file."""
    with pa.ipc.new_file(path, schema) as file:
        for batch in batches:
            file.write_batch(batch)


def broken(write: Any, suffix: str = ".arrow") -> dict[str, str]:
    """The broken laws, by name, with what was seen."""
    return {f.law: f.seen for f in check_exporter(ExporterSpec("x", suffix, write), strict=False) if not f.ok}


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_every_law(name: str) -> None:
    check_exporter(name)


def test_a_proper_one_keeps_every_law() -> None:
    assert broken(proper) == {}


def changed(change: Callable[[pa.Table], pa.Table]) -> Any:
    def write(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
        tables = (change(pa.Table.from_batches([batch])) for batch in batches)
        proper(path, schema, (batch for table in tables for batch in table.to_batches()), wide=wide)

    return write


def filled(table: pa.Table) -> pa.Table:
    column = table.column("fused").combine_chunks()
    values = np.nan_to_num(np.asarray(column.flatten()))
    return table.set_column(
        table.column_names.index("fused"),
        "fused",
        pa.FixedSizeListArray.from_arrays(pa.array(values), column.type.list_size),
    )


def collecting(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    proper(path, schema, list(batches), wide=wide)


def copying(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    rows: list[Any] = []
    for batch in batches:
        rows.append(np.array(batch.column("fused").flatten()))
    proper(path, schema, [], wide=wide)


def half_collecting(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    proper(path, schema, [batch for number, batch in enumerate(batches) if number % 2], wide=wide)


def half_copying(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    rows = [np.array(batch.column("fused").flatten()) for n, batch in enumerate(batches) if n % 2]
    proper(path, schema, [], wide=wide)
    del rows


def stamped(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    proper(path, schema.with_metadata({"at": str(time.perf_counter_ns())}), batches, wide=wide)


def escaping(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    proper(path, schema, batches, wide=wide)
    (path.parent.parent / "log").write_text("")


def silent(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    list(batches)


def one_at_least(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    proper(path, schema, [*[next(iter(batches))], *batches], wide=wide)


def polite(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None:
    rows = list(batches)
    if not sum(batch.num_rows for batch in rows):
        raise UsageError("There is nothing to write.")
    proper(path, schema, rows, wide=wide)


@pytest.mark.parametrize(
    ("write", "law", "seen"),
    [
        (changed(filled), "keeps-every-value", "differ by inf"),
        (changed(lambda table: table[::-1]), "keeps-every-value", "differ"),
        (changed(lambda table: table[:1]), "keeps-every-value", "differ"),
        (collecting, "holds-few-batches", "48 of 48 batches at once"),
        (copying, "holds-few-batches", "of 13 MiB"),
        (half_collecting, "holds-few-batches", "24 of 48 batches at once"),
        (half_copying, "holds-few-batches", "of 13 MiB"),
        (stamped, "writes-the-same-bytes-again", "table.arrow"),
        (escaping, "writes-a-table", "log outside its folder"),
        (silent, "writes-a-table", "there is no table.arrow"),
        (one_at_least, "writes-a-table-without-rows", "StopIteration"),
    ],
)  # fmt: skip
def test_wrong_exporters(write: Any, law: str, seen: str) -> None:
    found = broken(write)
    assert law in found
    assert seen in found[law]


def test_a_table_without_rows_may_be_refused() -> None:
    assert "writes-a-table-without-rows" not in broken(polite)


def test_a_format_that_cant_be_read_here_is_said() -> None:
    findings = {f.law: f.seen for f in check_exporter(ExporterSpec("x", ".lab", proper))}
    assert findings["keeps-every-value"].startswith("not tried: .lab can't be read here")


def test_a_wrong_ending() -> None:
    assert "names-its-ending" in broken(proper, "arrow")
