"""NIfTI against nibabel: slices, volumes, orientations, scalings; what isn't one volume is refused."""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import nibabel
import nilearn
import numpy as np
import numpy.typing as npt
import pytest
from featstore_readers import featstore_readers
from hypothesis import given
from hypothesis import strategies as st

from featstore import InputError, Part, Picture, Source, UsageError
from featstore.testing import check_reader

(READER,) = (spec for spec in featstore_readers() if spec.name == "nifti")
BUNDLED = Path(nibabel.__file__).parent / "tests" / "data"
BRAIN = Path(nilearn.__file__).parent / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
STATISTIC = BRAIN.with_name("image_10426.nii.gz")
NUMBERS = itertools.count()
WHOLE = ["anatomical.nii", "reoriented_anat_moved.nii", "resampled_anat_moved.nii", "standard.nii.gz"]


def read(path: Path | str, fragment: str | None = None) -> Any:
    return READER.read(Source(path, fragment))


def expand(path: Path | str, **settings: str) -> list[Part]:
    assert READER.expand is not None
    return list(READER.expand(Source(path), settings))


def canonical(path: Path) -> npt.NDArray[Any]:
    """What nibabel gives for the volume, in RAS+."""
    return np.asanyarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def write(made: Any, name: str = "scan.nii") -> Path:
        data = made if isinstance(made, bytes) else made.to_bytes()
        path = tmp_path / name
        path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
        return path

    return write


POINTS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def image(
    voxels: npt.NDArray[Any], codes: str = "RAS", spacing: tuple[float, ...] = (1, 1, 1), kind: Any = None
) -> Any:
    """An image whose stored axes point where ``codes`` say."""
    affine = np.diag([0.0, 0, 0, 1])
    for stored, code in enumerate(codes):
        place, sign = POINTS[code]
        affine[place, stored] = sign * spacing[stored]
    return (kind or nibabel.Nifti1Image)(voxels, affine)


def of_header(made: Any, **fields: Any) -> bytes:
    """The file's bytes, with fields of its header set to anything."""
    data = bytearray(made.to_bytes())
    header = made.header_class(bytes(data[: made.header.sizeof_hdr]), check=False)
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(data[made.header.sizeof_hdr :])


# --------------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_are_nibabels(name: str, axis: int) -> None:
    volume = canonical(BUNDLED / name)
    parts = expand(BUNDLED / name, axis=str(axis))
    assert len(parts) == volume.shape[axis]
    finite = volume[np.isfinite(volume)]
    for number, part in enumerate(parts):
        picture = read(BUNDLED / name, part.fragment)
        assert isinstance(picture, Picture)
        np.testing.assert_array_equal(picture.pixels, np.take(volume, number, axis))
        assert picture.pixels.dtype == volume.dtype.newbyteorder("=")
        assert picture.extent == (finite.min(), finite.max())
        assert (picture.window, picture.inverted) == (None, False)


@pytest.mark.parametrize("name", WHOLE)
def test_volumes_are_nibabels(name: str) -> None:
    volume = canonical(BUNDLED / name)
    whole = read(BUNDLED / name)
    assert whole.shape == (*volume.shape, 1)
    np.testing.assert_array_equal(whole[..., 0], volume)
    assert (whole.dtype.isnative, whole.flags.writeable) == (True, True)


