"""How long a training table takes, and how much memory: patients × 3 inputs × 512, concatenated.

The floor does the same with NumPy and pyarrow alone: three ``.npy`` files, mapped, whose rows are in order already,
concatenated block by block and written as the same columns with the same writer options. It aligns nothing, checks
nothing, hashes nothing and records nothing. Each side runs in a process of its own, and so the peak memory is its own:
``anonymous`` is what it allocated, ``resident`` also counts pages of files that were read, which the kernel may take
back.

    python benchmarks/materialize.py --patients 20000 200000
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

WIDTH, INPUTS = 512, ("a", "p", "t")
_BLOCK = 4_096


def main() -> None:
    parser = argparse.ArgumentParser(description="Materialize, against NumPy and pyarrow alone.")
    parser.add_argument("--patients", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["featstore", "fitted", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        seconds, anonymous, resident = measured(arguments.side, arguments.folder)
        print(f"{seconds} {anonymous} {resident}")
        return
    print(f"{'patients':>9}  {'side':<38} {'seconds':>8} {'x floor':>8} {'anonymous':>10} {'resident':>10}")
    for patients in arguments.patients:
        with tempfile.TemporaryDirectory(prefix="featstore-materialize-") as folder:
            prepare(Path(folder), patients)
            compare(Path(folder), patients, arguments.rounds)


def prepare(folder: Path, patients: int) -> None:
    """Three .npy files, and a store that has imported them."""
    import featstore

    featstore.init(folder / "store")
    store = featstore.open(folder / "store")
    rng = np.random.default_rng(0)
    for name in INPUTS:
        np.save(folder / f"{name}.npy", rng.standard_normal((patients, WIDTH), np.float32))
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "sample_key", "patient_id", "label"])
            writer.writerows([n, f"{name}/{n:07}", f"{n:07}", n % 2] for n in range(patients))
        store.import_features(folder / f"{name}.npy", index=folder / f"{name}.csv", name=name, modality=name)
    store.split(ratios={"train": 0.7, "val": 0.3}, stratify="label")


def compare(folder: Path, patients: int, rounds: int) -> None:
    taken: dict[str, list[tuple[float, float, float]]] = {"floor": [], "featstore": [], "fitted": []}
    for _ in range(rounds):  # by turns: what else the machine does hits all alike
        for side, found in taken.items():
            command = [sys.executable, __file__, "--side", side, "--folder", str(folder)]
            words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found.append((float(words[0]), float(words[1]), float(words[2])))
    names = {
        "floor": "NumPy concatenation, pyarrow", "featstore": "featstore, concat",
        "fitted": "featstore, concat, standardize, pca(32)",
    }  # fmt: skip
    floor = min(seconds for seconds, _, _ in taken["floor"])
    for side, found in taken.items():
        seconds = min(s for s, _, _ in found)
        anonymous, resident = (max(row[i] for row in found) for i in (1, 2))
        print(
            f"{patients:>9,}  {names[side]:<38} {seconds:8.2f} {seconds / floor:8.2f} {anonymous:7.0f} MB"
            f" {resident:7.0f} MB"
        )


def measured(side: str, folder: Path) -> tuple[float, float, float]:
    """Seconds, and the peaks of anonymous and resident memory in MB."""
    peaks, stop = [0, 0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            status = Path("/proc/self/status").read_text()
            for place, key in enumerate(("RssAnon:", "VmRSS:")):
                peaks[place] = max(peaks[place], int(status.split(key)[1].split()[0]))

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    try:
        if side == "floor":
            write_plainly(folder)
        else:
            write_with_featstore(folder, fitted=side == "fitted")
    finally:
        seconds = time.perf_counter() - started
        stop.set()
        watcher.join()
    return seconds, peaks[0] / 1024, peaks[1] / 1024


def write_with_featstore(folder: Path, *, fitted: bool) -> None:
    import featstore

    store = featstore.open(folder / "store")
    name = f"t{time.time_ns()}"
    steps = ["standardize", "pca(32)"] if fitted else []
    store.materialize(name=name, inputs=[f"{i}={i}" for i in INPUTS], scheme="default", steps=steps)


def write_plainly(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in INPUTS}
    ids = pa.csv.read_csv(
        folder / "a.csv", convert_options=pa.csv.ConvertOptions(column_types={"patient_id": pa.string()})
    )
    splits = pa.array(["train"] * ids.num_rows)
    fields = [("patient_id", pa.string()), ("split", pa.string()), ("label", pa.int64())]
    fields += [(name, pa.list_(pa.float32(), WIDTH)) for name in INPUTS]
    schema = pa.schema([*fields, ("fused", pa.list_(pa.float32(), WIDTH * len(INPUTS)))])
    with pq.ParquetWriter(
        folder / "floor.parquet", schema, version="2.6", data_page_version="1.0", compression="zstd",
        compression_level=3, use_dictionary=["patient_id", "split"],
    ) as writer:  # fmt: skip
        for start in range(0, ids.num_rows, _BLOCK):
            rows = slice(start, min(start + _BLOCK, ids.num_rows))
            parts = [np.array(array[rows]) for array in arrays.values()]
            vectors = [
                pa.FixedSizeListArray.from_arrays(pa.array(p.reshape(-1)), p.shape[1])
                for p in [*parts, np.concatenate(parts, axis=1)]
            ]
            plain = [
                column.slice(start, rows.stop - start)
                for column in (
                    ids.column("patient_id").combine_chunks(), splits, ids.column("label").combine_chunks(),
                )
            ]  # fmt: skip
            writer.write_batch(pa.RecordBatch.from_arrays([*plain, *vectors], schema=schema), row_group_size=_BLOCK)


if __name__ == "__main__":
    main()
