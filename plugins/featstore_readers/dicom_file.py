"""An opened DICOM file: its header, checked against the bytes that are there, and where its pixels begin.

pydicom parses and decodes; here is what keeps a file of a few bytes from taking all memory, and what keeps a file
that was cut short from being read as if it were whole.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

from pydicom import Dataset, uid
from pydicom.datadict import tag_for_keyword
from pydicom.filereader import read_dataset

from featstore import InputError
from featstore_readers.quiet import quiet

#: What one frame may take as it is stored: far more than the largest detectors give (a 4k mammogram has 50 MB).
MAX_FRAME_BYTES = 1 << 28
#: What a file of one frame may have, and what a deflated one may become.
MAX_FILE_BYTES, MAX_INFLATED_BYTES = 1 << 29, 1 << 28
#: How much of a header is parsed, in bytes and in reads, of which an element takes two or three. An empty item of 8
#: bytes becomes an object of 664.
_HEADER_BYTES, _HEADER_READS = 1 << 25, 1_000_000
#: A sequence of known length is parsed later, from memory: as much of it as that.
_SEQUENCE_BYTES = 1 << 23

_KEYWORDS = (
    "SOPClassUID StudyDate SeriesDate AcquisitionDate ContentDate AcquisitionDateTime StudyTime SeriesTime "
    "AcquisitionTime ContentTime Modality SeriesDescription PatientID StudyInstanceUID SeriesInstanceUID "
    "InstanceNumber SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns "
    "BitsAllocated BitsStored HighBit PixelRepresentation WindowCenter WindowWidth RescaleIntercept RescaleSlope "
    "VOILUTFunction RedPaletteColorLookupTableDescriptor GreenPaletteColorLookupTableDescriptor "
    "BluePaletteColorLookupTableDescriptor RedPaletteColorLookupTableData GreenPaletteColorLookupTableData "
    "BluePaletteColorLookupTableData SegmentedRedPaletteColorLookupTableData ModalityLUTSequence "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence ExtendedOffsetTable ExtendedOffsetTableLengths"
)
_TAGS: list[Any] = [tag_for_keyword(keyword) for keyword in _KEYWORDS.split()]
_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_LONG_VR = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT", "SV", "UV")
_UNDEFINED = 0xFFFFFFFF


class Bounded:
    """A file that gives neither memory for bytes that it hasn't, nor more bytes than it was allowed to.

    Attributes:
        size: of the file, in bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)
        self.allow(_HEADER_BYTES, _HEADER_READS, strict=False)
        file.seek(0)

    def allow(self, most: int, reads: int, *, strict: bool) -> None:
        """How much may be read from now on. ``strict``: reading beyond the end is an error, not the end."""
        self._most, self._reads, self._strict = most, reads, strict

    def read(self, count: int = -1, /) -> bytes:
        left = max(self.size - self._file.tell(), 0)
        count = left if count < 0 else count
        if self._strict and count > left:
            raise InputError(f"The file is truncated: it ends after {self.size:,} bytes, before its pixels do.")
        self._most -= min(count, left)
        self._reads -= 1
        if self._most < 0 or self._reads < 0:
            raise InputError("The file is larger than anything that it can hold needs: its header or a frame is wrong.")
        return self._file.read(min(count, left))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if not 0 <= (offset + self.tell() if whence == 1 else offset) < 1 << 62:
            raise InputError("The file points outside of itself: its header or an offset is wrong.")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@dataclass(slots=True)
class Opened:
    """A DICOM file with pixels.

    Attributes:
        header: what the reader needs of it, as pydicom gives it.
        file: where its pixels are read from.
        syntax: the UID that says how they are compressed.
        keyword, vr: of the element that holds them; ``start`` is where its value begins.
        frames: how many there are, at least 1.
        offsets: of compressed frames and their lengths, once they were looked for; empty where no rule gives them.
    """

    header: Any
    file: Bounded
    syntax: uid.UID
    keyword: str
    vr: str | None
    start: int
    frames: int
    offsets: tuple[list[int], list[int]] | None = None

    def number(self, keyword: str, otherwise: int | None = None) -> int:
        return whole_number(self.header, keyword, otherwise)


def load(file: BinaryIO, *, whole: bool = True) -> Opened:
    """Read the header, and check that its pixels are there.

    Args:
        whole: False takes a file whose pixels are damaged for one of a single frame: whose it is can still be told.

    Raises:
        InputError: no DICOM file, one without pixels, truncated, or one that claims more than is decoded. Other errors,
            of pydicom: it is corrupt.
    """
    with quiet():
        bounded = Bounded(file)
        bounded.seek(128)
        bare = bounded.read(4) != b"DICM"
        bounded.seek(0 if bare else 132)
        if bare:
            _check_bare(bounded)
        meta = read_dataset(bounded, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)  # type: ignore[arg-type]
        syntax = _syntax(meta, bounded)
        if syntax == uid.DeflatedExplicitVRLittleEndian:
            bounded = Bounded(BytesIO(_inflate(bounded)))
        opened, length = _open(bounded, syntax)
        try:
            _check_pixels(opened, length)
        except InputError:
            if whole:
                raise
            opened.frames = 1
        if bare and not opened.header.get("SOPClassUID"):
            raise InputError("The file isn't DICOM: it lacks the mark DICM, and doesn't say what it would be.")
    return opened


def _check_bare(file: Bounded) -> None:
    """Refuse at once what doesn't begin as old DICOM files do that lack the preamble: with group 2 or 8."""
    begin = file.read(4)
    if len(begin) < 4 or not ({struct.unpack(order, begin[:2])[0] for order in ("<H", ">H")} & {2, 8}):
        raise InputError("The file isn't DICOM." if begin else "The file is empty (0 bytes).")
    file.seek(0)


