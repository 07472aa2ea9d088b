"""CSV and Parquet files with a column of texts: each row that has one is an input.

``notes.csv#column=report&by=patient_id&key=007`` is the text in the column ``report`` of the row whose ``patient_id``
is 007: rows are found by their key, never by their place. The three values are percent-encoded but for letters, digits
and ``_.-~``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import quote, unquote

from featstore import ConflictError, InputError, Part, Source, UsageError
from featstore.errors import did_you_mean
from featstore_readers import text
from featstore_readers.columns import Columns, load_csv, load_parquet
from featstore_readers.rows import decoding

log = logging.getLogger("featstore")

#: Columns of a table that say whose a row is; all others are left where they are.
_FIELDS = ("patient_id", "site", "visit_id", "label", "split", "acquired_at")
_KEY = "patient_id"


class _Twice:
    """Stands for the text of a key that several rows have."""


class Table:
    """A table that was read, and its texts by key, for the column that was asked for last."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._asked: tuple[str, str] | None = None
        self._texts: dict[str, str | type[_Twice] | None] = {}

    def text(self, column: str, by: str, key: str) -> str:
        """The text of the row that has a key.

        Raises:
            InputError: no row has it, or several; or the row has no text; or there is no such column.
        """
        if self._asked != (column, by):
            texts: dict[str, str | type[_Twice] | None] = {}
            for name, value in zip(self.columns.texts(by), self.columns.texts(column), strict=True):
                if name is not None:
                    texts[name] = _Twice if name in texts else value
            self._texts, self._asked = texts, (column, by)
        if key not in self._texts:
            raise InputError(f"No row has {by} {key!r} (any more).")
        found = self._texts[key]
        if found is _Twice:
            raise InputError(f"Several rows have {by} {key!r}, and which one is meant can't be known.")
        if found is None:
            raise InputError(f"The row whose {by} is {key!r} has no {column} (any more).")
        assert isinstance(found, str)
        return found


def _load_csv(file: BinaryIO) -> Table:
    return Table(load_csv(file))


def _load_parquet(file: BinaryIO) -> Table:
    return Table(load_parquet(file))


def _table(source: Source) -> Table:
    return source.kept(_load_parquet if _kind(source) == "Parquet" else _load_csv)


def _kind(source: Source) -> str:
    return "Parquet" if source.location.lower().endswith(".parquet") else "CSV"


def read(source: Source) -> str:
    """Read the text of one row.

    Raises:
        InputError: the file is damaged, or too large for a table of texts; no row has the key, or several have; the
            text is missing, blank, or larger than one text.
    """
    column, by, key = _parse(source.fragment)
    with decoding(source, _kind(source)):
        data = _table(source).text(column, by, key).encode()
    source.hash(data)
    return text.decode(data)


def _parse(fragment: str | None) -> tuple[str, str, str]:
    if fragment is None:
        raise InputError(
            "A table holds many texts, and none was named.",
            hint="ingest it with --expand text=COLUMN, or as clinical data with featstore ingest-table",
        )
    words = [word.partition("=") for word in fragment.split("&")]
    if [name for name, _, _ in words] != ["column", "by", "key"]:
        raise InputError(f"#{fragment} names no text of a table, as #column=report&by=patient_id&key=007 does.")
    column, by, key = (unquote(value) for _, _, value in words)
    return column, by, key


def expand(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    """One sample for each row that has a text; the column's name is its modality.

    Args:
        settings: ``text=report``, the column of texts; ``key=note_id``, the one that tells rows apart, by default
            patient_id.

    Raises:
        UsageError: no column is named, or there is none of that name.
        ConflictError: keys are missing or not unique; or an identifier is a decimal number.
        InputError: the file is damaged, or holds no text in this column.
    """
    with decoding(source, _kind(source)):
        columns = _table(source).columns
        if "text" not in settings:
            raise UsageError(
                "A table isn't an input by itself; a column of it can be, where it holds a text a row.",
                hint=f"--expand text=COLUMN, of: {', '.join(columns.names)}; "
                "clinical values are brought in by featstore ingest-table",
            )
        column, by = settings["text"], settings.get("key", _KEY)
        for name in (column, by):
            if name not in columns.names:
                raise UsageError(
                    f"The table has no column {name!r}.{did_you_mean(name, columns.names)}",
                    hint=f"its columns: {', '.join(columns.names)}" + ("; key=COLUMN names another key" * (name == by)),
                )
        keys = _unique(columns.texts(by, identifiers=True), by)
        texts = columns.texts(column)
        of_row = {
            name: columns.texts(name, identifiers=name in _IDENTIFIERS) for name in _FIELDS if name in columns.names
        }
    stem = f"column={_quoted(column)}&by={_quoted(by)}&key="
    parts = []
    for row, value in enumerate(texts):
        if value is not None and value.strip():
            fields = {name: told for name, values in of_row.items() if (told := values[row]) is not None}
            if by not in _FIELDS:
                fields[by] = keys[row]
            parts.append(Part(stem + _quoted(keys[row]), {"modality": column} | fields, alone=True))
    if not parts:
        raise InputError(f"The column {column!r} holds no text.")
    if blank := len(texts) - len(parts):
        log.warning("%d of the %d rows have no text in %r, and are no samples.", blank, len(texts), column)
    return parts


_IDENTIFIERS = frozenset(_FIELDS) - {"label"}


def _unique(keys: Sequence[str | None], by: str) -> Sequence[str]:
    hint = "give each row its own, or name a column that has one a row: --expand key=COLUMN"
    missing = [row + 1 for row, key in enumerate(keys) if not key]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ConflictError(f"{len(missing)} row(s) have no {by} (row {shown}).", hint=hint)
    twice = sorted(str(key) for key, count in Counter(keys).items() if count > 1)
    if twice:
        shown = ", ".join(map(repr, twice[:5])) + (", …" if len(twice) > 5 else "")
        raise ConflictError(f"{len(twice)} {by}(s) stand in more than one row: {shown}.", hint=hint)
    return keys  # type: ignore[return-value]  # none is missing


def _quoted(value: str) -> str:
    return quote(value, safe="")
