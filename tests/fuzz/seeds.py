"""What is mutated: small valid files, and what each format's own mutations, odd files and bombs are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Rng = np.random.Generator

#: What counts and sizes in headers are set to.
ABSURD = (
    0, 1, 2, 3, 7, 16, 127, 128, 255, 256, 1000, 32_767, 32_768, 65_535, 65_536, 100_000, 2**24, 2**31 - 1, 2**31,
    2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1,
)  # fmt: skip
#: What numbers that are written as text, or that are floats, are set to.
ABSURD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e38, -1e38, 1e308, float("nan"), float("inf"), -float("inf"), 352.5)


@dataclass(frozen=True)
class Seed:
    """One valid file.

    Attributes:
        fragments: the parts of it that can be read; None is the whole.
        settings: of ``--expand``, that list its parts.
        notes: of its format's own, for ``absurd``.
    """

    name: str
    suffix: str
    data: bytes
    fragments: tuple[str | None, ...] = (None,)
    settings: tuple[tuple[str, str], ...] = ()
    notes: tuple[int, ...] = ()


#: Makes a file that is odd as a whole: of a wrong shape, with something left out, or one that becomes too much.
Make = Callable[[Rng], "Odd"]


@dataclass(frozen=True)
class Odd:
    """A made file, and the part of it that is asked for."""

    data: bytes
    fragment: str | None = None
    settings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Format:
    """A row of the table that a run prints.

    Attributes:
        seeds: at least one.
        absurd: a seed with numbers of its headers set to absurd values, as this format writes them.
        odd, bombs: makers of whole files.
        parts: fragments that no file of it has.
        truncatable: a file of it that ends early is never another, shorter one, as a text is.
    """

    name: str
    suffix: str
    seeds: Sequence[Seed]
    absurd: Callable[[Seed, Rng], bytes]
    odd: Sequence[Make]
    bombs: Sequence[Make]
    parts: Sequence[str] = field(default=())
    truncatable: bool = True


def integer(rng: Rng) -> int:
    """An absurd number, or any."""
    return int(rng.choice(np.array(ABSURD, dtype=object))) if rng.random() < 0.85 else int(rng.integers(0, 2**32))


def put(data: bytes, place: int, value: int, width: int, order: str = "little") -> bytes:
    """``data`` with an unsigned integer of ``width`` bytes at a place; outside of it, as it was."""
    if not 0 <= place <= len(data) - width:
        return data
    return data[:place] + (value % (1 << 8 * width)).to_bytes(width, order) + data[place + width :]


def pick(rng: Rng, items: Sequence[Any]) -> Any:
    return items[int(rng.integers(len(items)))]
