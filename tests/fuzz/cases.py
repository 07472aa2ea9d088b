"""Cases by number: the same seed and number give the same bytes, wherever they are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from . import arrays, dicom, hdf5, images, nifti, texts
from .seeds import Format, Rng, Seed, integer, pick, put

#: What is done to a file, as often as it stands here. Each format goes through all of it in turn.
KINDS = (
    "bomb", "truncated", "absurd", "flipped", "odd", "part", "absurd", "foreign", "zeros", "truncated", "absurd", "run",
    "flipped", "appended", "absurd", "odd", "spliced", "truncated", "absurd", "flipped", "run", "part", "absurd", "odd",
    "foreign", "absurd", "flipped", "truncated", "spliced", "absurd", "appended", "flipped", "run", "truncated",
    "absurd",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        whole: of what it was made, where there is such a file: what it may at most be read as.
        settings: of ``--expand``.
    """

    number: int
    format: str
    kind: str
    seed: str
    suffix: str
    data: bytes
    fragment: str | None
    settings: dict[str, str]
    whole: Seed | None
    truncatable: bool


@lru_cache(maxsize=1)
def formats() -> list[Format]:
    return [f for module in (images, dicom, nifti, hdf5, arrays, texts) for f in module.formats()]


def make(seed: int, number: int) -> Case:
    """Make case ``number``: formats take turns, and each takes its turns at :data:`KINDS`."""
    rng = np.random.default_rng([seed, number])
    found = formats()
    turn, which = divmod(number, len(found))
    format, kind = found[which], KINDS[turn % len(KINDS)]
    whole = pick(rng, format.seeds)
    if kind in ("odd", "bomb"):
        made = pick(rng, format.odd if kind == "odd" else format.bombs)(rng)
        return _case(number, format, kind, "", format.suffix, made.data, made.fragment, made.settings, None)
    fragment = pick(rng, whole.fragments)
    if kind == "part":
        return _case(
            number, format, kind, whole.name, whole.suffix, whole.data, _part(format, whole, rng), whole.settings, whole
        )
    if kind == "foreign":
        data = _foreign(format, rng)
        return _case(number, format, kind, whole.name, whole.suffix, data, fragment, whole.settings, None)
    data = format.absurd(whole, rng) if kind == "absurd" else _MUTATIONS[kind](whole.data, rng)
    if data and rng.random() < 0.05:
        data = _MUTATIONS[pick(rng, ["flipped", "run"])](data, rng)
        kind += ", damaged"
    return _case(number, format, kind, whole.name, whole.suffix, data, fragment, whole.settings, whole)


def _case(number, format, kind, seed, suffix, data, fragment, settings, whole) -> Case:  # type: ignore[no-untyped-def]
    return Case(number, format.name, kind, seed, suffix, data, fragment, dict(settings), whole, format.truncatable)


def _part(format: Format, seed: Seed, rng: Rng) -> str:
    """A part that the file hasn't."""
    return str(pick(rng, [part for part in format.parts if part not in seed.fragments]))


def _foreign(format: Format, rng: Rng) -> bytes:
    other = pick(rng, [f for f in formats() if f is not format])
    bytes_ = [
        b"<!DOCTYPE html><html>404 Not Found</html>",
        b"%PDF-1.7\n" + rng.bytes(400),
        b"PK\5\6" + bytes(18),
        rng.bytes(900),
    ]
    return bytes(pick(rng, [*(pick(rng, other.seeds).data for _ in range(6)), *bytes_]))


def _truncated(data: bytes, rng: Rng) -> bytes:
    """Somewhere; often in the first bytes, or the last ones."""
    ends = [
        int(rng.integers(len(data))),
        int(rng.integers(min(len(data), 600))),
        len(data) - 1 - int(rng.integers(min(len(data), 40))),
    ]
    return data[: pick(rng, ends)]


def _flipped(data: bytes, rng: Rng) -> bytes:
    found = bytearray(data)
    for _ in range(int(pick(rng, [1, 1, 1, 2, 8, 60]))):
        most = len(data) if rng.random() < 0.6 else min(len(data), 512)
        found[int(rng.integers(most))] ^= 1 << int(rng.integers(8))
    return bytes(found)


def _run(data: bytes, rng: Rng) -> bytes:
    start = int(rng.integers(len(data)))
    count = min(int(pick(rng, [1, 4, 16, 64, 512, 4096])), len(data) - start)
    return data[:start] + pick(rng, [b"\0", b"\xff", b" ", b"A"]) * count + data[start + count :]


def _zeros(data: bytes, rng: Rng) -> bytes:
    return pick(rng, [b"", bytes(len(data)), bytes(1), b"\xff" * len(data), data[:8] + bytes(len(data))])


def _appended(data: bytes, rng: Rng) -> bytes:
    return data + pick(rng, [data, rng.bytes(1 + int(rng.integers(2000))), bytes(700), b"\n", data[: len(data) // 2]])


def _spliced(data: bytes, rng: Rng) -> bytes:
    """A piece of it moved, doubled or left out; or a number in the middle of it."""
    start, end = sorted(int(at) for at in rng.integers(len(data), size=2))
    place = int(rng.integers(len(data)))
    moved = data[:place] + data[start:end] + data[place:]
    return pick(rng, [moved, data[:start] + data[end:], put(data, place, integer(rng), int(pick(rng, [2, 4, 8])))])


_MUTATIONS = {
    "truncated": _truncated, "flipped": _flipped, "run": _run, "zeros": _zeros, "appended": _appended,
    "spliced": _spliced,
}  # fmt: skip
