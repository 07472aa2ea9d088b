"""Readers: image files → arrays in the file's own dtype; text files → ``str``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from featstore import Part, ReaderSpec, SetupError, Source, hookimpl


def _read_image(source: Source) -> Any:
    from featstore_readers.images import read  # Pillow and tifffile are imported when the first image is read

    return read(source)


def _read_text(source: Source) -> Any:
    from featstore_readers.text import read

    return read(source)


def _dicom() -> Any:
    try:
        from featstore_readers import dicom
    except ImportError as error:
        raise SetupError(f"DICOM files need pydicom: {error}.", hint="pip install 'featstore[dicom]'") from error
    return dicom


def _read_dicom(source: Source) -> Any:
    return _dicom().read(source)


def _expand_dicom(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    parts: Iterable[Part] = _dicom().expand(source, settings)
    return parts


def _nifti() -> Any:
    try:
        from featstore_readers import nifti
    except ImportError as error:
        raise SetupError(f"NIfTI files need nibabel: {error}.", hint="pip install 'featstore[nifti]'") from error
    return nifti


def _read_nifti(source: Source) -> Any:
    return _nifti().read(source)


def _expand_nifti(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    parts: Iterable[Part] = _nifti().expand(source, settings)
    return parts


def _hdf5() -> Any:
    try:
        from featstore_readers import hdf5
    except ImportError as error:
        raise SetupError(f"HDF5 files need h5py: {error}.", hint="pip install 'featstore[hdf5]'") from error
    return hdf5


def _read_hdf5(source: Source) -> Any:
    return _hdf5().read(source)


def _expand_hdf5(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    parts: Iterable[Part] = _hdf5().expand(source, settings)
    return parts


def _read_array(source: Source) -> Any:
    from featstore_readers.numpy_files import read

    return read(source)


def _expand_array(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    from featstore_readers.numpy_files import expand

    return expand(source, settings)


def _read_table(source: Source) -> Any:
    from featstore_readers.table import read  # pyarrow is imported when the first table is read

    return read(source)


def _expand_table(source: Source, settings: Mapping[str, str]) -> Iterable[Part]:
    from featstore_readers.table import expand

    return expand(source, settings)


@hookimpl
def featstore_readers() -> Iterable[ReaderSpec]:
    yield ReaderSpec(
        "image",
        suffixes=(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"),
        read=_read_image,
        description="PNG, JPEG, TIFF, BMP and WebP, at their full bit depth",
    )
    yield ReaderSpec("text", suffixes=(".txt",), read=_read_text, description="UTF-8 text, one file one text")
    yield ReaderSpec(
        "dicom",
        suffixes=(".dcm", ".dicom", ".ima", ""),
        read=_read_dicom,
        expand=_expand_dicom,
        description="DICOM images, frame by frame, in rescaled values with their window",
    )
    yield ReaderSpec(
        "nifti",
        suffixes=(".nii", ".nii.gz"),
        read=_read_nifti,
        expand=_expand_nifti,
        settings=("axis", "step"),
        description="NIfTI volumes, whole or as slices along an axis, in the closest canonical orientation",
    )
    yield ReaderSpec(
        "hdf5",
        suffixes=(".h5", ".hdf5", ".hdf"),
        read=_read_hdf5,
        expand=_expand_hdf5,
        settings=("dataset",),
        description="rows of HDF5 data sets, with what <partition>_metadata says of them",
    )
    yield ReaderSpec(
        "numpy",
        suffixes=(".npy", ".npz"),
        read=_read_array,
        expand=_expand_array,
        settings=("axis",),
        description="arrays of numbers, whole or row by row",
    )
    yield ReaderSpec(
        "table",
        suffixes=(".csv", ".parquet"),
        read=_read_table,
        expand=_expand_table,
        settings=("text", "key"),
        description="texts in a column of a CSV or Parquet table, found by key",
    )
