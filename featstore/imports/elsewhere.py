"""Rows whose samples are in the store under other keys: by the files themselves, or below another data set."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING

from featstore import locations
from featstore.catalog import imports as catalog
from featstore.errors import ConflictError
from featstore.imports.matching import Matched, counted, duplicates, shown
from featstore.imports.request import ImportRequest

if TYPE_CHECKING:
    import duckdb


def known_by_files(connection: duckdb.DuckDBPyConnection, matched: Matched, request: ImportRequest) -> list[str]:
    """The sample keys of the rows; those called by absolute paths or URLs have the keys of the samples of these files.

    Raises:
        ConflictError: a file is in two data sets, or two rows are of one.
    """
    import pyarrow as pa

    keys = list(matched.sample_keys)
    if matched.key in (None, "sample_key"):
        return keys
    places = {row: _places(text) for row, text in enumerate(matched.texts) if _is_absolute(text)}
    if not places:
        return keys
    wanted = sorted({place for found in places.values() for place in found})
    known: dict[str, list[str]] = {}
    for uri, key, dataset in catalog.of_files(connection, pa.table({"uri": wanted})):
        if request.dataset is None or dataset.lower() == request.dataset.lower():
            known.setdefault(uri, []).append(key)
    if odd := [uri for uri, theirs in known.items() if len(theirs) > 1]:
        raise ConflictError(
            f"{counted(len(odd), 'file', 'are')} in the store more than once: {odd[0]}, as {shown(known[odd[0]])}.",
            hint="--dataset NAME says which is meant",
        )
    for row, found in places.items():
        keys[row] = next((known[place][0] for place in found if place in known), keys[row])
    if twice := duplicates(keys):
        raise ConflictError(f"In {request.source.name}, {counted(len(twice), 'key', 'stand')} twice: {shown(twice)}.")
    return keys


def refuse_doubles(connection: duckdb.DuckDBPyConnection, matched: Matched) -> None:
    """Raise :class:`ConflictError` where all rows would be made anew, and are called as samples of another data set."""
    import pyarrow as pa

    if matched.key in (None, "sample_key"):
        return
    found = catalog.below(connection, pa.table({"below": [text.lstrip("/") for text in matched.texts]}))
    if found:
        name, count = found[0]
        raise ConflictError(
            f"No row is of a sample of the data set that they would be in, and {counted(count, 'row', 'are')} called "
            f"as samples of {name!r} are.",
            hint=f"--dataset {name} takes those; --new-samples makes others of the same names",
        )


def _is_absolute(text: str) -> bool:
    return locations.is_url(text) or os.path.isabs(text)


def _places(text: str) -> tuple[str, ...]:
    """How the catalog may write it: a folder of an ingest is without links, and what is below it as it is."""
    if locations.is_url(text):
        return (locations.join(text, ""), text)
    folder, name = os.path.split(os.path.normpath(text))
    return (os.path.join(folder, name), os.path.join(_real(folder), name))


@lru_cache(maxsize=4096)
def _real(folder: str) -> str:
    return os.path.realpath(folder)
