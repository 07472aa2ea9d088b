"""Writing: aligned and fused rows → files, in a folder that isn't in place yet."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import arrow_block
from featstore.catalog.alignment import Alignment
from featstore.catalog.alignment_inputs import VectorInput
from featstore.catalog.splits import Scheme
from featstore.errors import PluginError
from featstore.plugins import Plugins
from featstore.tables.data import DATA, FITTED
from featstore.tables.fuse import BATCH_ROWS, Fusion
from featstore.tables.mending import of_all
from featstore.tables.placing import locked_folder, remove_leftovers
from featstore.tables.recipe import Recipe
from featstore.tables.rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of vectors that are written at once.
BATCH_NBYTES = 64 << 20
#: Of a file that is being written: seconds until it is looked at again, and bytes that are brought to the disk at once.
_PAUSE_S, _SYNC_NBYTES = 0.02, 256 << 20


@dataclass(slots=True)
class Made:
    """A recipe with everything that was made of it, in a folder that isn't in place yet.

    Attributes:
        sets: the vector inputs, in the recipe's order.
        digests: fold → SHA-256 of its data.
        width: of ``fused``, in the first fold.
    """

    recipe: Recipe
    alignment: Alignment
    rows: Rows
    sets: list[VectorInput]
    scheme: Scheme | None
    report: dict[str, Any]
    folder: Path
    digests: dict[str, str] = field(default_factory=dict)
    width: int = 0

    @property
    def digest(self) -> str:
        """Of the data; of folds, of all of theirs."""
        return of_all(self.digests)


def schema(rows: Rows, fusion: Fusion, masks: Mapping[str, npt.NDArray[np.bool_]]) -> pa.Schema:
    """Keys, split, label, the inputs' vectors, the tables' columns, fused, and the masks."""
    import pyarrow as pa

    fields = [(name, pa.string()) for name in (*rows.keys, "split")]
    fields += [("time", pa.float64()), ("event", pa.bool_())] if rows.survival else []
    fields += [] if rows.survival else [("label", rows.label_column().type)]
    fields += [(alias, pa.list_(pa.float32(), pooled.width)) for alias, pooled in fusion.inputs.items()]
    fields += [(f.name, f.type) for part in fusion.tabular.values() for f in part.raw.schema]
    fields.append(("fused", pa.list_(pa.float32(), fusion.width)))
    return pa.schema(fields + [(name, pa.bool_()) for name in masks])


def masks(recipe: Recipe, fusion: Fusion) -> dict[str, npt.NDArray[np.bool_]]:
    """What is there and what isn't: never left to be guessed from zeros."""
    found: dict[str, npt.NDArray[np.bool_]] = {}
    if not recipe.every_input:
        found |= {f"has_{alias}": pooled.present for alias, pooled in fusion.inputs.items()}
        found |= {f"has_{name}": part.present for name, part in fusion.tabular.items()}
    for part in fusion.tabular.values():
        found |= part.masks()
    return found


def batches(
    rows: Rows,
    fold: str,
    fusion: Fusion,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """The rows, some thousands at a time."""
    import pyarrow as pa

    columns = [rows.table.column(name).combine_chunks() for name in rows.keys] + [rows.splits(fold)]
    if rows.survival:
        columns += [rows.table.column(name).combine_chunks() for name in ("time", "event")]
    else:
        columns.append(rows.label_column())
    clinical = [column.combine_chunks() for part in fusion.tabular.values() for column in part.raw.columns]
    widths = {alias: pooled.width for alias, pooled in fusion.inputs.items()} | {"fused": fusion.width}
    for blocks in _batched(fusion.blocks(), 4 * sum(widths.values())):
        start, stop = blocks[0][0], blocks[-1][1]
        vectors = {name: np.empty((stop - start, width), np.float32) for name, width in widths.items()}
        for first, last in blocks:
            raw = fusion.raw(first, last)
            fused = fusion.apply(raw, first, last)
            fusion.incomplete += int(np.isnan(fused).any(axis=1).sum())
            for name, values in {**raw, "fused": fused}.items():
                if values.shape != (last - first, widths[name]):  # NumPy would repeat a single number, unseen
                    raise PluginError(
                        f"{name!r} is {values.shape} in one block of rows, and {widths[name]} wide before."
                    )
                vectors[name][first - start : last - start] = values
        arrays = [column.slice(start, stop - start) for column in columns]
        arrays += [arrow_block(vectors[alias]) for alias in fusion.inputs]
        arrays += [column.slice(start, stop - start) for column in clinical]
        arrays.append(arrow_block(vectors["fused"]))
        arrays += [pa.array(mask[start:stop]) for mask in masks.values()]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _batched(blocks: Iterable[tuple[int, int]], row_nbytes: int) -> Iterator[list[tuple[int, int]]]:
    """Blocks that follow one another, as many as are written at once: one, or what stays within both bounds."""
    most = min(BATCH_ROWS, BATCH_NBYTES // row_nbytes)
    batch: list[tuple[int, int]] = []
    for block in blocks:
        if batch and block[1] - batch[0][0] > most:
            yield batch
            batch = []
        batch.append(block)
    if batch:
        yield batch


def write_fold(plugins: Plugins, made: Made, fold: str, fusion: Fusion) -> None:
    """Write the data of one fold, and what it was fitted with, below ``made.folder``."""
    folder = made.folder / fold
    folder.mkdir(exist_ok=True)
    has = masks(made.recipe, fusion)
    form = schema(made.rows, fusion, has)
    write = plugins.exporter(Path(DATA)).write
    with digested(folder / DATA) as known:
        write(folder / DATA, form, batches(made.rows, fold, fusion, has, form), wide=False)
    if estimators := fusion.fitted.estimators():
        from skops import io as skops  # imports all of scikit-learn: seconds, and only where something was fitted

        skops.dump(estimators, folder / FITTED)
    made.report["fitted"] = bool(estimators)
    made.digests[fold] = known.result()
    made.width = made.width or fusion.width


@contextmanager
def digested(path: Path) -> Iterator[Future[str]]:
    """SHA-256 of a file that the block writes from its first byte to its last; known, and the file on the disk, when
    the block has ended.

    The file is read and brought to the disk as it grows: to do so afterwards takes a fifth of the time of all.
    """
    written = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(_follow, path, written)
        finally:
            written.set()


def _follow(path: Path, written: threading.Event) -> str:
    found, buffer, waiting = hashlib.sha256(), memoryview(bytearray(1 << 20)), 0
    while not path.exists() and not written.wait(_PAUSE_S):
        pass
    with open(path, "rb", buffering=0) as file:
        while True:
            last = written.is_set()  # what is read after this has all been written
            while count := file.readinto(buffer):
                found.update(buffer[:count])
                waiting += count
            if last or waiting > _SYNC_NBYTES:
                os.fsync(file.fileno())
                waiting = 0
            if last:
                return found.hexdigest()
            written.wait(_PAUSE_S)


@contextmanager
def new_folder(store: Path) -> Iterator[str]:
    """A folder to make a table in, where it will stay: a rename can't leave its disk. No table's name begins so.

    What was left of killed ones is removed.
    """
    tables = store / "tables"
    tables.mkdir(exist_ok=True)
    remove_leftovers(tables, r"\.tmp-.*", unlocked=True)
    with locked_folder(tables) as folder:
        yield str(folder)
