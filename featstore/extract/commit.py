"""Commit: the receipts of a run's journal become rows of the catalog."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog import runs, vectors
from featstore.catalog.connection import Catalog
from featstore.errors import BusyError
from featstore.extract import journal
from featstore.extract.plan import Plan
from featstore.runs import utc_now

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(slots=True)
class Committer:
    """Absorbs one run's receipts, every few seconds while it works and for good at its end.

    Attributes:
        every_s: least time between commits, in seconds.
    """

    catalog: Catalog
    plan: Plan
    every_s: float = 5.0
    _last: float = field(default_factory=time.monotonic)

    def now_and_then(self) -> None:
        """Commit if it is time, unless another process holds the catalog: the receipts can wait, the work can't."""
        if time.monotonic() - self._last >= self.every_s:
            try:
                self.commit(wait_s=0.0)
            except BusyError:
                self._last = time.monotonic()

    def commit(self, *, wait_s: float | None = None) -> bool:
        """Absorb whatever the journal holds that the catalog lacks, in one transaction.

        Returns:
            whether the run is finished: every chunk of its plan is in the catalog.

        Raises:
            BusyError: another process held the catalog for longer than ``wait_s``.
        """
        plan = self.plan
        written = sorted(journal.receipts(plan.run))
        with self.catalog.write(wait_s=wait_s) as connection:
            have = vectors.absorbed(connection, plan.id)
            new = [chunk for chunk in written if chunk not in have]
            if new:
                reads, pointers, failures = _rows(plan, new)
                vectors.absorb(connection, plan.id, new, reads, pointers, failures, utc_now())
            finished = len(have) + len(new) == plan.chunks
            if finished:
                runs.finish_run(connection, plan.id, "done", utc_now())
        self._last = time.monotonic()
        if finished:
            journal.fold(plan.run)
            plan.run.record(state="done", finished_at=utc_now().isoformat())
        return finished


def _rows(plan: Plan, chunks: list[int]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The rows that some receipts say: reads, pointers to valid vectors, failures."""
    import pyarrow as pa

    samples = plan.rows.column("sample").to_pylist()
    contents = plan.rows.column("content").to_pylist()
    reads: list[tuple[Any, ...]] = []
    pointers: list[tuple[Any, ...]] = []
    failures: list[tuple[Any, ...]] = []
    for chunk in chunks:
        receipt = journal.load(plan.run, chunk)
        at = datetime.fromisoformat(receipt.at)
        for offset, read in enumerate(receipt.read):
            row = receipt.first + offset
            why, missing = receipt.failed.get(offset, (None, []))
            if why:
                failures.append((samples[row], contents[row], why.file_state, why.stage, why.error, why.message, at))
            if read is None:
                continue
            reads.append((samples[row], contents[row], *read))
            pointers += [(samples[row], s.feature_set, s.segment, row) for s in plan.sets if s.name not in missing]
    return (
        _table(reads, [("sample", pa.int64()), ("content", pa.int32()), ("content_hash", pa.string()),
                       ("size", pa.int64()), ("mtime_ns", pa.int64())]),
        _table(pointers, [("sample", pa.int64()), ("feature_set", pa.int32()), ("segment", pa.int32()), ("row", pa.int64())]),
        _table(failures, [("sample", pa.int64()), ("content", pa.int32()), ("file_state", pa.string()), ("stage", pa.string()), ("error", pa.string()),
                          ("message", pa.string()), ("failed_at", pa.timestamp("us"))]),
    )  # fmt: skip


def _table(rows: list[tuple[Any, ...]], fields: list[tuple[str, Any]]) -> pa.Table:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in fields]
    return pa.table([pa.array(c, t) for c, (_, t) in zip(columns, fields, strict=True)], names=[n for n, _ in fields])
