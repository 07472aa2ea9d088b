"""NPY and NPZ."""

from __future__ import annotations

import io
import struct
import zipfile
from functools import partial

import numpy as np

from . import zeros
from .seeds import Format, Odd, Rng, Seed, integer, pick, put

_PARTS = (
    "/-1",
    "/99999999",
    "/x",
    "/007",
    "//0",
    "/",
    "/valid/0/0",
    "slice=0",
    "frame=a",
    "/nothing/0",
    "/99999999999999999999",
)
_HEADERS = (
    "{'descr': '|u1', 'fortran_order': False, 'shape': (%s), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (%s), }",
    "{'descr': '|O', 'fortran_order': False, 'shape': (%s), }",
    "{'descr': '|V0', 'fortran_order': False, 'shape': (%s), }",
    "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (%s), }",
    "{'descr': '<U4', 'fortran_order': 1, 'shape': (%s), }",
    "{'descr': '<f4', 'shape': (%s), }", "{'descr': ('<f4', (2, 2)), 'fortran_order': False, 'shape': (%s)}", "(%s)",
    "[%s",
    "{'descr': '>u8', 'fortran_order': False, 'shape': (%s), 'more': 1}",
    "{'descr': 'O', 'fortran_order': False, 'shape': [%s]}",
    "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (%s), }", "__import__('os').system('echo %s')", "%s\xff\x00",
)  # fmt: skip
_SHAPES = (
    "3, 4, 4", "-1, 4, 4", "0, 4, 4", "4611686018427387904, 4", "18446744073709551616,", "99999999999, 99999999999", "",
    "1,", "2.5, 3", "True, 3", "None,", "'a',", "1e9,", "3, 4, 4, 4, 4", "2,", "1, 100000", "5, 5, 7",
    "1, " * 40, "(" * 3000, "1j,", "-" * 4000 + "1,", "0x10, 4", "3, 4", "10**9,",
)  # fmt: skip


def npy(array: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True, **options)
    return file.getvalue()


def _header(text: str, body: bytes, version: int = 1) -> bytes:
    told = text.encode("latin-1")
    size = struct.pack("<H", len(told) % 65_536) if version == 1 else struct.pack("<I", len(told))
    return b"\x93NUMPY" + bytes([version, 0]) + size + told + body


