"""HDF5: what h5py writes, with the integers of its headers changed, and files whose structure leads nowhere."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from typing import Any

import h5py
import numpy as np

from . import zeros
from .seeds import Format, Odd, Rng, Seed, integer, pick, put

_PARTS = (
    "/valid/-1", "/valid/99999999", "/valid", "/valid/x", "/valid/007", "/nothing/0", "//0", "/", "/0", "slice=0",
    "frame=a", "/valid/0/0", "/%00/0", "/valid/9999999999999999999999", "/..%2Fvalid/0", "/%FF%FE/0",
)  # fmt: skip
_MARKS = (
    b"\x89HDF",
    b"TREE",
    b"SNOD",
    b"HEAP",
    b"OHDR",
    b"OCHK",
    b"FRHP",
    b"FHDB",
    b"GCOL",
    b"BTHD",
    b"BTLF",
    b"FAHD",
    b"FADB",
    b"EAHD",
)


def made(write: Callable[[h5py.File], None], **options: Any) -> bytes:
    file = BytesIO()
    with h5py.File(file, "w", **options) as opened:
        write(opened)
    return file.getvalue()


def _images(count: int = 4, dtype: Any = np.uint8) -> np.ndarray:
    return (np.random.default_rng(count).random((count, 12, 10)) * 200).astype(dtype)


def _contiguous(file: h5py.File) -> None:
    file["valid"] = _images()
    file["train"] = _images(3, np.float32)


def _packed(file: h5py.File) -> None:
    file.create_dataset("valid", data=_images(dtype=np.float32), chunks=(1, 6, 10), compression="gzip", shuffle=True)


def _checked(file: h5py.File) -> None:
    file.create_dataset("valid", data=_images(), chunks=(2, 12, 10), fletcher32=True, maxshape=(None, 12, 10))


def _lzf(file: h5py.File) -> None:
    file.create_dataset("valid", data=_images(dtype=np.uint16), chunks=(3, 12, 10), compression="lzf")


def _texts(file: h5py.File) -> None:
    file["valid"] = ["a first note", "a second, longer note", "third: é"]
    file["fixed"] = np.array([b"one", b"two", b"three"])


def _described(file: h5py.File) -> None:
    file["valid"] = _images(3)
    file["valid_metadata"] = np.array([[b"p1", b"3.5"], [b"p2", b"NA"], [b"p3", b"7"]], dtype=h5py.string_dtype())
    file["valid_metadata"].attrs["columns"] = ["patient_id", "score"]


def _compound(file: h5py.File) -> None:
    file["a/valid"] = _images(3)
    rows = [(b"p1", 1, 2.5), (b"p2", 2, 0.1), (b"p3", 3, 7.0)]
    file["a/valid_metadata"] = np.array(rows, dtype=[("patient_id", "S4"), ("label", "i4"), ("age", "f8")])


def _compact(file: h5py.File) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((3, 8, 8))
    values = np.arange(192, dtype=np.uint8)
    h5py.h5d.create(file.id, b"valid", h5py.h5t.STD_U8LE, space, plist).write(h5py.h5s.ALL, h5py.h5s.ALL, values)


def _seeds() -> list[Seed]:
    rows = ("/valid/0", "/valid/2")
    return [
        Seed("contiguous", ".h5", made(_contiguous), (*rows, "/train/1")),
        Seed("packed", ".hdf5", made(_packed), rows),
        Seed("packed_latest", ".h5", made(_packed, libver="latest"), rows),
        Seed("contiguous_latest", ".h5", made(_contiguous, libver="latest"), rows),
        Seed("checked", ".h5", made(_checked), rows),
        Seed("lzf", ".hdf", made(_lzf), rows),
        Seed("texts", ".h5", made(_texts), (*rows, "/fixed/1")),
        Seed("described", ".h5", made(_described), rows),
        Seed("compound", ".h5", made(_compound), ("/a/valid/0", "/a/valid/2")),
        Seed("compact", ".h5", made(_compact), rows),
    ]


@lru_cache(maxsize=32)
def _places(data: bytes) -> list[int]:
    """Where its structures begin, and what looks like the messages of an object's header."""
    found = []
    for mark in _MARKS:
        at = data.find(mark)
        while at >= 0:
            found.append(at)
            at = data.find(mark, at + 1)
    for at in range(0, min(len(data) - 8, 8192), 8):  # version 1: type, size, flags; what has no mark
        kind, size = struct.unpack_from("<HH", data, at)
        if kind in (1, 3, 5, 8, 11, 12, 16, 17) and 0 < size < 600 and data[at + 5 : at + 8] == b"\0\0\0":
            found += [at] * 3
    return found


