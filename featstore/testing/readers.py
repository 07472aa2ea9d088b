"""The laws of readers: bytes become what they mean, or an InputError; nothing in between."""

from __future__ import annotations

import io
import shutil
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import InputError
from featstore.spec import ReaderSpec, Source
from featstore.testing.inputs import SEED, describe, images, texts
from featstore.testing.laws import Laws, refusal, require

#: What one damaged file may make NumPy take, in bytes.
MOST_MEMORY = 2 << 30


@dataclass(slots=True)
class ReaderCase:
    """A reader with whole files that it must read, in a folder to spoil copies in.

    Attributes:
        values: what it reads of each file.
    """

    spec: ReaderSpec
    files: Sequence[tuple[Path, str | None]]
    folder: Path
    values: list[Any] = field(default_factory=list)

    def read(self, path: Path, fragment: str | None = None) -> tuple[Any, Source]:
        """What it reads, and the source with its hash."""
        source = Source(path, fragment)
        return self.spec.read(source), source

    def spoilt(self, path: Path, data: bytes) -> Path:
        """A file of other bytes, with the same ending."""
        made = self.folder / f"spoilt{''.join(path.suffixes)}"
        made.write_bytes(data)
        return made


LAWS = Laws[ReaderCase]()


@LAWS.law
def names_its_endings(case: ReaderCase) -> str:
    """``suffixes`` is a tuple of endings with their dot, in lower case: others would never be found."""
    suffixes = case.spec.suffixes
    require(isinstance(suffixes, tuple) and bool(suffixes), f"suffixes is {suffixes!r}, and must be a tuple of endings")
    for suffix in suffixes:
        proper = isinstance(suffix, str) and len(suffix) > 1 and suffix.startswith(".") and suffix == suffix.lower()
        require(proper, f"{suffix!r} is no ending such as '.png'")
    return ", ".join(suffixes)


@LAWS.gate()
def reads(case: ReaderCase) -> str:
    """It reads a whole file into something with values."""
    for path, fragment in case.files:
        value, _ = case.read(path, fragment)
        require(value is not None, f"{path.name} gives None")
        if isinstance(value, np.ndarray):
            require(value.size > 0, f"{path.name} gives an array without values: {value.shape}")
        case.values.append(value)
    return "; ".join(
        dict.fromkeys(f"{path.suffix}: {describe(v)}" for (path, _), v in zip(case.files, case.values, strict=True))
    )


@LAWS.law
def takes_the_content_hash(case: ReaderCase) -> str:
    """It reads through its Source, which takes a SHA-256: else a changed file can't be told from the old one."""
    for path, fragment in case.files:
        _, source = case.read(path, fragment)
        require(
            source.content_hash is not None, f"{path.name}: no hash; read with source.read_bytes(), or call source.hash"
        )
        proper = isinstance(source.content_hash, str) and len(source.content_hash) == 64
        require(proper, f"{path.name}: the hash is {source.content_hash!r}")
        require(source.size in (None, path.stat().st_size), f"{path.name}: size {source.size} isn't the file's")
    return "SHA-256"


@LAWS.law
def reads_the_same_again(case: ReaderCase) -> str:
    """The same bytes give the same value and hash each time, under any name and at any time."""
    for (path, fragment), value in zip(case.files, case.values, strict=True):
        first, source = case.read(path, fragment)
        copy = case.folder / f"another name{''.join(path.suffixes)}"
        shutil.copyfile(path, copy)
        second, other = case.read(copy, fragment)
        require(same(first, value) and same(second, value), f"{path.name}: read again, it is something else")
        require(source.content_hash == other.content_hash, f"{path.name}: a copy has another hash")
    return "equal"


@LAWS.law
def changes_no_file(case: ReaderCase) -> str:
    """Reading leaves the file as it is, and makes none beside it."""
    for number, (path, fragment) in enumerate(case.files):
        inner = case.folder / f"alone{number}"
        inner.mkdir()
        copy = inner / path.name
        shutil.copyfile(path, copy)
        case.read(copy, fragment)
        require(copy.read_bytes() == path.read_bytes(), f"{path.name} has changed")
        beside = sorted(p.name for p in inner.iterdir() if p != copy)
        require(not beside, f"it made {', '.join(beside)} beside {path.name}")
    return "unchanged"


