"""DICOM files: pydicom's own small ones, and some that it has none of."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, generate_uid

from .seeds import Seed

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
_WHOLE = (
    "CT_small MR_small MR_small_implicit MR_small_bigendian MR_small_RLE MR_small_jp2klossless SC_rgb_jpeg_dcmtk "
    "SC_rgb_small_odd SC_rgb_rle SC_ybr_full_422_uncompressed liver_1frame rtdose_1frame image_dfl no_meta_group_length"
)
_FRAMES = {"SC_rgb_rle_2frame": 2, "SC_rgb_rle_16bit_2frame": 2, "rtdose": 15}


def made(pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object) -> Dataset:
    """A data set of one frame (H, W), or of several (frames, H, W)."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = syntax
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    found.PatientID, found.Modality, found.StudyDate = "007", "MR", "20200131"
    found.Rows, found.Columns = pixels.shape[-2:]
    found.SamplesPerPixel, found.PhotometricInterpretation, found.PixelRepresentation = 1, "MONOCHROME2", 0
    bits = 8 * pixels.dtype.itemsize
    found.BitsAllocated, found.BitsStored, found.HighBit = bits, bits, bits - 1
    if pixels.ndim == 3:
        found.NumberOfFrames = len(pixels)
    found.PixelData = pixels.tobytes()
    found["PixelData"].VR = "OW"
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def written(found: Dataset) -> bytes:
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of absurd values
        found.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _item(**elements: object) -> Dataset:
    found = Dataset()
    for name, value in elements.items():
        setattr(found, name, value)
    return found


def pixels_of(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(len(shape)).integers(0, 200, shape).astype(dtype)


def enhanced() -> Dataset:
    shared = _item(PixelMeasuresSequence=[_item(PixelSpacing=[1, 1])])
    frames = [
        _item(
            PixelValueTransformationSequence=[_item(RescaleSlope=number + 1, RescaleIntercept=-5, RescaleType="US")],
            FrameVOILUTSequence=[_item(WindowCenter=100, WindowWidth=150 + number)],
        )
        for number in range(3)
    ]
    return made(
        pixels_of(3, 12, 10), SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=frames,
    )  # fmt: skip


def palette() -> Dataset:
    tables = {
        f"{name}PaletteColorLookupTable{part}": value
        for name in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 16]), ("Data", np.arange(256, dtype="<u2").tobytes()))
    }
    return made(pixels_of(12, 10, dtype=np.uint8), PhotometricInterpretation="PALETTE COLOR", **tables)


def modality_lut() -> Dataset:
    item = _item(LUTDescriptor=[256, 0, 16], ModalityLUTType="US", LUTData=np.arange(256, dtype="<u2").tobytes())
    item["LUTData"].VR = "OW"
    return made(pixels_of(12, 10), ModalityLUTSequence=[item])


def seeds() -> list[Seed]:
    found = [Seed(name, ".dcm", (FILES / f"{name}.dcm").read_bytes()) for name in _WHOLE.split()[:-1]]
    for name, count in _FRAMES.items():
        parts = tuple(f"frame={frame}" for frame in range(count))
        found.append(Seed(name, ".dcm", (FILES / f"{name}.dcm").read_bytes(), parts))
    three = ("frame=0", "frame=1", "frame=2")
    found += [
        Seed("no_ending", "", (FILES / "MR_small.dcm").read_bytes()),
        Seed("enhanced", ".dcm", written(enhanced()), three),
        Seed("palette", ".dcm", written(palette())),
        Seed("modality_lut", ".dcm", written(modality_lut())),
        Seed("deflated", ".dcm", written(made(pixels_of(3, 12, 10), DeflatedExplicitVRLittleEndian)), three),
        Seed("window", ".ima", written(made(pixels_of(12, 10), WindowCenter=100, WindowWidth=50, RescaleSlope="0.5"))),
    ]
    return found