def _syntax(meta: Dataset, file: Bounded) -> uid.UID:
    if told := str(meta.get("TransferSyntaxUID") or "").strip(" \0"):
        return uid.UID(told)
    start = file.tell()
    begin = file.read(6)
    file.seek(start)
    if not (begin[4:6].isalpha() and begin[4:6].isupper()):
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRBigEndian if begin[:1] == b"\0" else uid.ExplicitVRLittleEndian


def _inflate(file: Bounded) -> bytes:
    if file.size > MAX_INFLATED_BYTES:
        raise InputError(f"The deflated file has {file.size:,} bytes, and at most {MAX_INFLATED_BYTES:,} are read.")
    file.allow(file.size, 1, strict=False)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflate.decompress(file.read(file.size), MAX_INFLATED_BYTES)
    if not inflate.eof:
        raise InputError(
            f"The deflated file is truncated after {len(data):,} bytes, or a decompression bomb: at most "
            f"{MAX_INFLATED_BYTES:,} bytes are inflated."
        )
    return data


def _open(file: Bounded, syntax: uid.UID) -> tuple[Opened, int]:
    """The header, and how many bytes it says that the pixels have."""
    found: list[tuple[int, str | None, int, int]] = []

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        if tag in _PIXELS:
            found.append((tag, vr, length, file.tell()))
        return tag in _PIXELS

    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    header = read_dataset(file, implicit, little, stop_when=at_pixels, specific_tags=_TAGS)  # type: ignore[arg-type]
    if not found:
        raise InputError("The DICOM file has no pixels: it is a report, a plan or an index, or it is truncated.")
    tag, vr, length, start = found[-1]
    if vr is not None and vr not in _LONG_VR:
        raise InputError(f"The DICOM file's pixels are of the type {vr}, which holds none.")
    return Opened(header, file, syntax, _PIXELS[tag], vr, start, 1), length


def _check_pixels(opened: Opened, length: int) -> None:
    """Count the frames, and check that all of them can be there."""
    opened.frames = opened.number("NumberOfFrames", 1) or 1
    there = opened.file.size - opened.start
    if length == _UNDEFINED and not opened.syntax.is_encapsulated:
        raise InputError("The DICOM file's pixels are of undefined length, which only compressed ones may be.")
    if length != _UNDEFINED and length > there:
        raise InputError(f"The DICOM file is truncated: its pixels have {length:,} bytes, and {there:,} are there.")
    _check_count(opened, there if length == _UNDEFINED else length)
    _check_size(opened)


def _check_size(opened: Opened) -> None:
    rows, columns = opened.number("Rows"), opened.number("Columns")
    samples, bits = opened.number("SamplesPerPixel", 1), opened.number("BitsAllocated")
    if min(rows, columns, samples, bits) < 1:
        raise InputError(f"The image has no pixels: {columns} × {rows}, {samples} samples of {bits} bits each.")
    if rows * columns * samples * math.ceil(bits / 8) > MAX_FRAME_BYTES:
        raise InputError(
            f"The header claims {columns} × {rows} pixels, {samples} samples of {bits} bits each, and at most "
            f"{MAX_FRAME_BYTES:,} bytes are decoded: the file is a decompression bomb, or an image to be cut into "
            "tiles first."
        )


def _check_count(opened: Opened, length: int) -> None:
    """That the pixels' ``length`` bytes can be as many frames as the header says: expanding lists each of them."""
    if opened.frames < 1:
        raise InputError(f"The header says {opened.frames} frames.")
    if opened.syntax.is_encapsulated:
        # Each frame is an item of its own at least, of 8 bytes and more.
        needed = float(8 * opened.frames)
    else:
        _check_size(opened)
        halved = opened.header.get("PhotometricInterpretation") == "YBR_FULL_422"  # two pixels share their colour
        samples = 2 if halved else opened.number("SamplesPerPixel", 1)
        each = opened.number("Rows") * opened.number("Columns") * opened.number("BitsAllocated") * samples / 8
        needed = each * opened.frames
        if length > needed + 1 and length >= needed + each:
            raise InputError(
                f"The header says {opened.frames} frames of {math.ceil(each):,} bytes, and there are {length:,} "
                "bytes of pixels: more than one frame of them would be left out."
            )
    if needed > length:
        raise InputError(
            f"The DICOM file is truncated, or its header wrong: {opened.frames} frames need {math.ceil(needed):,} "
            f"bytes of pixels, and {length:,} are there."
        )


def whole_number(header: Any, keyword: str, otherwise: int | None = None) -> int:
    """A whole number of the header.

    Raises:
        InputError: it isn't there, or something else.
    """
    value = header.get(keyword)
    if value is None or value == "":
        if otherwise is None:
            raise InputError(f"The DICOM file doesn't say its {keyword}.")
        return otherwise
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError(f"The DICOM file's {keyword} is {value!r}, and no number.") from None


def items(header: Any, keyword: str) -> Any:
    """The items of a sequence; none where it isn't there.

    Raises:
        InputError: it is too long to be parsed.
    """
    raw = header.get_item(tag_for_keyword(keyword)) if keyword in header else None
    if raw is None:
        return ()
    value = raw.value
    if isinstance(value, bytes) and len(value) > _SEQUENCE_BYTES:
        raise InputError(f"The {keyword} has {len(value):,} bytes, and at most {_SEQUENCE_BYTES:,} are parsed.")
    return header[keyword].value or ()
