""".npy and .npz files: an array is an input, or with ``--expand axis=0`` each of its rows.

Fragments: ``/17`` is row 17, counted from 0, of the array of a .npy; ``/train`` is the array ``train`` of a .npz, and
``/train/17`` its row 17. Names are percent-encoded but for letters, digits and ``_.-~``.
"""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO
from urllib.parse import quote, unquote

import numpy.typing as npt

from featstore import InputError, Part, Source, UsageError
from featstore.hdf5.limits import MAX_BYTES, check_bytes
from featstore_readers.npy import Stored, read_header
from featstore_readers.rows import MAX_ROWS, as_image, decoding, split_row

_LOCAL = struct.Struct("<4s22xHH")
#: Arrays of more bytes than this are read row by row, without their checksum, which is of the whole.
_LARGE = 1 << 26
#: What NumPy calls arrays that were given no name: those are no partitions.
_UNNAMED = re.compile(r"arr_[0-9]+")


class Archive:
    """An open .npz: a ZIP file of arrays. Small and packed ones are read as a whole, and the last one is kept."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._zip = zipfile.ZipFile(file)
        self._last: tuple[tuple[str, bool], Stored] | None = None
        names = [info.filename for info in self._zip.infolist() if info.filename.endswith(".npy")]
        if len(set(names)) < len(names):
            raise InputError("The .npz file is corrupt: it holds two arrays of one name.")
        self.names = [name.removesuffix(".npy") for name in names]

    def close(self) -> None:
        self._last = None
        self._zip.close()

    def header(self, name: str) -> Stored:
        """What an array is, without unpacking it. Raises InputError where that can't be told."""
        info = self._info(name)
        with self._zip.open(info) as member:
            return read_header(member, name, info.file_size)  # type: ignore[arg-type]  # it reads and tells

    def array(self, name: str, *, rows: bool) -> Stored:
        """An array, to be read from: as a whole, or by ``rows``.

        Raises:
            InputError: there is none of that name, it isn't one of numbers, or takes more than 1 GiB when unpacked.
        """
        if self._last is None or self._last[0] != (name, rows):
            self._last = None
            self._last = (name, rows), self._open(self._info(name), name, rows)
        return self._last[1]

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self.names:
            raise InputError(f"The .npz file has no array {name!r}; it has {', '.join(self.names)}.")
        info = self._zip.getinfo(f"{name}.npy")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise InputError(f"{name} is packed or encrypted in a way that NumPy has not.")
        return info

    def _open(self, info: zipfile.ZipInfo, name: str, rows: bool) -> Stored:
        if rows and info.compress_type == zipfile.ZIP_STORED and info.file_size > _LARGE:
            self._file.seek(info.header_offset)
            found = self._file.read(_LOCAL.size)
            if len(found) < _LOCAL.size or not found.startswith(b"PK\3\4") or info.file_size != info.compress_size:
                raise InputError(f"The .npz file is corrupt: {name} isn't where its index says.")
            _, names, extra = _LOCAL.unpack(found)
            self._file.seek(names + extra, io.SEEK_CUR)
            return read_header(self._file, name, info.file_size)
        check_bytes(info.file_size, name)
        with self._zip.open(info) as member:
            data = member.read(info.file_size + 1)  # to its end, where its checksum is compared
        return read_header(io.BytesIO(data), name, len(data))


def _load_npy(file: BinaryIO) -> Stored:
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    return read_header(file, "The array", length)


def read(source: Source) -> npt.NDArray[Any]:
    """Read an array of numbers, or one row of it.

    Returns:
        the values in the file's own dtype, in native byte order, laid out by
        :func:`~featstore_readers.rows.as_image`.

    Raises:
        InputError: the file is damaged or has no such array or row; the array holds no numbers, or would take more
            than 1 GiB: the whole one, a row, or what has to be unpacked or put in order to get at it.
    """
    kind = _kind(source)
    with decoding(source, kind):
        if kind == ".npz":
            array = _of_archive(source.kept(Archive), source.fragment)
        elif source.fragment is None:
            return as_image(_load_npy(io.BytesIO(source.read_bytes(most=MAX_BYTES))).whole())
        else:
            found = split_row(source.fragment)
            if found is None or found[0]:
                raise InputError(f"#{source.fragment} names no row of a .npy file, as #/17 does.")
            array = source.kept(_load_npy).row(found[1])
        image = as_image(array)
        source.hash_array(image)
        return image


def _of_archive(archive: Archive, fragment: str | None) -> npt.NDArray[Any]:
    if fragment is None:
        if len(archive.names) != 1:
            raise InputError(
                f"The .npz file holds {len(archive.names)} arrays, and none was named: {', '.join(archive.names)}.",
                hint="file.npz#/NAME names one",
            )
        return archive.array(archive.names[0], rows=False).whole()
    if not fragment.startswith("/"):
        raise InputError(f"#{fragment} names no part of a .npz file, as #/train and #/train/17 do.")
    head, by_row, _ = fragment[1:].partition("/")
    if not by_row:
        return archive.array(unquote(head), rows=False).whole()
    found = split_row(fragment)
    if found is None or found[0] != f"/{head}":
        raise InputError(f"#{fragment} names no part of a .npz file, as #/train and #/train/17 do.")
    return archive.array(unquote(head), rows=True).row(found[1])


def expand(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    """One sample a file, or one an array where a .npz holds several; with ``axis=0``, one a row of each array.

    Only arrays of numbers with two axes or more have rows. Their split is the array's name, where it was given one.

    Args:
        settings: ``axis=0``.

    Raises:
        UsageError: another axis. InputError: the file is damaged, or has no array of numbers.
    """
    if settings.get("axis", "0") != "0":
        raise UsageError(
            f"--expand axis={settings['axis']}: the rows of .npy and .npz files are taken along axis 0.",
            hint="numpy.moveaxis brings another axis to the front; NIfTI volumes are cut along any",
        )
    kind = _kind(source)
    with decoding(source, kind):
        if kind == ".npy":
            arrays = {"": source.kept(_load_npy)}
        else:
            archive = source.kept(Archive)
            arrays = {name: archive.header(name) for name in archive.names}
        by_row = "axis" in settings
        inputs = {name: a for name, a in arrays.items() if a.numbers and (len(a.shape) > 1 or not by_row)}
        if not inputs:
            raise InputError(f"The {kind} file holds no array of numbers{' with two axes' if by_row else ''}.")
        if not by_row:
            return [Part()] if len(arrays) == 1 else [Part("/" + _quoted(name)) for name in inputs]
        count = sum(array.shape[0] for array in inputs.values())
        if count > MAX_ROWS:
            raise InputError(f"The file claims {count:,} rows, and at most {MAX_ROWS:,} are taken of one.")
    return _rows({name: array.shape[0] for name, array in inputs.items()})


def _rows(counts: Mapping[str, int]) -> Iterator[Part]:
    for name, count in counts.items():
        prefix = f"/{_quoted(name)}" if name else ""
        split = {"split": name} if name and not _UNNAMED.fullmatch(name) else {}
        for row in range(count):
            yield Part(f"{prefix}/{row}", split, alone=True)


def _quoted(name: str) -> str:
    return quote(name, safe="", errors="surrogateescape")


def _kind(source: Source) -> str:
    return ".npz" if source.location.lower().endswith(".npz") else ".npy"
