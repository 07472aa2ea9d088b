"""Exporting: a table's data → a file of the user's, which is there whole, or as it was before."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featstore.errors import NotFoundError, SetupError, UsageError
from featstore.files import fsync
from featstore.spec import ExporterSpec

#: What a store is made of: no export goes in there.
_STORE = {"features", "runs", "tables", "models", "catalog.duckdb", "featstore.toml"}


def check_target(store: Path, out: Path) -> None:
    """Raise before any work where ``out`` can't be written.

    Raises:
        NotFoundError: there is no such folder. UsageError: it is a folder, or one of the store's own files.
    """
    target = out.resolve()
    if not target.parent.is_dir():
        raise NotFoundError(f"There is no folder {target.parent}.", hint="make it, or choose another --out")
    if target.is_dir():
        raise UsageError(f"{target} is a folder, not a file to write.", hint="choose another --out")
    if target.is_relative_to(store) and target.relative_to(store).parts[0] in _STORE:
        raise UsageError(f"{target} is the store's own.", hint="choose another --out")


@contextmanager
def exporting(data: Path, exporter: ExporterSpec | None, out: Path, *, wide: bool) -> Iterator[None]:
    """Export ``data`` on entry, and put the files in place when the block ends without an error.

    Args:
        exporter: None where ``data`` is already what it would write: that is copied.

    An exporter may write more than one file (``x.npy`` and ``x.index.csv``): they are made in a folder of their own,
    and ``out`` itself is put in place last. Where there are several, the old ``out`` goes first: whatever stops this in
    between leaves no array, rather than one beside an index of other rows.

    Raises:
        UsageError: the exporter can't write this table, or a folder is in the way.
        SetupError: the folder can't be written to, or is full.
    """
    import pyarrow.parquet as pq

    folder = out.with_name(f".tmp-{secrets.token_hex(4)}-{out.name}")
    try:
        folder.mkdir()
        if exporter is None:
            shutil.copyfile(data, folder / out.name)
        else:
            with pq.ParquetFile(data) as file:
                exporter.write(folder / out.name, file.schema_arrow, file.iter_batches(4096), wide=wide)
        made = sorted(folder.iterdir(), key=lambda path: path.name == out.name)
        for path in made:
            if (target := out.with_name(path.name)).is_dir():
                raise UsageError(f"{target} is a folder, not a file to write.", hint="choose another --out")
            fsync(path)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(
            f"{out} can't be written: {error.strerror or error}.", hint="choose another --out, or make room there"
        ) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        yield
        if len(made) > 1:
            out.unlink(missing_ok=True)
            fsync(out.absolute().parent)
        for path in made:
            os.replace(path, out.with_name(path.name))
        fsync(out.absolute().parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
