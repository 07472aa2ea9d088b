"""The reader of HDF5 rows, against h5py itself."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import h5py
import numpy as np
import pytest
from featstore_readers import featstore_readers

from featstore import ConflictError, InputError, Part, ReaderSpec, Source, UsageError
from featstore.hdf5 import whole as stored
from featstore.testing import check_reader

(READER,) = (reader for reader in featstore_readers() if ".h5" in reader.suffixes)
#: What a damaged file may add to a process's memory: one row and its chunks, each up to 1 GiB, are far more.
MOST_MEMORY = 400 << 20


def read(path: Path | str, fragment: str | None) -> Any:
    return READER.read(Source(path, fragment))


def expand(path: Path | str, **settings: str) -> list[Part]:
    assert READER.expand is not None
    return list(READER.expand(Source(path), settings))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ocean.h5"


@pytest.fixture
def write(path: Path) -> Callable[..., Path]:
    """``write(train=array, …)``: a file with these data sets; dictionaries are options of h5py's."""

    def made(**data_sets: Any) -> Path:
        with h5py.File(path, "w") as file:
            for name, values in data_sets.items():
                file.create_dataset(name, **(values if isinstance(values, dict) else {"data": values}))
        return path

    return made


def describe(path: Path, name: str, columns: list[str], rows: Any) -> None:
    """Add metadata as the ocean files have them."""
    with h5py.File(path, "a") as file:
        file[name] = np.array(rows, dtype="S")
        file[name].attrs["columns"] = columns


# ------------------------------------------------------------------------------------------------------ reading
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">i2", "<i4", "<f2", "<f4", ">f8", "<u8"])
def test_values_are_the_files_own(write: Callable[..., Path], rng: np.random.Generator, dtype: str) -> None:
    values = rng.integers(0, 100, (4, 9, 7)).astype(dtype)
    if values.dtype.kind == "f":
        values += rng.random((4, 9, 7)).astype(dtype)
    else:
        values[2, 0, :2] = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    path = write(train=values, packed={"data": values, "chunks": (3, 4, 4), "compression": "gzip", "shuffle": True})
    for name in ("train", "packed"):
        source = Source(path, f"/{name}/2")
        row = READER.read(source)
        assert row.dtype == values.dtype.newbyteorder("=")
        assert np.array_equal(row, values[2])
        little = values[2].astype(values.dtype.newbyteorder("<"))
        header = f"{little.dtype.str} {little.shape}".encode()
        assert source.content_hash == hashlib.sha256(header + little.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("stored", "given"),
    [((1, 6, 9), (6, 9)), ((3, 6, 9), (6, 9, 3)), ((4, 6, 9), (6, 9, 4)), ((6, 9, 3), (6, 9, 3)),
     ((3, 9, 4), (3, 9, 4)), ((2, 6, 9), (2, 6, 9)), ((5,), (5,)), ((2, 3, 6, 9), (2, 3, 6, 9))],
)  # fmt: skip
def test_the_layout_of_rows(
    write: Callable[..., Path], rng: np.random.Generator, stored: tuple[int, ...], given: tuple[int, ...]
) -> None:
    values = rng.random((2, *stored))
    row = read(write(train=values), "/train/1")
    assert row.shape == given
    back = row[None] if stored[0] == 1 else (np.moveaxis(row, -1, 0) if given != stored else row)
    assert np.array_equal(back, values[1])


def test_texts_of_any_and_of_fixed_length(write: Callable[..., Path]) -> None:
    texts = ["Größe 3 mm²\n", "no finding", "x" * 5000]
    fixed = np.array([t.encode()[:12] for t in texts])
    path = write(
        notes=texts, fixed=fixed, packed={"data": texts, "dtype": h5py.string_dtype(), "chunks": (2,), "compression": 4}
    )
    for row, text in enumerate(texts):
        assert read(path, f"/notes/{row}") == read(path, f"/packed/{row}") == text
        assert read(path, f"/fixed/{row}") == fixed[row].decode()
    source = Source(path, "/notes/0")
    READER.read(source)
    assert source.content_hash == hashlib.sha256(texts[0].encode()).hexdigest()
    assert expand(path, dataset="notes") == [Part(f"/notes/{n}", {"split": "notes"}, True) for n in range(3)]


