"""What a run records of the files that it read: who they were."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def stats_of(files: list[Path]) -> list[tuple[int, int]]:
    """Size and time of each file: to see whether one changes while it is read."""
    return [(stat.st_size, stat.st_mtime_ns) for stat in (file.stat() for file in files)]


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
