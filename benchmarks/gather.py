"""How long it takes to read vectors back: random rows, all rows in order, all rows shuffled.

The floor is one ``.npy`` file of the same rows, mapped by NumPy, which has no chunks to find. zarr-python
reads the very files that featstore maps. Everything is in the page cache, and every result is a new array.

    python benchmarks/gather.py --rows 200000
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

from featstore.arrays import FeatureReader, SegmentLayout, create_group, create_segment, write_chunk

Reader = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description="Read vectors back, against a .npy file and zarr-python.")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--chunk-rows", type=int, default=4_096)
    parser.add_argument("--batch", type=int, default=256, help="random rows of one read")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="featstore-gather-") as folder:
        compare(Path(folder), arguments.rows, arguments.dim, arguments.chunk_rows, arguments.batch)


def compare(folder: Path, rows: int, dim: int, chunk_rows: int, batch: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((rows, dim), np.float32)
    layout = write(folder, values, chunk_rows)
    np.save(folder / "all.npy", values)

    npy = np.load(folder / "all.npy", mmap_mode="r")
    array = zarr.open_array(layout.path / "features", mode="r")
    reader = FeatureReader({1: layout.path})
    readers: dict[str, Reader] = {
        "one .npy, mapped": lambda wanted: np.take(npy, wanted, axis=0),
        "featstore": lambda wanted: reader.gather(np.ones(len(wanted), np.int64), wanted),
        "zarr-python": lambda wanted: array.oindex[wanted],
    }
    in_order: dict[str, Reader] = {  # whole slices, where a format has them
        "one .npy, mapped": lambda wanted: np.array(npy),
        "featstore": readers["featstore"],
        "zarr-python": lambda wanted: array[:],
    }
    every, shuffled = np.arange(rows), rng.permutation(rows)
    draws = [rng.integers(0, rows, batch) for _ in range(200)]
    for read in readers.values():
        assert np.array_equal(read(draws[0]), values[draws[0]])

    print(f"{rows:,} × {dim} float32 in chunks of {chunk_rows:,} rows, {values.nbytes / 1e6:,.0f} MB\n")
    report(f"{batch} random rows", readers, draws, few=20)
    report("all rows in order", in_order, [every] * 5, few=3)
    report("all rows shuffled", readers, [shuffled] * 3, few=1)


def write(folder: Path, values: np.ndarray, chunk_rows: int) -> SegmentLayout:
    group = folder / "features" / "random" / "v1.zarr"
    layout = SegmentLayout(group / "s1", len(values), chunk_rows, values.shape[1:], "float32")
    create_group(group, {})
    create_segment(layout, [f"random/{row}" for row in range(layout.rows)])
    for index in range(layout.chunks):
        part = values[index * chunk_rows : (index + 1) * chunk_rows]
        write_chunk(layout, index, part, np.ones(len(part), np.bool_))
    return layout


def report(what: str, readers: dict[str, Reader], wanted: list[np.ndarray], *, few: int) -> None:
    """Print each reader's median time, and its ratio to the first's. zarr-python gets ``few`` draws."""
    times: dict[str, list[float]] = {name: [] for name in readers}
    for read in readers.values():
        read(wanted[0])  # opens, maps, and fills the page cache
    for count, rows in enumerate(wanted):  # in turns, so that a noisy moment meets them all
        for name, read in readers.items():
            if name != "zarr-python" or count < few:
                start = time.perf_counter()
                read(rows)
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    floor = next(iter(medians.values()))
    print(f"{what:<24} {'median':>12} {'of the floor':>14}")
    for name, median in medians.items():
        print(f"  {name:<22} {median * 1e3:>9.3f} ms {median / floor:>13.2f}×")
    print()


if __name__ == "__main__":
    main()
