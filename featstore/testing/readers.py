"""The laws of readers: bytes become what they mean, or an InputError; nothing in between."""

from __future__ import annotations

import gzip
import io
import shutil
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import InputError, UsageError
from featstore.keys import split_fragment
from featstore.source import Source
from featstore.spec import Picture, ReaderSpec
from featstore.testing.inputs import SEED, describe, images, texts
from featstore.testing.laws import Laws, refusal, require

#: What one damaged file may make NumPy take, in bytes.
MOST_MEMORY = 2 << 30


@dataclass(slots=True)
class ReaderCase:
    """A reader with whole files that it must read, in a folder to spoil copies in.

    Attributes:
        values: what it reads of each file.
    """

    spec: ReaderSpec
    files: Sequence[tuple[Path, str | None]]
    folder: Path
    values: list[Any] = field(default_factory=list)

    def read(self, path: Path, fragment: str | None = None) -> tuple[Any, Source]:
        """What it reads, and the source with its hash."""
        source = Source(path, fragment)
        return self.spec.read(source), source

    def spoilt(self, path: Path, data: bytes) -> Path:
        """A file of other bytes, with the same ending."""
        made = self.folder / f"spoilt{''.join(path.suffixes)}"
        made.write_bytes(data)
        return made


LAWS = Laws[ReaderCase]()


@LAWS.law
def names_its_endings(case: ReaderCase) -> str:
    """``suffixes`` is a tuple of endings with their dot, in lower case, or "": others would never be found."""
    suffixes = case.spec.suffixes
    require(isinstance(suffixes, tuple) and bool(suffixes), f"suffixes is {suffixes!r}, and must be a tuple of endings")
    for suffix in suffixes:
        proper = isinstance(suffix, str) and len(suffix) > 1 and suffix.startswith(".") and suffix == suffix.lower()
        require(proper or suffix == "", f"{suffix!r} is no ending such as '.png'")
    return ", ".join(suffix or "none" for suffix in suffixes)


@LAWS.gate()
def reads(case: ReaderCase) -> str:
    """It reads a whole file into something with values."""
    for path, fragment in case.files:
        value, _ = case.read(path, fragment)
        require(value is not None, f"{path.name} gives None")
        if isinstance(pixels := pixels_of(value), np.ndarray):
            require(pixels.size > 0, f"{path.name} gives an array without values: {pixels.shape}")
        case.values.append(value)
    return "; ".join(
        dict.fromkeys(
            f"{path.suffix}: {describe(pixels_of(v))}" for (path, _), v in zip(case.files, case.values, strict=True)
        )
    )


@LAWS.law
def takes_the_content_hash(case: ReaderCase) -> str:
    """It reads through its Source, which takes a SHA-256: else a changed file can't be told from the old one."""
    for path, fragment in case.files:
        _, source = case.read(path, fragment)
        require(
            source.content_hash is not None, f"{path.name}: no hash; read with source.read_bytes(), or call source.hash"
        )
        proper = isinstance(source.content_hash, str) and len(source.content_hash) == 64
        require(proper, f"{path.name}: the hash is {source.content_hash!r}")
        require(source.size in (None, path.stat().st_size), f"{path.name}: size {source.size} isn't the file's")
    return "SHA-256"


@LAWS.law
def reads_the_same_again(case: ReaderCase) -> str:
    """The same bytes give the same value and hash each time, under any name and at any time."""
    for (path, fragment), value in zip(case.files, case.values, strict=True):
        first, source = case.read(path, fragment)
        copy = case.folder / f"another name{''.join(path.suffixes)}"
        shutil.copyfile(path, copy)
        second, other = case.read(copy, fragment)
        require(same(first, value) and same(second, value), f"{path.name}: read again, it is something else")
        require(source.content_hash == other.content_hash, f"{path.name}: a copy has another hash")
    return "equal"


@LAWS.law
def changes_no_file(case: ReaderCase) -> str:
    """Reading leaves the file as it is, and makes none beside it."""
    for number, (path, fragment) in enumerate(case.files):
        inner = case.folder / f"alone{number}"
        inner.mkdir()
        copy = inner / path.name
        shutil.copyfile(path, copy)
        case.read(copy, fragment)
        require(copy.read_bytes() == path.read_bytes(), f"{path.name} has changed")
        beside = sorted(p.name for p in inner.iterdir() if p != copy)
        require(not beside, f"it made {', '.join(beside)} beside {path.name}")
    return "unchanged"


