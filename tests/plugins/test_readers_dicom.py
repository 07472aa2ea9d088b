"""DICOM against pydicom: values, windows, frames, colours, what the header tells; what isn't one is refused."""

from __future__ import annotations

import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from featstore_readers import featstore_readers
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageFile
from pydicom import Dataset, FileMetaDataset, uid
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

from featstore import InputError, Part, Picture, SetupError, Source
from featstore.testing import check_reader

(READER,) = (spec for spec in featstore_readers() if spec.name == "dicom")
BUNDLED = Path(pydicom.__file__).parent / "data" / "test_files"
NAMES = sorted(path.name for path in BUNDLED.glob("*.dcm"))
CT, RLE, PALETTE = (BUNDLED / name for name in ("CT_small.dcm", "MR_small_RLE.dcm", "examples_palette.dcm"))


def read(path: Path | str, fragment: str | None = None) -> Picture:
    picture = READER.read(Source(path, fragment))
    assert isinstance(picture, Picture)
    return picture


def expand(path: Path | str) -> list[Part]:
    assert READER.expand is not None
    return list(READER.expand(Source(path), {}))


def header(pixels: npt.NDArray[Any], **elements: Any) -> Dataset:
    """One grey frame (H, W), or RGB (H, W, 3), or several frames (N, H, W) with NumberOfFrames."""
    bits = 8 * pixels.itemsize
    rgb = pixels.ndim == 3 and "NumberOfFrames" not in elements
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made.SOPClassUID, made.SOPInstanceUID = uid.SecondaryCaptureImageStorage, "1.2.3.4"
    made.Rows, made.Columns = pixels.shape[-3:-1] if rgb else pixels.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = (3, "RGB") if rgb else (1, "MONOCHROME2")
    if rgb:
        made.PlanarConfiguration = 0
    made.BitsAllocated, made.BitsStored, made.HighBit = bits, bits, bits - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def saved(made: Dataset) -> bytes:
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def save(tmp_path: Path) -> Callable[[Dataset | bytes], Path]:
    def write(made: Dataset | bytes) -> Path:
        path = tmp_path / "image.dcm"
        path.write_bytes(made if isinstance(made, bytes) else saved(made))
        return path

    return write


