"""Vectors in trees: a file a patient or slide, its rows slices or patches; and clip-retrieval's numbered parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from featstore.errors import ConflictError, InputError, UsageError
from featstore.imports import hdf5
from featstore.imports.columns import Columns, column_names, is_ours, read_table
from featstore.imports.matching import counted, duplicates, shown
from featstore.imports.request import PLACES, ImportRequest
from featstore.imports.vectors import Contents, Joined, NpyFile, Vectors
from featstore.ingest.layout import LabelType, Layout
from featstore.ingest.scan import scan

_SUFFIXES = (".npy", ".h5", ".hdf5")
_FILE_COLUMNS = ("feature_path", "file", "path")


def open_tree(root: Path, request: ImportRequest, index: Columns | None, only: str | None = None) -> Contents:
    """Open the files below a folder: (rows, dim) each, whose rows become ``<path>#row=0``, …, or by coordinates
    ``<path>#x=512&y=1024``.

    What is said of a file, by the layout or by a row of the index, is said of all its rows; an index with the columns
    ``file`` and ``row`` says it of each row.

    Args:
        only: of the folder, this file alone.

    Raises:
        UsageError: no files, or no word of which row of the index is of which. ConflictError: files and index differ.
    """
    paths, fields, label_type, unmatched = _files(root, request.layout, only)
    parts: list[Vectors] = []
    names: list[str] = []
    said: list[dict[str, str]] = []
    for path, told in zip(paths, fields, strict=True):
        part, places, facts = _part(root / path)
        parts.append(part)
        names += [path + place for place in places]
        said.append({**facts, **told})
    vectors = Joined(parts, paths)
    columns = _spread(Columns(len(paths), _columns(said), label_type), parts)
    listed: list[Path] = []
    if index is None and only is None and (own := root / "index.csv").is_file() and is_ours(column_names(own)):
        index = Columns.of(read_table(own))
        listed = [own]
    if index is not None:
        name = _file_column(index, request)
        rows_of = _find_files(index.values[name], paths, root, name)
        of = _of_rows if "row" in index.values else _of_files
        indexed = of(index, rows_of, parts, paths)
        columns = columns.joined(indexed.without(name, *PLACES), names)
    stems = [PurePosixPath(path).stem for path, part in zip(paths, parts, strict=True) for _ in range(part.count)]
    files = [root / path for path in paths] + listed
    by_place = all("#x=" in name for name in names)
    return Contents(vectors, files, names, columns, named=True, coordinates=by_place, stems=stems, unmatched=unmatched)


def open_clip(root: Path) -> Contents:
    """Open what clip-retrieval writes: part N of ``img_emb/`` goes row by row with part N of ``metadata/``.

    Raises:
        ConflictError: a part without its partner, or with another number of rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = _numbered(root / "img_emb", "img_emb_", ".npy")
    tables = _numbered(root / "metadata", "metadata_", ".parquet")
    if alone := sorted(arrays.keys() ^ tables.keys()):
        lonely = arrays.get(alone[0]) or tables[alone[0]]
        raise ConflictError(
            f"Of {root.name}, {counted(len(alone), 'part', 'have')} an array or metadata only, such as {lonely.name}.",
            hint="part N of img_emb belongs to part N of metadata: copy both",
        )
    if not arrays:
        raise UsageError(f"{root}/img_emb has no img_emb_N.npy.")
    parts, rows = [], []
    for number in sorted(arrays):
        part = NpyFile(arrays[number])
        try:
            table = pq.ParquetFile(tables[number]).read()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{tables[number]} can't be read: {str(error).splitlines()[0]}") from error
        if table.num_rows != part.count:
            raise ConflictError(
                f"{arrays[number].name} has {part.count:,} rows, and {tables[number].name} {table.num_rows:,}."
            )
        parts.append(part)
        rows.append(table.select([f.name for f in table.schema if not pa.types.is_nested(f.type)]))
    names = [
        f"{arrays[n].name}#row={r}" for n, part in zip(sorted(arrays), parts, strict=True) for r in range(part.count)
    ]
    joined = Joined(parts, [arrays[number].name for number in sorted(arrays)])
    columns = Columns.of(pa.concat_tables(rows, promote_options="permissive"))
    files = [*(arrays[n] for n in sorted(arrays)), *(tables[n] for n in sorted(tables))]
    key = "image_path" if "image_path" in columns.values else None
    return Contents(joined, files, names, columns, key=key, alone=True)


def _numbered(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.glob(f"{prefix}*{suffix}")):
        if match := re.fullmatch(r"[0-9]+", path.name.removeprefix(prefix).removesuffix(suffix)):
            if int(match[0]) in found:
                raise ConflictError(f"{found[int(match[0])]} and {path} are one part.")
            found[int(match[0])] = path
    return found


