"""One DICOM image, or one frame of several → a :class:`~featstore.Picture` in the values that it was measured in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from io import BytesIO
from typing import Any, TypeVar

import numpy as np

from featstore import InputError, Part, Picture, SetupError, Source
from featstore_readers import dicom_values as values
from featstore_readers.dicom_file import MAX_FILE_BYTES, Opened, load
from featstore_readers.dicom_frames import stored_frame
from featstore_readers.quiet import quiet

T = TypeVar("T")

_TIMES = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("StudyDate", "StudyTime"),
)
_TEXTS = {
    "patient_id": "PatientID",
    "visit_id": "StudyInstanceUID",
    "modality": "Modality",
    "series": "SeriesInstanceUID",
    "series_description": "SeriesDescription",
    "instance": "InstanceNumber",
}
_DATE = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")
_TIME = re.compile(r"(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.(\d{1,6}))?)?)?")
_ZONE = re.compile(r"(.*?)([+-]\d\d)(\d\d)")


def read(source: Source) -> Picture:
    """Read one image: the whole file of one frame, or the frame of ``frame=K``, counted from 0.

    Returns:
        grey (H, W), in the values after the Modality LUT or slope and intercept (see
        :func:`featstore_readers.dicom_values.rescale`), with its window; or RGB (H, W, 3), which palettes and YBR
        become. Overlays, presentation states, ICC profiles and dose scaling are not applied.

    Raises:
        InputError: no DICOM image, truncated or corrupt; one of several frames without saying which; compressed in a
            way that nothing installed decodes; colours other than those above; more than is decoded into memory.
        SetupError: this process told Pillow to make up the missing part of truncated images.
    """
    if source.fragment is None:
        data = source.read_bytes(MAX_FILE_BYTES)
        opened = _attempt(lambda: load(BytesIO(data)))
        if opened.frames > 1:
            raise InputError(
                f"The DICOM file has {opened.frames} frames, and one is needed.",
                hint="name one, as in scan.dcm#frame=0, or ingest it again: that lists them",
            )
        return _attempt(lambda: decode(opened, 0))
    frame = _frame(source.fragment)
    opened = _attempt(lambda: source.kept(load))
    if frame >= opened.frames:
        raise InputError(f"The DICOM file has {opened.frames} frames, and frame {frame} isn't one: they begin at 0.")
    picture = _attempt(lambda: decode(opened, frame))
    said = repr((picture.pixels.dtype.str, picture.shape, picture.window, picture.inverted))
    source.hash(said.encode(), np.ascontiguousarray(picture.pixels).reshape(-1).view(np.uint8).data)
    return picture


def expand(source: Source, settings: Mapping[str, str]) -> list[Part]:
    """List the frames of a file, with what its header says of them; reads no pixels.

    Fields are ``patient_id``, ``visit_id`` (the study), ``modality``, ``acquired_at`` and the attributes ``series``,
    ``series_description`` and ``instance``, each where the file has it. Nothing else of the header is taken.

    Raises:
        InputError: no DICOM file, or one without pixels. One whose pixels are damaged is listed whole, to fail when it
            is read.
    """
    with source.open() as file:
        opened = _attempt(lambda: load(file, whole=False))
        fields = _attempt(lambda: _fields(opened.header))
    if opened.frames == 1:
        return [Part(None, fields)]
    return [Part(f"frame={frame}", fields) for frame in range(opened.frames)]


def decode(opened: Opened, frame: int) -> Picture:
    """Decode one frame, and bring it to the values that it means."""
    pixels, colours = stored_frame(opened, frame)
    if colours == "PALETTE COLOR":
        return Picture(values.colour(pixels, opened))
    if colours in ("MONOCHROME1", "MONOCHROME2") and pixels.ndim == 2:
        found = values.window(opened, frame)
        rescaled = values.rescale(pixels, opened, frame)
        if found is None and rescaled is pixels:
            found = values.shown_range(pixels, opened)
        return Picture(rescaled, found, inverted=colours == "MONOCHROME1")
    if colours == "RGB" and pixels.ndim == 3:
        return Picture(pixels)
    raise InputError(
        f"The image is {colours}, in an array of {pixels.shape}: grey, RGB, YBR and palettes are understood."
    )


def _attempt(work: Callable[[], T]) -> T:
    """Do it without pydicom's warnings, and turn whatever it makes of malformed bytes into InputError."""
    try:
        with quiet():
            return work()
    except (InputError, SetupError, FileNotFoundError, MemoryError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk; pydicom's own have no number
            raise
        if isinstance(error.__context__, (InputError, SetupError)):  # ours, while pydicom was reading
            raise error.__context__ from error
        raise InputError(f"The DICOM file can't be decoded, it is truncated or corrupt: {error}") from error


def _frame(fragment: str) -> int:
    found = re.fullmatch(r"frame=(\d{1,9})", fragment, re.ASCII)
    if found is None:
        raise InputError(f"A part of a DICOM file is called frame=K, such as frame=0, and not {fragment!r}.")
    return int(found[1])


def _fields(header: Any) -> dict[str, str]:
    found = {name: _text(header, keyword) for name, keyword in _TEXTS.items()}
    found["acquired_at"] = _acquired_at(header)
    return {name: text for name, text in found.items() if text}


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    if value is None:
        return ""
    return ("\\".join(map(str, value)) if isinstance(value, list) else str(value)).strip(" \0\t\r\n")


def _acquired_at(header: Any) -> str:
    """The first date that is one, with its time, as ISO 8601; "" where there is none."""
    text = _text(header, "AcquisitionDateTime")
    zoned = _ZONE.fullmatch(text)
    clock, zone = (zoned[1], f"{zoned[2]}:{zoned[3]}") if zoned else (text, "")
    candidates = [(clock[:8], clock[8:], zone)]
    candidates += [(_text(header, date), _text(header, time), "") for date, time in _TIMES]
    return next((iso for candidate in candidates if (iso := _iso(*candidate))), "")


def _iso(date: str, time: str, zone: str) -> str:
    day, clock = _DATE.fullmatch(date), _TIME.fullmatch(time)
    if day is None or (time and clock is None):
        return ""
    iso = "-".join(day.groups())
    if clock is not None:
        hours, minutes, seconds, fraction = clock.groups()
        iso += f"T{hours}:{minutes or '00'}:{seconds or '00'}" + (f".{fraction:0<6}" if fraction else "") + zone
    try:
        datetime.fromisoformat(iso)
    except ValueError:
        return ""
    return iso
