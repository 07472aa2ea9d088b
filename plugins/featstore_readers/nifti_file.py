"""An opened NIfTI file: its header, checked before anything is believed of it, and its voxels in bounded memory."""

from __future__ import annotations

import gzip
import logging
import math
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import aff2axcodes, apply_orientation, io_orientation
from nibabel.volumeutils import apply_read_scaling

from featstore import InputError

#: What a volume may take as it is stored, unpacked, and what is given of it at a time: 512 × 512 × 2,048
#: voxels in 16 bits.
MAX_BYTES = 1 << 30
#: What may stand between header and voxels (its extensions), and after the voxels (padding).
MAX_EXTENSIONS, MAX_PADDING = 1 << 26, 1 << 20

_CHUNK = 1 << 24
_KINDS = {348: (Nifti1Header, 344, b"n+1\0", b"ni1\0"), 540: (Nifti2Header, 4, b"n+2\0", b"ni2\0")}
_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}

# nibabel tells on stderr what it repairs in a header, as it does when it loads one: the result is the same without.
_silent = logging.Logger("featstore_readers.nifti")
_silent.addHandler(logging.NullHandler())

Voxels = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says of its voxels.

    Attributes:
        stored: (X, Y, Z) as stored; ``shape`` has the axes of the canonical orientation, as ``spacing`` has.
        offset: where the voxels begin, in bytes.
        scale: slope and intercept; (1, 0) leave the stored values as they are.
        turns: nibabel's orientation, from the stored axes to the canonical ones.
        window: cal_min and cal_max, where the second is larger.
    """

    stored: tuple[int, int, int]
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int
    scale: tuple[float, float]
    turns: Any
    orientation: str
    spacing: str
    window: tuple[float, float] | None

    @property
    def size(self) -> int:
        """Of the voxels, in bytes."""
        return math.prod(self.stored) * self.dtype.itemsize


class Volume:
    """A volume in memory, as it is stored: scaled slice by slice, and turned by a view."""

    def __init__(self, header: Header, data: bytearray) -> None:
        self.header = header
        self._stored = np.frombuffer(data, header.dtype).reshape(header.stored, order="F")
        self._turned = apply_orientation(self._stored, header.turns)

    def values(self, index: tuple[Any, ...]) -> Voxels:
        """A part of the canonical volume, in its values and in C order: nibabel's own, in the machine's byte order.

        Raises:
            InputError: scaled to floats, it takes too much memory.
        """
        stored = self._turned[index]
        if self.header.scale != (1, 0) and 8 * stored.size > MAX_BYTES:
            raise InputError(
                f"The NIfTI file's {stored.size:,} voxels would take {8 * stored.size:,} bytes when they are scaled, "
                f"and at most {MAX_BYTES:,} are given at a time.",
                hint="ingest it slice by slice with --expand axis=2",
            )
        values = self._scaled(stored)
        return np.array(values, values.dtype.newbyteorder("="), order="C")

    @cached_property
    def extent(self) -> tuple[float, float] | None:
        """The smallest and largest finite value; None where there is none."""
        ends: list[Any] = []
        for slab in self._stored.T:  # one at a time: a mask of all voxels would take as much again
            finite = slab if slab.dtype.kind in "ui" else slab[np.isfinite(slab)]
            if finite.size:
                ends += [finite.min(), finite.max()]
        if not ends:
            return None
        values = self._scaled(np.array([min(ends), max(ends)], self.header.dtype))
        low, high = sorted(map(float, values))
        return (low, high) if math.isfinite(low) and math.isfinite(high) else None

    def _scaled(self, stored: Voxels) -> Voxels:
        slope, intercept = (np.float64(number) for number in self.header.scale)
        scaled: Voxels = apply_read_scaling(stored, slope, intercept)
        return scaled


def read_header(file: BinaryIO) -> Header:
    """Read and check the header; unpacks no more than that.

    Raises:
        InputError: no NIfTI file that is read here, or one that can't hold what its header says.
    """
    packed, unpacked = _unpacked(file)
    header = _parse(_exactly(unpacked, 352, "its header"), unpacked)
    if not packed:
        _check_length(header, file.seek(0, 2) - header.offset)
    return header


def load(file: BinaryIO) -> Volume:
    """Read the whole volume.

    Raises:
        InputError: as :func:`read_header`; and where it is truncated, goes on after its end, or is damaged.
    """
    header = read_header(file)
    packed, unpacked = _unpacked(file)
    unpacked.seek(header.offset)
    data = _exactly(unpacked, header.size, "its voxels")
    if packed:  # to the end, because the checksum stands there
        _check_length(header, header.size + len(unpacked.read(MAX_PADDING + 1)))
    return Volume(header, data)


def _unpacked(file: BinaryIO) -> tuple[bool, Any]:
    """Whether the file is packed by gzip, and the file to read from."""
    file.seek(0)
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return packed, gzip.GzipFile(fileobj=file) if packed else file


def _exactly(file: Any, count: int, what: str) -> bytearray:
    """Read so many bytes, taking memory for what is there, not for what is claimed."""
    data = bytearray()
    while len(data) < count:
        chunk = file.read(min(count - len(data), _CHUNK))
        if not chunk:
            raise InputError(
                f"The NIfTI file is truncated: {what} should have {count:,} bytes, and {len(data):,} are there."
                if data
                else "The file is empty, or ends before its voxels."
            )
        data += chunk
    return data


def _check_length(header: Header, there: int) -> None:
    if there < header.size:
        raise InputError(
            f"The NIfTI file is truncated: its voxels should have {header.size:,} bytes, and {max(there, 0):,} are "
            "there."
        )
    if there > header.size + MAX_PADDING:
        raise InputError(
            f"The NIfTI file goes on after its {header.size:,} bytes of voxels, for more than {MAX_PADDING:,} bytes: "
            "its header is wrong, or it is a decompression bomb."
        )


def _parse(begin: bytearray, file: Any) -> Header:
    order, kind = next(
        ((order, size) for order in "<>" for size in _KINDS if struct.unpack_from(f"{order}i", begin)[0] == size),
        ("", 0),
    )
    if not kind:
        raise InputError("The file isn't NIfTI: it doesn't begin with the size of such a header.")
    of_kind, place, single, pair = _KINDS[kind]
    magic = bytes(begin[place : place + 4])
    if magic != single:
        pairs = "the header of a pair (.hdr, .img)" if magic == pair else "an Analyze file, or none at all"
        raise InputError(
            f"The file is {pairs}, and NIfTI files of one piece are read.", hint="nibabel or fslchfiletype convert it"
        )
    if kind > len(begin):
        begin += _exactly(file, kind - len(begin), "its header")
    header = of_kind(bytes(begin[:kind]), endianness=order, check=False)
    if not 1 <= int(header["dim"][0]) <= 7:
        raise InputError(f"The NIfTI file claims {int(header['dim'][0])} axes.")
    shape, dtype = _shape(header), _dtype(header)
    header.check_fix(logger=_silent, error_level=40)
    offset = header.get_data_offset()
    if not kind + 4 <= offset <= kind + 4 + MAX_EXTENSIONS:
        raise InputError(f"The NIfTI file's voxels would begin at byte {offset:,}, in its header or far behind it.")
    slope, intercept = header.get_slope_inter()
    low, high = float(header["cal_min"]), float(header["cal_max"])
    shown = math.isfinite(low) and math.isfinite(high) and high > low
    turns, orientation, spacing = _axes(header)
    canonical = [0, 0, 0]
    for count, axis in zip(shape, turns[:, 0], strict=True):
        canonical[int(axis)] = count
    x, y, z = canonical
    scale = (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    window = (low, high) if shown else None
    return Header(shape, (x, y, z), dtype, offset, scale, turns, orientation, spacing, window)


def _shape(header: Any) -> tuple[int, int, int]:
    shape = [int(count) for count in header.get_data_shape()]
    if min(shape) < 1:
        raise InputError(f"The NIfTI file has no voxels: its shape is {tuple(shape)}.")
    if math.prod(shape[3:]) > 1:
        raise InputError(
            f"The NIfTI file holds several volumes, of shape {tuple(shape)}, and one is needed.",
            hint="split it (nibabel.funcs.four_to_three, fslsplit), or take their mean, and ingest the result",
        )
    x, y, z = (*shape, 1, 1)[:3]
    size = x * y * z * max(int(header["bitpix"]) // 8, 1)
    if size > MAX_BYTES:
        raise InputError(f"The NIfTI file claims {size:,} bytes of voxels, and at most {MAX_BYTES:,} are read.")
    return x, y, z


def _dtype(header: Any) -> np.dtype[Any]:
    dtype: np.dtype[Any] = header.get_data_dtype()
    if dtype.fields:
        raise InputError("The NIfTI file holds colours (RGB24 or RGBA32), and volumes of one value a voxel are read.")
    if dtype.kind not in "uif" or dtype.itemsize > 8:
        raise InputError(
            f"The NIfTI file's values are of NIfTI's type {int(header['datatype'])}, {dtype}: whole numbers and floats "
            "of up to 64 bits are read."
        )
    if int(header["bitpix"]) != 8 * dtype.itemsize:
        raise InputError(f"The NIfTI file's header says {dtype} values of {int(header['bitpix'])} bits.")
    return dtype


def _axes(header: Any) -> tuple[Any, str, str]:
    """nibabel's orientation; the letters of the stored axes; the spacing along the canonical ones, in mm."""
    affine = np.asarray(header.get_best_affine(), np.float64)
    if not np.isfinite(affine).all():
        raise InputError("The NIfTI file's orientation is NaN or infinite.")
    turns = io_orientation(affine)
    letters = aff2axcodes(affine)
    if np.isnan(turns).any() or None in letters:
        raise InputError("The NIfTI file says no orientation: the axes of its affine lie in one plane.")
    unit = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    sizes = [0.0, 0.0, 0.0]
    for size, axis in zip(voxel_sizes(affine), turns[:, 0], strict=True):
        sizes[int(axis)] = float(size) * unit
    return turns, "".join(letters), "x".join(f"{size:.6g}" for size in sizes)
