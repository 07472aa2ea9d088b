"""Placing: what an exporter makes → the user's file or folder, which is there whole, or as it was before."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import ConflictError, NotFoundError, SetupError, UsageError
from featstore.files import fsync
from featstore.spec import ExporterSpec

#: What a store is made of: no export goes in there.
_STORE = {"features", "runs", "tables", "models", "catalog.duckdb", "featstore.toml"}
#: The file that is locked in a folder while an export writes there.
_LOCK = "lock"
#: How a data card begins.
CARD_TITLE = "# Data card: "
#: Characters of an index that hold the names of its first columns.
_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Made:
    """What was written: how many files, and their size in bytes."""

    files: int
    nbytes: int


def check_target(store: Path, out: Path, exporter: ExporterSpec) -> None:
    """Raise before any work where ``out`` can't be written.

    Raises:
        NotFoundError: there is no folder to put it into.
        ConflictError: it is there and ``exporter`` makes a folder, or the index would replace a file of the user's.
        UsageError: it is a folder and should be a file, or one of the store's own.
    """
    target = out.resolve()
    if not target.parent.is_dir():
        raise NotFoundError(f"There is no folder {target.parent}.", hint="make it, or choose another --out")
    if exporter.folder and os.path.lexists(out):
        raise _in_the_way(target)
    if target.is_dir():
        raise UsageError(f"{target} is a folder, not a file to write.", hint="choose another --out")
    if target.is_relative_to(store) and target.relative_to(store).parts[0] in _STORE:
        raise UsageError(f"{target} is the store's own.", hint="choose another --out")
    if exporter.index:
        _require_free(out, out.with_name(f"{out.stem}.index.csv"))


def card_beside(path: Path) -> Path:
    """Where the data card of an exported table lies."""
    return path.with_name(f"{path.name}.card.md")


@contextlib.contextmanager
def placing(out: Path, write: Callable[[Path], None]) -> Iterator[Made]:
    """Let ``write(path)`` write on entry, and put what it made in place when the block ends without an error.

    It may make more than one file (``x.npy`` and ``x.index.csv``): they are made in a folder of their own, and ``out``
    itself is put in place last. Where there are several, the old ``out`` goes first: whatever stops this in between
    leaves no array, rather than one beside an index of other rows. What killed exports to ``out`` left is removed.

    Raises:
        as ``write`` does; UsageError, ConflictError: something is in the way.
        SetupError: the folder can't be written to, or is full.
    """
    with contextlib.ExitStack() as stack:
        try:
            _remove_leftovers(out)
            aside = stack.enter_context(_aside(out))
            write(aside / out.name)
            made = sorted(aside.iterdir(), key=lambda path: path.name == out.name)
            for path in made:
                target = out.with_name(path.name)
                if path.is_dir() and os.path.lexists(target):
                    raise _in_the_way(target)
                if path.name == out.name and target.is_dir():
                    raise UsageError(f"{target} is a folder, not a file to write.", hint="choose another --out")
                if path.name != out.name:
                    _require_free(out, target)
            result = _settle(aside)
        except OSError as error:
            raise SetupError(
                f"{out} can't be written: {error.strerror or error}.", hint="choose another --out, or make room there"
            ) from error
        yield result
        if len(made) > 1:
            out.unlink(missing_ok=True)
            fsync(out.absolute().parent)
        for path in made:
            os.replace(path, out.with_name(path.name))
        fsync(out.absolute().parent)


@contextlib.contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A new folder near ``out``, which is gone afterwards. While it is in use, a file beside it is locked."""
    name = f"{secrets.token_hex(4)}-{out.name}"
    folder, unlocked = out.with_name(f".tmp-{name}"), out.with_name(f".new-{name}")
    unlocked.mkdir()
    try:
        descriptor = os.open(unlocked / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        unlocked.rmdir()
        raise
    try:
        # Some file systems know no locks: then no leftover can be told from a folder in use, and none is removed.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(folder)  # from here on, other exports may take it for a leftover
        (folder / "made").mkdir()
        yield folder / "made"
    finally:
        os.close(descriptor)
        for path in (folder, unlocked):
            shutil.rmtree(path, ignore_errors=True)


def _remove_leftovers(out: Path) -> None:
    """Remove the folders that exports to ``out`` left when they were killed: nobody holds their locks."""
    ours = re.compile(rf"\.tmp-[0-9a-f]{{8}}-{re.escape(out.name)}")
    for folder in out.absolute().parent.iterdir():
        if not ours.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(OSError):  # it is in use, or another user's
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _require_free(out: Path, beside: Path) -> None:
    """Raise where what lies beside ``out`` is not an index or a data card that an export made for it."""
    if beside.is_dir():
        raise UsageError(f"{beside} is a folder, not a file to write.", hint="choose another --out")
    if not os.path.lexists(beside):
        return
    ours, kind = False, "index" if beside.suffix == ".csv" else "data card"
    if out.exists():
        with (
            contextlib.suppress(OSError, UnicodeDecodeError, csv.Error),
            beside.open(newline="", encoding="utf-8") as f,
        ):
            head = f.readline(_HEADER)
            names = next(csv.reader([head]), [])[:2]
            ours = names in (["row", "sample_key"], ["row", "patient_id"]) or head.startswith(CARD_TITLE)
    if not ours:
        raise ConflictError(
            f"{beside} is there already, and isn't the {kind} of an export to {out.name}.",
            hint="move it away, or choose another --out",
        )


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
