"""What reading samples out of containers costs: slices of volumes, rows of HDF5, frames of DICOM, against plain loops.

python benchmarks/readers.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pyarrow as pa
import pydicom

import featstore
from featstore import Source
from featstore.extract.inputs import Inputs
from featstore.plugins import Plugins

SIDE, SLICES, VOLUMES, ROWS, FILES = 192, 48, 6, 4000, 300


def timed(work: Callable[[], object]) -> float:
    """The better of two times: the first of a kind pays for imports."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def pixels(value: object) -> np.ndarray:
    """A transform that leaves all but the type as it is."""
    return np.asarray(value, np.float32)


def ours(plugins: Plugins, uris: list[str], shape: tuple[int, ...]) -> None:
    inputs = Inputs(pa.chunked_array([uris]), pixels, shape, plugins)
    for row in range(len(uris)):
        item = inputs[row]
        assert item.values is not None, item.read.failure


def parts(plugins: Plugins, paths: Iterable[Path], **settings: str) -> list[str]:
    found = []
    for path in paths:
        spec = plugins.reader(str(path))
        found += [f"{path}#{part.fragment}" for part in spec.expand(Source(path), settings)]
    return found


def report(what: str, count: int, floor: float, mine: float) -> None:
    print(f"{what:34} {count / floor:9,.0f}/s plain  {count / mine:9,.0f}/s featstore  {mine / floor:5.2f}x the floor")


def main() -> None:
    plugins, rng = Plugins.load(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="featstore-readers-") as name:
        folder = Path(name)
        volumes = [folder / f"{number}.nii.gz" for number in range(VOLUMES)]
        for path in volumes:
            volume = rng.normal(300, 60, (SIDE, SIDE, SLICES)).astype(np.int16)
            nibabel.save(nibabel.Nifti1Image(volume, np.diag([-1, -1, 3, 1])), path)

        def plain_slices() -> None:
            for path in volumes:
                data = np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
                for k in range(SLICES):
                    pixels(data[:, :, k])

        uris = parts(plugins, volumes, axis="2")
        report(
            "NIfTI .nii.gz, all slices",
            len(uris),
            timed(plain_slices),
            timed(lambda: ours(plugins, uris, (SIDE, SIDE))),
        )

        tiles = folder / "tiles.h5"
        with h5py.File(tiles, "w") as file:
            file["train"] = rng.normal(15, 3, (ROWS, 64, 64)).astype(np.float32)

        def plain_rows() -> None:
            with h5py.File(tiles) as file:
                for row in range(ROWS):
                    pixels(file["train"][row])

        rows = parts(plugins, [tiles])
        report("HDF5 rows, 64 x 64", ROWS, timed(plain_rows), timed(lambda: ours(plugins, rows, (64, 64))))

        image = Path(pydicom.data.get_testdata_file("CT_small.dcm"))
        copies = [folder / f"{number}.dcm" for number in range(FILES)]
        for path in copies:
            path.write_bytes(image.read_bytes())

        def plain_dicom() -> None:
            for path in copies:
                read = pydicom.dcmread(path)
                pixels(pydicom.pixels.apply_rescale(read.pixel_array, read))

        names = [str(path) for path in copies]
        report("DICOM, 128 x 128", FILES, timed(plain_dicom), timed(lambda: ours(plugins, names, (128, 128))))
        listed = timed(lambda: parts(plugins, copies))
        print(f"{'DICOM headers at ingest':34} {FILES / listed:9,.0f}/s")
    print(f"featstore {featstore.__version__}: every sample is hashed as it is read; the plain loops hash nothing.")


if __name__ == "__main__":
    main()
