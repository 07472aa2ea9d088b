"""NIfTI 1 and 2, plain and packed by gzip."""

from __future__ import annotations

import gzip
import struct
from functools import partial

import nibabel
import numpy as np

from . import zeros
from .seeds import ABSURD_FLOATS, Format, Odd, Rng, Seed, integer, pick

_PARTS = (
    "axis=2&slice=9999", "axis=3&slice=0", "axis=2&slice=-1", "axis=a&slice=0", "slice=0", "axis=2", "frame=0", "/0",
    "axis=2&slice=0&slice=1", "/valid/-1",
)  # fmt: skip
#: (place, format) of the fields of each header; dims, types, offset, scaling, units and orientation.
_FIRST = (
    (0, "i"), *((40 + 2 * n, "h") for n in range(8)), *((70, "h"), (72, "h"), (108, "f"), (112, "f"), (116, "f")),
    *((76 + 4 * n, "f") for n in range(8)), *((123, "B"), (124, "f"), (128, "f"), (252, "h"), (254, "h")),
    *((256 + 4 * n, "f") for n in range(18)), (344, "i"), (348, "i"), (352, "i"), (356, "i"),
)  # fmt: skip
_SECOND = (
    (0, "i"), (4, "i"), (8, "i"), (12, "h"), (14, "h"), *((16 + 8 * n, "q") for n in range(8)),
    *((104 + 8 * n, "d") for n in range(8)), *((168, "q"), (176, "d"), (184, "d"), (192, "d"), (200, "d")),
    *((344, "i"), (348, "i"), (500, "i"), (540, "i")), *((352 + 8 * n, "d") for n in range(18)),
)  # fmt: skip
_WIDTHS = {"B": 1, "h": 2, "i": 4, "f": 4, "q": 8, "d": 8}
_CODES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304)


def volume(
    dtype: type = np.int16, kind: type = nibabel.Nifti1Image, shape: tuple[int, ...] = (6, 7, 5), **fields: object
) -> bytes:
    values = (np.random.default_rng(len(shape)).random(shape) * 100).astype(dtype)
    image = kind(values, np.diag([-1.0, 2.0, 3.0, 1.0]), dtype=dtype)
    for name, value in fields.items():
        image.header[name] = value
    return image.to_bytes()


def _seeds() -> list[tuple[str, bytes, tuple[str | None, ...]]]:
    big = nibabel.Nifti1Image(np.arange(210, dtype=np.int16).reshape(6, 7, 5), np.eye(4))
    swapped = nibabel.Nifti1Image(big.get_fdata().astype(np.int16), np.eye(4), big.header.as_byteswapped(">"))
    parts = ("axis=2&slice=3", "axis=0&slice=0", "axis=1&slice=6", None)
    scaled = bytearray(volume())
    struct.pack_into("<ff", scaled, 112, 2.5, -7.0)
    return [
        ("int16", volume(), parts),
        ("float32", volume(np.float32), parts),
        ("uint8", volume(np.uint8, shape=(6, 7, 5, 1)), parts),
        ("scaled", bytes(scaled), parts),
        ("second", volume(np.float64, nibabel.Nifti2Image), parts),
        ("big_endian", swapped.to_bytes(), parts),
    ]


def _absurd(seed: Seed, rng: Rng) -> bytes:
    packed = seed.suffix.endswith(".gz")
    data = bytearray(gzip.decompress(seed.data) if packed else seed.data)
    order = ">" if data[:2] in (b"\0\0",) else "<"
    fields = _SECOND if 540 in struct.unpack("<i", data[:4]) + struct.unpack(">i", data[:4]) else _FIRST
    told = fields[:14] if rng.random() < 0.5 else fields
    for _ in range(1 + int(rng.integers(3))):
        place, form = pick(rng, told)
        if form in "fd":
            struct.pack_into(
                order + form,
                data,
                place,
                pick(rng, [v for v in ABSURD_FLOATS if form == "d" or not 1e38 < abs(v) < 1e309]),
            )
        else:
            typed = place in (70, 12) and form == "h"
            value = int(pick(rng, _CODES)) if typed and rng.random() < 0.8 else integer(rng)
            width = _WIDTHS[form]
            data[place : place + width] = (value % (1 << 8 * width)).to_bytes(
                width, "big" if order == ">" else "little"
            )
    return gzip.compress(bytes(data), 1, mtime=0) if packed else bytes(data)


