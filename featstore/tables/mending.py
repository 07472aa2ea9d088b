"""Mending: what of a version's folder is gone, damaged or of an older featstore, from an equal one just made."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path

from featstore.files import fsync
from featstore.tables.data import CARD, DATA, FITTED, POINTERS, ROWS

log = logging.getLogger("featstore")

#: What lies beside the data and what was fitted.
_BESIDE = (CARD, "lost.parquet", POINTERS, "recipe.yaml", "report.json", ROWS)


def gaps(
    path: Path, made: Path, digests: Mapping[str, str], *, fitted: bool, older: bool, again: Collection[str]
) -> list[str]:
    """What must be put into the folder of a version; paths below it, ``""`` for all of it.

    Args:
        path: of the version.
        made: where an equal one was just made.
        digests: fold → SHA-256 of its data.
        fitted: it has fitted objects.
        older: an older featstore made it: all but its data is of another layout.
        again: names of what must be put there in any case.
    """
    if not path.is_dir():
        log.warning("%s was gone: it was made again.", path)
        return [""]
    found = [name for name in _BESIDE if older or name in again or not (path / name).is_file()]
    for fold, known in digests.items():
        data = Path(fold, DATA)
        same = (path / data).is_file() and digest(path / data) == known
        if not same:
            log.warning("%s was gone or damaged: it was made again.", path / data)
            found.append(str(data))
        if fitted and (older or not same or not (path / fold / FITTED).is_file()):
            found.append(str(Path(fold, FITTED)))
    return found


def mend(path: Path, made: Path, names: Collection[str]) -> None:
    """Move what :func:`gaps` found from where it was made, each file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        target = path / name
        target.parent.mkdir(exist_ok=True)
        os.replace(made / name, target)
        fsync(target.parent)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_all(digests: Mapping[str, str]) -> str:
    """Fold → SHA-256 of its data; of a table without folds, that of the one file; of folds, of all of theirs."""
    if list(digests) == [""]:
        return digests[""]
    return hashlib.sha256("".join(f"{f}:{d}\n" for f, d in digests.items()).encode()).hexdigest()
