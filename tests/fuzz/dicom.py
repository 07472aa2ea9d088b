"""DICOM: pydicom's own small files, and others, with numbers and lengths of their elements changed."""

from __future__ import annotations

import struct
import warnings
import zlib
from functools import lru_cache, partial
from io import BytesIO

import numpy as np
import pydicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from . import zeros
from .dicom_files import FILES, enhanced, made, modality_lut, palette, pixels_of, seeds, written
from .seeds import ABSURD_FLOATS, Format, Odd, Rng, Seed, integer, pick, put

_NO_IMAGES = (
    "rtplan.dcm reportsi.dcm test-SR.dcm UN_sequence.dcm badVR.dcm MR_truncated.dcm nested_priv_SQ.dcm rtstruct.dcm "
    "JPEGLSNearLossless_08.dcm empty_charset_LEI.dcm ExplVR_LitEndNoMeta.dcm meta_missing_tsyntax.dcm "
    "no_meta.dcm"
)
_PARTS = ("frame=9999", "frame=-1", "frame=a", "frame=", "slice=0", "/0", "frame=0&frame=1", "axis=0", "/valid/-1")
#: Elements whose value matters: these are changed more often than the others.
_TOLD = (
    "Rows Columns NumberOfFrames BitsAllocated BitsStored HighBit PixelRepresentation SamplesPerPixel "
    "PlanarConfiguration PhotometricInterpretation RescaleSlope RescaleIntercept WindowWidth WindowCenter "
    "RedPaletteColorLookupTableDescriptor RedPaletteColorLookupTableData PixelData "
    "PerFrameFunctionalGroupsSequence SharedFunctionalGroupsSequence PatientID StudyDate Modality ModalityLUTSequence "
    "VOILUTFunction TransferSyntaxUID SmallestImagePixelValue"
)
_TAGS = {int(pydicom.datadict.tag_for_keyword(word) or 0) for word in _TOLD.split()}
_WORDS = (
    b"nan",
    b"inf",
    b"-1",
    b"0",
    b"1e999",
    b"99999999999",
    b"1\\2\\3",
    b"",
    b"\0",
    b"1A",
    b"\xff\xfe\x1b[2J",
    b"RGB",
)
_SYNTAXES = (
    b"1.2.840.10008.1.2", b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.2",
    b"1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.4.50", b"1.2.840.10008.1.2.4.51", b"1.2.840.10008.1.2.4.70",
    b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.4.100", b"1.2.840.10008.1.2.4.201",
    b"1.2.3.4", b"", b"\x1b[31m",
)  # fmt: skip


