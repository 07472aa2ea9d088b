"""Receipts: what a worker writes for each finished chunk, and the catalog absorbs.

A receipt is the last thing written for a chunk: a chunk without one isn't done, whatever else of it is on the disk.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self

from featstore.extract.inputs import Failure
from featstore.files import fsync, replacing, write_atomic
from featstore.runs import RunFolder

log = logging.getLogger("featstore")

#: Receipts of a row group of the folded journal: they are some 100 kB each, and a run may have a hundred thousand.
_GROUP = 100


@dataclass(slots=True)
class Receipt:
    """One chunk's outcome.

    Attributes:
        chunk: its number; ``first`` is the plan's row that it starts with.
        read: by row, [content hash, size, mtime_ns] or None where the input failed before it was decoded.
        masks: row within the chunk → hash, size and mtime_ns of the mask that was read.
        failed: row within the chunk → why, and which feature sets lack it (all where the input itself failed).
        at: when, ISO 8601, UTC.
    """

    chunk: int
    first: int
    read: list[tuple[str, int, int] | None] = field(default_factory=list)
    failed: dict[int, tuple[Failure, list[str]]] = field(default_factory=dict)
    at: str = ""
    masks: dict[int, tuple[str, int, int]] = field(default_factory=dict)

    def write(self, run: RunFolder) -> None:
        """Write the receipt into the run's journal, atomically."""
        write_atomic(_file(run, self.chunk), self.text().encode())

    def text(self) -> str:
        """The receipt as JSON; :meth:`parse` reads it back."""
        failed = [[row, *failure, sets] for row, (failure, sets) in sorted(self.failed.items())]
        value = {"chunk": self.chunk, "first": self.first, "at": self.at, "read": self.read, "failed": failed}
        if self.masks:
            value["masks"] = [[row, *mask] for row, mask in sorted(self.masks.items())]
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """A receipt from its JSON; ValueError, KeyError or TypeError where that is damaged."""
        value = json.loads(text)
        failed = {row: (Failure(*why), sets) for row, *why, sets in value["failed"]}
        read = [None if item is None else (str(item[0]), int(item[1]), int(item[2])) for item in value["read"]]
        masks = {int(row): (str(hash), int(size), int(time)) for row, hash, size, time in value.get("masks", ())}
        return cls(value["chunk"], value["first"], read, failed, value["at"], masks)


def receipts(run: RunFolder) -> set[int]:
    """The numbers of the chunks that have a receipt."""
    found = {int(file.stem) for file in _files(run)}
    if _parquet(run).exists():
        import pyarrow.parquet as pq

        found.update(pq.read_table(_parquet(run), columns=["chunk"]).column("chunk").to_pylist())
    return found


def load(run: RunFolder, spans: Mapping[int, range]) -> Iterator[Receipt]:
    """The receipts of some chunks, folded or not.

    A damaged one is as good as none: it is removed, with a warning, and its chunk will be made again.

    Args:
        spans: chunk → the plan's rows of it.
    """
    folded: dict[int, str] | None = None
    for chunk, span in spans.items():
        file = _file(run, chunk)
        if not file.exists():
            folded = _folded(run) if folded is None else folded
            yield Receipt.parse(folded[chunk])
            continue
        try:
            receipt = Receipt.parse(file.read_text(encoding="utf-8"))
            if not span or (receipt.chunk, receipt.first, len(receipt.read)) != (chunk, span.start, len(span)):
                raise ValueError("it is of other rows")
            datetime.fromisoformat(receipt.at)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            log.warning("A receipt of the run %s is damaged (%s): its inputs are tried again.", run.run_id, error)
            file.unlink()
        else:
            yield receipt


def fold(run: RunFolder) -> None:
    """Turn the receipts of an ended run into one Parquet, and drop the journal. It may be killed and repeated."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = {int(file.stem): file for file in _files(run)}
    if files:
        folded = _folded(run)  # of a fold that was killed: seldom any
        chunks = sorted(folded.keys() | files)
        schema = pa.schema({"chunk": pa.int64(), "receipt": pa.string()})
        with replacing(_parquet(run)) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for start in range(0, len(chunks), _GROUP):
                group = chunks[start : start + _GROUP]
                # What is damaged by now was absorbed when it wasn't.
                texts = [files[c].read_text("utf-8", "replace") if c in files else folded[c] for c in group]
                writer.write_table(pa.table({"chunk": group, "receipt": texts}, schema))
    if run.journal.is_dir():
        shutil.rmtree(run.journal)
        fsync(run.path)


def _file(run: RunFolder, chunk: int) -> Path:
    return run.journal / f"{chunk:08}.json"


def _parquet(run: RunFolder) -> Path:
    return run.path / "receipts.parquet"


def _files(run: RunFolder) -> list[Path]:
    """The receipts that are not folded yet; a killed worker's temporary files aren't among them."""
    return sorted(run.journal.glob("[0-9]*.json"))


def _folded(run: RunFolder) -> dict[int, str]:
    if not _parquet(run).exists():
        return {}
    import pyarrow.parquet as pq

    table = pq.read_table(_parquet(run))
    return dict(zip(table.column("chunk").to_pylist(), table.column("receipt").to_pylist(), strict=True))
