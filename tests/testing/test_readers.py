"""The laws of readers: ours keep all of them, and each way of being wrong is found."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore import InputError, NotFoundError, ReaderSpec, Source, UsageError
from featstore.plugins import Plugins
from featstore.testing import check_reader

OURS = [item.name for item in Plugins.load().registered("reader")]
HEADER = struct.Struct("<II")


def decode(data: bytes) -> Any:
    if len(data) < HEADER.size:
        raise InputError("too short")
    height, width = HEADER.unpack_from(data)
    pixels = np.frombuffer(data, np.uint8, offset=HEADER.size)
    if height * width == 0 or pixels.size != height * width:
        raise InputError("not as many pixels as the header says")
    return pixels.reshape(height, width)


def proper(source: Source) -> Any:
    return decode(source.read_bytes())


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "a.raw"
    path.write_bytes(HEADER.pack(12, 9) + bytes(range(108)))
    return path


def broken(read: Callable[[Source], Any], whole: Path, suffixes: Any = (".raw",)) -> dict[str, str]:
    """The broken laws, by name, with what was seen."""
    findings = check_reader(ReaderSpec("raw", suffixes, read), files=[whole], strict=False)
    return {finding.law: finding.seen for finding in findings if not finding.ok}


@pytest.mark.parametrize("name", OURS)
def test_ours_keep_every_law(name: str) -> None:
    check_reader(name)


def test_a_proper_one_keeps_every_law(whole: Path) -> None:
    assert broken(proper, whole) == {}


def test_files_are_needed_for_what_cant_be_written_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"A file of raw can't be made up here: it ends in \.raw.\n.*--input FILE"):
        check_reader(ReaderSpec("raw", (".raw",), proper))
    with pytest.raises(NotFoundError, match="no file"):
        check_reader(ReaderSpec("raw", (".raw",), proper), files=[tmp_path / "no.raw"])


def unhashed(source: Source) -> Any:
    return decode(source.path.read_bytes())


def half_hashed(source: Source) -> Any:
    data = source.path.read_bytes()
    source.hash(data[:40])
    return decode(data)


def named(source: Source) -> Any:
    return proper(source) + len(source.path.name)


def timed(source: Source) -> Any:
    return proper(source) + np.uint64(time.perf_counter_ns() % 1000)


def empty(source: Source) -> Any:
    data = source.read_bytes()
    return decode(data) if data else np.zeros((1, 1))


def padded(source: Source) -> Any:
    data = source.read_bytes()
    if len(data) < HEADER.size:
        raise InputError("too short")
    height, width = HEADER.unpack_from(data)
    if not 0 < height * width < 10_000:
        raise InputError("too large")
    return np.frombuffer(data[HEADER.size :].ljust(height * width, b"\0")[: height * width], np.uint8).reshape(
        height, width
    )


def struct_error(source: Source) -> Any:
    data = source.read_bytes()
    HEADER.unpack_from(data)
    return decode(data)


def trusting(source: Source) -> Any:
    data = source.read_bytes()
    if len(data) < HEADER.size:
        raise InputError("too short")
    height, _ = HEADER.unpack_from(data)
    np.empty((min(height, 2**28), 12), np.uint8)  # taken before anything is compared
    return decode(data)


def writing(source: Source) -> Any:
    source.path.with_suffix(".index").write_text("")
    return proper(source)


def touching(source: Source) -> Any:
    made = proper(source)
    source.path.write_bytes(source.path.read_bytes() + b"\0" * (source.path.parent.name == "alone0"))
    return made


def hiding(source: Source) -> Any:
    try:
        return proper(source)
    except FileNotFoundError as error:
        raise InputError("not there") from error


def nothing(source: Source) -> Any:
    source.read_bytes()


@pytest.mark.parametrize(
    ("read", "law", "seen"),
    [
        (unhashed, "takes-the-content-hash", "no hash"),
        (half_hashed, "survives-damage", "another value under the same hash"),
        (named, "reads-the-same-again", "something else"),
        (timed, "reads-the-same-again", "something else"),
        (empty, "refuses-what-it-cannot-read", "an empty .raw gives (1, 1) float64"),
        (padded, "refuses-half-a-file", "the rest is made up"),
        (struct_error, "refuses-what-it-cannot-read", "gives error: unpack_from requires"),
        (trusting, "survives-damage", "GiB"),
        (writing, "changes-no-file", "it made a.index beside"),
        (touching, "changes-no-file", "has changed"),
        (hiding, "says-what-is-missing", "InputError"),
        (nothing, "reads", "gives None"),
    ],
)  # fmt: skip
def test_wrong_readers(read: Callable[[Source], Any], law: str, seen: str, whole: Path) -> None:
    found = broken(read, whole)
    assert law in found
    assert seen in found[law]


@pytest.mark.parametrize("suffixes", [(), (".RAW",), ("raw",), ".raw", (".",)])
def test_wrong_endings(suffixes: Any, whole: Path) -> None:
    assert "names-its-endings" in broken(proper, whole, suffixes)
