"""Work: chunk by chunk, with no access to the catalog at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featstore.arrays import SegmentLayout, storable, write_chunk
from featstore.errors import PluginError, SetupError
from featstore.extract import journal
from featstore.extract.encoder import Encoder
from featstore.extract.inputs import Batch, Failure, Inputs, file_state, input_state
from featstore.extract.journal import Receipt
from featstore.extract.network import Network, Way
from featstore.extract.plan import Plan, PlannedSet
from featstore.keys import split_fragment
from featstore.runs import utc_now


def work(
    store: Path,
    plan: Plan,
    encoder: Encoder,
    network: Network,
    inputs: Inputs,
    num_workers: int,
) -> Iterator[tuple[int, int, bool]]:
    """Make every chunk that has no receipt yet.

    Yields:
        after each batch: how many of its inputs are done, how many failed, and whether it completed a chunk.

    Raises:
        SetupError: the environment's fault; every chunk with a receipt is kept.
    """
    finished = journal.receipts(plan.run)
    spans = {chunk: plan.span(chunk) for chunk in range(plan.chunks) if chunk not in finished}
    size = plan.frozen.batch_size
    rows = [span[i : i + size] for span in spans.values() for i in range(0, len(span), size)]
    ways = [encoder.way(planned) for planned in plan.sets]
    # Closed at once when something stops the work, and not when the traceback is gone: it holds the workers.
    on_gpu = network.device.startswith("cuda")
    with closing(inputs.batches(rows, num_workers=num_workers, pin=on_gpu)) as batches:
        for index, span in spans.items():
            chunk = _Chunk(plan, Receipt(index, span.start), _parts(store, plan, ways, len(span)))
            while chunk.done < len(span):
                batch = next(batches)
                if batch.fault:
                    raise batch.fault
                failed = chunk.add(batch, network.pooled(batch.values, ways, batch.masks))
                complete = chunk.done == len(span)
                if complete:
                    chunk.finish()
                yield len(batch.read) - failed, failed, complete


@dataclass(frozen=True, slots=True)
class _Part:
    """One feature set's share of a chunk; ``regions`` where its vectors are of masks."""

    planned: PlannedSet
    regions: bool
    layout: SegmentLayout
    values: np.ndarray[Any, np.dtype[np.float32]]
    valid: np.ndarray[Any, np.dtype[np.bool_]]


def _parts(store: Path, plan: Plan, ways: Sequence[Way], rows: int) -> list[_Part]:
    layouts = [plan.layout(store, planned) for planned in plan.sets]
    return [
        _Part(planned, way.regions, layout, np.zeros((rows, *layout.item_shape), np.float32), np.zeros(rows, bool))
        for planned, way, layout in zip(plan.sets, ways, layouts, strict=True)
    ]


@dataclass(slots=True)
class _Chunk:
    """A chunk that is being made, in memory until its last batch."""

    plan: Plan
    receipt: Receipt
    parts: list[_Part]
    done: int = 0

    def add(self, batch: Batch, pooled: Sequence[np.ndarray[Any, Any]]) -> int:
        """Take a batch in; returns how many of its inputs failed."""
        start, self.done = self.done, self.done + len(batch.read)
        everything = [part.planned.name for part in self.parts]
        of_masks = [part.planned.name for part in self.parts if part.regions]
        for row, item in enumerate(batch.read, start):
            if item.failure:
                self.receipt.failed[row] = (item.failure, everything)
            elif item.mask_failure:
                self.receipt.failed[row] = (item.mask_failure, of_masks)
            if item.mask:
                self.receipt.masks[row] = item.mask
            self.receipt.read.append(None if item.failure else (item.content_hash, item.size, item.mtime_ns))
        decoded = np.array([item.failure is None for item in batch.read], bool)
        masked = decoded & [item.mask_failure is None for item in batch.read]
        for part, values in zip(self.parts, pooled, strict=True):
            if values.shape != (len(decoded), *part.layout.item_shape):  # an assignment would broadcast in silence
                raise PluginError(
                    f"The pooler {part.planned.pooler} gave {values.shape[1:]} for an input, and "
                    f"{part.layout.item_shape} for others: vectors of a feature set have one shape."
                )
            wanted = masked if part.regions else decoded
            part.values[start : self.done] = values
            part.valid[start : self.done] = wanted & storable(values, part.layout.dtype)
            for slot in np.flatnonzero(wanted & ~part.valid[start : self.done]):
                self._note_non_finite(start + int(slot), part)
        return sum(start <= row for row in self.receipt.failed)

    def _note_non_finite(self, row: int, part: _Part) -> None:
        (planned,) = self.plan.rows.slice(self.receipt.first + row, 1).to_pylist()
        uri, mask_uri = planned["uri"], planned.get("mask_uri")
        state = input_state(uri, mask_uri) if part.regions else file_state(split_fragment(uri)[0])
        message = f"the vector is not finite as {part.layout.dtype}"
        # A mask that is wrong was found first, and is the first thing to mend.
        why, names = self.receipt.failed.get(row, (Failure("vector", "NonFinite", message, state), []))
        self.receipt.failed[row] = (why, [*names, part.planned.name])

    def finish(self) -> None:
        """Write every part, then the receipt: in this order, so that a receipt never promises too much."""
        try:
            for part in self.parts:
                write_chunk(part.layout, self.receipt.chunk, part.values, part.valid)
            self.receipt.at = utc_now().isoformat()
            self.receipt.write(self.plan.run)
        except OSError as error:
            raise SetupError(
                f"The vectors can't be written to {self.parts[0].layout.path.parent}: {error.strerror}.",
                hint="free some space or mend the disk, then run it again: what was finished is kept",
            ) from error