@LAWS.law
def refuses_what_it_cannot_read(case: ReaderCase) -> str:
    """An empty file raises InputError; so do bytes that are no such file, unless they are one by chance."""
    rng = np.random.default_rng(SEED)
    for path, fragment in case.files:
        empty = case.spoilt(path, b"")
        how, value = refusal(lambda f=fragment, p=empty: case.read(p, f), InputError)  # type: ignore[misc]
        require(how != "accepted", f"an empty {path.suffix} gives {describe(value[0]) if value else value}")
        require(how == "refused", f"an empty {path.suffix} gives {how}; raise InputError")
        for size in (1, 7, 64, 5000):
            garbage = case.spoilt(path, rng.bytes(size))
            how, _ = refusal(lambda f=fragment, p=garbage: case.read(p, f), InputError)  # type: ignore[misc]
            require(
                how in ("refused", "accepted"), f"{size} bytes of noise as {path.suffix} give {how}; raise InputError"
            )
    return "InputError"


@LAWS.law
def refuses_half_a_file(case: ReaderCase) -> str:
    """A file that was cut short raises InputError; never is the missing part made up."""
    cuts = 0
    for (path, fragment), value in zip(case.files, case.values, strict=True):
        data = path.read_bytes()
        for share in (0.02, 0.25, 0.5, 0.75, 0.95):
            cut = case.spoilt(path, data[: int(len(data) * share)])
            how, found = refusal(lambda f=fragment, p=cut: case.read(p, f), InputError)  # type: ignore[misc]
            require(how in ("refused", "accepted"), f"{share:.0%} of {path.name} give {how}; raise InputError")
            if how == "accepted":
                array = pixels_of(value)
                whole = isinstance(array, np.ndarray) and np.shape(pixels_of(found[0])) == array.shape
                require(not whole, f"{share:.0%} of {path.name} give a whole {describe(array)}: the rest is made up")
            cuts += how == "refused"
    return f"{cuts} of {5 * len(case.files)} cuts refused, the others are shorter"


@LAWS.law
def survives_damage(case: ReaderCase) -> str:
    """Whatever bytes are damaged, it gives a value or InputError, in bounded memory; another value has another hash."""
    rng = np.random.default_rng(SEED)
    refused = tried = 0
    tracemalloc.start()
    try:
        for (path, fragment), value in zip(case.files, case.values, strict=True):
            whole = np.frombuffer(path.read_bytes(), np.uint8)
            _, source = case.read(path, fragment)
            for number in range(24):
                damaged = whole.copy()
                if number % 2:
                    where = rng.integers(0, len(whole), 3)
                    damaged[where] ^= rng.integers(1, 256, 3, np.uint8)
                else:  # the beginning, where sizes and counts stand: they become huge
                    damaged[2 * number : 2 * number + 4] = 255
                file = case.spoilt(path, damaged.tobytes())
                how, found = refusal(lambda f=fragment, p=file: case.read(p, f), InputError)  # type: ignore[misc]
                require(how in ("refused", "accepted"), f"a damaged {path.name} gives {how}; raise InputError")
                tried, refused = tried + 1, refused + (how == "refused")
                if how == "accepted" and not same(found[0], value):
                    told = found[1].content_hash != source.content_hash
                    require(told, f"a damaged {path.name} gives another value under the same hash")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    require(peak < MOST_MEMORY, f"a damaged file made it take {peak / 2**30:.1f} GiB")
    return f"{refused} of {tried} refused"


@LAWS.law
def lists_parts_that_it_reads(case: ReaderCase) -> str:
    """``expand`` lists each part once, the same ones each time, as text; it reads them, and refuses what is no file."""
    if case.spec.expand is None:
        return "no parts"
    listed = 0
    for path in dict.fromkeys(path for path, _ in case.files):
        how, parts = refusal(lambda p=path: list(case.spec.expand(Source(p), {})), UsageError)  # type: ignore[misc]
        if how == "refused":  # it wants settings, and says so
            continue
        require(how == "accepted", f"{path.name} can't be listed: {how}")
        names = [part.fragment for part in parts]
        require(bool(parts) and len(set(names)) == len(names), f"{path.name}: the parts are {names[:8]}")
        again = list(case.spec.expand(Source(path), {}))
        require(again == parts, f"{path.name}: listed again, the parts are others")
        for part in parts:
            uri = str(path) if part.fragment is None else f"{path}#{part.fragment}"
            require(split_fragment(uri) == (str(path), part.fragment), f"{part.fragment!r} is no fragment")
            text = all(isinstance(word, str) for pair in part.fields.items() for word in pair)
            require(text, f"{path.name}: the fields of {part.fragment} aren't all text: {dict(part.fields)}")
        for part in (parts[0], parts[-1]):
            require(case.read(path, part.fragment)[0] is not None, f"{path.name}#{part.fragment} gives None")
        listed += len(parts)
        for data in (b"", np.random.default_rng(SEED).bytes(500)):
            spoilt = case.spoilt(path, data)
            how, _ = refusal(lambda p=spoilt: list(case.spec.expand(Source(p), {})), InputError)  # type: ignore[misc]
            require(how in ("refused", "accepted"), f"{len(data)} bytes of noise give {how}; raise InputError")
    return f"{listed} parts" if listed else "it wants settings"


