"""Matching: which row of the source is which sample. By a key, by row numbers, or in order where the user says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import ConflictError, UsageError
from featstore.imports.columns import Columns, find_key
from featstore.imports.request import KEYS, PLACES, ImportRequest
from featstore.imports.vectors import Contents
from featstore.ingest.layout import FIELDS

#: Keys that a message names.
SHOWN = 5


@dataclass(slots=True)
class Matched:
    """The rows of a source, in its own order, with what is known of each.

    Attributes:
        sample_keys: one a row, each once.
        columns: what the source and the index say; no column that only finds rows.
        key: the column that named the rows; None where they are called by their place.
        texts: what the rows are called there, one a row.
        in_order: they were matched by their order.
    """

    sample_keys: list[str]
    columns: Columns
    key: str | None
    in_order: bool
    texts: list[str]


def match(contents: Contents, index: Columns | None, request: ImportRequest) -> Matched:
    """Give each row its sample key, and what is said of it.

    Raises:
        UsageError: nothing matches rows and index, or a row can't be named.
        ConflictError: keys that are missing, stand twice or are too many, with the keys.
    """
    own = contents.columns or Columns(contents.vectors.count)
    in_order, key = False, _own_key(contents, own, request)
    if index is None:
        if key is None and not contents.named:
            if not request.in_order:
                raise _unkeyed(contents, request)
            in_order = True
        columns = own
    elif key is not None:
        columns, key = _by_key(own, index.without(*PLACES), key, request)
    else:
        places, in_order = _places(contents, index, request)
        key = find_key(request.key, index.values, "The index")
        key = None if key == "file" and request.key is None else key
        placed = index.take(_order(places, contents, index, request))
        columns = own.joined(placed.without(*PLACES), contents.names)
    if request.in_order and not in_order:
        raise UsageError(
            "The rows are matched by " + (f"their {key!r}" if key else "their own names") + ", not in order.",
            hint="leave out --in-order",
        )
    prefix = "" if key == "sample_key" else f"{request.data_set}/"
    texts = list(contents.names) if key is None else _keys(columns, key)
    sample_keys = [prefix + (text.lstrip("/") if prefix else text) for text in texts]
    if twice := duplicates(sample_keys):
        raise ConflictError(
            f"In {request.source.name}, {counted(len(twice), 'key', 'stand')} more than once: {shown(twice)}.",
            hint="leave each sample once, or name another column with --key",
        )
    # A key of patients, or of visits, says whose the rows are, too.
    said = columns.without(*([] if key is None or key in FIELDS else [key]))
    return Matched(sample_keys, said.renamed() if key == "sample_key" else said, key, in_order, texts)


def _own_key(contents: Contents, own: Columns, request: ImportRequest) -> str | None:
    if contents.named:  # its columns may be of files, which have many rows
        named = "sample_key" if request.key is None else request.key
        return named if named in own.values else None
    if contents.key is not None and request.key is None:
        return contents.key
    if request.key is not None and request.key not in own.values:
        return None
    return find_key(request.key, own.values, request.source.name)


def _unkeyed(contents: Contents, request: ImportRequest) -> UsageError:
    beside = Path(request.source).with_name(f"{Path(request.source).stem}.index.csv")
    if request.key is not None:
        return UsageError(f"{request.source.name} has no column {request.key!r} for --key, and there is no --index.")
    return UsageError(
        f"Nothing says which sample each of the {contents.vectors.count:,} rows of {request.source.name} is.",
        hint=f"--index {beside}"
        if beside.is_file()
        else "give --index META.csv with a key and a column row, or with "
        "--in-order; without an index, --in-order calls the rows by their places",
    )


def _by_key(own: Columns, index: Columns, key: str, request: ImportRequest) -> tuple[Columns, str]:
    """Bring the index into the source's order, by the key that both have."""
    if request.key is None and key not in index.values:
        key = next((name for name in KEYS if name in own.values and name in index.values), key)
    if key not in index.values:
        raise UsageError(
            f"{request.source.name} names its rows by {key!r}, which is no column of the index.",
            hint=f"--key COLUMN, one that both have; the index has: {', '.join(index.values)}",
        )
    keys, theirs = _keys(own, key), _keys(index, key)
    for texts, what in ((keys, request.source.name), (theirs, "the index")):
        if twice := duplicates(texts):
            raise ConflictError(f"In {what}, {counted(len(twice), key, 'stand')} more than once: {shown(twice)}.")
    place = {text: row for row, text in enumerate(theirs)}
    source = set(keys)
    _refuse_odd([text for text in theirs if text not in source], [text for text in keys if text not in place], request)
    return own.joined(index.take([place[text] for text in keys]), keys), key