def test_a_brain_and_a_statistic_are_read() -> None:
    for path, spacing, orientation in ((BRAIN, "1x1x1", "RAS"), (STATISTIC, "3x3x3", "LAS")):
        volume = canonical(path)
        parts = expand(path, axis="2", step="40")
        assert [part.fragment for part in parts] == [f"axis=2&slice={k}" for k in range(0, volume.shape[2], 40)]
        assert all(part.fields == {"orientation": orientation, "spacing": spacing} for part in parts)
        for part, number in zip(parts, range(0, volume.shape[2], 40), strict=True):
            np.testing.assert_array_equal(read(path, part.fragment).pixels, volume[:, :, number])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "ASL", "SAR", "IPL"])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_every_orientation_becomes_one(codes: str, name: str, save: Callable[..., Path]) -> None:
    stored = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    path = save(image(stored, codes, (1.5, 2, 3)), name)
    np.testing.assert_array_equal(read(path)[..., 0], canonical(path))
    places = ["RL", "AP", "SI"]
    spacing = dict(zip(codes, ("1.5", "2", "3"), strict=True))
    expected = "x".join(next(size for code, size in spacing.items() if code in pair) for pair in places)
    assert expand(path) == [Part(None, {"orientation": codes, "spacing": expected})]


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", ">u2", "i2", ">i2", "u4", "i4", "i8", "u8", "f4", ">f4", "f8"])
@pytest.mark.parametrize("scale", [None, (1, 0), (0, 7), (np.nan, 0), (2, -1024), (0.25, 0.5), (-3, 0)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_every_dtype_and_scaling(
    dtype: str, scale: tuple[float, float] | None, kind: Any, save: Callable[..., Path], rng: np.random.Generator
) -> None:
    if dtype[-2] in "ui":
        ends = np.iinfo(dtype)
        voxels = rng.integers(ends.min, ends.max, (3, 4, 5), ends.dtype.newbyteorder("="), endpoint=True).astype(dtype)
        voxels.flat[:2] = ends.min, ends.max
    else:
        voxels = rng.normal(size=(3, 4, 5)).astype(dtype)
    made = kind(
        voxels, np.diag([-1.0, 1, 1, 1]), dtype=dtype, header=kind.header_class(endianness=dtype[0].strip("uif") or "<")
    )
    slope, intercept = scale or (np.nan, np.nan)
    path = save(of_header(made, scl_slope=slope, scl_inter=intercept))
    reference = canonical(path)
    whole = read(path)[..., 0]
    np.testing.assert_array_equal(whole, reference)
    assert whole.dtype == reference.dtype.newbyteorder("=")
    picture = read(path, "axis=1&slice=2")
    np.testing.assert_array_equal(picture.pixels, reference[:, 2])
    assert picture.extent == (float(reference.min()), float(reference.max()))
    if slope in (1, 0) or np.isnan(slope):
        assert whole.dtype == voxels.dtype.newbyteorder("=")


@given(shape=st.tuples(*[st.integers(1, 5)] * 3), axis=st.integers(0, 2), data=st.data())
def test_any_slice_of_any_shape(shape: tuple[int, int, int], axis: int, data: st.DataObject) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    codes = data.draw(st.sampled_from(["RAS", "LPS", "SRA", "AIL"]))
    made = image(voxels, codes)
    url = f"memory://any/{next(NUMBERS)}.nii"  # a URL that is kept open is taken for unchanged
    fsspec.filesystem("memory").pipe(url, made.to_bytes())
    reference = np.asanyarray(nibabel.as_closest_canonical(made).dataobj)
    parts = expand(url, axis=str(axis))
    assert len(parts) == reference.shape[axis]
    number = data.draw(st.integers(0, len(parts) - 1))
    found = read(url, parts[number].fragment).pixels
    np.testing.assert_array_equal(found, np.take(reference, number, axis))


def test_the_window_is_cal_min_and_cal_max(save: Callable[..., Path]) -> None:
    made = image(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    for low, high, expected in ((5, 15, (5.0, 15.0)), (0, 0, None), (9, 3, None), (np.nan, 3, None), (0, np.inf, None)):
        path = save(of_header(made, cal_min=low, cal_max=high))
        assert read(path, "axis=0&slice=0").window == expected


def test_nan_stays_and_is_no_extent(save: Callable[..., Path]) -> None:
    voxels = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    voxels[0, 0, 0], voxels[1, 1, 1] = np.nan, np.inf
    picture = read(save(image(voxels)), "axis=0&slice=0")
    assert np.isnan(picture.pixels[0, 0])
    assert picture.extent == (1, 23)
    assert read(save(image(np.full((2, 2, 2), np.nan, np.float32))), "axis=0&slice=0").extent is None


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 5, 1), (3, 4, 5, 1, 1)])
def test_axes_of_one_are_no_more_volumes(shape: tuple[int, ...], save: Callable[..., Path]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    assert read(save(image(voxels.reshape((*shape, 1)[:3]) if len(shape) < 3 else voxels)))[..., 0].size == voxels.size
    path = save(nibabel.Nifti1Image(voxels, np.eye(4)))
    np.testing.assert_array_equal(read(path)[..., 0], voxels.reshape((*shape, 1)[:3]))


def test_units_become_millimetres(save: Callable[..., Path]) -> None:
    made = image(np.zeros((2, 2, 2), np.uint8), spacing=(0.8999999761581421, 0.9375, 3))
    assert expand(save(made))[0].fields["spacing"] == "0.9x0.9375x3"
    for unit, expected in (("micron", "0.0009x0.0009375x0.003"), ("meter", "900x937.5x3000")):
        made.header.set_xyzt_units(unit)
        assert expand(save(made))[0].fields["spacing"] == expected


def test_another_slice_window_or_extent_is_another_content(save: Callable[..., Path]) -> None:
    voxels = np.zeros((3, 3, 3), np.int16)
    voxels[2, 2, 2] = 5
    files = [image(voxels).to_bytes(), of_header(image(voxels), cal_max=4), image(voxels * 2).to_bytes()]
    hashes = []
    for data in files:
        source = Source(save(data), "axis=2&slice=0")
        READER.read(source)
        hashes.append(source.content_hash)
    assert len(set(hashes)) == 3
    again, blank = Source(save(files[0], "copy.nii.gz"), "axis=2&slice=0"), Source(save(files[0]), "axis=2&slice=1")
    READER.read(again)
    READER.read(blank)
    assert again.content_hash == blank.content_hash == hashes[0]


# ------------------------------------------------------------------------------------------------- settings
def test_steps_take_every_so_many_slices(save: Callable[..., Path]) -> None:
    path = save(image(np.zeros((3, 4, 10), np.uint8), "SRA"))  # stored along Superior, Right, Anterior
    for axis, step, expected in (
        ("0", "1", [0, 1, 2, 3]),
        ("1", "3", [0, 3, 6, 9]),
        ("2", "2", [0, 2]),
        ("2", "99", [0]),
    ):
        parts = expand(path, axis=axis, step=step)
        assert [part.fragment for part in parts] == [f"axis={axis}&slice={number}" for number in expected]
    assert [part.fragment for part in expand(path)] == [None]


@pytest.mark.parametrize(
    "settings",
    [{"axis": "3"}, {"axis": "-1"}, {"axis": "z"}, {"axis": "2", "step": "0"}, {"axis": "2", "step": "-1"},
     {"axis": "2", "step": "1.5"}, {"axis": "2", "step": ""}, {"step": "2"}, {"axes": "2"}],
)  # fmt: skip
def test_bad_settings_are_the_users(settings: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        expand(BUNDLED / "anatomical.nii", **settings)


@pytest.mark.parametrize(
    "fragment",
    ["axis=3&slice=0", "axis=2", "slice=3", "slice=3&axis=2", "axis=2&slice=-1", "axis=2&slice=٣", "axis=2&slice=1&x=1",
     "axis=0&slice=33", "axis=1&slice=41", "axis=2&slice=25", "axis=2&slice=999999999", ""],
)  # fmt: skip
def test_bad_fragments(fragment: str) -> None:
    with pytest.raises(InputError, match=r"called axis=A&slice=K|isn't one of them"):
        read(BUNDLED / "anatomical.nii", fragment)


# ------------------------------------------------------------------------------------------ what is refused
def of_dtype(code: int, bits: int, size: int) -> bytes:
    made = image(np.zeros((2, 2, 2, size), np.uint8))
    return of_header(made, dim=[3, 2, 2, 2, 1, 1, 1, 1], datatype=code, bitpix=bits)


SMALL = image(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
REFUSED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty"),
    "text": (b"sub-01 T1w\n" * 99, "isn't NIfTI"),
    "zeros": (bytes(1000), "isn't NIfTI"),
    "half of a pair": (of_header(SMALL, magic=b"ni1"), r"pair \(.hdr, .img\)"),
    "Analyze": (of_header(SMALL, magic=b""), "an Analyze file"),
    "several volumes": (image(np.zeros((2, 3, 4, 5), np.int16)).to_bytes(), r"several volumes, of shape \(2, 3, 4, 5"),
    "vectors": (image(np.zeros((2, 3, 4, 1, 3), np.int16)).to_bytes(), "several volumes"),
    "RGB24": (of_dtype(128, 24, 3), "colours"),
    "RGBA32": (of_dtype(2304, 32, 4), "colours"),
    "complex": (of_dtype(32, 64, 8), "type 32, complex64"),
    "float128": (of_dtype(1536, 128, 16), "type 1536"),
    "no such type": (of_dtype(7777, 16, 2), "can't be decoded"),
    "bits of another type": (of_header(SMALL, bitpix=8), "int16 values of 8 bits"),
    "no axes": (of_header(SMALL, dim=[0, 2, 3, 4, 1, 1, 1, 1]), "claims 0 axes"),
    "9 axes": (of_header(SMALL, dim=[9, 2, 3, 4, 1, 1, 1, 1]), "claims 9 axes"),
    "a side of 0": (of_header(SMALL, dim=[3, 2, 0, 4, 1, 1, 1, 1]), "no voxels"),
    "a side below 0": (of_header(SMALL, dim=[3, 2, -3, 4, 1, 1, 1, 1]), "no voxels"),
    "70 TB": (of_header(SMALL, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "at most 1,073,741,824 are read"),
    "1 GB that isn't there": (of_header(SMALL, dim=[3, 800, 800, 800, 1, 1, 1, 1]), "truncated"),
    "one voxel more": (of_header(SMALL, dim=[3, 2, 3, 5, 1, 1, 1, 1]), "should have 60 bytes, and 48"),
    "voxels in the header": (of_header(SMALL, vox_offset=16), "offset 16 too low"),
    "voxels at its begin": (of_header(SMALL, vox_offset=0), "begin at byte 0"),
    "voxels before": (of_header(SMALL, vox_offset=-400), "can't be decoded|begin at byte"),
    "voxels far behind": (of_header(SMALL, vox_offset=1e15), "far behind"),
    "voxels nowhere": (of_header(SMALL, vox_offset=np.nan), "can't be decoded|begin at byte"),
    "an endless intercept": (of_header(SMALL, scl_slope=2, scl_inter=np.inf), "can't be decoded"),
    "no orientation": (of_header(SMALL, sform_code=1, srow_x=0, srow_y=0, srow_z=0), "orientation"),
    "a flat orientation": (of_header(SMALL, sform_code=1, srow_x=[1, 0, 0, 0], srow_y=[1, 0, 0, 0]), "orientation"),
    "NaN for an orientation": (of_header(SMALL, sform_code=1, srow_x=np.nan), "orientation is NaN"),
    "2 MiB behind its end": (SMALL.to_bytes() + bytes(2 << 20), "goes on after"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_what_is_no_volume_is_refused(what: str, name: str, save: Callable[..., Path]) -> None:
    data, message = REFUSED[what]
    path = save(data, name)
    tracemalloc.start()
    try:
        for fragment in (None, "axis=2&slice=0"):
            with pytest.raises(InputError, match=message):
                read(path, fragment)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20


def test_expanding_says_so_at_once() -> None:
    for path in ("functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz"):
        for settings in ({}, {"axis": "2"}):
            with pytest.raises(InputError, match="several volumes"):
                expand(BUNDLED / path, **settings)


def gzips() -> dict[str, bytes]:
    whole = gzip.compress(SMALL.to_bytes(), 9)
    checksum = bytearray(whole)
    checksum[-5] ^= 1
    wrong = bytearray(whole)
    wrong[len(wrong) // 2] ^= 255
    zeros = gzip.compress(bytes(1 << 24), 9)
    behind = gzip.compress(SMALL.to_bytes() + bytes(1 << 24), 9)
    return {
        **{f"the first {size} bytes": whole[:size] for size in (2, 9, 10, 11, 40, len(whole) // 2, len(whole) - 1)},
        "a wrong checksum": bytes(checksum),
        "a wrong byte": bytes(wrong),
        "zeros": zeros,
        "8 GiB behind its end": behind + zeros * 511,
        "garbage behind its end": whole + b"garbage",
        "1 GB that isn't there": gzip.compress(REFUSED["1 GB that isn't there"][0] + bytes(1 << 24)),
    }


@pytest.mark.parametrize("what", gzips())
def test_gzip_is_read_to_its_checksum_and_no_further(what: str, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(gzips()[what])
    tracemalloc.start()
    try:
        with pytest.raises(InputError):
            read(path)
        with pytest.raises(InputError):
            read(path, "axis=2&slice=0")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20, f"{peak / 2**20:.0f} MiB"


def test_padding_and_more_members_are_understood(save: Callable[..., Path], tmp_path: Path) -> None:
    data = SMALL.to_bytes()
    np.testing.assert_array_equal(read(save(data + bytes(1000)))[..., 0], canonical(save(data)))
    path = tmp_path / "members.nii.gz"
    path.write_bytes(gzip.compress(data[:360]) + gzip.compress(data[360:]) + bytes(512))
    np.testing.assert_array_equal(read(path)[..., 0], canonical(save(data)))
    (tmp_path / "packed.nii").write_bytes(gzip.compress(data))  # packed, whatever its name says
    np.testing.assert_array_equal(read(tmp_path / "packed.nii"), read(path))


def test_damaged_files_give_voxels_or_an_input_error(save: Callable[..., Path], rng: np.random.Generator) -> None:
    files = [(BUNDLED / "anatomical.nii").read_bytes(), (BUNDLED / "standard.nii.gz").read_bytes(), SMALL.to_bytes()]
    files.append(image(np.ones((4, 4, 4), np.float32), kind=nibabel.Nifti2Image).to_bytes())
    refused = 0
    tracemalloc.start()
    try:
        for number in range(240):
            data = bytearray(files[number % len(files)])
            at = int(rng.integers(0, min(len(data), 360)))
            match number // 4 % 3:
                case 0:
                    data = data[: int(rng.integers(0, len(data)))]
                case 1:
                    data[at : at + 4] = [b"\xff" * 4, b"\0" * 4, struct.pack("<f", 1e30), b"\xff\x7f\xff\x7f"][
                        number % 4
                    ]
                case _:
                    for place in rng.integers(0, len(data), 4):
                        data[place] ^= 1 << int(rng.integers(0, 8))
            path = tmp = save(bytes(data), "damaged.nii")
            try:
                parts = expand(path, axis="1")
                assert read(tmp, parts[-1].fragment).pixels.size
                assert read(tmp).size
            except InputError:
                refused += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused >= 80
    assert peak < 200 << 20


# -------------------------------------------------------------------------------------------------- manners
def test_the_laws_hold(save: Callable[..., Path]) -> None:
    noise = np.random.default_rng(5).integers(0, 4096, (20, 24, 22), np.int16)
    files = [save(image(noise, "LPS")), save(image(noise, "PIR"), "scan.nii.gz")]
    check_reader("nifti", files=[*files, *(f"{file}#axis=2&slice=7" for file in files)])


def test_a_url_gives_the_same_as_the_file() -> None:
    for path in (BUNDLED / "anatomical.nii", BUNDLED / "standard.nii.gz"):
        url = f"memory://nifti/{path.name}"
        fsspec.filesystem("memory").pipe(f"/nifti/{path.name}", path.read_bytes())
        assert expand(url, axis="2") == expand(path, axis="2")
        np.testing.assert_array_equal(read(url), read(path))
        there, here = Source(url, "axis=1&slice=2"), Source(path, "axis=1&slice=2")
        np.testing.assert_array_equal(READER.read(there).pixels, READER.read(here).pixels)
        assert there.content_hash == here.content_hash
    for fragment in (None, "axis=2&slice=0"):
        with pytest.raises(FileNotFoundError):
            read("memory://nowhere/a.nii.gz", fragment)


def test_what_nibabel_repairs_it_repairs_in_silence(
    save: Callable[..., Path], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = save(of_header(SMALL, pixdim=[0, -1, 1, 1, 1, 1, 1, 1], vox_offset=360) + bytes(8))
    with caplog.at_level(logging.DEBUG):
        found = read(path)
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])
    with io.BytesIO(path.read_bytes()) as file:
        made = nibabel.Nifti1Image.from_stream(file)
        np.testing.assert_array_equal(found[..., 0], np.asanyarray(nibabel.as_closest_canonical(made).dataobj))


def test_a_scaled_volume_is_bounded_in_the_values_that_it_becomes(save: Callable[..., Path], monkeypatch: Any) -> None:
    """Bytes become floats of eight: the volume is refused as a whole, and read slice by slice."""
    path = save(of_header(image(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)), scl_slope=2, scl_inter=1))
    monkeypatch.setattr("featstore_readers.nifti_file.MAX_BYTES", 100)
    with pytest.raises(InputError, match="24 voxels would take 192 bytes when they are scaled") as caught:
        read(path)
    assert "--expand" in caught.value.hint
    assert read(path, "axis=2&slice=1").shape == (2, 3)
