"""One frame, decoded. Compressed ones are checked before: a few bytes can claim to become anything."""

from __future__ import annotations

import struct
from typing import Any

import numpy.typing as npt
from PIL import ImageFile
from pydicom import uid
from pydicom.encaps import encapsulate, get_frame, parse_basic_offsets, parse_fragments
from pydicom.pixels.decoders.base import Decoder, get_decoder
from pydicom.pixels.utils import as_pixel_options

from featstore import InputError, SetupError
from featstore_readers.dicom_file import MAX_FRAME_BYTES, Opened

# How many reads may find one frame: many where its fragments must be counted, few where it lies at a known place.
_READS, _NATIVE_READS = 5_000_000, 100
_PACKAGES = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
#: So much RLE at most becomes no more than a frame may have, whatever is in it.
_RLE_CHECKED = MAX_FRAME_BYTES // 64


def stored_frame(opened: Opened, frame: int) -> tuple[npt.NDArray[Any], str]:
    """One frame as it is stored, YBR as RGB, in the machine's byte order; and what its values stand for.

    Raises:
        InputError: it isn't all there, or nothing installed decodes it. Other errors, of pydicom: it is corrupt.
        SetupError: this process told Pillow to make up the missing part of truncated images.
    """
    try:
        decoder = get_decoder(opened.syntax)
    except NotImplementedError:
        raise InputError(f"The pixels are stored as {opened.syntax.name}, which isn't supported.") from None
    options = as_pixel_options(opened.header)
    options |= {"number_of_frames": opened.frames, "pixel_keyword": opened.keyword, "pixel_vr": opened.vr or "OW"}
    if opened.syntax.is_encapsulated:
        array, found = _decompress(opened, frame, decoder, options)
    else:
        file: Any = opened.file
        file.allow(MAX_FRAME_BYTES, _NATIVE_READS, strict=True)
        file.seek(opened.start)
        array, found = decoder.as_array(file, index=frame, **options)
    return array.astype(array.dtype.newbyteorder("="), copy=False), str(found["photometric_interpretation"])


def _decompress(opened: Opened, frame: int, decoder: Decoder, options: dict[str, Any]) -> Any:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise SetupError(
            "Pillow was told to make up the missing part of truncated images.",
            hint="find what sets PIL.ImageFile.LOAD_TRUNCATED_IMAGES in this process, and take it out",
        )
    name = opened.syntax.name
    if not decoder.is_available:
        # Of the input, not of the machine: a damaged file can claim any compression, and must not stop the run.
        raise InputError(f"The pixels are compressed as {name}, which no package here decodes.", hint=_PACKAGES)
    encoded = _encoded_frame(opened, frame, options.pop("extended_offsets", None))
    _check_codestream(opened, encoded)
    options["number_of_frames"] = 1
    try:
        return decoder.as_array(encapsulate([encoded]), index=0, **options)
    except RuntimeError as error:
        why = " ".join(str(error).partition("plugins:")[2].split()) or str(error)
        raise InputError(
            f"The {name} pixels can't be decoded: {why}",
            hint=f"if other programs can open it, {_PACKAGES}" if decoder.missing_dependencies else "",
        ) from error


def _encoded_frame(opened: Opened, frame: int, extended: Any) -> bytes:
    """The compressed bytes of a frame, from one item or several.

    Args:
        extended: pydicom's extended offsets and lengths, where the file has them.

    Raises:
        InputError: they aren't all there.
    """
    file = opened.file
    file.allow(2 * MAX_FRAME_BYTES, _READS, strict=True)
    if extended is None and opened.frames > 1:
        if opened.offsets is None:
            opened.offsets = _offsets(opened)
        extended = opened.offsets if opened.offsets[0] else None
    file.seek(opened.start)
    found = get_frame(file, frame, number_of_frames=opened.frames, extended_offsets=extended)
    if not found:
        raise InputError(f"Frame {frame} has no bytes.")
    return found


def _offsets(opened: Opened) -> tuple[list[int], list[int]]:
    """Where each frame begins, and its length, where each is one item and no table says so: found once, for all."""
    file = opened.file
    file.seek(opened.start)
    if parse_basic_offsets(file):
        return [], []
    begin = file.tell()
    count, places = parse_fragments(file)
    if count != opened.frames:
        return [], []
    lengths = []
    for place in places:
        file.seek(place + 4)
        lengths.append(struct.unpack("<I", file.read(4))[0])
    return [place - begin for place in places], lengths


def _check_codestream(opened: Opened, data: bytes) -> None:
    """That what is compressed has the size that the header says.

    Decoders take their size from the compressed bytes, and what they give would be broken into other rows.

    Raises:
        InputError: it hasn't.
    """
    expected = opened.number("Rows"), opened.number("Columns")
    if opened.syntax in uid.JPEG2000TransferSyntaxes:
        found = _jpeg2000_size(data)
    elif opened.syntax in uid.JPEGTransferSyntaxes or opened.syntax in uid.JPEGLSTransferSyntaxes:
        found = _jpeg_size(data)
    else:
        if opened.syntax == uid.RLELossless:
            _check_rle(
                data, expected[0] * expected[1] * opened.number("SamplesPerPixel") * opened.number("BitsAllocated")
            )
        return
    if found is None:
        raise InputError(f"The pixels are said to be {opened.syntax.name}, and are not: they lack its header.")
    if found != expected:
        raise InputError(
            f"The header says {expected[1]} × {expected[0]} pixels, and the compressed image in it has "
            f"{found[1]} × {found[0]}."
        )


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG or JPEG-LS: from its first start-of-frame segment (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # fill
            place += 1
            continue
        (length,) = struct.unpack_from(">H", data, place + 2)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            rows, columns = struct.unpack_from(">HH", data, place + 5)
            return rows, columns
        place += 2 + max(length, 2)
    return None


def _jpeg2000_size(data: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG 2000 codestream, alone or in a JP2 file: from its SIZ segment (ITU-T T.800 A.5.1)."""
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0 or len(data) < place + 24:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, place + 8)
    return bottom - top, right - left


def _check_rle(data: bytes, bits: int) -> None:
    """Two bytes of RLE become 1 to 128: refuse more of them than pixels, and what would take more than any frame.

    A decoder keeps on unpacking, whatever the size that the header says.
    """
    if len(data) > bits // 4 + 4096:
        raise InputError(f"{len(data):,} bytes of RLE are for {bits // 8:,} bytes of pixels: the file is corrupt.")
    if len(data) <= _RLE_CHECKED:
        return
    place, total = 64, 0
    while place < len(data):
        head = data[place]
        total += 257 - head if head > 128 else head + 1 if head < 128 else 0
        place += 2 if head > 128 else head + 2 if head < 128 else 1
    if total > 2 * MAX_FRAME_BYTES:
        raise InputError(f"The RLE pixels would become {total:,} bytes: the file is a decompression bomb.")