def in_pydicom(path: Path, frame: int) -> tuple[int, npt.NDArray[Any]] | None:
    """How many frames pydicom alone finds, and what it makes of one; None where it can't."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pydicom.dcmread(path, force=True)
        try:
            pixels = pixel_array(made, index=frame)
        except (AttributeError, NotImplementedError, RuntimeError, ValueError):
            return None
        frames = int(made.get("NumberOfFrames") or 1)
        if made.PhotometricInterpretation == "PALETTE COLOR":
            return frames, apply_color_lut(pixels, made)
        return frames, apply_modality_lut(pixels, made) if made.SamplesPerPixel == 1 else pixels


# --------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("name", NAMES)
def test_every_bundled_file_is_what_pydicom_decodes(name: str) -> None:
    expected = in_pydicom(BUNDLED / name, 0)
    if expected is None:
        with pytest.raises(InputError):
            read(BUNDLED / name, expand(BUNDLED / name)[0].fragment)
        return
    parts = expand(BUNDLED / name)
    assert len(parts) == expected[0]
    for number in {0, len(parts) - 1}:
        picture = read(BUNDLED / name, parts[number].fragment)
        (_, reference) = in_pydicom(BUNDLED / name, number) or expected
        np.testing.assert_array_equal(picture.pixels, reference)
        assert picture.pixels.dtype.isnative
        assert picture.pixels.dtype.kind in "ui"  # all of these rescale by whole numbers


def test_most_bundled_files_are_read() -> None:
    assert sum(in_pydicom(BUNDLED / name, 0) is not None for name in NAMES) >= 45


@pytest.mark.parametrize(
    ("dtype", "stored", "slope", "intercept", "expected"),
    [
        ("u2", 16, None, None, "u2"),
        ("i2", 16, None, None, "i2"),
        ("u2", 16, 1, 0, "u2"),
        ("u1", 8, 1, 0, "u1"),
        ("u1", 8, 2, 0, "u2"),
        ("u2", 12, 1, -1024, "i2"),
        ("u2", 16, 1, -1024, "i4"),
        ("i2", 16, 1, -1024, "i4"),
        ("i2", 16, -1, 0, "i4"),
        ("u2", 16, 3, 7, "u4"),
        ("u4", 32, 100, -5, "i8"),
        ("u2", 16, 0.5, -1024, "f8"),
        ("i2", 16, 1, 0.25, "f8"),
        ("u2", 16, 2.0**40, 0, "f8"),
    ],
)
def test_the_whole_range_is_kept_as_it_is_rescaled(
    dtype: str, stored: int, slope: float | None, intercept: float | None, expected: str, save: Callable[..., Path]
) -> None:
    ends = np.iinfo(dtype)
    high = ends.max if stored == 8 * ends.dtype.itemsize else 2**stored - 1
    pixels = np.linspace(float(ends.min), float(high), 16 * 16).clip(ends.min, high).astype(dtype).reshape(16, 16)
    pixels[0, 0], pixels[-1, -1] = ends.min, high
    made = header(pixels, BitsStored=stored, HighBit=stored - 1)
    if slope is not None:
        made.RescaleSlope, made.RescaleIntercept, made.RescaleType = str(slope), str(intercept), "US"
    picture = read(save(made))
    np.testing.assert_array_equal(picture.pixels, apply_modality_lut(pixels, made))
    assert picture.pixels.dtype == np.dtype(expected)
    assert (picture.window, picture.extent, picture.inverted) == (None, None, False)


@given(
    pixels=st.lists(st.integers(0, 65535), min_size=4, max_size=4),
    slope=st.integers(-9, 9).filter(bool),
    intercept=st.integers(-70_000, 70_000),
)
def test_whole_rescaling_is_exact(pixels: list[int], slope: int, intercept: int) -> None:
    made = header(np.array(pixels, np.uint16).reshape(2, 2), RescaleSlope=slope, RescaleIntercept=intercept)
    fs = fsspec.filesystem("memory")
    fs.pipe("/exact/a.dcm", saved(made))
    found = read("memory://exact/a.dcm").pixels
    assert found.ravel().tolist() == [value * slope + intercept for value in pixels]


def test_one_of_slope_and_intercept_is_enough(save: Callable[..., Path]) -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    np.testing.assert_array_equal(read(save(header(pixels, RescaleIntercept="-3"))).pixels, pixels.astype(int) - 3)
    np.testing.assert_array_equal(read(save(header(pixels, RescaleSlope="4"))).pixels, pixels * 4)
    with pytest.raises(InputError, match="RescaleSlope is 0"):
        read(save(header(pixels, RescaleSlope="0")))


def test_unused_bits_are_no_part_of_a_value(save: Callable[..., Path]) -> None:
    pixels = np.array([[0xF001, 0x0FFF], [0x1234, 0x8000]], np.uint16)
    found = read(save(header(pixels, BitsStored=12, HighBit=11))).pixels
    np.testing.assert_array_equal(found, pixels & 0x0FFF)


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_modality_lut_is_looked_up(vr: str, syntax: uid.UID, save: Callable[..., Path]) -> None:
    pixels = np.array([[0, 9, 10, 11], [12, 13, 14, 60000]], np.uint16)
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4, 10, 16])
    table = [7, 700, 30000, 65535]
    item.add_new("LUTData", vr, table if vr == "US" else struct.pack("<4H", *table))
    made = header(pixels, ModalityLUTSequence=[item])
    made.file_meta.TransferSyntaxUID = syntax
    picture = read(save(made))
    assert picture.pixels.dtype == np.uint16
    assert picture.pixels.tolist() == [[7, 7, 7, 700], [30000, 65535, 65535, 65535]]


# -------------------------------------------------------------------------------------------------- windows
def shown(x: npt.NDArray[np.float64], centre: float, width: float, function: str) -> npt.NDArray[np.float64]:
    """DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.2, literally, with an output of 0…1."""
    if function == "LINEAR":
        below, above = x <= centre - 0.5 - (width - 1) / 2, x > centre - 0.5 + (width - 1) / 2
        middle = (x - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5
    else:
        below, above = x <= centre - width / 2, x > centre + width / 2
        middle = (x - centre) / width + 0.5
    return np.where(below, 0.0, np.where(above, 1.0, middle))


@pytest.mark.parametrize(
    ("centre", "width", "function"),
    [(40, 400, None), (600, 1600, "LINEAR"), (127.5, 256, "LINEAR"), (5, 1, "LINEAR"), (0, 0.5, "LINEAR_EXACT"),
     (40, 400, "LINEAR_EXACT")],
)  # fmt: skip
def test_the_window_is_the_standards(
    centre: float, width: float, function: str | None, save: Callable[..., Path]
) -> None:
    made = header(np.zeros((2, 2), np.int16), WindowCenter=centre, WindowWidth=width)
    if function:
        made.VOILUTFunction = function
    low, high = read(save(made)).window or (0.0, 0.0)
    x = np.concatenate([np.arange(-1024, 3072), np.linspace(centre - 1, centre + 1, 97)]).astype(np.float64)
    np.testing.assert_allclose(
        np.clip((x - low) / (high - low), 0, 1), shown(x, centre, width, function or "LINEAR"), atol=1e-12
    )


def test_the_first_of_several_windows_counts(save: Callable[..., Path]) -> None:
    made = header(np.zeros((2, 2), np.uint16), WindowCenter=[40, 300], WindowWidth=[401, 1500])
    assert read(save(made)).window == (-160.5, 239.5)


def test_a_sigmoid_is_taken_for_its_tangent(save: Callable[..., Path]) -> None:
    made = header(np.zeros((2, 2), np.uint16), WindowCenter=100, WindowWidth=50, VOILUTFunction="SIGMOID")
    low, high = read(save(made)).window or (0.0, 0.0)
    step = 1e-4
    sigmoid = [1 / (1 + np.exp(-4 * (x - 100) / 50)) for x in (100 - step, 100 + step)]
    assert 1 / (high - low) == pytest.approx((sigmoid[1] - sigmoid[0]) / (2 * step))
    assert (low + high) / 2 == 100


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"WindowCenter": 1, "WindowWidth": 0}, "WindowWidth is 0"),
        ({"WindowCenter": 1, "WindowWidth": 0.5}, "WindowWidth is 0.5"),
        ({"WindowCenter": 1, "WindowWidth": -3, "VOILUTFunction": "LINEAR_EXACT"}, "WindowWidth is -3"),
        ({"WindowCenter": 1, "WindowWidth": 3, "VOILUTFunction": "CUBIC"}, "'CUBIC'"),
    ],
)
def test_a_window_that_is_none_is_refused(elements: dict[str, Any], message: str, save: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=message):
        read(save(header(np.zeros((2, 2), np.uint16), **elements)))


def test_no_window_where_the_file_says_none(save: Callable[..., Path]) -> None:
    made = header(np.zeros((2, 2), np.uint16), WindowCenter=None, WindowWidth=None)
    assert read(save(made)).window is None
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [2, 0, 16], b"\0\0\xff\xff"
    made.VOILUTSequence = [lut]
    assert read(save(made)).window is None


def test_a_mask_has_the_range_of_its_bits(save: Callable[..., Path]) -> None:
    pixels = np.array([[0, 1], [1, 0]], np.uint8)
    picture = read(save(header(pixels, BitsStored=1, HighBit=0)))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.window == (0, 1)
    assert read(BUNDLED / "liver_1frame.dcm").window == (0, 1)


def test_monochrome1_is_told_not_applied(save: Callable[..., Path]) -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    picture = read(save(header(pixels, PhotometricInterpretation="MONOCHROME1")))
    assert picture.inverted
    np.testing.assert_array_equal(picture.pixels, pixels)


# -------------------------------------------------------------------------------------------------- colours
def test_planes_become_channels(save: Callable[..., Path], rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (5, 6, 3), np.uint8)
    made = header(pixels, PlanarConfiguration=1, PixelData=np.moveaxis(pixels, -1, 0).tobytes())
    picture = read(save(made))
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert (picture.window, picture.inverted) == (None, False)


def palette(bits: int, count: int, first: int, table: npt.NDArray[Any]) -> dict[str, Any]:
    elements: dict[str, Any] = {}
    for name, band in zip(("Red", "Green", "Blue"), table, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [count % 65536, first, bits]
        elements[f"{name}PaletteColorLookupTableData"] = band.tobytes()
    return elements


@pytest.mark.parametrize(("bits", "count", "first"), [(8, 256, 0), (16, 256, 0), (8, 512, 100), (16, 65536, 0)])
def test_a_palette_becomes_rgb(
    bits: int, count: int, first: int, save: Callable[..., Path], rng: np.random.Generator
) -> None:
    table = rng.integers(0, 2**bits, (3, count), np.uint16).astype(f"u{bits // 8}")
    pixels = rng.integers(0, 65536, (9, 11), np.uint16) if count > 256 else rng.integers(0, 256, (9, 11), np.uint8)
    made = header(pixels, PhotometricInterpretation="PALETTE COLOR", **palette(bits, count, first, table))
    found = read(save(made)).pixels
    places = np.clip(pixels.astype(int) - first, 0, count - 1)
    assert found.dtype == table.dtype
    np.testing.assert_array_equal(found, np.moveaxis(table[:, places], 0, -1))


def test_entries_of_8_bits_may_take_16(save: Callable[..., Path]) -> None:
    table = np.arange(3 * 256).reshape(3, 256).astype(np.uint16) % 256
    made = header(
        np.array([[0, 255]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **palette(8, 256, 0, table)
    )
    found = read(save(made)).pixels
    assert found.dtype == np.uint8
    assert found.tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_other_palettes_and_colours_are_refused(save: Callable[..., Path]) -> None:
    made = header(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    with pytest.raises(InputError, match="not there"):
        read(save(made))
    made.SegmentedRedPaletteColorLookupTableData = b"\0\1\0\0"
    with pytest.raises(InputError, match="segmented"):
        read(save(made))
    for colours in ("CMYK", "HSV", "YBR_PARTIAL_420", "RGB"):
        with pytest.raises(InputError):
            read(save(header(np.zeros((2, 2), np.uint8), PhotometricInterpretation=colours)))
    short = palette(16, 256, 0, np.zeros((3, 20), np.uint16))
    with pytest.raises(InputError, match="should have 256 entries"):
        read(save(header(np.zeros((2, 2), np.uint8), PhotometricInterpretation="PALETTE COLOR", **short)))


# --------------------------------------------------------------------------------------------------- frames
def group(**elements: Any) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize("table", [True, False])
def test_frames_are_parts(table: bool, save: Callable[..., Path], rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65536, (4, 6, 5), np.uint16)
    native = save(header(pixels, NumberOfFrames=4, PatientID="007"))
    parts = expand(native)
    assert [part.fragment for part in parts] == ["frame=0", "frame=1", "frame=2", "frame=3"]
    assert all(part.fields == {"patient_id": "007"} and not part.alone for part in parts)
    found = [Source(native, part.fragment) for part in parts]
    for number, source in enumerate(found):
        np.testing.assert_array_equal(READER.read(source).pixels, pixels[number])
    assert len({source.content_hash for source in found}) == 4
    made = header(pixels, NumberOfFrames=4)
    made.file_meta.TransferSyntaxUID = uid.RLELossless
    encoder = pydicom.pixels.get_encoder(uid.RLELossless)
    single = header(pixels[0])
    frames = [encoder.encode(frame.tobytes(), **pydicom.pixels.as_pixel_options(single)) for frame in pixels]
    made.PixelData = encapsulate(frames, has_bot=table)
    compressed = save(made)
    for number in (3, 0, 2, 1):
        np.testing.assert_array_equal(read(compressed, f"frame={number}").pixels, pixels[number])


def test_a_frame_must_be_named_and_be_there(save: Callable[..., Path]) -> None:
    path = save(header(np.zeros((3, 2, 2), np.uint16), NumberOfFrames=3))
    with pytest.raises(
        InputError, match=r"has 3 frames, and one is needed\.\n  next: name one, as in scan\.dcm#frame=0"
    ):
        read(path)
    with pytest.raises(InputError, match="frame 3 isn't one"):
        read(path, "frame=3")
    for fragment in ("frame=-1", "frame=x", "slice=1", "frame=1&x=2", "frame=٣", "frame=1e0", ""):
        with pytest.raises(InputError, match="called frame=K"):
            read(path, fragment)


def test_enhanced_frames_have_their_own_rescaling_and_window(save: Callable[..., Path]) -> None:
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 2, 2)
    slopes, centres = ("1", "2", "0.5"), (40, 50, 60)
    made = header(pixels, NumberOfFrames=3, RescaleSlope="9", RescaleIntercept="9", WindowCenter=9, WindowWidth=9)
    made.PerFrameFunctionalGroupsSequence = [
        group(
            PixelValueTransformationSequence=[group(RescaleSlope=slope, RescaleIntercept="-4", RescaleType="US")],
            FrameVOILUTSequence=[group(WindowCenter=[centre, 1], WindowWidth=[21, 1])],
        )
        for slope, centre in zip(slopes, centres, strict=True)
    ]
    path = save(made)
    for number, (slope, centre) in enumerate(zip(slopes, centres, strict=True)):
        picture = read(path, f"frame={number}")
        np.testing.assert_array_equal(picture.pixels, pixels[number] * float(slope) - 4)
        assert picture.window == (centre - 10.5, centre + 9.5)
    made.PerFrameFunctionalGroupsSequence = [group(), group(), group()]
    made.SharedFunctionalGroupsSequence = [
        group(PixelValueTransformationSequence=[group(RescaleSlope="3", RescaleIntercept="1", RescaleType="US")])
    ]
    picture = read(save(made), "frame=2")
    np.testing.assert_array_equal(picture.pixels, pixels[2] * 3 + 1)
    assert picture.window == (4.5, 12.5)  # of the header: none is in the groups
    made.PerFrameFunctionalGroupsSequence = [group()]
    with pytest.raises(InputError, match="describes 1 frames, and frame 2"):
        read(save(made), "frame=2")


def test_another_window_is_another_content(save: Callable[..., Path]) -> None:
    hashes = set()
    for elements in ({}, {"WindowCenter": 1, "WindowWidth": 9}, {"PhotometricInterpretation": "MONOCHROME1"}):
        source = Source(save(header(np.zeros((2, 3, 3), np.uint16), NumberOfFrames=2, **elements)), "frame=1")
        READER.read(source)
        hashes.add(source.content_hash)
    assert len(hashes) == 3


# --------------------------------------------------------------------------------------------------- fields
def test_fields_are_the_headers(save: Callable[..., Path]) -> None:
    made = header(
        np.zeros((2, 2), np.uint16), PatientID="007 ", PatientName="Doe^Jane", PatientBirthDate="19700101",
        StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", SeriesDescription="T1 Leber höher", Modality="MR",
        InstanceNumber=12, AcquisitionDate="20260131", AcquisitionTime="093001.5", InstitutionName="Clinic",
        AccessionNumber="A17", OperatorsName="Roe",
    )  # fmt: skip
    made.SpecificCharacterSet = "ISO_IR 192"
    (part,) = expand(save(made))
    assert part == Part(
        None,
        {
            "patient_id": "007", "visit_id": "1.2.3", "modality": "MR", "series": "1.2.3.4",
            "series_description": "T1 Leber höher", "instance": "12", "acquired_at": "2026-01-31T09:30:01.500000",
        },
    )  # fmt: skip
    assert expand(save(header(np.zeros((2, 2), np.uint16), PatientID="", Modality=""))) == [Part(None, {})]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"AcquisitionDateTime": "20260131093015.123456+0130", "StudyDate": "19990101"},
         "2026-01-31T09:30:15.123456+01:30"),
        ({"AcquisitionDateTime": "202601310930"}, "2026-01-31T09:30:00"),
        ({"AcquisitionDateTime": "2026", "SeriesDate": "20260203", "SeriesTime": "04"}, "2026-02-03T04:00:00"),
        ({"ContentDate": "20260203", "ContentTime": ""}, "2026-02-03"),
        ({"AcquisitionDate": "20261301", "StudyDate": "20260203", "StudyTime": "1112"}, "2026-02-03T11:12:00"),
        ({"StudyDate": "2026.02.03", "StudyTime": "11:12:13"}, "2026-02-03T11:12:13"),
        ({"StudyDate": "20260230"}, None),
        ({"StudyDate": "yesterday"}, None),
        ({"StudyTime": "1112"}, None),
    ],
)  # fmt: skip
def test_the_time_is_iso_8601_or_absent(
    elements: dict[str, str], expected: str | None, save: Callable[..., Path]
) -> None:
    made = header(np.zeros((2, 2), np.uint16))
    with pydicom.config.disable_value_validation():
        for keyword, value in elements.items():
            setattr(made, keyword, value)
        path = save(made)
    assert expand(path)[0].fields.get("acquired_at") == expected


def test_files_without_pixels_have_no_samples() -> None:
    for name in ("test-SR.dcm", "rtplan.dcm", "rtstruct.dcm", "waveform_ecg.dcm", "dicomdirtests/DICOMDIR"):
        with pytest.raises(InputError, match="has no pixels"):
            expand(BUNDLED / name)
        with pytest.raises(InputError, match="has no pixels"):
            read(BUNDLED / name)


def test_bare_files_are_read_where_they_say_what_they_are(tmp_path: Path) -> None:
    pixels = np.arange(6, dtype=np.uint16).reshape(2, 3)
    made = header(pixels, PatientID="7")
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian):
        made.file_meta.TransferSyntaxUID = syntax
        data = saved(made)
        (tmp_path / "IM0001").write_bytes(data[data.index(b"\x08\0\x16\0") :])
        np.testing.assert_array_equal(read(tmp_path / "IM0001").pixels, pixels)
        assert expand(tmp_path / "IM0001")[0].fields == {"patient_id": "7"}
    for text in (b"", b"\x08", b"# README\n", b"#!/bin/sh\n", b"{}", b"PK\3\4", b"\x08\0" * 300):
        (tmp_path / "README").write_bytes(text)
        with pytest.raises(InputError):
            expand(tmp_path / "README")
        with pytest.raises(InputError):
            read(tmp_path / "README")


# ------------------------------------------------------------------------------------------ what is refused
def test_compressions_that_nothing_decodes_say_what_would() -> None:
    with pytest.raises(InputError, match=r"JPEG-LS Lossless.*\n  next: pip install pylibjpeg"):
        read(BUNDLED / "MR_small_jpeg_ls_lossless.dcm")
    with pytest.raises(InputError, match=r"12-bit precision\n  next: if other programs can open it, pip install"):
        read(BUNDLED / "JPGExtended.dcm")


def test_pillow_may_not_make_up_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SetupError, match="told to make up"):
        read(BUNDLED / "JPEG2000.dcm")


@pytest.mark.parametrize(
    ("name", "elements", "message"),
    [
        ("JPEG2000.dcm", {"Rows": 256, "Columns": 1024}, "says 1024 × 256 pixels.*has 256 × 1024"),
        ("SC_rgb_jpeg_dcmtk.dcm", {"Rows": 200, "Columns": 50}, "says 50 × 200 pixels.*has 100 × 100"),
        ("MR_small_RLE.dcm", {"Rows": 65535, "Columns": 65535}, "65535 × 65535 pixels.*decompression bomb"),
        ("MR_small_RLE.dcm", {"Rows": 10000, "Columns": 10000}, "can't be decoded"),
        ("MR_small_RLE.dcm", {"NumberOfFrames": 2**31 - 1}, "2147483647 frames need"),
        ("MR_small_RLE.dcm", {"NumberOfFrames": -1}, "says -1 frames"),
        ("CT_small.dcm", {"NumberOfFrames": 2}, "2 frames need 65,536 bytes of pixels, and 32,768"),
        ("CT_small.dcm", {"Rows": 64}, "more than one frame of them would be left out"),
        ("CT_small.dcm", {"BitsAllocated": 8, "BitsStored": 8}, "more than one frame"),
        ("CT_small.dcm", {"Rows": 0}, "no pixels: 128 × 0"),
        ("CT_small.dcm", {"Rows": 60000, "Columns": 60000}, "decompression bomb"),
        ("CT_small.dcm", {"SamplesPerPixel": 3}, "need 98,304 bytes"),
    ],
)  # fmt: skip
def test_headers_that_dont_fit_their_pixels(
    name: str, elements: dict[str, int], message: str, save: Callable[..., Path]
) -> None:
    made = pydicom.dcmread(BUNDLED / name)
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    path = save(made)
    with pytest.raises(InputError, match=message):
        read(path, expand(path)[0].fragment)


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    size = len(value) if length is None else length
    return struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, vr, 0, size) + value


def part10(body: bytes, syntax: str) -> bytes:
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sH", 2, 16, b"UI", len(syntax)) + syntax.encode() + body


EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1\0", "1.2.840.10008.1.2\0", "1.2.840.10008.1.2.1.99"
NESTED = element(0x00091010, b"SQ", b"", 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"


def bombs() -> dict[str, Callable[[], bytes]]:
    def deflated() -> bytes:
        pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
        packed = b"".join(pack.compress(bytes(1 << 24)) for _ in range(17)) + pack.flush()
        return part10(packed, DEFLATED)

    def long_text() -> bytes:
        return part10(struct.pack("<HHI", 0x10, 0x20, 1 << 26) + b"7" * (1 << 26), IMPLICIT)

    def long_groups() -> bytes:
        made = header(np.zeros((2, 2, 2), np.uint16), NumberOfFrames=2)
        groups = element(0x52009230, b"SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * (1 << 21))
        data = saved(made)
        place = data.index(b"\xe0\x7f\x10\x00OW")
        return data[:place] + groups + data[place:]

    def run_lengths() -> bytes:
        made = header(np.zeros((64, 64), np.uint8))
        made.file_meta.TransferSyntaxUID = uid.RLELossless
        runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * (1 << 23)
        made.PixelData = encapsulate([runs])
        return saved(made)

    return {
        "a deflated file of 285 MB": deflated,
        "an id of 64 MiB": long_text,
        "2 million frame descriptions": long_groups,
        "runs of 1 GiB in 64 × 64": run_lengths,
        "sequences in sequences": lambda: part10(NESTED * 60_000, EXPLICIT),
        "an id that claims 4 GB": lambda: part10(struct.pack("<HHI", 0x10, 0x20, 0xFFFFFFF0), IMPLICIT),
        "pixels that claim 4 GB": lambda: saved(header(np.zeros((2, 2), np.uint16)))[:-12]
        + struct.pack("<I", 0xFFFFFFF0) + bytes(8),
    }  # fmt: skip


@pytest.mark.parametrize("bomb", bombs())
def test_bombs_are_refused_in_bounded_memory(bomb: str, save: Callable[..., Path]) -> None:
    path = save(bombs()[bomb]())
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read(path, expand(path)[0].fragment)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < (600 << 20 if "deflated" in bomb else 200 << 20), f"{peak / 2**20:.0f} MiB"


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A file that was cut, overwritten at some places or with extreme numbers, or mixed up."""
    array = bytearray(data)
    at = int(rng.integers(0, min(len(data), 1500)))
    match rng.integers(0, 4):
        case 0:
            return data[: int(rng.integers(0, len(data)))]
        case 1:
            array[at : at + 4] = [b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"][rng.integers(0, 3)]
        case 2:
            for place in rng.integers(0, len(data), 5):
                array[place] ^= 1 << int(rng.integers(0, 8))
        case _:
            start = int(rng.integers(0, len(data)))
            array[at : at + 60] = array[start : start + 60]
    return bytes(array)


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm",
                                  "SC_rgb_jpeg_dcmtk.dcm", "image_dfl.dcm", "MR_small_bigendian.dcm"])  # fmt: skip
