"""Sources: a file or a URL, read whole, opened, or kept for the next of its parts."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from featstore import InputError, SetupError, Source, UsageError, kept_open, locations

made: list[Loaded] = []


class Loaded:
    """What a reader keeps of a file; counts how often it was loaded and closed."""

    def __init__(self, data: bytes) -> None:
        self.data, self.closed = data, False
        made.append(self)

    def close(self) -> None:
        self.closed = True


def load(file: BinaryIO) -> Loaded:
    return Loaded(file.read())


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    made.clear()


@pytest.fixture
def memory() -> Any:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_a_file_and_a_url_read_the_same(tmp_path: Path, memory: Any) -> None:
    data = os.urandom(100_000)
    (tmp_path / "x.bin").write_bytes(data)
    memory.pipe("/b/x.bin", data)
    for location in (tmp_path / "x.bin", "memory://b/x.bin"):
        source = Source(location)
        assert source.read_bytes() == data
        assert (source.size, source.content_hash) == (len(data), hashlib.sha256(data).hexdigest())
        with Source(location).open() as file:
            file.seek(50_000)
            assert file.read(10) == data[50_000:50_010]
            file.seek(-4, os.SEEK_END)
            assert (file.read(), file.tell()) == (data[-4:], len(data))
    assert Source(tmp_path / "x.bin").path == tmp_path / "x.bin"
    with pytest.raises(InputError, match="takes files only"):
        _ = Source("memory://b/x.bin").path


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "x.bin", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"1,099,511,627,776 bytes, and at most 1,000 are read"):
        Source(tmp_path / "x.bin").read_bytes(most=1000)


@pytest.mark.parametrize("kind", ["file", "url"])
def test_a_file_that_isn_t_there(kind: str, tmp_path: Path) -> None:
    source = Source(tmp_path / "none" if kind == "file" else "memory://b/none")
    for read in (source.read_bytes, source.open, lambda: source.kept(load)):
        with pytest.raises(FileNotFoundError):
            read()
    assert source.content_hash is None


def test_what_is_kept_is_loaded_once_until_the_file_changes(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    file.write_bytes(b"one")
    for _ in range(3):
        source = Source(file)
        assert source.kept(load).data == b"one"
        assert (source.size, source.mtime_ns) == (3, file.stat().st_mtime_ns)
    assert len(made) == 1
    stat = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # of the same size and time: told by the time of the inode
    assert Source(file).kept(load).data == b"two"
    assert [loaded.closed for loaded in made] == [True, False]


def test_only_the_last_few_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / str(number)).write_bytes(bytes([number]))
        assert Source(tmp_path / str(number)).kept(load).data == bytes([number])
    assert [loaded.closed for loaded in made] == [True, True, True, False, False]
    assert Source(tmp_path / "4").kept(load) is made[-1]


def test_what_fails_to_load_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")

    def fail(file: BinaryIO) -> None:
        raise InputError("no")

    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        with pytest.raises(InputError):
            Source(tmp_path / "x").kept(fail)
    assert len(os.listdir("/proc/self/fd")) <= before  # what was kept before makes room


def test_a_forked_child_opens_its_own(tmp_path: Path) -> None:
    """Two processes that share one handle would move each other's position."""
    (tmp_path / "x").write_bytes(b"x")
    Source(tmp_path / "x").kept(load)
    mine = {key[0] for key in kept_open._here.kept}
    child = os.fork()
    if child == 0:
        Source(tmp_path / "x").kept(load)
        os._exit(0 if {key[0] for key in kept_open._here.kept} > mine and len(made) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_arrays_are_hashed_by_dtype_shape_and_values(rng: np.random.Generator) -> None:
    values = rng.integers(0, 1000, (4, 6)).astype("<i2")

    def hash(array: np.ndarray) -> str | None:
        source = Source("x")
        source.hash_array(array)
        return source.content_hash

    assert hash(values) == hash(values.astype(">i2")) == hash(np.asfortranarray(values)) == hash(values.copy())
    others = [values.astype("<i4"), values.astype("<u2"), values.reshape(6, 4), values[::-1], values.reshape(-1)]
    assert len({hash(values), *map(hash, others)}) == 1 + len(others)
    assert hash(np.array(3.0)) != hash(np.array([3.0]))
    assert hash(np.empty((0, 3), np.float32)) != hash(np.empty((0, 4), np.float32))


class Flaky(MemoryFileSystem):
    """A file system whose reads break, as a network's do."""

    protocol = "flaky"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("flaky://", "memory://"))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super()._open(path, mode, **options)

        def broken(*arguments: Any) -> bytes:
            raise TimeoutError("the other side went away")

        file.read = broken
        return file


def test_a_network_that_breaks_is_no_bad_input() -> None:
    """A library that reads through the handle may call it a damaged file: the source remembers what it was."""
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky().pipe("/b/x.h5", b"0" * 100)
    source = Source("flaky://b/x.h5")
    with pytest.raises(SetupError, match=r"flaky://b/x\.h5 can't be read: the other side went away"):
        source.read_bytes()
    assert isinstance(source.fault, SetupError)

    def swallow(file: BinaryIO) -> None:
        try:
            file.read(10)
        except Exception:
            raise InputError("the file is damaged") from None

    source = Source("flaky://b/x.h5")
    with pytest.raises(InputError):
        source.kept(swallow)
    assert isinstance(source.fault, SetupError)


def test_unknown_schemes_and_passwords() -> None:
    with pytest.raises(SetupError, match="nonsense://b/x can't be read"):
        locations.stat("nonsense://b/x")
    for url in ("s3://me:secret@bucket/x", "https://token@host/x"):
        with pytest.raises(UsageError, match="names a user"):
            locations.check_url(url)
    for query in ("X-Amz-Signature=1", "a=1&sig=2", "token=x", "x-goog-signature=1", "AccessKey=2"):
        with pytest.raises(UsageError, match="signature or key"):
            locations.check_url(f"https://host/x.npy?{query}")
    for url in ("https://host/a@b", "https://host/x?download=1&page=2", "abfs://box@account.dfs.core.windows.net/x"):
        assert locations.check_url(url) == url


def test_what_threads_keep_is_their_own(tmp_path: Path) -> None:
    """One thread forgets at the start of an ingest; what another one is reading stays open."""
    (tmp_path / "x").write_bytes(b"x")
    mine = Source(tmp_path / "x").kept(load)
    thread = threading.Thread(target=kept_open.forget)
    thread.start()
    thread.join()
    assert not mine.closed
    assert Source(tmp_path / "x").kept(load) is mine


@pytest.mark.parametrize("told", [{"Last-Modified": "Sun, 22 Nov 2026 10:00:00 GMT"}, {"ETag": '"abc"'}])
def test_what_web_servers_tell_of_a_change(told: dict[str, str]) -> None:
    other = {name: text.replace("10:00", "10:01").replace("abc", "abd") for name, text in told.items()}
    first, again, changed = (locations._told({"size": 5, **info}) for info in (told, told, other))
    assert first == again != changed
