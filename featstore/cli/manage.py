"""init, migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.cli.options import with_store
from featstore.cli.output import note

if TYPE_CHECKING:
    from featstore.store import Store


@click.command()
@click.argument("path", metavar="DIR")
def init(path: str) -> None:
    """Make a new, empty store."""
    from featstore import folder, store

    made = store.init(path)
    note(
        f"Made the store {made.path}.\n  next: export {folder.ENVIRONMENT}={path}; featstore ingest FOLDER --layout '…'"
    )


@click.command()
@with_store
def migrate(store: Store) -> None:
    """Bring the catalog of an older featstore up to this one; a copy of the old catalog is kept beside it."""
    applied = store.migrate()
    note(f"Applied {', '.join(applied)}." if applied else "The catalog is current: nothing to apply.")