# ----------------------------------------------------------------------------------------------- mutations
def _split(data: bytes) -> tuple[bytes, bytes, bool]:
    """What is before the data set, the data set itself, unpacked, and whether it was packed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meta = pydicom.dcmread(BytesIO(data), stop_before_pixels=True, force=True).file_meta
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return b"", data, False
    end = 144 + meta.FileMetaInformationGroupLength  # preamble, mark, and the element that says so
    return data[:end], zlib.decompressobj(-15).decompress(data[end:]), True


@lru_cache(maxsize=64)
def _places(body: bytes) -> list[tuple[int, int, int]]:
    """(tag, place of the value, its length) of every element, inside sequences too, that explicit little endian has."""
    found = []
    for tag in sorted(_TAGS):
        for group in (struct.pack("<HH", tag >> 16, tag & 0xFFFF), struct.pack(">HH", tag >> 16, tag & 0xFFFF)):
            at = body.find(group)
            while at >= 0 and at + 12 <= len(body):
                order = "<" if group == struct.pack("<HH", tag >> 16, tag & 0xFFFF) else ">"
                vr = body[at + 4 : at + 6]
                if vr in (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT"):
                    found.append((tag, at + 12, struct.unpack_from(order + "I", body, at + 8)[0]))
                elif vr.isalpha() and vr.isupper():
                    found.append((tag, at + 8, struct.unpack_from(order + "H", body, at + 6)[0]))
                else:
                    found.append((tag, at + 8, struct.unpack_from(order + "I", body, at + 4)[0]))
                at = body.find(group, at + 4)
    return found


def _absurd(seed: Seed, rng: Rng) -> bytes:
    head, body, packed = _split(seed.data)
    places = _places(body)
    for _ in range(1 + int(rng.integers(2))):
        tag, place, length = places[int(rng.integers(len(places)))]
        which = int(rng.integers(10))
        if which <= 3 and length in (2, 4, 8):
            body = put(body, place, integer(rng), length)
        elif which <= 5:
            value = pick(rng, _SYNTAXES if tag == 0x00020010 else _WORDS)[:length]
            body = (
                body[:place]
                + value.ljust(min(length, 64), b" \0"[len(value) % 2 : len(value) % 2 + 1])
                + body[place + min(length, 64) :]
            )
        elif which == 6:
            body = put(body, place - 2, integer(rng), 2)
        elif which == 7:
            body = put(body, place - 4, integer(rng), 4)
        elif which == 8:
            body = put(body, place - 8, integer(rng), 4)
        else:  # the length of an item: of a sequence, or a compressed frame
            marks = [
                at for at in range(len(body) - 8) if body[at : at + 4] in (b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0")
            ]
            body = put(body, pick(rng, marks) + 4, integer(rng), 4) if marks else body
    if packed:
        stream = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = stream.compress(body) + stream.flush()
    return head + body


def _rewritten(rng: Rng) -> Odd:
    """A whole file, written with elements that can't be."""
    found = pick(
        rng, [enhanced, palette, modality_lut, lambda: made(pixels_of(12, 10)), lambda: made(pixels_of(2, 6, 5))]
    )()
    frame = "frame=0" if found.get("NumberOfFrames") else None
    small = [0, 1, 2, 3, 4, 7, 8, 12, 16, 32, 64, 255, 65_535]
    odd_text = ["nan", "-1", "0", "1e400", "", " ", "x" * 5000, "\x1b[31mred", "é\u0000b"]
    changes = {
        "Rows": small, "Columns": small, "BitsAllocated": small, "BitsStored": small, "HighBit": small,
        "SamplesPerPixel": small, "PixelRepresentation": small, "PlanarConfiguration": small,
        "NumberOfFrames": ["0", "-1", "1", "2", "3", "99999999", "2147483647"],
        "PhotometricInterpretation": ["RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "ARGB", "MONOCHROME1",
        *odd_text],
        "RescaleSlope": [*map(str, ABSURD_FLOATS)], "RescaleIntercept": [*map(str, ABSURD_FLOATS)],
        "WindowWidth": [*map(str, ABSURD_FLOATS)], "WindowCenter": [*map(str, ABSURD_FLOATS)],
        "VOILUTFunction": ["LINEAR_EXACT", "SIGMOID", *odd_text],
        "RedPaletteColorLookupTableDescriptor": [[0, 0, 8], [65_535, 65_535, 16], [1, 0, 3], [256, 0, 255]],
        "PatientID": odd_text, "StudyDate": ["20201301", "2020", "0", "x"],
        "AcquisitionDateTime": ["99999999", "x" * 30],
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in pick(rng, [["Rows"], list(rng.permutation(list(changes))[: 1 + int(rng.integers(3))])]):
            value = pick(rng, changes[name])
            if rng.random() < 0.1 and name in found:
                delattr(found, name)
            else:
                with pydicom.config.disable_value_validation():
                    setattr(found, name, value)
        try:
            return Odd(written(found), frame)
        except Exception:  # pydicom doesn't write it: as it was
            return Odd(written(made(pixels_of(12, 10))), "frame=7")


def _other(rng: Rng) -> Odd:
    """What is DICOM, and no image that is read."""
    return Odd((FILES / pick(rng, _NO_IMAGES.split())).read_bytes(), pick(rng, [None, None, "frame=1"]))


# --------------------------------------------------------------------------------------------------- bombs
def _deflated_bomb(rng: Rng) -> Odd:
    """Zeros behind the header: too many, or as many as the header says, or a header that never ends."""
    head, body, _ = _split(written(made(pixels_of(4, 4), DeflatedExplicitVRLittleEndian)))
    start = body.rindex(struct.pack("<HH", 0x7FE0, 0x10))
    which = int(rng.integers(3))
    if which == 0:
        return Odd(head + zeros.deflated(3 << 30, body[:start]))
    if which == 1:
        return Odd(head + zeros.deflated(160 << 20, body[: start + 8] + struct.pack("<I", 160 << 20)))
    frames = 1 << 20
    many = made(pixels_of(4, 4), DeflatedExplicitVRLittleEndian, NumberOfFrames=frames)
    head, body, _ = _split(written(many))
    start = body.rindex(struct.pack("<HH", 0x7FE0, 0x10))
    return Odd(head + zeros.deflated(32 * frames, body[: start + 8] + struct.pack("<I", 32 * frames)), "frame=3")


def _nested(rng: Rng) -> Odd:
    """Sequences within sequences, or a million empty items."""
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    sequence = struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, 0xFFFFFFFF)
    data = written(made(pixels_of(4, 4)))
    start = data.rindex(struct.pack("<HH", 0x7FE0, 0x10))
    if rng.random() < 0.5:
        return Odd(data[:start] + (sequence + item) * int(pick(rng, [50, 2_000, 200_000])) + data[start:])
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 1_500_000
    told = pick(rng, [0xFFFFFFFF, len(items)])
    return Odd(data[:start] + sequence[:-4] + struct.pack("<I", told) + items + data[start:])


def _rle_bomb(rng: Rng) -> Odd:
    rows = int(pick(rng, [12, 8_000]))
    segment = b"\x81\x00" * (24 << 20)
    frame = struct.pack("<16I", 1, 64, *([0] * 14)) + segment
    found = made(pixels_of(12, 10, dtype=np.uint8), Rows=rows, Columns=rows)
    found.file_meta.TransferSyntaxUID = RLELossless
    found.PixelData = encapsulate([frame])
    found["PixelData"].is_undefined_length = True
    return Odd(written(found))


def _codestream_claims(rng: Rng, syntax: str, name: str) -> Odd:
    """A compressed image that claims to be huge, in a header that agrees, or doesn't."""
    data = (FILES / f"{name}.dcm").read_bytes()
    side = int(pick(rng, [65_500, 2_000, 200]))
    if syntax == JPEGBaseline8Bit:
        at = data.index(b"\xff\xc0")
        data = data[: at + 5] + struct.pack(">HH", side, side) + data[at + 9 :]
    else:
        at = data.index(b"\xff\x4f\xff\x51")
        data = data[: at + 8] + struct.pack(">II", side, side) + data[at + 16 :]
    if rng.random() < 0.7:
        for tag in (0x0010, 0x0011):
            at = data.index(struct.pack("<HH2sH", 0x0028, tag, b"US", 2))
            data = put(data, at + 8, side, 2)
    return Odd(data)


def formats() -> list[Format]:
    bombs = [
        _deflated_bomb, _nested, _rle_bomb,
        partial(_codestream_claims, syntax=JPEGBaseline8Bit, name="SC_rgb_jpeg_dcmtk"),
        partial(_codestream_claims, syntax=JPEG2000, name="MR_small_jp2klossless"),
    ]  # fmt: skip
    return [Format("DICOM", ".dcm", seeds(), _absurd, [_rewritten, _rewritten, _rewritten, _other], bombs, _PARTS)]
