"""Work: chunk by chunk, with no access to the catalog at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featstore.arrays import SegmentLayout, storable, write_chunk
from featstore.extract import journal
from featstore.extract.inputs import Batch, Failure, Inputs, file_state
from featstore.extract.journal import Receipt
from featstore.extract.network import Network
from featstore.extract.plan import Plan
from featstore.keys import split_fragment
from featstore.runs import utc_now
from featstore.spec import PoolFunction


def work(
    store: Path,
    plan: Plan,
    network: Network,
    poolers: Mapping[str, PoolFunction],
    inputs: Inputs,
    num_workers: int,
) -> Iterator[tuple[int, int, bool]]:
    """Make every chunk that has no receipt yet.

    Args:
        poolers: by the plan's pooler texts.

    Yields:
        after each batch: how many of its inputs are done, how many failed, and whether it completed a chunk.

    Raises:
        SetupError: the environment's fault; every chunk with a receipt is kept.
    """
    finished = set(journal.receipts(plan.run))
    todo = [chunk for chunk in range(plan.chunks) if chunk not in finished]
    size = plan.frozen.batch_size
    spans = {chunk: plan.span(chunk) for chunk in todo}
    rows = [list(span[i : i + size]) for span in spans.values() for i in range(0, len(span), size)]
    batches = inputs.batches(rows, num_workers=num_workers, pin=network.device.startswith("cuda"))
    layouts = [plan.layout(store, planned) for planned in plan.sets]
    functions = [poolers[planned.pooler] for planned in plan.sets]
    for chunk, span in spans.items():
        values = [np.zeros((len(span), *layout.item_shape), np.float32) for layout in layouts]
        receipt = Receipt(chunk, span.start)
        done = 0
        while done < len(span):
            batch = next(batches)
            if batch.fault:
                raise batch.fault
            pooled = network.pooled(batch.values, plan.sets[0].layer, functions)
            for array, target in zip(pooled, values, strict=True):
                target[done : done + len(array)] = array
            _note_inputs(receipt, batch, done, [s.name for s in plan.sets])
            done += len(batch.read)
            if done < len(span):
                yield _outcome(receipt, done - len(batch.read), done)
        _finish(plan, receipt, layouts, values)
        yield (*_outcome(receipt, done - len(batch.read), done)[:2], True)


def _outcome(receipt: Receipt, start: int, stop: int) -> tuple[int, int, bool]:
    failed = sum(start <= row < stop for row in receipt.failed)
    return stop - start - failed, failed, False


def _note_inputs(receipt: Receipt, batch: Batch, start: int, names: list[str]) -> None:
    for slot, item in enumerate(batch.read):
        if item.failure:
            receipt.failed[start + slot] = (item.failure, names)
            receipt.read.append(None)
        else:
            receipt.read.append((item.content_hash, item.size, item.mtime_ns))


def _finish(
    plan: Plan, receipt: Receipt, layouts: Sequence[SegmentLayout], values: Sequence[np.ndarray[Any, Any]]
) -> None:
    """Write a chunk of every set, then its receipt: in this order, so that a receipt never promises too much."""
    inputs_ok = np.ones(len(values[0]), bool)
    inputs_ok[list(receipt.failed)] = False
    for planned, layout, array in zip(plan.sets, layouts, values, strict=True):
        valid = inputs_ok & storable(array, layout.dtype)
        write_chunk(layout, receipt.chunk, array, valid)
        for row in np.flatnonzero(inputs_ok & ~valid):
            path, _ = split_fragment(plan.rows.column("uri")[receipt.first + int(row)].as_py())
            why = Failure("vector", "NonFinite", f"the vector is not finite as {layout.dtype}", file_state(path))
            _, names = receipt.failed.get(int(row), (why, []))
            receipt.failed[int(row)] = (why, [*names, planned.name])
    receipt.at = utc_now().isoformat()
    receipt.write(plan.run.journal)
