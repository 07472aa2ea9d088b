"""Placing: what an exporter makes → the user's file or folder, which is there whole, or as it was before."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import ConflictError, NotFoundError, SetupError, UsageError
from featstore.files import fsync

#: What a store is made of: no export goes in there.
_STORE = {"features", "runs", "tables", "models", "catalog.duckdb", "featstore.toml"}


@dataclass(frozen=True, slots=True)
class Made:
    """What was written: how many files, and their size in bytes."""

    files: int
    nbytes: int


def check_target(store: Path, out: Path, *, folder: bool = False) -> None:
    """Raise before any work where ``out`` can't be written.

    Args:
        folder: it is to be a folder, which is never written over.

    Raises:
        NotFoundError: there is no folder to put it into. ConflictError: it is there, and ``folder``.
        UsageError: it is a folder and should be a file, or one of the store's own.
    """
    target = out.resolve()
    if not target.parent.is_dir():
        raise NotFoundError(f"There is no folder {target.parent}.", hint="make it, or choose another --out")
    if folder and os.path.lexists(out):
        raise _in_the_way(target)
    if target.is_dir():
        raise UsageError(f"{target} is a folder, not a file to write.", hint="choose another --out")
    if target.is_relative_to(store) and target.relative_to(store).parts[0] in _STORE:
        raise UsageError(f"{target} is the store's own.", hint="choose another --out")


@contextmanager
def placing(out: Path, write: Callable[[Path], None]) -> Iterator[Made]:
    """Let ``write(path)`` write on entry, and put what it made in place when the block ends without an error.

    It may make more than one file (``x.npy`` and ``x.index.csv``): they are made in a folder of their own, and ``out``
    itself is put in place last. Where there are several, the old ``out`` goes first: whatever stops this in between
    leaves no array, rather than one beside an index of other rows.

    Raises:
        as ``write`` does; UsageError, ConflictError: something is in the way.
        SetupError: the folder can't be written to, or is full.
    """
    aside = out.with_name(f".tmp-{secrets.token_hex(4)}-{out.name}")
    try:
        aside.mkdir()
        write(aside / out.name)
        made = sorted(aside.iterdir(), key=lambda path: path.name == out.name)
        for path in made:
            if path.is_dir() and os.path.lexists(out.with_name(path.name)):
                raise _in_the_way(out.with_name(path.name))
            if out.with_name(path.name).is_dir():
                raise UsageError(
                    f"{out.with_name(path.name)} is a folder, not a file to write.", hint="choose another --out"
                )
        result = _settle(aside)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise SetupError(
            f"{out} can't be written: {error.strerror or error}.", hint="choose another --out, or make room there"
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    try:
        yield result
        if len(made) > 1:
            out.unlink(missing_ok=True)
            fsync(out.absolute().parent)
        for path in made:
            os.replace(path, out.with_name(path.name))
        fsync(out.absolute().parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _settle(folder: Path) -> Made:
    """Wait until all that lies in a folder is on the disk."""
    files = nbytes = 0
    for path in folder.rglob("*"):
        fsync(path)
        if path.is_file():
            files, nbytes = files + 1, nbytes + path.stat().st_size
    return Made(files, nbytes)


def _in_the_way(target: Path) -> ConflictError:
    return ConflictError(
        f"{target} is there already, and a folder is never written over.", hint="remove it, or choose another --out"
    )
