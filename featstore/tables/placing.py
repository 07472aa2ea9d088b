"""Placing: what an exporter makes → the user's file or folder, which is there whole, or as it was before."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from featstore.errors import ConflictError, NotFoundError, SetupError, UsageError
from featstore.files import fsync
from featstore.spec import ExporterSpec

log = logging.getLogger("featstore")

#: What a store is made of: no export goes in there.
_STORE = {"features", "runs", "tables", "models", "catalog.duckdb", "featstore.toml"}
#: The file that is locked in a folder while an export writes there.
_LOCK = "lock"
#: Where old files are kept in it until all new ones are in place.
_OLD = "old"
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


@dataclass(frozen=True, slots=True)
class _Part:
    """What was made for one ``out``: files in a folder of their own, ``out`` itself the last."""

    out: Path
    folder: Path
    files: list[Path]
    made: Made


@dataclass(slots=True)
class Exports:
    """Files that were made aside, and wait to be put in place."""

    parts: list[_Part] = field(default_factory=list)
    _undo: list[tuple[Path, Path]] = field(default_factory=list)

    def place(self) -> None:
        """Put everything in place. What was there is kept until the block of :func:`exporting` has ended.

        Raises:
            SetupError: something can't be put in place.
        """
        for part in self.parts:
            try:
                self._place(part)
            except OSError as error:
                raise _cant_write(part.out, error) from error

    def _place(self, part: _Part) -> None:
        old = part.folder / _OLD
        if len(part.files) > 1 and os.path.lexists(part.out):
            self._undo.append((old / part.out.name, part.out))
            os.rename(part.out, old / part.out.name)
            fsync(part.out.absolute().parent)
        for path in part.files:
            target = part.out.with_name(path.name)
            there = os.path.lexists(target)
            if there:
                self._undo.append((old / path.name, target))
                try:
                    os.link(target, old / path.name, follow_symlinks=False)
                except OSError:  # a disk without hard links
                    os.rename(target, old / path.name)
            os.replace(path, target)
            if not there:
                self._undo.append((target, path))
        fsync(part.out.absolute().parent)

    def restore(self) -> None:
        """Take everything back that was put in place, as far as that can be done."""
        for source, target in reversed(self._undo):
            try:
                os.rename(source, target)
                source.unlink(missing_ok=True)  # two links of one file: then a rename does nothing
            except FileNotFoundError:
                continue  # it stopped before that
            except OSError as error:
                log.error("%s can't be put back: %s. It is %s.", target, error.strerror or error, source)
        self._undo.clear()

    def forget(self) -> None:
        """Remove what was there before."""
        for part in self.parts:
            shutil.rmtree(part.folder / _OLD, ignore_errors=True)


@contextlib.contextmanager
def exporting(writes: Mapping[Path, Callable[[Path], None]]) -> Iterator[Exports]:
    """Let each ``write(path)`` write aside on entry; :meth:`Exports.place` puts all of it in place.

    If the block fails afterwards, all is put back. A ``write`` may make more than one file (``x.npy`` and
    ``x.index.csv``): ``out`` itself is put in place last. Where there are several, the old ``out`` goes first: a kill
    in between leaves no array, rather than one beside an index of other rows. What killed exports to ``out`` left is
    removed.

    Raises:
        as ``write`` does; UsageError, ConflictError: something is in the way.
        SetupError: the folder can't be written to, or is full.
    """
    with contextlib.ExitStack() as stack:
        exports = Exports()
        for out, write in writes.items():
            try:
                exports.parts.append(_made(out, write, stack))
            except OSError as error:
                raise _cant_write(out, error) from error
        try:
            yield exports
        except BaseException:
            exports.restore()
            raise
        exports.forget()


@contextlib.contextmanager
def placing(out: Path, write: Callable[[Path], None]) -> Iterator[Made]:
    """Let ``write(path)`` write on entry, and put what it made in place when the block ends without an error.

    Raises:
        as :func:`exporting` and :meth:`Exports.place` do.
    """
    with exporting({out: write}) as exports:
        yield exports.parts[0].made
        exports.place()


def _made(out: Path, write: Callable[[Path], None], stack: contextlib.ExitStack) -> _Part:
    remove_leftovers(out.absolute().parent, rf"\.tmp-[0-9a-f]{{8}}-{re.escape(out.name)}")
    folder = stack.enter_context(locked_folder(out.parent, f"-{out.name}"))
    aside = folder / "made"
    aside.mkdir()
    (folder / _OLD).mkdir()
    write(aside / out.name)
    files = sorted(aside.iterdir(), key=lambda path: path.name == out.name)
    for path in files:
        target = out.with_name(path.name)
        if path.is_dir() and os.path.lexists(target):
            raise _in_the_way(target)
        if path.name == out.name and target.is_dir():
            raise UsageError(f"{target} is a folder, not a file to write.", hint="choose another --out")
        if path.name != out.name:
            _require_free(out, target)
    return _Part(out, folder, files, _settle(aside))


@contextlib.contextmanager
def locked_folder(parent: Path, ending: str = "") -> Iterator[Path]:
    """A new folder ``.tmp-…``, which is gone afterwards. While it is in use, a file in it is locked.

    It stays where old files couldn't be put back from it.
    """
    name = f"{secrets.token_hex(4)}{ending}"
    folder, unlocked = parent / f".tmp-{name}", parent / f".new-{name}"
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
        unlocked.rename(folder)  # from here on, others may take it for a leftover
        yield folder
    finally:
        os.close(descriptor)
        if any((folder / _OLD).glob("*")):
            (folder / _LOCK).unlink(missing_ok=True)  # so that nobody takes it for a leftover
        else:
            for path in (folder, unlocked):
                shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(parent: Path, names: str, *, unlocked: bool = False) -> None:
    """Remove the folders of :func:`locked_folder` that were left by a kill: nobody holds their locks.

    Args:
        names: what they are called, a regular expression.
        unlocked: those without a lock, too: where nobody but featstore makes folders of such names.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if unlocked else 0)
    for folder in parent.iterdir():
        if not re.fullmatch(names, folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        with contextlib.suppress(OSError):  # it is in use, or another user's
            descriptor = os.open(folder / _LOCK, flags, 0o600)
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


def _cant_write(out: Path, error: OSError) -> SetupError:
    return SetupError(
        f"{out} can't be written: {error.strerror or error}.", hint="choose another --out, or make room there"
    )


def _in_the_way(target: Path) -> ConflictError:
    return ConflictError(
        f"{target} is there already, and a folder is never written over.", hint="remove it, or choose another --out"
    )