def _odd(rng: Rng, packed: bool) -> Odd:
    shapes = [(1,), (5,), (6, 7), (1, 1, 1), (2, 3, 4, 5), (2, 2, 2, 2, 2), (1, 30_000, 1), (2, 3, 4, 1, 3)]
    which = int(rng.integers(6))
    part = pick(rng, [None, "axis=2&slice=0", "axis=1&slice=1"])
    if which == 0:
        data = volume(shape=pick(rng, shapes))
    elif which == 1:
        data = volume(np.float32)[:352] + np.full(210, pick(rng, [np.nan, np.inf, -np.inf]), "<f4").tobytes()
    elif which == 2:
        data = volume(pick(rng, [np.complex64, np.complex128, np.int64, np.uint64, np.int8]))
    elif which == 3:  # one half of a pair
        pair = nibabel.Nifti1Pair(np.zeros((6, 7, 5), np.int16), np.eye(4))
        data = pair.header.binaryblock + bytes(4) + bytes(420)
    elif which == 4:
        data = nibabel.Spm99AnalyzeImage(np.zeros((6, 7, 5), np.int16), np.eye(4)).header.binaryblock + bytes(500)
    else:  # constant
        data = volume()[:352] + bytes(420)
    if packed:
        data = gzip.compress(data, 1, mtime=0)
        if rng.random() < 0.2:  # packed twice, or in two pieces
            data = gzip.compress(data, 1, mtime=0) if rng.random() < 0.5 else data + data
    return Odd(data, part)


def _header(shape: tuple[int, int, int], code: int, bits: int, slope: float = 0.0) -> bytes:
    data = bytearray(volume()[:352])
    struct.pack_into("<8h", data, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", data, 70, code, bits)
    struct.pack_into("<ff", data, 112, slope, 0.0)
    return bytes(data)


def _bomb(rng: Rng, packed: bool) -> Odd:
    """More voxels than are read, as many as are claimed or fewer; and small volumes with gigabytes behind them."""
    part = pick(rng, [None, "axis=2&slice=3"])
    which = int(rng.integers(5))
    shapes = {0: (30_000, 30_000, 30_000), 1: (2_000, 1_500, 1_000), 2: (512, 400, 300), 3: (6, 7, 5), 4: (6, 7, 5)}
    head = _header(shapes[which], *((2, 8) if which in (1, 2) else (4, 16)), 2.5 if which == 2 else 0.0)  # type: ignore[arg-type]
    count = int(np.prod(shapes[which], dtype=np.int64)) if which in (1, 2) else 3 << 30
    if not packed:
        return Odd(head + bytes(3 << 20), part)
    if which == 4:  # its voxels begin where nobody looks
        head = head[:108] + struct.pack("<f", 1e9) + head[112:]
    return Odd(zeros.gzipped(count, head), part)


def formats() -> list[Format]:
    axis = (("axis", "2"), ("step", "2"))
    plain = [
        Seed(name, ".nii", data, parts, pick_settings)
        for (name, data, parts), pick_settings in zip(_seeds(), (axis, (), axis, axis, axis, axis), strict=True)
    ]
    packed = [Seed(s.name, ".nii.gz", gzip.compress(s.data, 6, mtime=0), s.fragments, s.settings) for s in plain]
    return [
        Format("NIfTI", ".nii", plain, _absurd, [partial(_odd, packed=False)], [partial(_bomb, packed=False)], _PARTS),
        Format(
            "NIfTI, gzip",
            ".nii.gz",
            packed,
            _absurd,
            [partial(_odd, packed=True)],
            [partial(_bomb, packed=True)],
            _PARTS,
        ),
    ]
