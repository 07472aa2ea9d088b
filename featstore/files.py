"""Files that survive a power cut: one path for everything that a store writes.

Temporary name, fsync, rename, fsync of the folder. A reader sees the old file or the whole new one, never a part.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featstore.errors import CorruptError

Buffer = bytes | bytearray | memoryview


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that takes its place, durably, when the block ends without an error.

    The temporary name keeps the ending, because writers choose formats by it.
    """
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, *parts: Buffer) -> None:
    """Write ``parts``, one after the other, as the whole content of ``path``."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.writelines(parts)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable JSON, atomically. NaN is refused: it isn't JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(path, text.encode())


def read_json(path: Path) -> Any:
    """Read what :func:`write_json` wrote."""
    return json.loads(path.read_bytes())


def in_store(path: Path) -> bool:
    """Whether a file or folder lies in a store, by its name or by where links lead: then no code of it is run."""
    return any((folder / "featstore.toml").exists() for p in (path, path.resolve()) for folder in (p, *p.parents))


def inside(root: Path, relative: str) -> Path:
    """A path that a store's own records give, below ``root``. Links are the owner's: ``features`` may be another disk.

    Raises:
        CorruptError: it leads out of there: a store may be a stranger's, and its records are data.
    """
    if Path(relative).is_absolute() or ".." in Path(relative).parts:
        raise CorruptError(f"{root} has a record that leads out of it: {relative!r}.", hint="don't use this store")
    return root / relative


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
