"""init, plugins, migrate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.cli.options import json_option, with_store
from featstore.cli.output import note, print_json, print_table

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
@click.option("--plugin", "paths", multiple=True, metavar="FILE.py", help="A plugin file or module; repeatable.")
@click.option("--strict-plugins", is_flag=True, help="Fail on a broken plugin instead of listing it.")
@json_option
def plugins(paths: tuple[str, ...], strict_plugins: bool, as_json: bool) -> None:
    """List plugins: what each provides, its version, and why it can't be used, if so."""
    from featstore.plugins import Plugins

    found = Plugins.load(paths, strict=strict_plugins).describe()
    if as_json:
        print_json(found)
    else:
        print_table(list(found[0]), [list(row.values()) for row in found])


@click.command()
@with_store
def migrate(store: Store) -> None:
    """Bring the catalog of an older featstore up to this one; a copy of the old catalog is kept beside it."""
    applied = store.migrate()
    note(f"Applied {', '.join(applied)}." if applied else "The catalog is current: nothing to apply.")
