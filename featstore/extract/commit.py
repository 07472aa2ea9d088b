"""Commit: the receipts of a run's journal become rows of the catalog."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore import locations
from featstore.catalog import runs, vectors
from featstore.catalog.connection import Catalog
from featstore.errors import BusyError, SetupError
from featstore.extract import journal
from featstore.extract.journal import Receipt
from featstore.extract.plan import Plan
from featstore.keys import split_fragment
from featstore.runs import utc_now

if TYPE_CHECKING:
    import pyarrow as pa


#: The columns of what :func:`featstore.catalog.vectors.absorb` takes, with their Arrow types.
_READS = {
    "sample": "int64", "content": "int32", "content_hash": "string", "size": "int64", "mtime_ns": "int64",
    "mask_uri": "string", "mask_hash": "string", "mask_size": "int64", "mask_mtime_ns": "int64",
}  # fmt: skip
_POINTERS = {"sample": "int64", "feature_set": "int32", "segment": "int32", "row": "int64", "regions": "bool"}
_FAILURES = {
    "sample": "int64", "content": "int32", "file_state": "string", "stage": "string", "error": "string",
    "message": "string", "failed_at": "timestamp[us]",
}  # fmt: skip


@dataclass(slots=True)
class Committer:
    """Absorbs one run's receipts, every few seconds while it works and for good at its end.

    Attributes:
        every_s: least time between commits, in seconds.
        changed: how many files turned out to have changed since their other vectors were made.
    """

    catalog: Catalog
    plan: Plan
    every_s: float = 5.0
    changed: int = 0
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
        changed = 0
        with self.catalog.write(wait_s=wait_s) as connection:
            have = vectors.absorbed(connection, plan.id)
            spans = {chunk: plan.span(chunk) for chunk in written if chunk not in have}
            receipts = list(journal.load(plan.run, spans))
            new = [receipt.chunk for receipt in receipts]
            if new:
                reads, pointers, failures = _rows(plan, receipts)
                put_back, masks_put_back = (
                    [sample for sample, uri, size, mtime_ns in older if _is_now(uri, size, mtime_ns)]
                    for older in (
                        vectors.contradicted(connection, reads),
                        vectors.contradicted(connection, reads, masks=True),
                    )
                )
                changed = vectors.absorb(
                    connection, plan.id, new, reads, pointers, failures, utc_now(), put_back=put_back,
                    masks_put_back=masks_put_back,
                )  # fmt: skip
            finished = len(have) + len(new) == plan.chunks
            if finished:
                runs.finish_run(connection, plan.id, "done", utc_now())
        self._last = time.monotonic()
        self.changed += changed
        if finished:
            journal.fold(plan.run)
            plan.run.record(state="done", finished_at=utc_now().isoformat())
        return finished


def _is_now(uri: str, size: int, mtime_ns: int) -> bool:
    """Whether the file still is the one that was read."""
    try:
        return locations.stat(split_fragment(uri)[0]) == (size, mtime_ns)
    except (OSError, SetupError):
        return False


def _rows(plan: Plan, receipts: Iterable[Receipt]) -> tuple[pa.Table, pa.Table, pa.Table]:
    """The rows that some receipts say: reads, pointers to valid vectors, failures."""
    reads: list[tuple[Any, ...]] = []
    pointers: list[tuple[Any, ...]] = []
    failures: list[tuple[Any, ...]] = []
    for receipt in receipts:
        at = datetime.fromisoformat(receipt.at)
        rows = plan.rows.slice(receipt.first, len(receipt.read))
        columns = [rows.column(name).to_pylist() for name in ("sample", "content")]
        masks = rows.column("mask_uri").to_pylist() if receipt.masks else [None] * rows.num_rows
        for offset, (sample, content, mask_uri, read) in enumerate(zip(*columns, masks, receipt.read, strict=True)):
            why, missing = receipt.failed.get(offset, (None, []))
            if why:
                failures.append((sample, content, why.file_state, why.stage, why.error, why.message, at))
            if read is None:
                continue
            reads.append((sample, content, *read, mask_uri, *receipt.masks.get(offset, (None, None, None))))
            row = receipt.first + offset
            pointers += [(sample, s.feature_set, s.segment, row, s.regions) for s in plan.sets if s.name not in missing]
    return _table(reads, _READS), _table(pointers, _POINTERS), _table(failures, _FAILURES)


def _table(rows: list[tuple[Any, ...]], fields: Mapping[str, str]) -> pa.Table:
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) if rows else [()] * len(fields)
    return pa.table(
        [pa.array(c, pa.type_for_alias(t)) for c, t in zip(columns, fields.values(), strict=True)], names=list(fields)
    )
