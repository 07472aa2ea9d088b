"""What a run records of the files that it read: who they were."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from featstore.errors import ConflictError


def stats_below(paths: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Size and time of each file, and of each below a folder: taken before the first is read."""
    found = {}
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            with suppress(OSError):  # reading it will say so
                stat = file.stat()
                found[file] = stat.st_size, stat.st_mtime_ns
    return found


def check_unchanged(files: Iterable[Path], before: Mapping[Path, tuple[int, int]], source: Path) -> None:
    """Raise :class:`ConflictError` where a file isn't as it was: its rows may have been read as two files' are."""
    files = list(files)
    now = stats_below(files)
    if changed := [file for file in files if file not in now or now[file] != before.get(file)]:
        raise ConflictError(
            f"{source} was changed while it was read ({changed[0].name}).", hint="run the same command again"
        )


def hashes(files: list[Path], source: Path) -> dict[str, Any]:
    """The SHA-256 of a source, and of an index beside it. That of a folder is of a line a file, SHA-256 and path."""
    found = {}
    for path in files:
        with open(path, "rb") as file:
            found[path] = hashlib.file_digest(file, "sha256").hexdigest()
    own = [path for path in files if path == source or source in path.parents]
    if own == [source]:
        digest = found[source]
    else:
        lines = "".join(f"{found[path]}  {path.relative_to(source).as_posix()}\n" for path in own)
        digest = hashlib.sha256(lines.encode()).hexdigest()
    others = {f"{path}": found[path] for path in files if path not in own}
    return {"sha256": digest, "files": len(own)} | ({"index_sha256": others} if others else {})
