"""Whose are the rows of a file: ids and paths matched with the patients and samples of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from featstore.catalog import splits as catalog
from featstore.catalog.identity import match_patients
from featstore.errors import ConflictError, LeakageError, NotFoundError
from featstore.splits.files import Entry, SplitFile

if TYPE_CHECKING:
    import duckdb

#: What is no label in a cell, as in what is ingested.
_NO_LABEL = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
_SHOWN = 5


class Paths:
    """The samples of a store, found by what others call their files.

    A path is that of the sample whose uri it is; else of those whose sample key it is, or whose uri ends with it, from
    a ``/`` on; else of those whose path below the root of their data set it ends with, as where the folder was moved.
    """

    def __init__(self, samples: Sequence[Mapping[str, Any]]) -> None:
        self._uris = [str(sample["uri"]) for sample in samples]
        self._keys = [str(sample["sample_key"]) for sample in samples]
        self._by_uri = {uri: i for i, uri in enumerate(self._uris)}
        self._by_key = {key: i for i, key in enumerate(self._keys)}
        self._below: dict[str, list[int]] = {}
        self._endings: dict[int, dict[str, list[int]]] = {}
        for i, sample in enumerate(samples):
            self._below.setdefault(below_root(sample["uri"], sample["root"]), []).append(i)

    def find(self, path: str) -> list[int]:
        """The positions of the samples that a path may mean: it is a match where there is one."""
        path = _plain(path)
        if path in self._by_uri:
            return [self._by_uri[path]]
        found = {self._by_key[path]} if path in self._by_key else set()
        found.update(self._ending_with(path))
        if not found:
            parts = path.split("/")
            found.update(*(self._below.get("/".join(parts[start:]), ()) for start in range(1, len(parts))))
        return sorted(found)

    def _ending_with(self, path: str) -> list[int]:
        depth = path.count("/") + 1
        if depth not in self._endings:
            endings: dict[str, list[int]] = {}
            for i, uri in enumerate(self._uris):
                endings.setdefault("/".join(uri.split("/")[-depth:]), []).append(i)
            self._endings[depth] = endings
        return self._endings[depth].get(path, [])

    def moved(self, path: str, i: int, root: str) -> str | None:
        """The folder that a path has in place of the data set's root; None where it doesn't say another."""
        path, uri = _plain(path), self._uris[i]
        if path == self._keys[i] or uri == path or uri.endswith("/" + path):
            return None
        return path.removesuffix(below_root(uri, root))


def _plain(path: str) -> str:
    while path.startswith("./"):
        path = path[2:]
    return path


def below_root(uri: str, root: str) -> str:
    """A sample's path relative to its data set's root; the uri itself where it lies elsewhere.

    >>> below_root("/data/JM/a.png", "/data"), below_root("/else/a.png", "/data")
    ('JM/a.png', '/else/a.png')
    """
    prefix = root.rstrip("/") + "/"
    return uri[len(prefix) :] if uri.startswith(prefix) else uri


def assigned(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[SplitFile],
    patients: Sequence[Mapping[str, Any]],
    *,
    allow_missing: bool,
) -> tuple[dict[str, str], dict[str, int]]:
    """Patient → split, as files have it.

    Args:
        patients: as :func:`featstore.catalog.splits.candidates` gives them.
        allow_missing: leave out what isn't in the store.

    Returns:
        the assignment, and what was left out: how many rows, by what they lack.

    Raises:
        LeakageError: a patient is in two splits. ConflictError: a label isn't the patient's; a path may be that of
            several samples. NotFoundError: no such patient or sample.
    """
    known = {row["patient_id"]: row for row in patients}
    of: list[tuple[str, Entry]] = []
    nobody: list[Entry] = []
    nothing: list[Entry] = []
    several: list[Entry] = []
    samples = catalog.samples(connection).to_pylist() if any(file.by_path for file in files) else []
    paths = Paths(samples)
    moved: dict[str, dict[str, Entry]] = {}
    for file in files:
        for entry in file.entries:
            found = paths.find(entry.who) if file.by_path else []
            if len(found) == 1:
                sample = samples[found[0]]
                of.append((sample["patient_id"], entry))
                if (folder := paths.moved(entry.who, found[0], sample["root"])) is not None:
                    moved.setdefault(sample["root"], {}).setdefault(folder, entry)
            elif file.by_path:
                (several if found else nothing).append(entry)
            elif entry.who in known:
                of.append((entry.who, entry))
            else:
                nobody.append(entry)
    unmatched = {"no such patient": nobody, "no such sample": nothing, "several samples": several}
    if not allow_missing:
        _refuse_unmatched(connection, nobody, nothing, several)
    _check_moved(moved)
    _check_labels(of, known)
    return _one_split_each(of), {what: len(entries) for what, entries in unmatched.items() if entries}


def _listed(lines: Sequence[str]) -> str:
    more = f"\n    … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "".join(f"\n    {line}" for line in lines[:_SHOWN]) + more


def _refuse_unmatched(
    connection: duckdb.DuckDBPyConnection, nobody: list[Entry], nothing: list[Entry], several: list[Entry]
) -> None:
    import pyarrow as pa

    leave_out = "--allow-missing leaves them out"
    if nobody:
        ids = pa.table({"patient_id": sorted({entry.who for entry in nobody})})
        _, alike = match_patients(connection, ids)
        looks = f" {alike[0][0]!r} looks like the patient {alike[0][1]!r}." if alike else ""
        raise NotFoundError(
            f"{len(nobody)} row(s) name patients who aren't in the store:"
            f"{_listed([f'{entry.who} ({entry.place})' for entry in nobody])}",
            hint=f"correct the ids, ingest their samples first, or {leave_out}.{looks}",
        )
    if nothing:
        raise NotFoundError(
            f"{len(nothing)} path(s) match no sample of the store:"
            f"{_listed([f'{entry.who} ({entry.place})' for entry in nothing])}",
            hint=f"ingest them first, with the paths' own folders; or {leave_out}",
        )
    if several:
        raise ConflictError(
            f"{len(several)} path(s) may be those of several samples:"
            f"{_listed([f'{entry.who} ({entry.place})' for entry in several])}",
            hint=f"write more of each path, or all; or {leave_out}",
        )


def _check_moved(moved: Mapping[str, Mapping[str, Entry]]) -> None:
    """A data set was moved from one place: from several, s_0.png of one patient would be taken for another's."""
    for root, folders in moved.items():
        if len(folders) > 1:
            raise ConflictError(
                f"The data set at {root} would have been in {len(folders)} folders before:"
                f"{_listed([f'{folder} ({entry.who}; {entry.place})' for folder, entry in folders.items()])}",
                hint="write the paths relative to the data set's root, or as they are now",
            )


