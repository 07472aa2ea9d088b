"""How long a large store takes: ingest, plan, extract, materialize; each against a floor that does only what it must.

Every phase runs in a process of its own, which says how long it took beyond imports and how far its own memory grew at
most (mapped files, which the kernel takes back when it wants, are not counted). The inputs are files of float32 numbers
that are their own vectors, so that nothing but featstore is measured.

    python benchmarks/scale.py --samples 100000
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

import featstore
from featstore import Backbone, BackboneRequest, BackboneSpec, ReaderSpec, Source, Tokens, hookimpl

MODALITIES = ("A", "P")


# ------------------------------------------------------------------------------------------------- a plugin
class Identity(Backbone):
    """``numbers:<dim>``: the numbers of a file, as they are."""

    def __init__(self, dim: int) -> None:
        self.input_shape = (dim,)

    @staticmethod
    def transform(decoded: np.ndarray) -> np.ndarray:
        return decoded

    def forward(self, batch, layers):
        return {layer: Tokens(batch[:, None, :]) for layer in layers}


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    return BackboneSpec(name, load_numbers) if name.startswith("numbers:") else None


def load_numbers(request: BackboneRequest) -> Backbone:
    return Identity(int(request.rest))


def read_numbers(source: Source) -> np.ndarray:
    return np.frombuffer(source.read_bytes(), "<f4")


@hookimpl
def featstore_readers() -> Iterable[ReaderSpec]:
    yield ReaderSpec("numbers", (".f4",), read_numbers)


# --------------------------------------------------------------------------------------------------- phases
def store(folder: Path) -> featstore.Store:
    return featstore.open(folder / "store", plugins=[__file__])


def ingest(folder: Path, dim: int) -> None:
    store(folder).ingest_manifest(folder / "data" / "manifest.csv", dataset="scale", label_type="int")


def ingest_floor(folder: Path, dim: int) -> None:
    rows = pd.read_csv(folder / "data" / "manifest.csv", dtype=str)
    stats = [(folder / "data" / path).stat() for path in rows["path"]]
    rows["size"], rows["mtime"] = [s.st_size for s in stats], [s.st_mtime_ns for s in stats]
    patients = rows.groupby("patient_id", as_index=False).first().reset_index(names="patient")
    rows = rows.merge(patients[["patient_id", "patient"]], on="patient_id", validate="many_to_one")
    rows.to_parquet(folder / "floor.parquet")


def request(dim: int) -> dict[str, object]:
    return {"name": "v", "backbone": f"numbers:{dim}", "batch_size": 256, "chunk_rows": 4096, "device": "cpu"}


def plan(folder: Path, dim: int) -> None:
    """Everything that an extraction does before its first batch: the batch itself is made to fail."""
    opened = store(folder)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    work = importlib.import_module("featstore.extract.run")
    work.work = stop
    try:
        opened.extract(**request(dim))
    except KeyboardInterrupt:
        return
    raise AssertionError("nothing was planned")


def extract(folder: Path, dim: int) -> None:
    store(folder).extract(**request(dim))


def extract_floor(folder: Path, dim: int) -> None:
    paths = pd.read_csv(folder / "data" / "manifest.csv", dtype=str)["path"]
    vectors = np.stack([np.frombuffer((folder / "data" / path).read_bytes(), "<f4") for path in paths])
    np.save(folder / "vectors.npy", vectors)


def extract_again(folder: Path, dim: int) -> None:
    result = store(folder).extract(**request(dim))
    assert result.pending == 0


def materialize(folder: Path, dim: int) -> None:
    result = store(folder).materialize(
        name="scale", inputs=["a=v/A:mean", "p=v/P:mean"], scheme="default", out=folder / "fused.parquet"
    )
    assert result.width == 2 * dim


def materialize_floor(folder: Path, dim: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pd.read_csv(folder / "data" / "manifest.csv", dtype=str)
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    pooled = {}
    for modality in MODALITIES:
        chosen = rows[rows.modality == modality].sort_values("patient_id", kind="stable")
        _, starts = np.unique(chosen.patient_id, return_index=True)
        counts = np.diff([*starts, len(chosen)])
        pooled[modality] = np.add.reduceat(vectors[chosen.index], starts, axis=0) / counts[:, None]
    fused = np.concatenate(list(pooled.values()), axis=1)
    columns = {name: pa.FixedSizeListArray.from_arrays(values.ravel(), dim) for name, values in pooled.items()}
    columns["fused"] = pa.FixedSizeListArray.from_arrays(fused.ravel(), 2 * dim)
    pq.write_table(pa.table(columns), folder / "floor_fused.parquet", compression="zstd")


PHASES: dict[str, tuple[Callable[[Path, int], None], Callable[[Path, int], None] | None, str]] = {
    "ingest a manifest": (ingest, ingest_floor, "pandas: read_csv, stat, merge, to_parquet"),
    "plan, all pending": (plan, None, ""),
    "extract": (extract, extract_floor, "read every file, np.stack, np.save"),
    "extract again (nothing to do)": (extract_again, None, ""),
    "materialize two modalities": (materialize, materialize_floor, "np.load, reduceat, concat, one Parquet"),
}


# ----------------------------------------------------------------------------------------------------- main
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--slices", type=int, default=1, help="samples a patient and modality")
    parser.add_argument("--phase", nargs=3, metavar=("NAME", "WHICH", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        name, which, folder = arguments.phase
        print(json.dumps(measure(PHASES[name][int(which)], Path(folder), arguments.dim)))
        return
    with tempfile.TemporaryDirectory(prefix="featstore-scale-") as folder:
        write_samples(Path(folder), arguments.samples, arguments.dim, arguments.slices)
        print(f"{arguments.samples:,} samples × {arguments.dim} float32, {arguments.slices} a patient and modality\n")
        print(f"{'':<32}{'time':>10}{'memory':>12}{'floor':>10}{'memory':>12}{'of the floor':>14}")
        for name, (_, floor, what) in PHASES.items():
            took, grew = run(name, 0, folder, arguments.dim)
            line = f"{name:<32}{took:>8.2f} s{grew / 2**20:>8,.0f} MiB"
            if floor:
                floor_took, floor_grew = run(name, 1, folder, arguments.dim)
                line += f"{floor_took:>8.2f} s{floor_grew / 2**20:>8,.0f} MiB{took / floor_took:>13.2f}×  {what}"
            elif name.startswith("extract again"):
                line += f"{'':>36}  {arguments.samples / took:,.0f} samples/s"
            print(line, flush=True)


def write_samples(folder: Path, samples: int, dim: int, slices: int) -> None:
    """The files, their manifest, and an empty store."""
    rng = np.random.default_rng(0)
    patients = max(samples // (len(MODALITIES) * slices), 1)
    rows = []
    for patient in range(patients):
        (folder / "data" / f"{patient // 1000:03}").mkdir(parents=True, exist_ok=True)
        split = ("train", "train", "val", "test")[patient % 4]
        for modality in MODALITIES:
            for number in range(slices):
                path = f"{patient // 1000:03}/{patient:06}_{modality}_{number}.f4"
                (folder / "data" / path).write_bytes(rng.standard_normal(dim, np.float32).tobytes())
                rows.append((path, f"{patient:06}", modality, patient % 2, split))
    columns = ["path", "patient_id", "modality", "label", "split"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "data" / "manifest.csv", index=False)
    featstore.init(folder / "store")


def run(name: str, which: int, folder: str, dim: int) -> tuple[float, int]:
    """One phase in a process of its own: seconds, and bytes of memory beyond what imports took."""
    command = [sys.executable, __file__, "--dim", str(dim), "--phase", name, str(which), folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}:\n{done.stderr}")
    took, grew = json.loads(done.stdout.splitlines()[-1])
    return took, grew


def measure(phase: Callable[[Path, int], None], folder: Path, dim: int) -> tuple[float, int]:
    ours = ("featstore.extract.run", "featstore.tables")
    for module in ("torch.utils.data", "duckdb", "zarr", "pyarrow.parquet", "sklearn.preprocessing", "skops.io", *ours):
        importlib.import_module(module)
    before = peak = own_memory()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    phase(folder, dim)
    took = time.perf_counter() - start
    done.set()
    watcher.join()
    return took, peak - before


def own_memory() -> int:
    """Bytes that this process holds for itself, without mapped files."""
    memory = psutil.Process().memory_info()
    return memory.rss - getattr(memory, "shared", 0)


if __name__ == "__main__":
    main()
