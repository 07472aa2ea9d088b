"""Exporting: the vectors of a feature set, or the rows of a training table → whatever form the next tool wants."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featstore.catalog import exported, training_tables
from featstore.catalog.connection import Catalog
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.files import inside
from featstore.keys import Ref
from featstore.locations import is_url
from featstore.plugins import Plugins
from featstore.spec import ExporterSpec
from featstore.tables.data import CARD, DATA, TableData, fold_name, unless_same
from featstore.tables.made_of import require_unaltered
from featstore.tables.placing import card_beside, check_target, placing
from featstore.tables.selection import Selection, select

#: What a name may be the name of, and the word that says which is meant.
_KINDS = {"features": "feature set", "tables": "training table"}


@dataclass(frozen=True, slots=True)
class Exported:
    """What left of one feature set or table: ``shape`` is that of all vectors together, (rows, …)."""

    name: str
    version: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export wrote.

    Attributes:
        out: the file or folder.
        format: the exporter's name.
        contents: what is in it.
        files: how many files were made; ``nbytes``: their size.
    """

    out: Path
    format: str
    contents: tuple[Exported, ...]
    files: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which rows leave; see :func:`featstore.tables.selection.select`. ``fold`` is of a table of folds."""

    split: str | None = None
    fold: int | None = None
    scheme: str | None = None
    modality: str | None = None
    where: str | None = None


ALL = Choice()


def export(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    names: Sequence[str],
    *,
    out: str | os.PathLike[str],
    format: str | None = None,
    choice: Choice = ALL,
    layout: str | None = None,
    wide: bool = False,
) -> ExportResult:
    """Write the current vectors of feature sets, or a training table, to a file or folder.

    Args:
        names: ``NAME`` or ``NAME@vK`` of a feature set or a training table, with ``features/`` or ``tables/`` in front
            where both have it; several feature sets where the format can hold them.
        out: replaced where it is a file, once the new one is complete, with the index that an export made beside it;
            a folder is never written over.
        format: an exporter's name; where it isn't given, the ending of ``out`` says it.
        layout: which rows go together, for formats that group: ``{split}/{modality}/{patient_id}.npy``.
        wide: one column a feature, where the format has columns.

    Raises:
        NotFoundError: no such name, format, split, modality or scheme, or no row is left.
        UsageError: what was asked for doesn't go together, or the format can't hold it.
        ConflictError: a folder is there already, or a file where the index goes.
        SetupError: a library is missing, or the disk is full.
    """
    if not names:
        raise UsageError("An export needs the name of a feature set or a training table.", hint="featstore ls features")
    if is_url(os.fspath(out)):
        raise UsageError(f"--out {out} is a URL, and exports are files.", hint="write a file, then upload that")
    out = Path(out)
    exporter = _exporter(plugins, out, format)
    check_target(store, out, exporter)
    if layout is not None and not exporter.grouped:
        able = sorted(item.name for item in plugins.registered("exporter") if item.spec.grouped)
        raise UsageError(
            f"The format {exporter.name} puts all rows into one place, and takes no --layout.",
            hint=f"--format {' or '.join(able)}",
        )
    refs = [_resolve(catalog, name) for name in names]
    tables = [ref for kind, ref in refs if kind == "training table"]
    if not tables:
        if choice.fold is not None:
            raise UsageError("--fold is of training tables: a feature set has none.", hint="leave it out")
        return _features(store, catalog, exporter, [ref for _, ref in refs], out, choice, layout, wide)
    if len(refs) > 1:
        raise UsageError(f"{tables[0]} is a training table, and one file takes one table.", hint="export it by itself")
    if choice.scheme or choice.modality or choice.where or layout is not None:
        raise UsageError(
            f"{tables[0]} is a training table: of one, --split and --fold alone choose rows.",
            hint="materialize another with --where or another --scheme",
        )
    return _table(store, catalog, plugins, exporter, tables[0], out, choice, wide)


def _features(
    store: Path,
    catalog: Catalog,
    exporter: ExporterSpec,
    refs: Sequence[Ref],
    out: Path,
    choice: Choice,
    layout: str | None,
    wide: bool,
) -> ExportResult:
    several = exporter.write_several
    if len(refs) > 1 and several is None:
        raise UsageError(
            f"The format {exporter.name} holds one feature set, and {len(refs)} are named.", hint="--format h5mu"
        )
    selections = {}
    for ref in refs:
        found = select(
            store, catalog, ref, split=choice.split, scheme=choice.scheme or "default", modality=choice.modality,
            where=choice.where,
        )  # fmt: skip
        name = found.feature_set.name if len({r.name for r in refs}) == len(refs) else str(found.feature_set)
        if name in selections:
            raise UsageError(f"{name} is named twice.")
        template = exporter.layout if layout is None else layout
        selections[name] = found.grouped(template) if exporter.grouped and template else found

    def write(path: Path) -> None:
        if len(selections) > 1:
            assert several is not None
            several(path, {name: (s.schema(), s.batches()) for name, s in selections.items()})
        else:
            (one,) = selections.values()
            exporter.write(path, one.schema(), one.batches(), wide=wide)

    with placing(out, write) as made:
        contents = tuple(map(_exported, selections.values()))
        return ExportResult(out, exporter.name, contents, made.files, made.nbytes)


def _exported(selection: Selection) -> Exported:
    found = selection.feature_set
    return Exported(found.name, found.version, selection.shape, selection.dtype)


def _table(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    exporter: ExporterSpec,
    ref: Ref,
    out: Path,
    choice: Choice,
    wide: bool,
) -> ExportResult:
    with catalog.read() as connection:
        row = training_tables.get(connection, ref)
    writer = unless_same(plugins, exporter, wide=wide, split=choice.split)
    path, name = inside(store, row["path"]), f"{row['name']}@v{row['version']}"
    facts = {"name": row["name"], "version": row["version"]}
    require_unaltered(path, row["folds"] or 0, row["data_hash"], name)
    data = TableData(path / fold_name(name, row["folds"] or 0, choice.fold) / DATA, facts, choice.split)
    shape: list[int] = []

    def write(target: Path) -> None:
        shape.extend(data.write(writer, target, wide=wide))
        if (path / CARD).exists():  # versions of before have none
            shutil.copyfile(path / CARD, card_beside(target))

    with placing(out, write) as made:
        contents = Exported(row["name"], row["version"], tuple(shape), "float32")
        return ExportResult(out, exporter.name, (contents,), made.files, made.nbytes)


def _exporter(plugins: Plugins, out: Path, format: str | None) -> ExporterSpec:
    """The exporter that is meant.

    An ending that no format has is the user's own business, where the format is named; the ending of another format
    would deceive whoever opens the file.
    """
    if format is None:
        return plugins.exporter(out)
    exporter: ExporterSpec = plugins.spec("exporter", format)
    suffixes = {item.spec.suffix: item.name for item in plugins.registered("exporter")}
    other = suffixes.get(out.suffix.lower())
    if other not in (None, format):
        raise UsageError(
            f"{out.name} ends as {other} does, and --format is {format}.",
            hint=f"--out {out.with_suffix(exporter.suffix).name}, or leave out --format",
        )
    return exporter


def _resolve(catalog: Catalog, text: str) -> tuple[str, Ref]:
    """The kind and the reference of ``[features/|tables/]NAME[@vK]``."""
    word, mark, rest = text.rpartition("/")
    if mark and word not in _KINDS:
        raise UsageError(f"{text!r} isn't NAME, NAME@vK, features/NAME or tables/NAME.")
    ref = Ref.parse(rest)
    if mark:
        return _KINDS[word], ref
    with catalog.read() as connection:
        found, known = exported.kinds(connection, ref.name), exported.names(connection)
    if not found:
        raise NotFoundError(
            f"There is no feature set or training table {ref.name!r}.{did_you_mean(ref.name, known)}",
            hint="featstore ls features; featstore ls tables",
        )
    if len(found) > 1:
        raise UsageError(
            f"{ref.name!r} is a feature set and a training table.", hint=f"features/{ref} or tables/{ref} says which"
        )
    return found.pop(), ref
