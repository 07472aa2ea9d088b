"""A plugin that hands test inputs of any type to loader workers, as a reader: the way that extracting goes."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from featstore.hookspecs import hookimpl
from featstore.source import Source
from featstore.spec import ReaderSpec

SUFFIX = ".featstore-test-input"


def write(folder: Path, values: Sequence[Any]) -> list[str]:
    """One file a value, in ``folder``; returns their paths in order."""
    paths = [folder / f"{number}{SUFFIX}" for number in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        path.write_bytes(pickle.dumps(value))
    return [str(path) for path in paths]


def _read(source: Source) -> Any:
    return pickle.loads(source.read_bytes())  # noqa: S301 - written a moment ago by the check, to a folder of its own


@hookimpl
def featstore_readers() -> Iterable[ReaderSpec]:
    yield ReaderSpec("featstore-test-input", (SUFFIX,), _read)