def _refuse_odd(missing: Sequence[str], extra: Sequence[str], request: ImportRequest) -> None:
    facts = []
    if missing:
        facts.append(f"of the index {counted(len(missing), 'row', 'are')} not in it: {shown(missing)}")
    if extra:
        facts.append(f"of it {counted(len(extra), 'row', 'are')} not in the index: {shown(extra)}")
    if facts:
        raise ConflictError(
            f"{request.source.name} and the index have other rows; {'; '.join(facts)}.",
            hint="give an index of these very rows",
        )


def _places(contents: Contents, index: Columns, request: ImportRequest) -> tuple[list[int], bool]:
    """Which row of the source each row of the index is about; and whether only their order says so."""
    name, count = request.source.name, contents.vectors.count
    if "row" not in index.values:
        if not request.in_order:
            raise _unmatched(contents, index, request)
        if index.rows != count:
            raise ConflictError(
                f"{name} has {count:,} rows, and the index {index.rows:,}: they can't be the same, in order."
            )
        return list(range(count)), True
    if request.in_order:
        raise UsageError("The index says which row is which, in its column row.", hint="leave out --in-order")
    rows = index.whole_numbers("row")
    if len(contents.partitions) < 2:
        return rows, False
    if "partition" not in index.values:
        raise UsageError(
            f"{name} has the partitions {', '.join(contents.partitions)}, and the index doesn't say which one a row "
            "is of.",
            hint="give it a column partition",
        )
    sizes = _sizes(contents)
    places = []
    for row, partition in zip(rows, index.values["partition"], strict=True):
        if partition not in sizes:
            raise ConflictError(f"The index names a partition {partition!r}, which {name} doesn't have.")
        # A row that the partition doesn't have is beyond all of them, not in the next one.
        places.append(contents.partitions[partition] + row if row < sizes[partition] else count + row)
    return places, False


def _sizes(contents: Contents) -> dict[str, int]:
    starts = [*contents.partitions.values(), contents.vectors.count]
    return {name: starts[n + 1] - starts[n] for n, name in enumerate(contents.partitions)}


def _unmatched(contents: Contents, index: Columns, request: ImportRequest) -> UsageError:
    return UsageError(
        f"Nothing matches the {contents.vectors.count:,} rows of {request.source.name} with those of the index.",
        hint="give the index a column row (0 is the first), or say --in-order; it has: " + ", ".join(index.values),
    )


def _order(places: list[int], contents: Contents, index: Columns, request: ImportRequest) -> list[int]:
    """The index's row of each of the source's rows."""
    if twice := duplicates([str(place) for place in places]):
        raise ConflictError(f"Of the source, {counted(len(twice), 'row', 'stand')} in the index twice: {shown(twice)}.")
    count = contents.vectors.count
    by_place = {place: row for row, place in enumerate(places)}
    rows = index.values.get("row", [])
    beyond = [str(rows[row]) for place, row in by_place.items() if place >= count]
    absent = [contents.names[place] for place in range(count) if place not in by_place]
    _refuse_odd(beyond, absent, request)
    return [by_place[place] for place in range(count)]


def _keys(columns: Columns, key: str) -> list[str]:
    """The values of a key column.

    Raises:
        ConflictError: one is missing, or has spaces around it.
    """
    odd = [
        row for row, text in enumerate(columns.values[key])
        if not text or (key != "sample_key" and text != text.strip())
    ]  # fmt: skip
    if odd:
        raise ConflictError(
            f"{counted(len(odd), 'row', 'have')} no {key}, or one with spaces around it (row {odd[0] + 1}).",
            hint=f"give each row its {key}",
        )
    return [text or "" for text in columns.values[key]]


def duplicates(texts: Sequence[str]) -> list[str]:
    """The texts that stand more than once, each once, in their order."""
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for text in texts:
        if text in seen:
            twice[text] = None
        seen.add(text)
    return list(twice)


def shown(keys: Sequence[str]) -> str:
    """The first few keys, and how many more there are."""
    more = f", … and {len(keys) - SHOWN:,} more" if len(keys) > SHOWN else ""
    return ", ".join(map(repr, keys[:SHOWN])) + more


def counted(count: int, noun: str, verb: str = "") -> str:
    """A count with its noun, and what they do: ``1 key is``, ``3 keys are``."""
    if count == 1 and verb:
        verb = {"are": "is", "have": "has"}.get(verb, f"{verb}s")
    return f"{count:,} {noun}{'' if count == 1 else 's'}{verb and ' '}{verb}"
