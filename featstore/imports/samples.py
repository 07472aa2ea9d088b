"""Samples of an import: those that are in the store, checked against the index; or made of it, as an ingest does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from featstore.catalog import imports as catalog
from featstore.catalog.samples import IMPORTED
from featstore.errors import ConflictError, UsageError
from featstore.imports.elsewhere import known_by_files, refuse_doubles
from featstore.imports.matching import Matched, counted, shown
from featstore.imports.request import ImportRequest
from featstore.imports.vectors import Contents
from featstore.ingest.layout import LabelType
from featstore.ingest.samples import PART, sample_rows
from featstore.ingest.scan import Found, Scan
from featstore.keys import fill, natural_order

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Truth as text, where labels are whole numbers.
_BOOLEANS = {"false": "0", "true": "1"}


@dataclass(slots=True)
class Planned:
    """The samples of an import, in natural order of their keys.

    Attributes:
        rows: as :data:`featstore.catalog.samples.SCHEMA` has them.
        places: the source's row of each.
        samples, contents: sample key → id and number of its bytes, of those that are in the store.
        ignored: attributes that samples lack which are in the store: an import adds none to them.
        dataset, root: of the samples that are made, or where none is, of one that is there.
    """

    rows: pa.Table
    places: list[int]
    samples: dict[str, int]
    contents: dict[str, int]
    dataset: str
    root: str
    ignored: list[str]

    @property
    def made(self) -> int:
        """How many samples are to be made."""
        return int(self.rows.num_rows) - len(self.samples)


def plan_samples(
    connection: duckdb.DuckDBPyConnection, matched: Matched, contents: Contents, request: ImportRequest
) -> Planned:
    """Find the samples in the store, or make their rows.

    Raises:
        ConflictError: some are there and some aren't, or what is said of them isn't what the catalog says.
        UsageError: nothing says whose a sample is that is to be made.
    """
    import pyarrow as pa

    _check_modality(matched, request)
    keys = known_by_files(connection, matched, request)
    found = {
        row.pop("sample_key"): row for row in catalog.known(connection, pa.table({"sample_key": keys})).to_pylist()
    }
    new = [key for key in keys if key not in found]
    if not found and not request.new_samples and request.dataset is None:
        refuse_doubles(connection, matched)
    if found and new and not request.new_samples:
        raise ConflictError(
            f"{counted(len(new), 'row', 'are')} of no sample in the store, and {len(found):,} of some that are there: "
            f"{shown(new)}.",
            hint="--new-samples makes them",
        )
    types = catalog.label_types(connection)
    kind: LabelType | None = request.label_type or (types[0] if len(types) == 1 else matched.columns.label_type)  # type: ignore[assignment]
    order = sorted(range(len(keys)), key=lambda row: natural_order(keys[row]))
    rows = pa.concat_tables(
        [
            _part(order[start : start + PART], keys, matched, contents, request, found, kind)
            for start in range(0, len(order), PART)
        ]
    )
    _check_attributes(connection, rows, request)
    ignored = _ignored(rows, found)
    rows = _with_files(rows, found)
    if new:
        dataset, root = request.data_set, catalog.dataset_root(connection, request.data_set) or IMPORTED
    else:
        dataset, root = (str(next(iter(found.values()))[name]) for name in ("dataset", "root"))
    return Planned(
        rows, order, {key: row["sample"] for key, row in found.items()},
        {key: row["content"] for key, row in found.items()}, dataset, root, ignored,
    )  # fmt: skip


def _part(
    order: list[int],
    sample_keys: Sequence[str],
    matched: Matched,
    contents: Contents,
    request: ImportRequest,
    found: Mapping[str, Mapping[str, Any]],
    kind: LabelType | None,
) -> pa.Table:
    """Some rows, through the very checks of an ingest."""
    import pyarrow as pa

    items, keys = [], []
    for row in order:
        key = sample_keys[row]
        fields = matched.columns.fields(row)
        if kind == "int" and (label := fields.get("label", "").lower()) in _BOOLEANS:
            fields["label"] = _BOOLEANS[label]
        words = {**fields, "sample_key": key, "dataset": request.data_set}
        words["file"] = contents.stems[row] if contents.stems else ""
        if matched.key is not None:
            words[matched.key] = matched.texts[row]
        _name(fields, key, words, found.get(key), contents.alone, request)
        items.append(Found(key, fields, -1, -1))
        keys.append(key)
    rows = sample_rows(Scan(items, [], kind), "/", request.data_set, None, None)
    for name, values in (("sample_key", keys), ("uri", [IMPORTED + key for key in keys])):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return rows


def _name(
    fields: dict[str, str],
    key: str,
    words: Mapping[str, str],
    known: Mapping[str, Any] | None,
    alone: bool,
    request: ImportRequest,
) -> None:
    """Say whose a sample is, and which modality."""
    if request.modality is not None and "modality" not in fields:
        fields["modality"] = fill(request.modality, words, "--modality")
    if request.patient_id is not None:
        fields["patient_id"] = fill(request.patient_id, words, "--patient-id")
    if known is not None:
        fields.setdefault("patient_id", known["patient_id"])
        fields.setdefault("modality", known["modality"])
    elif alone:
        fields.setdefault("patient_id", key)
    if not fields.get("patient_id"):
        raise UsageError(
            f"Nothing says which patient {key!r} is of, and it isn't in the store.",
            hint="give the index a column patient_id, or --patient-id TEMPLATE ('{sample_key}' where each sample "
            "stands for itself); for samples that are in the store, --dataset NAME and --key COLUMN give their keys",
        )


def _check_modality(matched: Matched, request: ImportRequest) -> None:
    """Raise :class:`ConflictError` for a modality that is of no row: each has another of its own."""
    own = matched.columns.values.get("modality")
    if request.modality is None or "{" in request.modality or own is None or None in own or request.modality in own:
        return
    raise ConflictError(
        f"--modality {request.modality!r} is of no row: the index or the source says {own[0]!r}.",
        hint="leave out one of them",
    )


def _check_attributes(connection: duckdb.DuckDBPyConnection, rows: pa.Table, request: ImportRequest) -> None:
    odd = catalog.contradicted(connection, rows.select(["sample_key", "attributes"]))
    if odd:
        lines = "".join(f"\n    {key}, {name}: {old} → {new}" for key, name, old, new in odd[:5])
        raise ConflictError(
            f"In the store, {counted(len(odd), 'attribute', 'are')} another:{lines}",
            hint="correct the index, or leave those columns out of it",
        )


def _ignored(rows: pa.Table, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    names: set[str] = set()
    for key, attributes in zip(*(rows.column(name).to_pylist() for name in ("sample_key", "attributes")), strict=True):
        if key in found and attributes:
            names |= {name for name, _ in attributes} - {name for name, _ in found[key]["attributes"] or ()}
    return sorted(names)


def _with_files(rows: pa.Table, found: Mapping[str, Mapping[str, Any]]) -> pa.Table:
    """The rows; those of samples that are there with their own files and attributes, which an import leaves alone."""
    import pyarrow as pa

    if not found:
        return rows
    keys = rows.column("sample_key").to_pylist()
    for name in ("uri", "size", "mtime_ns", "attributes"):
        position = rows.schema.get_field_index(name)
        values = [
            found[key][name] if key in found else value
            for key, value in zip(keys, rows.column(name).to_pylist(), strict=True)
        ]
        rows = rows.set_column(position, name, pa.array(values, rows.schema.field(name).type))
    return rows