def test_a_blank_text_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="blank"):
        read(write(notes=["a", " "]), "/notes/1")
    with pytest.raises(InputError, match="1,000,001 bytes"):
        read(write(notes=["a", "x" * 1_000_001]), "/notes/1")


def test_odd_names_come_back(write: Callable[..., Path], path: Path) -> None:
    names = ["a b", "ü", "50%", "a#b&c=d", "site1/valid", "0"]
    write(**{name: np.full((2, 3, 5), number) for number, name in enumerate(names)})
    parts = {part.fragment: part for part in expand(path)}
    assert len(parts) == 12
    assert all(f.isascii() and "#" not in f and " " not in f for f in parts if f)
    assert parts["/site1/valid/1"].fields == {"split": "valid"}
    assert sorted(int(read(path, f)[0, 0]) for f in parts) == sorted(2 * list(range(6)))
    assert read(path, "/a%20b/1")[0, 0] == 0


@pytest.mark.parametrize(
    "fragment",
    ["/train/2", "/train/-1", "/train/01", "/train", "/train/x", "/no/0", "axis=0", "/0", "/site1/0", "/train/0/0",
     "/site1/valid/99999999999999999999"],
)  # fmt: skip
def test_rows_that_arent_there(write: Callable[..., Path], fragment: str) -> None:
    path = write(train=np.ones((2, 3, 5)), **{"site1/valid": np.ones((2, 3, 5))})
    with pytest.raises(InputError):
        read(path, fragment)


def test_a_row_must_be_named(write: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"none was named.\n  next: file.h5#/valid/17"):
        read(write(train=np.ones((2, 3, 5))), None)


