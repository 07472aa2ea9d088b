"""CSVs that say who is in which split: patients with their splits, or images with their labels, one file a split."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.errors import InputError, NotFoundError, UsageError, did_you_mean
from featstore.keys import check_name

#: What names a patient, or a sample; the first that a file has counts.
_WHO = ("patient_id", "image_path")
_COLUMNS = (*_WHO, "split", "label")
# A spreadsheet runs a cell that begins so as a formula (https://owasp.org/www-community/attacks/CSV_Injection).
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of such a file.

    Attributes:
        line: where the row begins; the header is line 1.
        who: the patient's id, or the path of an image.
        label: as it is written; None where the file has no labels.
    """

    file: str
    line: int
    who: str
    split: str
    label: str | None

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"


@dataclass(frozen=True, slots=True)
class SplitFile:
    """One such file. ``by_path``: its rows name images, not patients."""

    name: str
    split: str | None
    sha256: str
    by_path: bool
    entries: tuple[Entry, ...]

    def recipe(self) -> dict[str, str | None]:
        """What is kept of it with the scheme."""
        return {"file": self.name, "split": self.split, "sha256": self.sha256}


def guard(text: str) -> str:
    """Text as a cell that no spreadsheet runs: an apostrophe in front where it begins as a formula does.

    >>> guard("-1"), guard("007"), guard("'=x")
    ("'-1", '007', "''=x")
    """
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(cell: str) -> str:
    """The text that :func:`guard` made a cell of."""
    return cell[1:] if _GUARDED.match(cell) else cell


def guard_path(path: str) -> str:
    """A relative path as such a cell: ``./`` in front, so that it leads to the same file still.

    >>> guard_path("-old/a.png"), guard_path("JM/a.png")
    ('./-old/a.png', 'JM/a.png')
    """
    return f"./{path}" if _FORMULA.match(path) else path


def read_sources(sources: Sequence[str | os.PathLike[str]]) -> list[SplitFile]:
    """Read the files that :attr:`SplitRequest.sources` names.

    Each is a CSV (UTF-8, commas, a header) with a column ``patient_id`` or ``image_path``, and a column ``split``
    unless ``SPLIT=`` stands before its name. A column ``label`` is compared with the patients'; others are left alone.

    Raises:
        NotFoundError: no such file or column. InputError: it can't be read. UsageError: nothing, or two things, say the
            split; a row has none.
    """
    return [_read(*_parse(source)) for source in sources]


def _parse(source: str | os.PathLike[str]) -> tuple[Path, str | None]:
    text = os.fspath(source)
    split, mark, file = text.partition("=")
    if not mark or "/" in split or Path(text).exists():
        return Path(text), None
    return Path(file), check_name(split, "split", hint=f"--from SPLIT=FILE.csv, not {text!r}")


def _read(path: Path, split: str | None) -> SplitFile:
    if not path.is_file():
        raise NotFoundError(f"There is no file {path}.", hint="--from FILE.csv, or --from SPLIT=FILE.csv")
    data = path.read_bytes()
    try:
        rows = list(_rows(io.StringIO(data.decode("utf-8-sig"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} can't be read as CSV: {error}.", hint="save it as UTF-8, with commas") from error
    if len(rows) < 2:
        raise UsageError(f"{path.name} has no rows.")
    names = [name.strip() for name in rows[0][1]]
    who = _check_header(path, names, split)
    at = {name: names.index(name) for name in _COLUMNS if name in names}
    entries = []
    for line, cells in rows[1:]:
        place = f"Line {line} of {path.name}"
        if len(cells) != len(names):
            raise InputError(f"{place} has {len(cells)} cells; the header has {len(names)}.", hint="correct the line")
        text = {name: cells[position] for name, position in at.items()}
        if not text[who] or not (split or text["split"]):
            raise UsageError(f"{place} has no {who if not text[who] else 'split'}.", hint="fill it in, or leave it out")
        label = unguard(text["label"]) if "label" in text else None
        entry = unguard(text[who]) if who == "patient_id" else text[who]
        entries.append(Entry(path.name, line, entry, split or text["split"], label))
    return SplitFile(path.name, split, hashlib.sha256(data).hexdigest(), who == "image_path", tuple(entries))


def _rows(file: io.StringIO) -> Iterator[tuple[int, list[str]]]:
    """Each row that isn't empty, with the line that it begins on."""
    reader = csv.reader(file, strict=True)
    line = 1
    for cells in reader:
        if cells:
            yield line, cells
        line = reader.line_num + 1


def _meant(names: Sequence[str]) -> str:
    return next((text for name in names if (text := did_you_mean(name, _WHO))), "")


def _check_header(path: Path, names: Sequence[str], split: str | None) -> str:
    """The column that names patients or images."""
    twice = sorted({name for name in names if names.count(name) > 1 and name in _COLUMNS})
    if twice:
        raise UsageError(f"{path.name} has two columns {twice[0]!r}.")
    who = next((name for name in _WHO if name in names), None)
    if who is None:
        raise NotFoundError(
            f"{path.name} has neither a column 'patient_id' nor 'image_path'.{_meant(names)}",
            hint=f"its columns: {', '.join(names)}",
        )
    if split is None and "split" not in names:
        raise UsageError(
            f"Nothing says which split the rows of {path.name} are of.",
            hint=f"--from train={path.name}, or a column 'split' in it",
        )
    if split is not None and "split" in names:
        raise UsageError(
            f"{path.name} has a column 'split', and {split}= says another thing.", hint=f"--from {path.name}"
        )
    return who
