"""Receipts: what a worker writes for each finished chunk, and the catalog absorbs.

A receipt is the last thing written for a chunk: a chunk without one isn't done, whatever else of it is on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from featstore.extract.inputs import Failure
from featstore.files import fsync, read_json, write_atomic
from featstore.runs import RunFolder


@dataclass(slots=True)
class Receipt:
    """One chunk's outcome.

    Attributes:
        chunk: its number; ``first`` is the plan's row that it starts with.
        read: by row, [content hash, size, mtime_ns] or None where the input failed before it was decoded.
        failed: row within the chunk → why, and which feature sets lack it (all where the input itself failed).
        at: when, ISO 8601, UTC.
    """

    chunk: int
    first: int
    read: list[tuple[str, int, int] | None] = field(default_factory=list)
    failed: dict[int, tuple[Failure, list[str]]] = field(default_factory=dict)
    at: str = ""

    def write(self, folder: Path) -> None:
        """Write the receipt, atomically."""
        failed = [[row, *failure, sets] for row, (failure, sets) in sorted(self.failed.items())]
        value = {"chunk": self.chunk, "first": self.first, "at": self.at, "read": self.read, "failed": failed}
        write_atomic(folder / f"{self.chunk:08}.json", json.dumps(value, separators=(",", ":")).encode())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what :meth:`write` wrote."""
        return cls.parse(read_json(file))

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Self:
        """A receipt from its JSON."""
        failed = {row: (Failure(*why), sets) for row, *why, sets in value["failed"]}
        read = [None if item is None else tuple(item) for item in value["read"]]
        return cls(value["chunk"], value["first"], read, failed, value["at"])


def receipts(run: RunFolder) -> Iterator[int]:
    """The numbers of the chunks that have a receipt."""
    if (folded := run.path / "receipts.parquet").exists():
        import pyarrow.parquet as pq

        yield from pq.read_table(folded, columns=["chunk"]).column("chunk").to_pylist()
    if run.journal.is_dir():
        yield from sorted(int(file.stem) for file in run.journal.glob("[0-9]*.json"))


def load(run: RunFolder, chunk: int) -> Receipt:
    """The receipt of one chunk that hasn't been folded yet."""
    return Receipt.load(run.journal / f"{chunk:08}.json")


def fold(run: RunFolder) -> None:
    """Turn the receipts of a finished run into one Parquet, and drop the journal."""
    import pyarrow as pa

    files = sorted(run.journal.glob("[0-9]*.json")) if run.journal.is_dir() else []
    if files:
        texts = [file.read_text() for file in files]
        run.save_rows("receipts", pa.table({"chunk": [int(file.stem) for file in files], "receipt": texts}))
    for file in files:
        file.unlink()
    if run.journal.is_dir():
        for leftover in run.journal.iterdir():  # temporary files of a killed worker
            leftover.unlink()
        run.journal.rmdir()
        fsync(run.path)