def _files(
    root: Path, layout: str | None, only: str | None
) -> tuple[list[str], list[dict[str, str]], LabelType | None, list[str]]:
    """Paths below the root, with what the layout says of each; and the files with vectors that it doesn't match."""
    if only is not None:
        fields = Layout.parse(layout).match(only) if layout else {}
        if fields is None:
            raise UsageError(f"{only!r} doesn't match the layout {layout!r}.")
        return [only], [fields], Layout.parse(layout).label_type if layout else None, []
    texts = [layout] if layout else [f"**/*{suffix}" for suffix in _SUFFIXES]
    found = scan(root, [Layout.parse(text) for text in texts])
    paths = [item.path for item in found.found]
    if odd := [path for path in paths if not path.lower().endswith(_SUFFIXES)]:
        raise UsageError(
            f"By the layout, {counted(len(odd), 'file', 'hold')} no vectors that can be read: {shown(odd)}.",
            hint=f"end the layout with {' or '.join(_SUFFIXES)}",
        )
    unmatched = [path for path in found.unmatched if path.lower().endswith(_SUFFIXES)]
    return paths, [item.fields for item in found.found], found.label_type, unmatched


def _part(path: Path) -> tuple[Vectors, list[str], dict[str, str]]:
    """A file's vectors, what to add to its name for each of them, and what it says of them all."""
    if path.suffix.lower() == ".npy":
        part = NpyFile(path)
        return part, [""] if part.single else [f"#row={row}" for row in range(part.count)], {}
    patches = hdf5.open_patches(path)
    if patches is not None:
        vectors, places, facts = patches
        return vectors, [f"#{place}" for place in places], facts
    contents = hdf5.open_h5(path)
    return contents.vectors, [name.removeprefix(path.name) for name in contents.names], {}


def _columns(said: Sequence[dict[str, str]]) -> dict[str, list[str | None]]:
    names = dict.fromkeys(name for facts in said for name in facts)
    return {name: [facts.get(name) for facts in said] for name in names}


def _spread(columns: Columns, parts: Sequence[Vectors]) -> Columns:
    """What is said of files, said of each of their rows."""
    return columns.take([file for file, part in enumerate(parts) for _ in range(part.count)])


def _file_column(index: Columns, request: ImportRequest) -> str:
    wanted = [request.key] if request.key is not None else list(_FILE_COLUMNS)
    found = next((name for name in wanted if name in index.values), None)
    if found is None:
        raise UsageError(
            f"The index has no column {' or '.join(map(repr, wanted))} that says which file a row is of.",
            hint=f"its columns: {', '.join(index.values)}; --key names another",
        )
    return found


def _find_files(texts: Sequence[str | None], paths: Sequence[str], root: Path, name: str) -> list[int]:
    """The number of the file that each row of the index names: by its path below the folder, with the folder's own name
    before it or not, or by its name or stem where no other file has it.

    Raises:
        ConflictError: there is no such file.
    """
    numbers: dict[str, int | None] = {}
    for number, path in enumerate(paths):
        pure = PurePosixPath(path)
        for short in {pure.name, pure.stem, path[: -len(pure.suffix)]} - {path}:
            numbers[short] = None if short in numbers else number
    numbers |= {path: number for number, path in enumerate(paths)}
    own = root.resolve().name
    found: list[int] = []
    missing: list[str] = []
    for text in texts:
        written = (text or "").replace("\\", "/")
        below = written.rpartition(f"/{own}/")[2] if f"/{own}/" in f"/{written}" else written
        below = below.removeprefix(f"{own}/") if below not in numbers else below
        place = numbers.get(written, numbers.get(below))
        if place is None:
            missing.append(str(text))
        else:
            found.append(place)
    if missing:
        raise ConflictError(
            f"In the index, {counted(len(missing), name, 'name')} no file below {root}, or more than one: "
            f"{shown(missing)}.",
            hint="write the paths from that folder on, as they are there",
        )
    return found


def _of_files(index: Columns, files: Sequence[int], parts: Sequence[Vectors], paths: Sequence[str]) -> Columns:
    """What an index of files says, said of each row; ``num_slices`` must be the number of a file's rows."""
    told = index.take(_once(files, paths))
    if "num_slices" in told.values:
        for number, rows in enumerate(told.whole_numbers("num_slices")):
            if rows != parts[number].count:
                raise ConflictError(
                    f"{paths[number]} has {parts[number].count} rows, and num_slices {rows} by the index.",
                    hint="was one of them made anew, and the other not?",
                )
    return _spread(told, parts)


def _of_rows(index: Columns, files: Sequence[int], parts: Sequence[Vectors], paths: Sequence[str]) -> Columns:
    starts, total = [], 0
    for part in parts:
        starts.append(total)
        total += part.count
    places = []
    for number, row in zip(files, index.whole_numbers("row"), strict=True):
        if row >= parts[number].count:
            raise ConflictError(f"The index names row {row} of {paths[number]}, which has {parts[number].count}.")
        places.append(starts[number] + row)
    names = [f"{path}#row={row}" for path, part in zip(paths, parts, strict=True) for row in range(part.count)]
    return index.take(_once(places, names))


def _once(places: Sequence[int], names: Sequence[str]) -> list[int]:
    """The index's row of each of the named places; each must be there, once."""
    if twice := duplicates([names[place] for place in places]):
        raise ConflictError(f"The index names {counted(len(twice), 'place')} more than once: {shown(twice)}.")
    by_place = {place: row for row, place in enumerate(places)}
    if absent := [name for place, name in enumerate(names) if place not in by_place]:
        raise ConflictError(f"The index lacks {len(absent):,} of the folder's {len(names):,}: {shown(absent)}.")
    return [by_place[place] for place in range(len(names))]
