"""A store's folder: which one is meant, what its ``featstore.toml`` says, and making a new one."""

from __future__ import annotations

import os
import secrets
import shutil
import tomllib
from pathlib import Path
from typing import Any

from featstore.catalog.connection import CONFIG
from featstore.errors import ConflictError, CorruptError, NotFoundError, SetupError
from featstore.files import fsync, write_atomic

FORMAT = 1
CONFIG_NAME = "featstore.toml"
ENVIRONMENT = "FEATSTORE_STORE"


def find(path: str | os.PathLike[str] | None = None) -> Path:
    """The store's folder: ``path``, else ``$FEATSTORE_STORE``, else the nearest parent with a ``featstore.toml``.

    Raises:
        NotFoundError: none of these is a store.
    """
    given = path or os.environ.get(ENVIRONMENT)
    if given:
        folder = Path(given)
        if not (folder / CONFIG_NAME).is_file():
            why = "there is no such folder" if not folder.exists() else f"it has no {CONFIG_NAME}"
            raise NotFoundError(f"{folder} isn't a store: {why}.", hint=f"featstore init {folder}")
        return folder.resolve()
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise NotFoundError(
        "No store was named, and no parent folder is one.",
        hint=f"featstore init ./store; export {ENVIRONMENT}=./store   (or --store ./store)",
    )


def settings(folder: Path) -> dict[str, Any]:
    """What a store's ``featstore.toml`` says, checked.

    Raises:
        CorruptError: it is damaged, or of a newer featstore.
    """
    file = folder / CONFIG_NAME
    try:
        found = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not there, not text, not TOML
        raise CorruptError(f"{file} can't be read: {error}.", hint="restore it from a backup") from error
    if found.get("format") != FORMAT:
        raise CorruptError(
            f"{folder} has the format {found.get('format')!r}; this featstore reads {FORMAT}.",
            hint="pip install --upgrade featstore",
        )
    wait_s = found.get("wait_s", 60)
    if isinstance(wait_s, bool) or not isinstance(wait_s, (int, float)) or not wait_s >= 0:
        raise CorruptError(f"{file} gives wait_s = {wait_s!r}.", hint="write a number of seconds, such as 60")
    return found


def make(folder: Path) -> None:
    """Make a new, empty store, readable by its owner only.

    Raises:
        ConflictError: there is something else already. SetupError: it can't be made there.
    """
    import duckdb

    from featstore.catalog import migrations

    if (folder / CONFIG_NAME).exists():
        raise ConflictError(f"{folder} is a store already.", hint=f"featstore status --store {folder}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is not an empty folder.", hint="give a folder that isn't there yet")
    # Built aside and renamed, so that a store is whole or not there at all.
    aside = folder.absolute().with_name(f".tmp-{secrets.token_hex(4)}-{folder.absolute().name}")
    try:
        aside.mkdir(parents=True, mode=0o700)  # medical data: nobody else's business
        for name in ("features", "runs", "tables", "models"):
            (aside / name).mkdir()
        connection = duckdb.connect(str(aside / "catalog.duckdb"), config=CONFIG)
        try:
            migrations.apply(connection)
        finally:
            connection.close()
        fsync(aside / "catalog.duckdb")
        text = f"# A featstore store. Its format's version:\nformat = {FORMAT}\n"
        write_atomic(aside / CONFIG_NAME, text.encode())
        if folder.exists():  # empty, perhaps a mount point, which can't be replaced
            for part in sorted(aside.iterdir(), key=lambda part: part.name == CONFIG_NAME):
                shutil.move(part, folder / part.name)
            folder.chmod(0o700)
            fsync(folder)
        else:
            aside.replace(folder)
            fsync(folder.absolute().parent)
    except (OSError, duckdb.IOException) as error:
        raise SetupError(
            f"The store {folder} can't be made: {getattr(error, 'strerror', None) or error}.",
            hint="choose a folder that you may write to, on a disk with room",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