def npz(*, packed: bool, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def _images(count: int = 4, dtype: type = np.uint8) -> np.ndarray:
    return (np.random.default_rng(count).random((count, 12, 10)) * 200).astype(dtype)


def _absurd_npy(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    which = int(rng.integers(6))
    if which == 0:
        return put(data, int(pick(rng, [6, 7])), integer(rng), 1)
    if which == 1:
        return put(data, 8, integer(rng), int(pick(rng, [2, 4])))
    text = pick(rng, _HEADERS) % pick(rng, _SHAPES)
    return _header(text + "\n", data[-480:], int(pick(rng, [1, 1, 2, 3])))


def _odd_npy(rng: Rng) -> Odd:
    arrays = [
        np.zeros(()), np.arange(7), np.zeros((2, 3, 4, 5, 6), np.uint8), np.zeros((0, 8, 8)),
        np.zeros((1, 100_000), np.uint8),
        np.zeros((9, 9, 7), np.uint8), np.full((3, 8, 8), np.nan), np.full((8, 8), np.inf), np.zeros((8, 8), complex),
        np.array(["a", "b"]), np.array([{"a": 1}], dtype=object), np.zeros((3, 8, 8), bool),
        np.full((8, 8), 2**63, np.uint64),
        np.array([[1e308, -1e308]]), np.zeros((3, 4), "M8[s]"), np.zeros((1, 3, 4), np.uint8),
        np.zeros((3, 4, 3), np.uint8),
        np.full((4, 4), 3), np.asfortranarray(_images()),
    ]  # fmt: skip
    array = pick(rng, list(range(len(arrays))))
    return Odd(npy(arrays[int(array)]), pick(rng, [None, "/0", "/2"]))


def _npy_bomb(rng: Rng) -> Odd:
    """Headers that claim more than is there: all that there is, is a few bytes."""
    shape = pick(rng, ["1099511627776, 4, 4", "4, 1048576, 1048576", "2147483647,", "9223372036854775807, 2"])
    return Odd(_header(f"{{'descr': '<f8', 'fortran_order': {rng.random() < 0.5}, 'shape': ({shape}), }}\n", bytes(64)))


# ------------------------------------------------------------------------------------------------------ NPZ
def _absurd_npz(seed: Seed, rng: Rng) -> bytes:
    """Fields of local headers, of the index and of its end."""
    fields = {
        b"PK\3\4": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
        b"PK\1\2": ((6, 2), (8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (32, 2), (42, 4)),
        b"PK\5\6": ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    }
    data = seed.data
    for _ in range(1 + int(rng.integers(2))):
        mark = pick(rng, list(fields))
        places = [at for at in range(len(data) - 4) if data[at : at + 4] == mark] or [0]
        where, width = pick(rng, fields[mark])
        data = put(data, int(pick(rng, places)) + where, integer(rng), width)
    return data


def _archive(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def _odd_npz(rng: Rng) -> Odd:
    array, inner = npy(_images()), npz(packed=True, valid=_images())
    contents = [
        ({"valid.npy": inner}, 8), ({"valid.npy": b""}, 8), ({"valid.npy": array[:-7]}, 8),
        ({"valid.npy": array + b"x"}, 0),
        ({"../valid.npy": array}, 8), ({"valid.npy": array}, 12), ({"valid.npy": array}, 14), ({}, 0),
        ({"valid.txt": array}, 0),
        ({"valid.npy": _odd_npy(rng).data}, 8), ({"valid.npy": _odd_npy(rng).data}, 0), ({"a/b#c \x1b.npy": array}, 8),
        ({"valid.npy": array, "valid2.npy": b"no"}, 8), ({"valid/.npy": array, ".npy": array}, 0),
        ({"é" * 300 + ".npy": array}, 0),
    ]  # fmt: skip
    members, method = contents[int(rng.integers(len(contents)))]
    return Odd(_archive(members, method), pick(rng, ["/valid/0", "/valid", None]))


def _npz_bomb(rng: Rng, *, claimed: int, there: int, rows: int | None = None) -> Odd:
    """A deflated array of zeros: as large as it is said to be, or larger."""
    shape = f"{rows}, {claimed // rows}" if rows else f"16, {claimed // 16}"
    head = _header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({shape}), }}\n", b"")
    body = zeros.deflated(there, head)
    size = min(claimed + len(head), 2**32 - 1)
    name = b"valid.npy"
    sums = struct.pack("<III", zeros.crc(there, head) if there == claimed else 0, len(body), size)
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sums + struct.pack("<HH", len(name), 0) + name
    index = (
        b"PK\1\2"
        + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33)
        + sums
        + struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0)
        + name
    )
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(index), len(local) + len(body), 0)
    return Odd(local + body + index + end, pick(rng, ["/valid/3", "/valid", None]))


def formats() -> list[Format]:
    rows, axis = ("/0", "/3"), (("axis", "0"),)
    plain = [
        Seed("uint8", ".npy", npy(_images()), rows, axis),
        Seed("float32", ".npy", npy(_images(dtype=np.float32)), rows, axis),
        Seed("fortran", ".npy", npy(np.asfortranarray(_images())), rows, axis),
        Seed("image", ".npy", npy(_images()[0])),
        Seed("big", ".npy", npy(_images().astype(">i2"), version=(2, 0)), rows, axis),
    ]
    parts = ("/valid/0", "/valid/3", "/train/1")
    archives = [
        Seed(name, ".npz", npz(packed=packed, valid=_images(), train=_images(3, np.float32)), parts, axis)
        for name, packed in (("stored", False), ("deflated", True))
    ]
    archives.append(Seed("one", ".npz", npz(packed=True, image=_images()[1]), (None, "/image")))
    archives.append(Seed("fortran", ".npz", npz(packed=False, valid=np.asfortranarray(_images())), parts[:2], axis))
    bombs = [
        partial(_npz_bomb, claimed=3 << 30, there=3 << 30),
        partial(_npz_bomb, claimed=4_800, there=3 << 30),
        partial(_npz_bomb, claimed=120 << 20, there=120 << 20),
        partial(_npz_bomb, claimed=700 << 20, there=1 << 20),
        partial(_npz_bomb, claimed=8_000_000, there=8_000_000, rows=4_000_000),
    ]
    return [
        Format("NPY", ".npy", plain, _absurd_npy, [_odd_npy], [_npy_bomb], _PARTS),
        Format("NPZ", ".npz", archives, _absurd_npz, [_odd_npz], bombs, ("/valid/-1", "/valid/x", *_PARTS)),
    ]