@LAWS.law
def says_what_is_missing(case: ReaderCase) -> str:
    """A file that isn't there raises FileNotFoundError: the disk may be gone, which isn't the input's fault."""
    path, fragment = case.files[0]
    gone = case.folder / f"gone{''.join(path.suffixes)}"
    how, _ = refusal(lambda: case.read(gone, fragment), FileNotFoundError)
    require(how == "refused", f"it gives {how}" if how != "accepted" else "it is accepted")
    return "FileNotFoundError"


# -------------------------------------------------------------------------------------------------- helpers
def pixels_of(value: Any) -> Any:
    """The array of a :class:`~featstore.Picture`; any other value itself."""
    return value.pixels if isinstance(value, Picture) else value


def same(one: Any, other: Any) -> bool:
    """Whether two decoded values are equal, and of one type."""
    if isinstance(one, Picture) and isinstance(other, Picture):
        shown = [(picture.window, picture.extent, picture.inverted) for picture in (one, other)]
        return shown[0] == shown[1] and same(one.pixels, other.pixels)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        equal_nan = one.dtype.kind == "f"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=equal_nan)
    return type(one) is type(other) and bool(one == other)


def example_files(spec: ReaderSpec, folder: Path) -> list[tuple[Path, str | None]]:
    """Files with the reader's endings, for those that can be written here, and the part of each that it reads."""
    made: list[tuple[Path, str | None]] = []
    for suffix in spec.suffixes:
        if write := _WRITERS.get(suffix):
            path = folder / f"example{suffix}"
            path.write_bytes(write(suffix))
            made.append((path, _PARTS.get(suffix)))
    return made


def _hdf5(suffix: str) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["train"] = np.stack(images()[4:5] * 3)
    return buffer.getvalue()


def _table(suffix: str) -> bytes:
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    buffer = io.BytesIO()
    rows = pa.table({"patient_id": ["7", "007"], "report": texts()[:2]})
    if suffix == ".csv":
        pyarrow.csv.write_csv(rows, buffer)
    else:
        pyarrow.parquet.write_table(rows, buffer)
    return buffer.getvalue()


def _image(suffix: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(images()[1]).save(buffer, {".tif": "TIFF", ".tiff": "TIFF", ".jpg": "JPEG"}.get(suffix, suffix[1:]))
    return buffer.getvalue()


def _dicom(suffix: str) -> bytes:
    from pydicom import Dataset, FileMetaDataset, dcmwrite, uid

    pixels = images()[4]
    header = Dataset()
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    header.SOPClassUID, header.SOPInstanceUID = (
        uid.SecondaryCaptureImageStorage,
        uid.generate_uid(entropy_srcs=[suffix]),
    )
    header.PatientID, header.Modality = "007", "MR"
    header.Rows, header.Columns = pixels.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 0
    header.WindowCenter, header.WindowWidth = 20_000, 30_000
    header.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    dcmwrite(buffer, header, enforce_file_format=True)
    return buffer.getvalue()


def _nifti(suffix: str) -> bytes:
    from nibabel import Nifti1Image

    image: Any = Nifti1Image
    data: bytes = image(np.stack(images()[4:5] * 3, axis=2), np.diag([-2.0, 0.5, 3.0, 1.0])).to_bytes()
    return gzip.compress(data, mtime=0) if suffix.endswith(".gz") else data


def _array(suffix: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, images()[2])
    return buffer.getvalue()


def _text(suffix: str) -> bytes:
    return texts()[1].encode()


_WRITERS: Mapping[str, Callable[[str], bytes]] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"), _image),
    **dict.fromkeys((".dcm", ".dicom", ".ima"), _dicom),
    **dict.fromkeys((".nii", ".nii.gz"), _nifti),
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), _hdf5),
    **dict.fromkeys((".csv", ".parquet"), _table),
    ".npy": _array,
    **dict.fromkeys((".txt", ".md"), _text),
}

#: Which part is read of those files that hold several.
_PARTS: Mapping[str, str] = {
    **dict.fromkeys((".h5", ".hdf5", ".hdf"), "/train/1"),
    **dict.fromkeys((".csv", ".parquet"), "column=report&by=patient_id&key=007"),
}
