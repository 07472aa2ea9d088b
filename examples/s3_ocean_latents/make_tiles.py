"""Write HDF5 files of sea surface temperature, in the shape that ocean archives have, and a checkpoint.

::

    python make_tiles.py OUT [--files 3] [--train 48] [--valid 16] [--seed 0]

    OUT/tiles_2018.h5, …        train, valid: (n, 64, 64) float32, °C
                                train_metadata, valid_metadata: (n, 5) byte strings; the attribute "columns" names them
    OUT/encoder.pth             what a training leaves: {"opt", "model", "epoch"}, names begin with "module."

Everything is **simulated**: each tile is a smooth random field around the temperature of its latitude, with a front
across two of three. The network's weights are random. The same arguments give the same values.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from network import Encoder
from scipy import ndimage

SIDE = 64
COLUMNS = ("lat", "lon", "datetime", "clear_fraction", "mean_temperature")
FIRST_YEAR = 2018


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--files", type=int, default=3)
    parser.add_argument("--train", type=int, default=48, help="tiles of the partition train, a file")
    parser.add_argument("--valid", type=int, default=16, help="tiles of the partition valid, a file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(args.seed)
    for year in range(FIRST_YEAR, FIRST_YEAR + args.files):
        write_file(args.out / f"tiles_{year}.h5", year, {"train": args.train, "valid": args.valid}, rng)
    write_checkpoint(args.out / "encoder.pth", args.seed)


def write_file(path: Path, year: int, partitions: dict[str, int], rng: np.random.Generator) -> None:
    with h5py.File(path, "w") as file:
        for partition, count in partitions.items():
            latitudes = rng.uniform(-60, 60, count)
            tiles = np.stack([make_tile(latitude, rng) for latitude in latitudes])
            file.create_dataset(partition, data=tiles)
            rows = [describe(latitude, tile, year, rng) for latitude, tile in zip(latitudes, tiles, strict=True)]
            table = file.create_dataset(f"{partition}_metadata", data=np.array(rows, "S"))
            table.attrs["columns"] = np.array(COLUMNS, "S")


def make_tile(latitude: float, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """(64, 64), °C: eddies of a fraction of a degree to two, and in two of three tiles a front of one to five."""
    warmth = 29 * np.cos(np.radians(latitude)) ** 1.5 + rng.normal(0, 1)
    eddies = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), rng.uniform(4, 9), mode="wrap")
    field = warmth + eddies / eddies.std() * rng.uniform(0.1, 0.8)
    if rng.random() < 2 / 3:
        y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
        angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(0, 4)
        along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
        field += rng.uniform(0.5, 2.5) * np.tanh((across + bend * np.sin(along / 8)) / rng.uniform(1, 4))
    return np.clip(field, -1.8, 33).astype(np.float32)  # seawater freezes at -1.8


def describe(latitude: float, tile: npt.NDArray[np.float32], year: int, rng: np.random.Generator) -> list[str]:
    time = datetime(year, 1, 1) + timedelta(minutes=int(rng.integers(365 * 24 * 60)))
    longitude, clear = rng.uniform(-180, 180), rng.uniform(0.95, 1)
    return [f"{latitude:.3f}", f"{longitude:.3f}", time.isoformat(), f"{clear:.3f}", f"{tile.mean():.2f}"]


def write_checkpoint(path: Path, seed: int) -> None:
    """As a training on several GPUs saves it."""
    import torch

    torch.manual_seed(seed)
    network = torch.nn.DataParallel(Encoder())
    torch.save({"opt": {"lr": 0.05, "temperature": 0.07}, "model": network.state_dict(), "epoch": 10}, path)


if __name__ == "__main__":
    main()
