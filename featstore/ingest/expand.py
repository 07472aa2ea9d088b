"""Expanding: one file becomes the samples that it holds, as its reader lists them: slices, frames, rows."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from featstore import kept_open
from featstore.errors import (
    ConflictError,
    FeatstoreError,
    InputError,
    NotFoundError,
    PluginError,
    SetupError,
    UsageError,
    did_you_mean,
    one_line,
)
from featstore.ingest.layout import FIELDS, Layout
from featstore.ingest.scan import Found, Mask, Scan, scan
from featstore.keys import split_fragment
from featstore.locations import check_url, is_url, join, stat
from featstore.plugins import Plugins
from featstore.source import Source
from featstore.spec import Part, ReaderSpec


def parse_settings(texts: Sequence[str]) -> dict[str, str]:
    """The words of ``--expand``: ``axis=2,step=3``.

    >>> parse_settings(["axis=2,step=3"])
    {'axis': '2', 'step': '3'}

    Raises:
        UsageError: not KEY=VALUE, or one key twice.
    """
    settings: dict[str, str] = {}
    for word in (word for text in texts for word in text.split(",")):
        key, mark, value = (part.strip() for part in word.partition("="))
        if not (key and mark and value):
            raise UsageError(f"--expand {word!r} isn't KEY=VALUE, such as axis=2,step=3.")
        if key in settings:
            raise UsageError(f"--expand gives {key!r} twice.")
        settings[key] = value
    return settings


def find(
    root: str, layouts: Sequence[str], settings: Sequence[str], mask_layout: str | None, plugins: Plugins
) -> tuple[str, str, Scan]:
    """Find the samples of a folder, a URL or one file.

    Args:
        root: a folder or URL with ``layouts`` for what is below it; or one file that holds its samples.
        layouts: path templates, or the name of a reader, such as ``dicom``, which reads from the files themselves
            whose they are.
        settings: of ``--expand``.

    Returns:
        the folder or URL that paths are below, a name for the data set, what was found.

    Raises:
        UsageError, NotFoundError: nothing there, or nothing that fits.
    """
    chosen = parse_settings(settings)
    asked = [name for name in layouts if name in {item.name for item in plugins.registered("reader")}]
    one_file = not os.path.isdir(root) if not is_url(root) else not layouts
    if asked and len(layouts) > 1:
        raise UsageError(f"--layout {asked[0]} reads the files themselves, and goes with no other layout.")
    if one_file and (len(layouts) > len(asked) or mask_layout):
        raise NotFoundError(f"There is no folder {root}.", hint="a single file takes neither layouts nor masks")
    if asked and mask_layout:
        raise UsageError("--mask-layout goes with path templates.", hint="list the masks in a --manifest, in mask_uri")
    if one_file:
        base, found = _one_file(root)
        (item,) = found.found
        if not asked and (not plugins.reads(item.path) or plugins.reader(item.path).expand is None):
            raise UsageError(
                f"{item.path} isn't a file that holds several samples.",
                hint="give its folder with --layout '{patient_id}/{modality}/*.png', or a --manifest",
            )
        return base, _stem(item.path, plugins), _required(expand_all(found, base, plugins, chosen))
    name = root.rstrip("/").rpartition("/")[2] if is_url(root) else os.path.basename(os.path.realpath(root))
    if asked:
        return root, name, _by_reader(root, plugins.spec("reader", asked[0]), plugins, chosen)
    found = scan(root, [Layout.parse(text) for text in layouts], mask_layout)
    return root, name, expand_all(found, root, plugins, chosen)


def _stem(name: str, plugins: Plugins) -> str:
    """A file's name without the ending that its reader knows: ``scan`` of ``scan.nii.gz``."""
    endings = [s for s in plugins.reader(name).suffixes if s and name.lower().endswith(s)]
    return name[: len(name) - max(map(len, endings))] if endings else name


def _required(found: Scan) -> Scan:
    for item in found.found:
        if item.error:
            raise InputError(f"{item.path}: {item.error}")
    return found


def _one_file(location: str) -> tuple[str, Scan]:
    """One file as what was found in its folder: that folder, or URL, and the file.

    Raises:
        NotFoundError: it isn't there.
    """
    if is_url(location):
        root, _, name = check_url(location).rpartition("/")
    else:
        root, name = os.path.split(os.path.abspath(location))
    try:
        found = stat(location)
    except FileNotFoundError:
        raise NotFoundError(f"There is no file or folder {location}.", hint="check the name") from None
    return root, Scan([Found(name, {}, *found)], [], None)


