"""Scanning: the files of a folder, of this machine or behind a URL, that layouts match, with their masks."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from featstore import locations
from featstore.errors import NotFoundError, SetupError, UsageError
from featstore.ingest.layout import LabelType, Layout, fill
from featstore.keys import split_fragment


@dataclass(slots=True)
class Mask:
    """A mask's file: its path below the root, perhaps with ``#label=1,2``, and its stat; -1 where it isn't there."""

    path: str
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Found:
    """One file, or one part of it: what becomes a sample.

    Attributes:
        path: below the root, with the part's ``#fragment``.
        fields: what the layout or the manifest says of it.
        size, mtime_ns: of the file; -1 where it isn't there.
        said: what the file itself says of it, where the fields don't.
        alone: where nothing says which patient it is of, it is an entity of its own.
        error: why its parts can't be listed; it is taken whole then, and fails when it is extracted.
    """

    path: str
    fields: dict[str, str]
    size: int
    mtime_ns: int
    mask: Mask | None = None
    said: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False
    error: str | None = None


@dataclass(slots=True)
class Scan:
    """What a walk over a tree found.

    Attributes:
        found: the files that a layout matched, in path order.
        unmatched: files that no layout matched, in path order.
        label_type: how labels come back.
        masks_told: it was said where masks are, so that a sample without one has none.
        unclaimed: masks that belong to no sample.
    """

    found: list[Found]
    unmatched: list[str]
    label_type: LabelType | None
    masks_told: bool = False
    unclaimed: list[str] = field(default_factory=list)


def scan(root: str | os.PathLike[str], layouts: Sequence[Layout], mask_layout: str | None = None) -> Scan:
    """Walk a tree and match every file; the first layout that matches wins.

    Args:
        root: a folder, or a URL whose files are below it.
        mask_layout: where a sample's mask is, below ``root``, from its fields, its ``{folder}`` and its file's
            ``{stem}``: ``{folder}/{stem}_mask.png``. Masks are no samples; samples may have none.

    Raises:
        NotFoundError: ``root`` is no folder. UsageError: no layout, nothing matched, or label types that differ.
    """
    root = os.fspath(root)
    if not locations.is_url(root) and not Path(root).is_dir():
        raise NotFoundError(f"There is no folder {root}.", hint="give the folder that the layouts start from")
    if not layouts:
        raise UsageError("A folder is ingested by at least one --layout, such as '{patient_id}/{modality}/*.png'.")
    types = {layout.label_type for layout in layouts if layout.label_type}
    if len(types) > 1:
        raise UsageError(f"The layouts give {{label}} different types: {', '.join(sorted(types))}.")
    result = Scan([], [], types.pop() if types else None)
    stats: dict[str, tuple[int, int]] = {}
    for path, size, mtime_ns in _files(root):
        if mask_layout is not None:
            stats[path] = size, mtime_ns
        for layout in layouts:
            if (fields := layout.match(path)) is not None:
                _check_path(path)
                result.found.append(Found(path, fields, size, mtime_ns))
                break
        else:
            result.unmatched.append(os.fsencode(path).decode(errors="backslashreplace"))
    if not result.found:
        example = f" The first file there is {result.unmatched[0]!r}." if result.unmatched else " It holds no files."
        raise UsageError(
            f"No file below {root} matches {' or '.join(repr(layout.text) for layout in layouts)}.{example}",
            hint="write the layout from the folder that you give, part by part",
        )
    if mask_layout is not None:
        _add_masks(result, mask_layout, stats)
    return result


def _add_masks(scan: Scan, template: str, stats: Mapping[str, tuple[int, int]]) -> None:
    """Give each sample its mask, where there is one, and take the masks out of the samples."""
    looked_for = {}
    for item in scan.found:
        folder, _, name = item.path.rpartition("/")
        words = item.fields | {"folder": folder or ".", "stem": name.rpartition(".")[0] or name}
        looked_for[item.path] = posixpath.normpath(fill(template, words, "--mask-layout"))
    file_of = {path: split_fragment(mask)[0] for path, mask in looked_for.items()}
    masks = {mask for path, mask in looked_for.items() if file_of[path] in stats and file_of[path] != path}
    files = {split_fragment(mask)[0] for mask in masks}
    if not masks:
        first, mask = next(iter(looked_for.items()))
        if file_of[first] == first:
            raise UsageError(f"--mask-layout {template!r} makes {first!r} its own mask.")
        raise UsageError(
            f"--mask-layout {template!r} finds no mask: that of {first!r} would be {mask!r}, which isn't there.",
            hint="write it from the folder that you give; {folder} and {stem} are those of the sample's file",
        )
    # Also what would be the mask of an image that isn't there: it is no image either. {folder} may be of any depth.
    # A template that says this of images with masks, too, can't tell.
    pattern = Layout.parse(template.partition("#")[0].replace("{folder}/..", "**").replace("{folder}", "**"))
    if not any(pattern.match(path) for path, mask in looked_for.items() if mask in masks and path not in files):
        scan.unclaimed = [path for path in stats if path not in files and pattern.match(path) is not None]
        files.update(scan.unclaimed)
    scan.masks_told = True
    scan.found = [item for item in scan.found if item.path not in files]
    scan.unmatched = [path for path in scan.unmatched if path not in files]
    for item in scan.found:
        if (mask := looked_for[item.path]) in masks:
            item.mask = Mask(mask, *stats[split_fragment(mask)[0]])


def _check_path(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise UsageError(f"The name of {shown!r} isn't UTF-8.", hint="rename it; convmv does whole trees") from None
    if split_fragment(path)[1] is not None:
        raise UsageError(
            f"The name {path!r} can't be told from a part of a file, because of its '#'.",
            hint="rename the file or folder",
        )


def _files(root: str) -> Iterator[tuple[str, int, int]]:
    """Every file below a folder or URL in a fixed order, as (POSIX path, size, mtime_ns); hidden ones are skipped."""
    if not locations.is_url(root):
        yield from _local_files(Path(root))
        return
    try:
        for path, stat in locations.walk(locations.check_url(root)):
            yield path, *stat
    except FileNotFoundError:
        raise NotFoundError(
            f"There is nothing below {root}.", hint="check the URL; a folder's ends before '/'"
        ) from None


def _local_files(root: Path) -> Iterator[tuple[str, int, int]]:
    """Every file below a folder, as :func:`_files` gives it.

    Links are followed, but not in circles. One that leads nowhere is a file of size -1: it fails when it is extracted.
    """
    stack: list[tuple[Path, frozenset[tuple[int, int]]]] = [(root, frozenset())]
    while stack:
        folder, above = stack.pop()
        stat = folder.stat()
        if (stat.st_dev, stat.st_ino) in above:
            continue
        above |= {(stat.st_dev, stat.st_ino)}
        folders = []
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except PermissionError as error:
            raise SetupError(f"The folder {folder} can't be read.", hint="check its owner and mode") from error
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            try:
                stat = entry.stat()
            except OSError:
                yield path.relative_to(root).as_posix(), -1, -1
                continue
            if S_ISDIR(stat.st_mode):
                folders.append((path, above))
            elif S_ISREG(stat.st_mode):
                yield path.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns
        stack.extend(reversed(folders))
