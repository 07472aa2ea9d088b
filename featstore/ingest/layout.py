"""Path templates: what a folder tree says about its files.

``{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png``: a field takes one part of a path, ``*`` and ``?``
match within a part, ``**`` any number of parts. A field that stands twice must say the same twice. A type says what a
field looks like; that of ``label`` is also how labels come back.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Literal, Self

from featstore.errors import NotFoundError, SetupError, UsageError, did_you_mean
from featstore.keys import split_fragment

#: Fields that are columns of their own; every other becomes an attribute.
FIELDS = ("patient_id", "modality", "label", "site", "visit_id", "acquired_at", "split")
LabelType = Literal["int", "float", "str"]
_PATTERNS = {"str": r"[^/]+?", "int": r"[+-]?\d+", "float": r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"}
_PIECE = re.compile(r"\{(?P<field>[^{}]*)\}|(?P<any>\*\*/?)|(?P<star>\*)|(?P<one>\?)|(?P<text>[^{}*?]+)|(?P<bad>.)")


@dataclass(frozen=True, slots=True)
class Layout:
    """A compiled path template.

    >>> layout = Layout.parse("{site}/grade{label:int}/{patient_id}/{modality}/*.png")
    >>> layout.match("JM/grade2/007/A/007_a_slice_1.png")
    {'site': 'JM', 'label': '2', 'patient_id': '007', 'modality': 'A'}
    >>> layout.match("JM/gradeX/007/A/1.png") is None
    True
    """

    text: str
    pattern: re.Pattern[str]
    fields: tuple[str, ...]
    label_type: LabelType | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Compile a template.

        Raises:
            UsageError: braces that don't match, a bad field name or an unknown type.
        """
        regex, fields, types = [], [], {}
        for piece in _PIECE.finditer(text.strip("/")):
            if (field := piece["field"]) is not None:
                name, _, kind = field.partition(":")
                if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                    raise UsageError(f"The layout {text!r} has a bad field {{{field}}}: use {{name}} or {{name:int}}.")
                kind = kind or "str"
                if kind not in _PATTERNS:
                    raise UsageError(
                        f"The layout {text!r} gives {{{name}}} the type {kind!r}.{did_you_mean(kind, _PATTERNS)}",
                        hint=f"one of: {', '.join(_PATTERNS)}",
                    )
                if name in types:
                    regex.append(f"(?P={name})")
                else:
                    fields.append(name)
                    types[name] = kind
                    regex.append(f"(?P<{name}>{_PATTERNS[kind]})")
            elif piece["any"]:
                regex.append(r"(?:.*/)?" if piece["any"] == "**/" else r".*")
            elif piece["star"]:
                regex.append(r"[^/]*")
            elif piece["one"]:
                regex.append(r"[^/]")
            elif piece["text"]:
                regex.append(re.escape(piece["text"]))
            else:
                raise UsageError(f"The layout {text!r} has a brace without its partner.")
        label: LabelType | None = types.get("label")  # type: ignore[assignment]
        return cls(text, re.compile("".join(regex), re.DOTALL), tuple(fields), label)

    def match(self, path: str) -> dict[str, str] | None:
        """The fields of a POSIX path below the root, or None where the path isn't of this layout."""
        found = self.pattern.fullmatch(path)
        return found.groupdict() if found else None


def fill(template: str, fields: Mapping[str, str], flag: str) -> str:
    """Put fields into a template.

    >>> fill("{site}-{patient_id}", {"site": "JM", "patient_id": "007"}, "--patient-id")
    'JM-007'

    Raises:
        UsageError: it asks for a field that isn't there.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name in fields:
            return fields[name]
        raise UsageError(
            f"{flag} {template!r} asks for {{{name}}}, which isn't there.{did_you_mean(name, fields)}",
            hint=f"fields: {', '.join(sorted(fields))}",
        )

    return re.sub(r"\{([^{}]*)\}", value, template)


@dataclass(slots=True)
class Mask:
    """A mask's file: its path below the root, perhaps with ``#label=1,2``, and its stat; -1 where it isn't there."""

    path: str
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Found:
    """One file: its path below the root, the fields that say what it is, and its stat; -1 where it isn't there."""

    path: str
    fields: dict[str, str]
    size: int
    mtime_ns: int
    mask: Mask | None = None


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


def scan(root: Path, layouts: Sequence[Layout], mask_layout: str | None = None) -> Scan:
    """Walk a tree and match every file; the first layout that matches wins.

    Args:
        mask_layout: where a sample's mask is, below ``root``, from its fields, its ``{folder}`` and its file's
            ``{stem}``: ``{folder}/{stem}_mask.png``. Masks are no samples; samples may have none.

    Raises:
        NotFoundError: ``root`` is no folder. UsageError: no layout, nothing matched, or label types that differ.
    """
    if not root.is_dir():
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


def _files(root: Path) -> Iterator[tuple[str, int, int]]:
    """Every file below ``root`` in a fixed order, as (POSIX path, size, mtime_ns); hidden ones are skipped.

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
