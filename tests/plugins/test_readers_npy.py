"""The reader of NumPy's own files, against NumPy itself."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from featstore_readers import featstore_readers
from numpy.lib import format as npy_format

from featstore import InputError, Part, Source, UsageError
from featstore.testing import check_reader

(READER,) = (reader for reader in featstore_readers() if ".npy" in reader.suffixes)


def read(path: Path | str, fragment: str | None = None) -> Any:
    return READER.read(Source(path, fragment))


def expand(path: Path | str, **settings: str) -> list[Part]:
    assert READER.expand is not None
    return list(READER.expand(Source(path), settings))


def encoded(values: Any, version: tuple[int, int] | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    npy_format.write_array(buffer, values, version=version, **options)
    return buffer.getvalue()


def headed(header: str, values: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """An array with any text for its header."""
    width = "<H" if version == b"\1\0" else "<I"
    return npy_format.MAGIC_PREFIX + version + struct.pack(width, len(header) + 1) + header.encode() + b"\n" + values


# ------------------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i2", "<i4", "<f2", "<f4", ">f8", "<u8", "?"])
def test_values_are_the_files_own(
    tmp_path: Path, rng: np.random.Generator, dtype: str, version: tuple[int, int]
) -> None:
    values = rng.integers(0, 2**15, (4, 9, 7)).astype(dtype)
    if values.dtype.kind in "iu":
        values[2, 0, :2] = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    for name, array in (("c", values), ("f", np.asfortranarray(values))):
        path = tmp_path / f"{name}.npy"
        path.write_bytes(encoded(array, version))
        whole, row = Source(path), Source(path, "/2")
        for found, expected in ((READER.read(whole), np.moveaxis(values, 0, -1)), (READER.read(row), values[2])):
            assert found.dtype == values.dtype.newbyteorder("=")
            assert np.array_equal(found, expected)
        assert whole.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
        little = values[2].astype(values.dtype.newbyteorder("<"))
        header = f"{little.dtype.str} {little.shape}".encode()
        assert row.content_hash == hashlib.sha256(header + little.tobytes()).hexdigest()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives(tmp_path: Path, rng: np.random.Generator, save: Any) -> None:
    train, valid = rng.random((4, 1, 6, 9)).astype(">f4"), rng.integers(0, 65536, (3, 6, 9), dtype="u2")
    path = tmp_path / "a.npz"
    save(path, train=train, valid=np.asfortranarray(valid), **{"odd / name#1": valid[0], "ids": np.array(["a", "b"])})
    assert np.array_equal(read(path, "/train/3"), train[3, 0])
    assert np.array_equal(read(path, "/valid/2"), valid[2])
    assert np.array_equal(read(path, "/valid"), np.moveaxis(valid, 0, -1))
    assert np.array_equal(read(path, "/odd%20%2F%20name%231"), valid[0])
    assert expand(path) == [Part("/train"), Part("/valid"), Part("/odd%20%2F%20name%231")]
    assert [(p.fragment, p.fields["split"], p.alone) for p in expand(path, axis="0")[:8]] == [
        *((f"/train/{row}", "train", True) for row in range(4)),
        *((f"/valid/{row}", "valid", True) for row in range(3)),
        ("/odd%20%2F%20name%231/0", "odd / name#1", True),
    ]  # fmt: skip
    for fragment in (None, "/ids", "/ids/0", "/no", "/train/4", "/train/01", "/train/0/0", "/train/", "axis=0"):
        with pytest.raises(InputError):
            read(path, fragment)


def test_an_archive_of_one_array_is_one_input(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.random((5, 6))
    np.savez(tmp_path / "a.npz", values)
    assert expand(tmp_path / "a.npz") == [Part()]
    assert np.array_equal(read(tmp_path / "a.npz"), values)
    assert expand(tmp_path / "a.npz", axis="0")[4] == Part("/arr_0/4", {}, alone=True)  # nobody called it a split


def test_a_large_array_in_an_archive_is_read_row_by_row(tmp_path: Path) -> None:
    values = np.arange(2**23 + 2**20, dtype="u8").reshape(9, -1)  # 75 MB
    np.savez(tmp_path / "a.npz", train=values)
    tracemalloc.start()
    try:
        row = read(tmp_path / "a.npz", "/train/8")
        assert tracemalloc.get_traced_memory()[1] < 3 * row.nbytes
    finally:
        tracemalloc.stop()
    assert np.array_equal(row, values[8])


def test_rows_of_an_array(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 255, (10_000, 8, 8), dtype="u1")
    np.save(tmp_path / "a.npy", values)
    assert expand(tmp_path / "a.npy") == [Part()]
    parts = expand(tmp_path / "a.npy", axis="0")
    assert parts == [Part(f"/{row}", {}, alone=True) for row in range(10_000)]
    for part in parts[::97]:
        assert part.fragment is not None
        assert np.array_equal(read(tmp_path / "a.npy", part.fragment), values[int(part.fragment[1:])])
    for fragment in ("/10000", "/00", "/-1", "/a/1", "/", "slice=3"):
        with pytest.raises(InputError):
            read(tmp_path / "a.npy", fragment)


def test_what_has_no_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(5))
    assert read(tmp_path / "a.npy").tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="no array of numbers with two axes"):
        expand(tmp_path / "a.npy", axis="0")
    with pytest.raises(InputError, match="no rows of values"):
        read(tmp_path / "a.npy", "/1")
    with pytest.raises(UsageError, match="axis=2"):
        expand(tmp_path / "a.npy", axis="2")


def test_of_a_url(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (5, 40, 30), dtype="u2")
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", train=values)
    memory = fsspec.filesystem("memory")
    for name, prefix in (("a.npy", ""), ("a.npz", "/train")):
        memory.pipe(f"/featstore-npy/{name}", (tmp_path / name).read_bytes())
        url = f"memory://featstore-npy/{name}"
        assert np.array_equal(read(url, f"{prefix}/3"), values[3])
        assert [part.fragment for part in expand(url, axis="0")] == [f"{prefix}/{row}" for row in range(5)]


# --------------------------------------------------------------------------------------- what is refused of a file
SHAPE = "{'descr': '<u2', 'fortran_order': False, 'shape': %s, }"
BAD: dict[str, bytes] = {
    "nothing": b"",
    "another format": b"\x89PNG\r\n\x1a\n" * 9,
    "objects": encoded(np.array([{}, "a"], object), allow_pickle=True),
    "objects in a row": encoded(np.array([[{}, "a"]], object), allow_pickle=True),
    "text": encoded(np.array(["ab", "c"])),
    "members": encoded(np.zeros(3, [("a", "f4"), ("b", "i2")])),
    "complex": encoded(np.zeros((2, 3), "c8")),
    "times": encoded(np.zeros((2, 3), "M8[s]")),
    "no values": encoded(np.zeros((0, 4))),
    "one byte more": encoded(np.zeros((2, 4))) + b"\0",
    "two arrays": encoded(np.zeros((2, 4))) * 2,
    "one byte less": encoded(np.zeros((2, 4)))[:-1],
    "version 4": encoded(np.zeros((2, 4))).replace(b"Y\1", b"Y\4", 1),
    "an endless header": npy_format.MAGIC_PREFIX + b"\2\0\xff\xff\xff\xff{",
    "a long header": headed(" " * 5000, version=b"\2\0"),
    "a deep header": headed("(" * 4000),
    "a deeper header": headed("-" * 4000 + "1"),
    "no header": headed(""),
    "a call": headed("__import__('os').system('true')"),
    "an absurd shape": headed(SHAPE % "(1099511627776, 1099511627776)"),
    "a shape beyond numbers": headed(SHAPE % f"({'9' * 3900},)"),
    "a negative shape": headed(SHAPE % "(-1, -4)", b"\0" * 8),
    "a true shape": headed(SHAPE % "(True, 4)", b"\0" * 8),
    "a real shape": headed(SHAPE % "(1.0, 4)", b"\0" * 8),
    "too many axes": headed(SHAPE % str((1,) * 80), b"\0\0"),
    "no shape": headed("{'descr': '<u2', 'fortran_order': False}"),
    "an odd dtype": headed("{'descr': '<u77', 'fortran_order': False, 'shape': (2,), }", b"\0" * 4),
    "a nested dtype": headed(f"{{'descr': {'[' * 90}'<u2'{']' * 90}, 'fortran_order': False, 'shape': (2,), }}"),
    "a dtype of arrays": headed("{'descr': ('<u2', (2,)), 'fortran_order': False, 'shape': (2,), }", b"\0" * 8),
    "a void dtype": headed("{'descr': '|V2000000000', 'fortran_order': False, 'shape': (2,), }"),
}


def zipped(name: str = "train.npy", data: bytes | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr(name, encoded(np.arange(60, dtype="u2").reshape(3, 4, 5)) if data is None else data)
    return buffer.getvalue()


def claiming(size: int, values: bytes = b"") -> bytes:
    """An archive whose index claims that its array is of ``size`` bytes."""
    data = bytearray(zipped(data=headed(SHAPE % f"({size // 200}, 100)", values)))
    at = data.index(b"PK\1\2")
    data[at + 24 : at + 28] = struct.pack("<I", size)
    return bytes(data)


def bomb() -> bytes:
    """Packed zeros that go on for 1.5 GiB, of which the index claims 4 MB."""
    data = bytearray(zipped(data=headed(SHAPE % "(20000, 100)")))
    packed = zlib.compressobj(wbits=-15)
    block = packed.compress(b"\0" * (1 << 20)) + packed.flush(zlib.Z_FULL_FLUSH)
    start = 30 + struct.unpack_from("<H", data, 26)[0]
    index = data.index(b"PK\1\2")
    body = zlib.compress(headed(SHAPE % "(20000, 100)"), wbits=-15)[:-2] + 1500 * block + b"\3\0"
    made = data[:start] + body + data[index:]
    at = start + len(body)
    made[at + 20 : at + 28] = struct.pack("<II", len(body), 4_000_128)
    end = made.index(b"PK\5\6")
    made[end + 16 : end + 20] = struct.pack("<I", at)
    return bytes(made)


def encrypted() -> bytes:
    data = bytearray(zipped())
    data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


BAD_ARCHIVES: dict[str, bytes] = {
    "nothing": b"",
    "no archive": encoded(np.zeros((2, 3))),
    "no array": zipped("train.txt"),
    "bzip2": zipped(method=zipfile.ZIP_BZIP2),
    "lzma": zipped(method=zipfile.ZIP_LZMA),
    "encrypted": encrypted(),
    "claims 4 GB": claiming(4_000_000_000),
    "claims 2 GB, and has some": claiming(2_000_000_000, b"\0" * 100_000),
    "a bomb": bomb(),
    "a wrong place": zipped().replace(b"PK\3\4", b"PK\3\5", 1),
    **{f"in an archive: {name}": zipped(data=data) for name, data in BAD.items()},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.npy").write_bytes(BAD[name])
    _refused(tmp_path / "a.npy", (None, "/0"))


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_bad_archives(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.npz").write_bytes(BAD_ARCHIVES[name])
    _refused(tmp_path / "a.npz", (None, "/train", "/train/0"))


def _refused(path: Path, fragments: tuple[str | None, ...]) -> None:
    tracemalloc.start()
    try:
        for fragment in fragments:
            with pytest.raises(InputError) as told:
                read(path, fragment)
            assert len(told.value.message) < 300
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_archives(tmp_path: Path, rng: np.random.Generator, save: Any) -> None:
    values = rng.integers(0, 65536, (3, 5, 7), dtype="u2")
    save(tmp_path / "a.npz", train=values)
    data = (tmp_path / "a.npz").read_bytes()
    for number in range(300):
        made = bytearray(data[: int(rng.integers(0, len(data)))] if number % 3 == 0 else data)
        if made and number % 3:
            made[int(rng.integers(0, len(made)))] ^= int(rng.integers(1, 256))
        path = tmp_path / f"damaged{number}.npz"
        path.write_bytes(made)
        try:
            found = read(path, "/train/2")
        except InputError:
            continue
        assert np.array_equal(found, values[2])  # its checksum is of all values


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("train.npy", encoded(np.zeros((2, 3))))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("train.npy", encoded(np.ones((2, 3))))
    with pytest.raises(InputError, match="two arrays of one name"):
        read(tmp_path / "a.npz", "/train")


def test_it_keeps_the_laws(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (3, 15, 17), dtype="u2")
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "b.npz", train=values, valid=values)
    np.savez_compressed(tmp_path / "c.npz", values[0])
    check_reader(READER)
    for file in ("a.npy", "a.npy#/2", "b.npz#/train", "b.npz#/valid/1", "c.npz"):
        check_reader(READER, files=[f"{tmp_path}/{file}"])