def _absurd(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    for _ in range(1 + int(rng.integers(2))):
        width = int(pick(rng, [1, 1, 2, 4, 8, 8]))
        step = int(rng.integers(0, 56 // width)) * width
        data = put(data, pick(rng, _places(seed.data)) + step, integer(rng), width)
    return data


# ---------------------------------------------------------------------------------------------- odd and bombs
def _never_written(file: h5py.File, rng: Rng) -> None:
    shape = pick(rng, [(2**40, 4, 4), (5, 2**20, 2**20), (1000, 8, 8), (2**62, 1), (3, 0, 5), (0, 8, 8)])
    chunks = pick(rng, [None, True, tuple(min(max(n, 1), 64) for n in shape)])
    file.create_dataset("valid", shape, np.uint8, chunks=chunks, maxshape=(None,) * len(shape) if chunks else None)


def _large_chunks(file: h5py.File, rng: Rng) -> None:
    side = int(pick(rng, [33_000, 6_000, 2_000]))
    data = file.create_dataset("valid", (2, side, side), np.uint8, chunks=(1, side, side), compression="gzip")
    body = zeros.zlibbed(side * side)
    data.id.write_direct_chunk((0, 0, 0), body)
    data.id.write_direct_chunk((1, 0, 0), body)


def _packed_bomb(file: h5py.File, rng: Rng) -> None:
    """A chunk that becomes far more than the data set says."""
    data = file.create_dataset("valid", (2, 64, 64), np.uint8, chunks=(1, 64, 64), compression="gzip")
    for row in range(2):
        data.id.write_direct_chunk((row, 0, 0), zeros.zlibbed(int(pick(rng, [3 << 30, 64 * 64 + 5, 80 << 20]))))


def _twice_packed(file: h5py.File, rng: Rng) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, 64, 64))
    for _ in range(2):
        plist.set_filter(h5py.h5z.FILTER_DEFLATE, h5py.h5z.FLAG_OPTIONAL, (6,))
    data = h5py.h5d.create(file.id, b"valid", h5py.h5t.STD_U8LE, h5py.h5s.create_simple((1, 64, 64)), plist)
    import zlib

    data.write_direct_chunk((0, 0, 0), zlib.compress(zeros.zlibbed(2 << 30)))


def _lzf_bomb(file: h5py.File, rng: Rng) -> None:
    """Back-references of 264 bytes in three."""
    data = file.create_dataset("valid", (1, 512, 512), np.uint8, chunks=(1, 512, 512), compression="lzf")
    data.id.write_direct_chunk((0, 0, 0), b"\0\0" + b"\xe0\xff\0" * int(pick(rng, [100, 10_000, 90_000])))


def _many_rows(file: h5py.File, rng: Rng) -> None:
    rows = int(pick(rng, [11_000_000, 300_000]))
    data = file.create_dataset("valid", (rows, 2), np.uint8, chunks=(100_000, 2), compression="gzip")
    for start in range(0, rows, 100_000):
        data.id.write_direct_chunk((start, 0), zeros.zlibbed(200_000))


def _long_texts(file: h5py.File, rng: Rng) -> None:
    kind = pick(rng, [f"S{2**31 - 1}", "S200000000", "S60000"])
    file.create_dataset("valid", (3,), kind, chunks=(1,), compression="gzip")
    file["other"] = ["x" * int(pick(rng, [1_000_001, 30])), " ", "\u2028"]


def _kinds(file: h5py.File, rng: Rng) -> None:
    values = {
        "complex": np.zeros((3, 4, 4), np.complex64), "compound": np.zeros((3, 4), [("a", "f4"), ("b", "S3")]),
        "sub": np.zeros((3, 2), np.dtype(("f4", (4, 4)))), "opaque": np.zeros((3, 4), "V7"),
        "bool": np.zeros((3, 4, 4), bool),
        "half": np.full((3, 4, 4), np.inf, np.float16), "long": np.zeros((3, 4, 4), np.longdouble),
        "seven": np.zeros((3, 5, 5, 7), np.uint8), "five": np.zeros((2, 3, 4, 5, 6), np.uint8), "scalar": np.uint8(3),
        "one": np.arange(5), "nan": np.full((3, 4, 4), np.nan), "wide": np.zeros((2, 1, 100_000), np.uint8),
        "big": np.zeros((3, 4, 4), ">i8"),
    }  # fmt: skip
    name = pick(rng, list(values))
    file["valid"] = values[name]


def _strange(file: h5py.File, rng: Rng) -> None:
    which = int(rng.integers(10))
    if which == 0:
        file["valid"] = h5py.Empty("f4")
    elif which == 9:
        file.create_dataset("valid", data=_images(dtype=np.int32), chunks=(2, 12, 10), scaleoffset=0)
    elif which == 1:
        file.create_dataset("valid", (3,), h5py.vlen_dtype(np.uint8))
    elif which == 2:
        file.create_dataset("valid", (3, 4), h5py.ref_dtype)
    elif which == 3:
        file.create_dataset("valid", (3, 4, 4), h5py.enum_dtype({"a": 0, "b": 1}, "u1"))
    elif which == 4:
        file["valid"] = h5py.ExternalLink("/etc/passwd", "/valid")
    elif which == 5:
        file["valid"] = h5py.SoftLink("/valid")
    elif which == 6:
        file["a"] = file.create_group("b")
        file["b/c"] = file["a"]
        file["b/valid"] = h5py.SoftLink("/b/c/c/c")
    elif which == 7:
        file.create_dataset("valid", (2, 8, 8), np.uint8, external=[("/etc/hostname", 0, 128)])
    else:
        layout = h5py.VirtualLayout((2, 8, 8), np.uint8)
        layout[0] = h5py.VirtualSource(pick(rng, [".", "/etc/passwd", "other.h5"]), "valid", (8, 8))
        file.create_virtual_dataset("valid", layout)


def _misdescribed(file: h5py.File, rng: Rng) -> None:
    file["valid"] = _images(3)
    which = int(rng.integers(7))
    if which == 0:
        file["valid_metadata"] = np.zeros((4, 2))
        return
    rows = [[b"\xff\xfe", b"x"], [b"\0", b"\x1b[31m"], [b"a/b", b""]]
    file["valid_metadata"] = (
        np.array(rows, dtype="S5") if rng.random() < 0.5 else [["x", "\x1b[31m"], ["a/b", ""], ["", "\n"]]
    )
    if which == 1:
        return
    columns: Any = [["patient_id"], ["a", "a"], ["", "b"], ["patient_id", "split"], np.zeros((2, 2)), 7][which - 1]
    file["valid_metadata"].attrs["columns"] = columns


def _names(file: h5py.File, rng: Rng) -> None:
    name = pick(
        rng,
        [b"\xff\xfe", b"a b#c", b"\x1b[31m", b"x" * 5000, b"..", "é/1".encode(), b"n\nn", b"valid_metadata"],
    )
    space = h5py.h5s.create_simple((2, 4, 4))
    plist = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    plist.set_create_intermediate_group(True)
    h5py.h5d.create(file.id, name, h5py.h5t.STD_U8LE, space, lcpl=plist).write(
        h5py.h5s.ALL, h5py.h5s.ALL, np.arange(32, dtype=np.uint8)
    )


def _maker(write: Callable[[h5py.File, Rng], None]) -> Callable[[Rng], Odd]:
    def make(rng: Rng) -> Odd:
        libver = pick(rng, ["earliest", "latest"])
        return Odd(made(lambda file: write(file, rng), libver=libver), pick(rng, ["/valid/0", "/valid/1", None]))

    return make


def _with_block(rng: Rng) -> Odd:
    """Something else before it, as HDF5 allows, or where it doesn't look."""
    return Odd(rng.bytes(int(pick(rng, [512, 1024, 8, 100]))) + made(_contiguous), "/valid/0")


def formats() -> list[Format]:
    odd = [_maker(write) for write in (_never_written, _kinds, _strange, _misdescribed, _names, _long_texts)]
    bombs = [_maker(write) for write in (_packed_bomb, _large_chunks, _twice_packed, _lzf_bomb, _many_rows)]
    return [Format("HDF5", ".h5", _seeds(), _absurd, [*odd, _with_block], bombs, _PARTS)]