@LAWS.law
def refuses_what_it_cannot_read(case: ReaderCase) -> str:
    """An empty file raises InputError; so do bytes that are no such file, unless they are one by chance."""
    rng = np.random.default_rng(SEED)
    for path, fragment in case.files:
        empty = case.spoilt(path, b"")
        how, value = refusal(lambda f=fragment, p=empty: case.read(p, f), InputError)  # type: ignore[misc]
        require(how != "accepted", f"an empty {path.suffix} gives {describe(value[0]) if value else value}")
        require(how == "refused", f"an empty {path.suffix} gives {how}; raise InputError")
        for size in (1, 7, 64, 5000):
            garbage = case.spoilt(path, rng.bytes(size))
            how, _ = refusal(lambda f=fragment, p=garbage: case.read(p, f), InputError)  # type: ignore[misc]
            require(
                how in ("refused", "accepted"), f"{size} bytes of noise as {path.suffix} give {how}; raise InputError"
            )
    return "InputError"


@LAWS.law
def refuses_half_a_file(case: ReaderCase) -> str:
    """A file that was cut short raises InputError; never is the missing part made up."""
    cuts = 0
    for (path, fragment), value in zip(case.files, case.values, strict=True):
        data = path.read_bytes()
        for share in (0.02, 0.25, 0.5, 0.75, 0.95):
            cut = case.spoilt(path, data[: int(len(data) * share)])
            how, found = refusal(lambda f=fragment, p=cut: case.read(p, f), InputError)  # type: ignore[misc]
            require(how in ("refused", "accepted"), f"{share:.0%} of {path.name} give {how}; raise InputError")
            if how == "accepted":
                whole = isinstance(value, np.ndarray) and np.shape(found[0]) == value.shape
                require(not whole, f"{share:.0%} of {path.name} give a whole {describe(value)}: the rest is made up")
            cuts += how == "refused"
    return f"{cuts} of {5 * len(case.files)} cuts refused, the others are shorter"


@LAWS.law
def survives_damage(case: ReaderCase) -> str:
    """Whatever bytes are damaged, it gives a value or InputError, in bounded memory; another value has another hash."""
    rng = np.random.default_rng(SEED)
    refused = tried = 0
    tracemalloc.start()
    try:
        for (path, fragment), value in zip(case.files, case.values, strict=True):
            whole = np.frombuffer(path.read_bytes(), np.uint8)
            _, source = case.read(path, fragment)
            for number in range(24):
                damaged = whole.copy()
                if number % 2:
                    where = rng.integers(0, len(whole), 3)
                    damaged[where] ^= rng.integers(1, 256, 3, np.uint8)
                else:  # the beginning, where sizes and counts stand: they become huge
                    damaged[2 * number : 2 * number + 4] = 255
                file = case.spoilt(path, damaged.tobytes())
                how, found = refusal(lambda f=fragment, p=file: case.read(p, f), InputError)  # type: ignore[misc]
                require(how in ("refused", "accepted"), f"a damaged {path.name} gives {how}; raise InputError")
                tried, refused = tried + 1, refused + (how == "refused")
                if how == "accepted" and not same(found[0], value):
                    told = found[1].content_hash != source.content_hash
                    require(told, f"a damaged {path.name} gives another value under the same hash")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    require(peak < MOST_MEMORY, f"a damaged file made it take {peak / 2**30:.1f} GiB")
    return f"{refused} of {tried} refused"


@LAWS.law
def says_what_is_missing(case: ReaderCase) -> str:
    """A file that isn't there raises FileNotFoundError: the disk may be gone, which isn't the input's fault."""
    path, fragment = case.files[0]
    gone = case.folder / f"gone{''.join(path.suffixes)}"
    how, _ = refusal(lambda: case.read(gone, fragment), FileNotFoundError)
    require(how == "refused", f"it gives {how}" if how != "accepted" else "it is accepted")
    return "FileNotFoundError"


# -------------------------------------------------------------------------------------------------- helpers
def same(one: Any, other: Any) -> bool:
    """Whether two decoded values are equal, and of one type."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        equal_nan = one.dtype.kind == "f"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=equal_nan)
    return type(one) is type(other) and bool(one == other)


def example_files(spec: ReaderSpec, folder: Path) -> list[tuple[Path, str | None]]:
    """Files with the reader's endings, for those that can be written here, and that it reads."""
    made: list[tuple[Path, str | None]] = []
    for suffix in spec.suffixes:
        if write := _WRITERS.get(suffix):
            path = folder / f"example{suffix}"
            path.write_bytes(write(suffix))
            made.append((path, None))
    return made


def _image(suffix: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(images()[1]).save(buffer, {".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG"}.get(suffix, suffix[1:]))
    return buffer.getvalue()


def _array(suffix: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images()[2])
    return buffer.getvalue()


def _text(suffix: str) -> bytes:
    return texts()[1].encode()


_WRITERS: Mapping[str, Callable[[str], bytes]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"), _image),
    ".npy": _array,
    **dict.fromkeys((".txt", ".md"), _text),
}