def _by_reader(root: str, reader: ReaderSpec, plugins: Plugins, settings: Mapping[str, str]) -> Scan:
    """Every file below a folder that one reader reads, with what the files themselves say of their samples.

    Files that it can't read, or that hold no samples, are left out: nothing says whose they are.
    """
    found = scan(root, [Layout.parse("**")])
    mine = [item for item in found.found if plugins.reads(item.path) and plugins.reader(item.path) is reader]
    others = {item.path for item in found.found} - {item.path for item in mine}
    result = expand_all(replace(found, found=mine), root, plugins, settings)
    unread = [item for item in result.found if item.error]
    result.unmatched = sorted(others)
    if len(unread) == len(result.found):
        why = f" {unread[0].path!r}: {unread[0].error}" if unread else " No file has an ending of its."
        raise UsageError(f"The reader {reader.name!r} finds no sample below {root}.{why}")
    return result


def expand_all(found: Scan, root: str, plugins: Plugins, settings: Mapping[str, str]) -> Scan:
    """List the samples of every file whose reader can tell; the others stay as they are, and so do named parts.

    Args:
        found: with paths below ``root``.
        settings: of ``--expand``, for those readers that know them.

    Raises:
        UsageError: a setting that no reader of these files knows, or a bad one.
        PluginError: a reader lists one part twice.
    """
    kept_open.forget()
    items: list[Found] = []
    known: set[str] = set()
    for item in found.found:
        file, fragment = split_fragment(item.path)
        reader = plugins.reader(file) if plugins.reads(file) else None
        if reader is None or reader.expand is None or fragment is not None or item.size < 0:
            items.append(item)
            continue
        known.update(reader.settings)
        given = {key: value for key, value in settings.items() if key in reader.settings}
        items += _parts(item, reader, Source(join(root, item.path)), given)
    if unknown := sorted(settings.keys() - known):
        raise UsageError(
            f"No reader of these files knows --expand {unknown[0]}.{did_you_mean(unknown[0], known)}",
            hint=f"they know: {', '.join(sorted(known)) or 'no settings'}",
        )
    return replace(found, found=items)


def _parts(item: Found, reader: ReaderSpec, source: Source, settings: Mapping[str, str]) -> Iterable[Found]:
    assert reader.expand is not None
    try:
        parts = list(reader.expand(source, settings))
        if not parts:
            raise InputError("There is no sample in it.")
        for part in parts:
            for name in FIELDS:
                if not part.fields.get(name, "").isprintable():
                    raise InputError(f"Its {name} holds characters that can't be printed.")
    except FileNotFoundError:
        return [replace(item, size=-1, mtime_ns=-1)]  # gone since it was listed
    except ImportError as error:
        raise SetupError(f"{reader.name} files need something that isn't here: {error}.", hint="install it") from error
    except Exception as error:
        if source.fault is not None:
            raise source.fault from error
        if isinstance(error, (UsageError, ConflictError)):
            raise type(error)(f"{item.path}: {error.message}", hint=error.hint) from error
        if isinstance(error, MemoryError) or (isinstance(error, FeatstoreError) and not isinstance(error, InputError)):
            raise
        return [replace(item, error=one_line(str(error)) or type(error).__name__)]
    if twice := [fragment for fragment, count in Counter(part.fragment for part in parts).items() if count > 1]:
        raise PluginError(f"The reader {reader.name} lists #{twice[0]} of {item.path!r} twice.")
    return _found(item, parts)


def _found(item: Found, parts: Iterable[Part]) -> Iterator[Found]:
    for part in parts:
        path, mask = item.path, item.mask
        if part.fragment is not None:
            path = f"{item.path}#{part.fragment}"
            if split_fragment(path) != (item.path, part.fragment):
                raise PluginError(f"{part.fragment!r} can't be told from the name of its file, {item.path!r}.")
            mask = None if mask is None else _part_of_mask(mask, part.fragment)
        yield Found(path, item.fields, item.size, item.mtime_ns, mask, part.fields, part.alone)


def _part_of_mask(mask: Mask, fragment: str) -> Mask:
    """The mask of a part: the same part of the mask's file."""
    file, labels = split_fragment(mask.path)
    return replace(mask, path=f"{file}#{fragment}" + (f"&{labels}" if labels else ""))