@pytest.mark.parametrize("options", [{}, {"chunks": (50, 16, 16), "compression": "gzip"}])
def test_many_rows_open_the_file_once_and_unpack_a_chunk_once(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    path = write(train={"data": np.arange(10_000 * 256, dtype="u4").reshape(10_000, 16, 16), **options})
    opened = []

    class Counted(h5py.File):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            opened.append(args)
            super().__init__(*args, **kwargs)

    fetched: list[int] = []
    whole = stored.Whole.read
    monkeypatch.setattr(stored.Whole, "read", lambda self, size: fetched.append(size) or whole(self, size))
    monkeypatch.setattr(h5py, "File", Counted)
    for row in range(5000, 5200):
        assert read(path, f"/train/{row}")[0, 0] == row * 256
    assert len(opened) == 1
    if options:
        assert len(fetched) < 60  # 200 rows of 4 chunks, and their index


def test_a_changed_file_is_read_anew(write: Callable[..., Path]) -> None:
    path = write(train=np.zeros((2, 3, 5)))
    assert read(path, "/train/1").sum() == 0
    write(train=np.ones((3, 3, 5)))
    assert read(path, "/train/2").sum() == 15


def test_of_a_url(write: Callable[..., Path], rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (5, 40, 30), dtype="u2")
    path = write(train={"data": values, "chunks": (1, 40, 30), "compression": "lzf"})
    fsspec.filesystem("memory").pipe("/featstore-hdf5/ocean.h5", path.read_bytes())
    source = Source("memory://featstore-hdf5/ocean.h5", "/train/3")
    assert np.array_equal(READER.read(source), values[3])
    assert source.size == path.stat().st_size
    assert len(expand("memory://featstore-hdf5/ocean.h5")) == 5


def test_an_open_file_doesnt_end_the_process_in_a_crash(write: Callable[..., Path]) -> None:
    path = write(train=np.ones((2, 3, 5)))
    code = (
        "import sys; from featstore import Source; from featstore_readers import featstore_readers as f\n"
        "r, = [r for r in f() if '.h5' in r.suffixes]; print(r.read(Source(sys.argv[1], '/train/1')).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "(3, 5)\n"), done.stderr


# ---------------------------------------------------------------------------------------------------- expanding
def test_partitions_are_splits(write: Callable[..., Path]) -> None:
    path = write(valid=np.ones((2, 4, 5)), train=np.ones((3, 1, 4, 5)), labels=np.arange(3), scale=np.float64(3))
    assert expand(path) == [
        *(Part(f"/train/{row}", {"split": "train"}, alone=True) for row in range(3)),
        *(Part(f"/valid/{row}", {"split": "valid"}, alone=True) for row in range(2)),
    ]
    assert expand(path, dataset="valid") == expand(path, dataset="/valid") == expand(path)[3:]
    assert expand(path, dataset="valid+train") == expand(path)


def test_metadata_become_fields(write: Callable[..., Path], path: Path) -> None:
    write(train=np.ones((3, 4, 5)), valid=np.ones((1, 4, 5)))
    describe(path, "train_metadata", ["patient_id", "label", "LL", "split"],
             [["007", "1", "nan", "fold0"], ["ü/1".encode(), "0", "0.25", "fold1"], ["8", "", "12.5", ""]])  # fmt: skip
    fields = [dict(part.fields) for part in expand(path)]
    assert fields == [
        {"split": "fold0", "patient_id": "007", "label": "1"},
        {"split": "fold1", "patient_id": "ü/1", "label": "0", "LL": "0.25"},
        {"split": "train", "patient_id": "8", "LL": "12.5"},
        {"split": "valid"},
    ]


@pytest.mark.parametrize("chunks", [None, (2,)])
def test_metadata_of_a_compound_type(write: Callable[..., Path], chunks: Any) -> None:
    kind = np.dtype([("patient_id", h5py.string_dtype()), ("DT", "f4"), ("label", ">i8"), ("ok", "?"), ("s", "S3")])
    rows = np.array([("007", 0.1, 3, True, b"x"), ("é\n", np.nan, -1, False, b"")], kind)
    path = write(train=np.ones((2, 4, 5)), train_metadata={"data": rows, "chunks": chunks})
    assert [dict(part.fields) for part in expand(path)] == [
        {"split": "train", "patient_id": "007", "DT": "0.1", "label": "3", "ok": "True", "s": "x"},
        {"split": "train", "patient_id": "é\n", "label": "-1", "ok": "False"},
    ]


def test_metadata_of_another_length_are_refused(write: Callable[..., Path], path: Path) -> None:
    write(train=np.ones((3, 4, 5)), valid=np.ones((2, 4, 5)))
    describe(path, "train_metadata", ["patient_id"], [["1"], ["2"]])
    with pytest.raises(ConflictError, match="/train_metadata describes 2 rows, and /train has 3"):
        expand(path)
    assert len(expand(path, dataset="valid")) == 2


def test_metadata_that_say_nothing_clear(write: Callable[..., Path], path: Path) -> None:
    rows = np.ones((2, 4, 5))
    with pytest.raises(InputError, match="no attribute 'columns'"):
        expand(write(train=rows, train_metadata=np.array([[b"1"], [b"2"]])))
    with pytest.raises(InputError, match="a table of text"):
        expand(write(train=rows, train_metadata=np.array([b"1", b"2"])))
    write(train=rows)
    describe(path, "train_metadata", ["a", "b"], [["1"], ["2"]])
    with pytest.raises(ConflictError, match=r"has 1 columns, and names 2"):
        expand(path)
    write(train=rows)
    describe(path, "train_metadata", ["a", "a"], [["1", "2"], ["2", "3"]])
    with pytest.raises(InputError, match="columns of one name"):
        expand(path)
    numbers = np.array([(7.0,), (8.0,)], [("patient_id", "f8")])
    with pytest.raises(ConflictError, match="decimal numbers"):
        expand(write(train=rows, train_metadata=numbers))
    with pytest.raises(InputError, match="isn't UTF-8"):
        expand(write(train=rows, train_metadata=np.array([(b"\xff",), (b"a",)], [("site", "S2")])))


def test_files_without_rows(write: Callable[..., Path]) -> None:
    for names in ({}, {"x": np.arange(5)}, {"train_metadata": np.array([[b"1"]])}, {"train": np.ones((0, 3, 4))}):
        path = write(**names)
        with pytest.raises(InputError, match="no rows to read"):
            expand(path)
        with pytest.raises(InputError, match="no rows to read"):  # the same cause, where it was ingested whole
            read(path, None)


def test_features_belong_to_import(write: Callable[..., Path]) -> None:
    for name in ("features", "feats"):
        with pytest.raises(UsageError, match=r"features already[\s\S]*featstore import"):
            expand(write(**{name: np.ones((5, 8)), "coords": np.ones((5, 2))}))
    assert len(expand(write(features=np.ones((5, 8))))) == 5


def test_a_data_set_that_isnt_there(write: Callable[..., Path]) -> None:
    path = write(train=np.ones((2, 3, 4)), labels=np.arange(2))
    with pytest.raises(UsageError, match="Did you mean '/train'"):
        expand(path, dataset="trian")
    with pytest.raises(UsageError, match="no rows to read"):
        expand(path, dataset="labels")


# ------------------------------------------------------------------------------------- what is refused of a file
def test_links_and_values_elsewhere(write: Callable[..., Path], path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"s" * 600)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.ones((2, 3, 4))
    layout = h5py.VirtualLayout((2, 3, 4), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "values", shape=(2, 3, 4))
    rows = np.ones((2, 3, 4))
    write(train=rows)
    with h5py.File(path, "a") as file:
        file["soft"] = h5py.SoftLink("/train")
        file["again"] = file["train"]
        file["loop"] = file["/"]
    assert [part.fragment for part in expand(path)] == ["/again/0", "/again/1"]  # once, by its first name
    for fragment in ("/soft/0", "/loop/soft/0"):
        with pytest.raises(InputError, match="is a link"):
            read(path, fragment)
    for name, refused in (("link", "is a link"), ("virtual", "in other data sets"), ("raw", "in other data sets")):
        write(train=rows)
        with h5py.File(path, "a") as file:
            if name == "link":
                file[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/values")
            elif name == "virtual":
                file.create_virtual_dataset(name, layout)
            else:
                file.create_dataset(name, (2, 3, 4), "u1", external=[(str(secret), 0, 600)])
        with pytest.raises(InputError, match=refused):
            read(path, f"/{name}/0")
        with pytest.raises(InputError, match=refused):
            expand(path)
        assert len(expand(path, dataset="train")) == 2


def test_rows_that_were_never_written(write: Callable[..., Path], path: Path) -> None:
    write(train=np.ones((2, 3, 4)))
    with h5py.File(path, "a") as file:
        file.create_dataset("none", (1000, 3, 4), "f4")
        file.create_dataset("few", (1000, 3, 4), "f4", chunks=(1, 3, 4))[:10] = 1
        file.create_dataset("gap", (10, 3, 4), "f4", chunks=(1, 3, 4))[:9] = 1
        file.create_dataset("absurd", (2**40, 3, 4), "f4", chunks=(1, 3, 4))[:9] = 1
    for name in ("none", "few", "absurd"):
        with pytest.raises(InputError, match="written"):
            expand(path, dataset=name)
    assert len(expand(path, dataset="gap")) == 10  # the others aren't lost with it
    assert read(path, "/gap/8").sum() == 12
    with pytest.raises(InputError, match="Row 9 of /gap was never written"):
        read(path, "/gap/9")


def test_what_would_take_too_much(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("row", (1, 2**15, 2**15), "f4", chunks=(1, 64, 64))[0, 0, 0] = 1
        file.create_dataset("chunk", (2**20, 16, 16), "f8", chunks=(2**20, 16, 16), maxshape=(None, 16, 16))
        file.create_dataset("pieces", (2, 512, 512), "u1", chunks=(1, 1, 1))[0, 0, 0] = 1
        for number, options in enumerate(({"compression": "szip"}, {"scaleoffset": 3})):
            file.create_dataset(f"unsafe{number}", data=np.ones((2, 32, 32), "i4"), chunks=(1, 32, 32), **options)
    for name, said in (
        ("row", "A row of /row would take"), ("chunk", "decompressed as a whole"), ("pieces", "lies in 262,144 chunks"),
        ("unsafe0", "compressed with szip"), ("unsafe1", "compressed with scaleoffset"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            read(path, f"/{name}/0")


def test_a_filter_that_isnt_installed(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("train", data=np.ones((2, 3, 4)), chunks=(1, 3, 4), compression="lzf")
    path.write_bytes(path.read_bytes().replace(b"\x00\x7d\x08\x00", b"\x01\x7d\x08\x00", 1))  # LZF's number, 32000
    with pytest.raises(InputError, match=r"\(32001\), which isn't installed.\n.*hdf5plugin"):
        read(path, "/train/0")


BOMBS = r"""
import json, resource, sys, time
from featstore import InputError, Source
from featstore_readers import featstore_readers
reader, = [r for r in featstore_readers() if ".h5" in r.suffixes]
reader.read(Source(sys.argv[1], "/fine/0"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
said = []
for path in sys.argv[2:]:
    for fragment in ("/train/0", None):
        try:
            reader.read(Source(path, fragment)) if fragment else list(reader.expand(Source(path), {}))
            said.append("accepted")
        except InputError as error:
            said.append(str(error))
print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, said]))
"""


def test_bombs_take_no_memory(tmp_path: Path) -> None:
    fine = tmp_path / "fine.h5"
    with h5py.File(fine, "w") as file:
        file.create_dataset("fine", data=np.ones((2, 8, 8)), chunks=(1, 8, 8), compression="gzip")
    with h5py.File(tmp_path / "deflate.h5", "w") as file:  # a chunk of 512 KiB that becomes 600 MiB
        data = file.create_dataset("train", (2, 256, 256), "f8", chunks=(1, 256, 256), compression="gzip")
        packed = zlib.compressobj(wbits=-15)
        block = packed.compress(b"\0" * (1 << 20)) + packed.flush(zlib.Z_FULL_FLUSH)
        data.id.write_direct_chunk((0, 0, 0), b"\x78\x9c" + 600 * block + b"\x03\0")
        data[1] = 1
    with h5py.File(tmp_path / "texts.h5", "w") as file:  # a text that claims 4 GiB
        file["train"] = ["a text", "another"]
    raw = (tmp_path / "texts.h5").read_bytes()
    (tmp_path / "texts.h5").write_bytes(raw.replace(b"\x06\0\0\0", b"\xff\xff\xff\xff", 1))
    heap = raw.index(b"GCOL") + 16  # its first object: free space of no length, with which HDF5 is never done
    (tmp_path / "loop.h5").write_bytes(raw[:heap] + b"\0" * 16 + raw[heap + 16 :])
    bombs = [tmp_path / f"{name}.h5" for name in ("deflate", "texts", "loop")]
    done = subprocess.run(
        [sys.executable, "-c", BOMBS, str(fine), *map(str, bombs)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    grown, said = json.loads(done.stdout)
    # By row; and listed, which reads none of them.
    assert said[1::2] == ["accepted"] * 3
    for found, expected in zip(said[::2], ("decompression bomb", "4,294,967,295 bytes", "has no length"), strict=True):
        assert expected in found
    assert grown < MOST_MEMORY


def damaged(data: bytes, rng: np.random.Generator) -> list[bytes]:
    """Truncations, no HDF5 at all, and a superblock with each of its bytes changed."""
    made = [data[: int(len(data) * share)] for share in np.linspace(0, 0.99, 20)]
    made += [b"", b"\x89HDF\r\n\x1a\n", gzip.compress(data), data[1:], b"\0" + data, rng.bytes(4000)]
    for at in range(48):
        flipped = bytearray(data)
        flipped[at] ^= int(rng.integers(1, 256))
        made.append(bytes(flipped))
    made += [data[:at] + b"\xff" * 8 + data[at + 8 :] for at in range(96, 1200, 8)]
    return made


def test_damaged_files(write: Callable[..., Path], tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(0, 65536, (3, 5, 7), dtype="u2")
    path = write(train=values, valid={"data": values, "chunks": (1, 5, 7), "compression": "gzip", "fletcher32": True},
                 notes=["one", "two"])  # fmt: skip
    refused = tried = 0
    for number, data in enumerate(damaged(path.read_bytes(), rng)):
        file = tmp_path / f"damaged{number}.h5"
        file.write_bytes(data)
        for fragment in ("/train/2", "/valid/2", "/notes/1", None):
            tried += 1
            try:
                value = expand(file) if fragment is None else read(file, fragment)
            except InputError:
                refused += 1
            else:
                assert fragment is None or fragment == "/notes/1" or value.dtype == np.uint16
    assert tried >= 800
    assert refused >= 300


@pytest.mark.parametrize("fragment", ["/train/2", "/packed/2", "/notes/1"])
def test_it_keeps_the_laws(write: Callable[..., Path], rng: np.random.Generator, fragment: str) -> None:
    values = rng.integers(0, 65536, (3, 15, 17), dtype="u2")
    path = write(
        train=values, packed={"data": values, "chunks": (1, 15, 17), "compression": "gzip"}, notes=["1", "two"]
    )
    assert isinstance(READER, ReaderSpec)
    check_reader(READER, files=[f"{path}#{fragment}"])
