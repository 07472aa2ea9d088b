"""HDF5 files: each row of each data set is an input. Partitions (``train``, ``valid``, …) are splits.

``file.h5#/valid/17`` is row 17, counted from 0 along the first axis, of the data set ``/valid``; in a group it is
``/site1/valid/17``. Names are percent-encoded but for letters, digits and ``_.-~``: ``/a b/3`` is ``/a%20b/3``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from featstore import InputError, Part, Source, UsageError
from featstore.errors import did_you_mean
from featstore.hdf5.files import Opened
from featstore.hdf5.rows import Rows
from featstore_readers import text
from featstore_readers.hdf5_metadata import fields_of
from featstore_readers.rows import MAX_ROWS, as_image, decoding, split_row

_METADATA = "_metadata"


def read(source: Source) -> Any:
    """Read one row.

    Returns:
        an array in the file's own dtype, in native byte order, laid out by :func:`~featstore_readers.rows.as_image`;
        or the ``str`` of a row of text.

    Raises:
        InputError: the file is no HDF5, damaged, or has no such row; the row was never written, is a blank text, lies
            in another file, would take more than 1 GiB, or is compressed by what isn't installed.
    """
    with decoding(source, "HDF5"):
        opened = source.kept(Opened)
        if source.fragment is None:
            for _ in expand(source, {}):  # the cause, for a file that couldn't be expanded when it was ingested
                break
            raise InputError("An HDF5 file holds many rows, and none was named.", hint="file.h5#/valid/17 names one")
        found = split_row(source.fragment)
        if found is None:
            raise InputError(f"#{source.fragment} names no row of an HDF5 file, as #/valid/17 does.")
        value = opened.rows(unquote(found[0], errors="surrogateescape")).read(found[1])
        if isinstance(value, bytes):
            source.hash(value)
            return text.decode(value)
        image = as_image(value.astype(np.dtype(value.dtype.str), copy=False))  # an enumeration's names go
        source.hash_array(image)
        return image


def expand(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    """The rows of every data set of numbers with two axes or more, and of every one of text with one.

    Their split is the data set's name, without its groups. ``<name>_metadata`` beside a data set isn't an input: its
    columns become fields and attributes of the rows, and its ``split``, where it has one, stands above the name.

    Args:
        settings: ``dataset=valid`` or ``dataset=train+valid``: only these.

    Raises:
        UsageError: there is no such data set; or the file holds features, which are to be imported.
        ConflictError: metadata describe more or fewer rows than there are.
        InputError: the file is damaged, or has no rows.
    """
    with decoding(source, "HDF5"):
        opened = source.kept(Opened)
        names = opened.data_sets()
        _refuse_features(names)
        inputs = [name for name in names if not name.endswith(_METADATA)]
        if wanted := settings.get("dataset"):
            inputs = _chosen(wanted, inputs)
        plan: list[tuple[str, int, Callable[[int], Mapping[str, str]]]] = []
        for name in inputs:
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise InputError(f"The name of the data set {name!r} isn't UTF-8: no split can be called so.")
            rows = opened.rows(name)
            if rows.kind is None:
                if wanted:
                    raise UsageError(f"The data set {name} has no rows to read: it is {rows.dtype} of {rows.shape}.")
                continue
            rows.check()
            plan.append((name, len(rows), _fields(opened, rows, names)))
        count = sum(rows for _, rows, _ in plan)
        if not count:
            raise InputError(
                f"The file has no rows to read; its data sets: {', '.join(names) or 'none'}.",
                hint="inputs are (rows, height, width, …) of numbers, or (rows,) of text",
            )
        if count > MAX_ROWS:
            raise InputError(f"The file claims {count:,} rows, and at most {MAX_ROWS:,} are taken of one.")
    return _parts(plan)


def _parts(plan: list[tuple[str, int, Callable[[int], Mapping[str, str]]]]) -> Iterator[Part]:
    for name, rows, fields in plan:
        below = quote(name, safe="/", errors="surrogateescape")
        split = {"split": name.rpartition("/")[2]}
        for row in range(rows):
            found = fields(row)
            yield Part(f"{below}/{row}", {**split, **found} if found else split, alone=True)


def _fields(opened: Opened, rows: Rows, names: list[str]) -> Callable[[int], Mapping[str, str]]:
    if rows.name + _METADATA not in names:
        return lambda row: {}
    return fields_of(opened.rows(rows.name + _METADATA), rows)


def _chosen(wanted: str, names: list[str]) -> list[str]:
    chosen = []
    for word in wanted.split("+"):
        name = "/" + word.strip("/")
        if name not in names:
            raise UsageError(
                f"--expand dataset={word}: the file has no such data set.{did_you_mean(name, names)}",
                hint=f"its data sets: {', '.join(names)}",
            )
        chosen.append(name)
    return sorted(set(chosen))


def _refuse_features(names: list[str]) -> None:
    """Files of whole-slide tools hold vectors with the places of their tiles, in data sets of these names."""
    for name in names:
        group, _, last = name.rpartition("/")
        if last == "coords" and (found := {f"{group}/features", f"{group}/feats"}.intersection(names)):
            raise UsageError(
                f"The file holds features already ({found.pop()}, with {name}), not inputs for an encoder.",
                hint="featstore import FILE brings them in",
            )
