"""A scheme as CSVs: one of images and labels for each split and modality, and one of the patients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import splits as catalog
from featstore.errors import ConflictError, UsageError
from featstore.files import write_atomic
from featstore.splits.files import guard, guard_path
from featstore.splits.matching import Paths, below_root

if TYPE_CHECKING:
    import duckdb

PATIENTS = "patients.csv"


def scheme_files(connection: duckdb.DuckDBPyConnection, scheme: int, *, relative: bool) -> dict[str, list[list[str]]]:
    """The CSVs of one version of a scheme, each with its rows, the header first.

    ``<split>_<modality>.csv`` has ``image_path,label``, a sample a row, by patient and sample key; ``patients.csv`` has
    ``patient_id,split``. A path is the sample's uri, or with ``relative`` the part of it below its data set's root.
    Text that a spreadsheet would run as a formula gets an apostrophe in front; a path gets ``./``.

    Raises:
        UsageError: a modality's name can't be in a file's name; relative paths don't tell the samples apart.
    """
    patients = catalog.assignment_of(connection, scheme).to_pylist()
    files = {PATIENTS: [["patient_id", "split"], *([guard(row["patient_id"]), row["split"]] for row in patients)]}
    samples = catalog.samples_of(connection, scheme).to_pylist()
    everyone = catalog.samples(connection).to_pylist() if relative else []
    paths = Paths(everyone)
    names: dict[str, str] = {}
    for row in samples:
        name = f"{row['split']}_{row['modality']}.csv"
        if any(mark in name for mark in "/\\\0"):
            raise UsageError(f"The modality {row['modality']!r} can't be part of a file's name.")
        if (other := names.setdefault(name.lower(), name)) != name:
            raise UsageError(f"{other} and {name} would be one file where names ignore case.")
        path = row["uri"]
        if relative:
            path = guard_path(below_root(path, row["root"]))
            found = paths.find(path)
            if [everyone[i]["sample_key"] for i in found] != [row["sample_key"]]:
                raise UsageError(
                    f"The path {path!r} alone doesn't tell which sample it is of: {len(found)} end so.",
                    hint="leave out --relative",
                )
        rows = files.setdefault(name, [["image_path", "label"]])
        rows.append([path, _label(row)])
    return files


def _label(row: Mapping[str, Any]) -> str:
    label = row["label"] or ""
    return guard(label) if row["label_type"] == "str" else label


def write_scheme(folder: Path, files: Mapping[str, Sequence[Sequence[str]]]) -> dict[str, int]:
    """Write CSVs into a folder; gives their numbers of rows. Those that are there already, just so, stay.

    Raises:
        ConflictError: the folder holds another CSV, which would be taken for one of these.
    """
    if folder.exists() and not folder.is_dir():
        raise ConflictError(f"{folder} is a file.", hint="--export FOLDER")
    contents = {name: _csv(rows) for name, rows in files.items()}
    there = sorted(os.listdir(folder)) if folder.is_dir() else []
    for name in there:
        if name.lower().endswith(".csv") and not (
            name in contents and (folder / name).is_file() and (folder / name).read_bytes() == contents[name]
        ):
            what = "differs from this scheme's" if name in contents else "isn't of this scheme"
            raise ConflictError(
                f"{folder / name} {what}; beside these it would mix two splits.", hint="--export another_folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        if name not in there:
            write_atomic(folder / name, data)
    return {name: len(rows) - 1 for name, rows in files.items()}


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    return "".join(",".join(map(_cell, row)) + "\n" for row in rows).encode()


def _cell(text: str) -> str:
    """A cell, quoted where it must be. csv.writer leaves a lone carriage return bare, which begins a row for others."""
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text