def _check_labels(of: Sequence[tuple[str, Entry]], known: Mapping[str, Mapping[str, Any]]) -> None:
    wrong = []
    for patient, entry in of:
        label, kind = known[patient]["label"], known[patient]["label_type"]
        if label is not None and entry.label not in (None, *_NO_LABEL) and not _same(str(entry.label), label, kind):
            wrong.append(f"{patient}: {entry.label} ({entry.place}), in the store {label}")
    if wrong:
        raise ConflictError(
            f"{len(wrong)} row(s) have another label than the patient:{_listed(wrong)}",
            hint="correct the label, or leave that column out",
        )


def _same(one: str, other: str, kind: str) -> bool:
    """Whether two labels are equal, as numbers where they are: programs write 1.0 for 1."""
    if one == other or kind == "str":
        return one == other
    try:
        return Decimal(one) == Decimal(other)
    except ArithmeticError:
        return False


def _one_split_each(of: Sequence[tuple[str, Entry]]) -> dict[str, str]:
    splits: dict[str, dict[str, list[Entry]]] = {}
    for patient, entry in of:
        splits.setdefault(patient, {}).setdefault(entry.split, []).append(entry)
    wrong = []
    for patient, by_split in sorted(splits.items()):
        if len(by_split) > 1:
            wrong.append(f"{patient}: " + "; ".join(f"{split} ({_places(by_split[split])})" for split in by_split))
    if wrong:
        raise LeakageError(
            f"{len(wrong)} patient(s) are in more than one split:{_listed(wrong)}",
            hint="a patient is in one split: correct the files",
        )
    return {patient: split for patient, by_split in splits.items() for split in by_split}


def _places(entries: Sequence[Entry]) -> str:
    """Where a patient stands: the first lines of each file."""
    lines: dict[str, list[int]] = {}
    for entry in entries:
        lines.setdefault(entry.file, []).append(entry.line)
    texts = []
    for file, numbers in lines.items():
        more = f", … {len(numbers)} lines" if len(numbers) > 3 else ""
        texts.append(f"{file}, line {', '.join(map(str, numbers[:3]))}{more}")
    return "; ".join(texts)