def test_damaged_files_give_pixels_or_an_input_error(
    name: str, save: Callable[..., Path], rng: np.random.Generator
) -> None:
    data = (BUNDLED / name).read_bytes()
    refused = 0
    tracemalloc.start()
    try:
        for _ in range(40):
            path = save(damaged(data, rng))
            try:
                picture = read(path, expand(path)[0].fragment)
                assert picture.pixels.size
            except InputError:
                refused += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused >= 10
    assert peak < 400 << 20


def test_half_a_file_is_no_file(save: Callable[..., Path]) -> None:
    for name in ("CT_small.dcm", "JPEG2000.dcm", "MR_small_RLE.dcm", "image_dfl.dcm"):
        data = (BUNDLED / name).read_bytes()
        for size in np.linspace(0, len(data) - 150, 12).astype(int):  # some end in padding
            with pytest.raises(InputError):
                read(save(data[:size]))


# ------------------------------------------------------------------------------------------------- manners
def test_the_laws_hold() -> None:
    check_reader("dicom", files=[CT, RLE, PALETTE, f"{BUNDLED / 'SC_rgb_rle_2frame.dcm'}#frame=1"])


def test_a_url_gives_the_same_as_the_file() -> None:
    fs = fsspec.filesystem("memory")
    for name, fragment in (("CT_small.dcm", None), ("SC_rgb_rle_2frame.dcm", "frame=1"), ("JPEG2000.dcm", None)):
        fs.pipe(f"/dicom/{name}", (BUNDLED / name).read_bytes())
        there, here = Source(f"memory://dicom/{name}", fragment), Source(BUNDLED / name, fragment)
        np.testing.assert_array_equal(READER.read(there).pixels, READER.read(here).pixels)
        assert there.content_hash == here.content_hash
        assert expand(f"memory://dicom/{name}") == expand(BUNDLED / name)
    for fragment in (None, "frame=1"):
        with pytest.raises(FileNotFoundError):
            read("memory://nowhere/a.dcm", fragment)


def test_threads_leave_the_warnings_as_they_are() -> None:
    before = list(warnings.filters)
    names = ["MR_small_padded.dcm", "SC_rgb_jpeg_dcmd.dcm", "CT_small.dcm"] * 8  # the first two make pydicom warn
    with ThreadPoolExecutor(4) as pool:
        assert all(picture.pixels.size for picture in pool.map(lambda name: read(BUNDLED / name), names))
    assert warnings.filters == before
