"""Readers against Pillow, tifffile and our own PNG encoder; what isn't one whole image is refused."""

from __future__ import annotations

import hashlib
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import tifffile
from featstore_readers import featstore_readers
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from featstore import InputError, SetupError, Source

READER, *_ = featstore_readers()
PHOTOS = Path(skimage.data.__file__).parent


def read(path: Path) -> Any:
    return READER.read(Source(path))


def read_bytes(data: bytes, tmp_path: Path, name: str = "image.png") -> Any:
    (tmp_path / name).write_bytes(data)
    return read(tmp_path / name)


def saved(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


def photo() -> Image.Image:
    return Image.open(PHOTOS / "chelsea.png").crop((100, 50, 161, 97))


# ------------------------------------------------------------------------------------------ what is read well
@pytest.mark.parametrize("name", sorted(p.name for p in PHOTOS.glob("*.[pj][np]g")))
def test_real_images_are_what_pillow_decodes(name: str) -> None:
    source = Source(PHOTOS / name)
    pixels = READER.read(source)
    image = Image.open(PHOTOS / name)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode == "1":
        image = image.convert("L")
    assert pixels.flags.writeable
    if name == "chessboard_RGB.png":  # it is of 16 bits, which Pillow drops
        assert pixels.dtype == np.uint16
        pixels = (pixels >> 8).astype(np.uint8)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(image))
    assert source.content_hash == hashlib.sha256((PHOTOS / name).read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", READER.suffixes)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_by_its_bytes_and_not_by_its_name(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"image{suffix}"
    photo().convert(mode).save(path)
    expected = Image.open(path)
    if suffix == ".webp":  # it has no grey
        assert expected.mode == "RGB"
    np.testing.assert_array_equal(read(path), np.asarray(expected))
    other = tmp_path / "other.png"
    other.write_bytes(path.read_bytes())
    np.testing.assert_array_equal(read(other), read(path))


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_is_kept(tmp_path: Path, format_: str, mode: str) -> None:
    image = photo().convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    data = saved(image.convert(mode), format_, **options)
    pixels = read_bytes(data, tmp_path)
    expected = image if format_ == "WEBP" and mode == "RGBA" else Image.open(BytesIO(data))
    np.testing.assert_array_equal(pixels, np.asarray(expected))


def test_one_bit_becomes_0_and_255_and_palettes_their_colours(tmp_path: Path) -> None:
    for format_ in ("PNG", "TIFF", "BMP"):
        bits = read_bytes(saved(photo().convert("1"), format_), tmp_path)
        assert bits.dtype == np.uint8
        np.testing.assert_array_equal(bits, np.asarray(photo().convert("1")) * np.uint8(255))
        colours = photo().quantize(30)
        np.testing.assert_array_equal(read_bytes(saved(colours, format_), tmp_path), np.asarray(colours.convert("RGB")))
    for transparency in (3, bytes(range(0, 240, 8))):  # one entry, or an alpha for each
        data = saved(photo().quantize(30), "PNG", transparency=transparency)
        np.testing.assert_array_equal(read_bytes(data, tmp_path), np.asarray(Image.open(BytesIO(data)).convert("RGBA")))


def test_a_phones_jpeg_is_read_with_what_phones_append(tmp_path: Path) -> None:
    plain = saved(photo(), "JPEG")
    multi = saved(photo(), "MPO", save_all=True, append_images=[photo().rotate(180)])
    for data in (plain + b"SEFT" * 50, multi):
        np.testing.assert_array_equal(read_bytes(data, tmp_path), read_bytes(plain, tmp_path))


# ------------------------------------------------------------------------------ what can't be one image
def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 2 pages"):
        read(PHOTOS / "multipage.tif")
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, np.zeros((5, 20, 30), np.uint8), imagej=True)
    with pytest.raises(InputError, match="has 5 pages"):
        read(stack)
    for format_ in ("WEBP", "PNG"):
        data = saved(photo(), format_, save_all=True, append_images=[photo().rotate(90)])
        with pytest.raises(InputError, match="animated"):
            read_bytes(data, tmp_path)


@pytest.mark.parametrize(("mode", "format_"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("LAB", "TIFF")])
def test_other_colour_spaces_are_named(tmp_path: Path, mode: str, format_: str) -> None:
    image = Image.new(mode, (20, 20))
    with pytest.raises(InputError, match=rf"colour mode is {mode}"):
        read_bytes(saved(image, format_), tmp_path)


def test_more_channels_than_rgba_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((20, 30, 6), np.uint16), photometric="minisblack", planarconfig="contig")
    with pytest.raises(InputError, match="no single grey or RGB image"):
        read(path)


def test_an_image_has_no_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no parts"):
        READER.read(Source(PHOTOS / "camera.png", fragment="slice=3"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\x89", "isn't PNG"),
        (b"<!DOCTYPE html><html>404", "isn't PNG, JPEG, TIFF, BMP or WebP"),
        (b"GIF89a" + bytes(99), "isn't PNG"),
        (b"II*\0", "TIFF file"),
        (b"\xff\xd8\xff", "JPEG file"),
        (b"BM", "BMP file"),
        (b"RIFF\4\0\0\0WEBP", "WebP file"),
    ],
)
def test_what_is_no_image_says_so(tmp_path: Path, data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_bytes(data, tmp_path)


VARIANTS = [
    ("PNG", {}),
    ("JPEG", {}),
    ("JPEG", {"progressive": True}),
    ("BMP", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("TIFF", {}),
    ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "jpeg"}),
]


@pytest.mark.parametrize(("format_", "options"), VARIANTS)
def test_truncated_files_are_refused_wherever_they_end(tmp_path: Path, format_: str, options: dict[str, Any]) -> None:
    data = saved(photo(), format_, **options)
    whole = read_bytes(data, tmp_path)
    for end in [*range(1, 60), *np.linspace(60, len(data) - 4, 60).astype(int)]:
        try:
            pixels = read_bytes(data[:end], tmp_path)
        except InputError:
            continue
        # TIFF may have a colour profile behind the pixels: then they are all there
        assert format_ == "TIFF"
        np.testing.assert_array_equal(pixels, whole)


@pytest.mark.parametrize(("format_", "options"), VARIANTS)
@given(place=st.floats(0, 1), junk=st.binary(min_size=1, max_size=9))
def test_damaged_files_never_fail_in_another_way(
    tmp_path_factory: pytest.TempPathFactory, format_: str, options: dict[str, Any], place: float, junk: bytes
) -> None:
    data = bytearray(saved(photo(), format_, **options))
    at = int(place * (len(data) - len(junk)))
    data[at : at + len(junk)] = junk
    try:
        pixels = read_bytes(bytes(data), tmp_path_factory.mktemp("damaged"))
    except InputError:
        return
    assert pixels.ndim in (2, 3)


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_a_second_file_behind_the_first_is_refused_but_padding_isnt(tmp_path: Path, format_: str) -> None:
    data = saved(photo(), format_)
    with pytest.raises(InputError, match="after its end"):
        read_bytes(data + data, tmp_path)
    np.testing.assert_array_equal(read_bytes(data + bytes(512), tmp_path), read_bytes(data, tmp_path))


# ------------------------------------------------------------------------------------------------ bombs
def bomb_bmp() -> bytes:
    data = bytearray(saved(photo(), "BMP"))
    data[18:26] = struct.pack("<ii", 60_000, 60_000)
    return bytes(data)


def bomb_jpeg() -> bytes:
    data = bytearray(saved(photo(), "JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def bomb_webp() -> bytes:
    data = bytearray(saved(photo(), "WEBP"))
    start = data.index(b"\x9d\x01\x2a")
    data[start + 3 : start + 7] = struct.pack("<HH", 16_383, 16_383)
    return bytes(data)


def bomb_tiff() -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, np.zeros((16, 16), np.uint16))
    data = bytearray(file.getvalue())
    for tag in (256, 257):
        at = next(data.index(struct.pack("<HH", tag, kind)) for kind in (3, 4) if struct.pack("<HH", tag, kind) in data)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    return bytes(data)


@pytest.mark.parametrize("make", [bomb_bmp, bomb_jpeg, bomb_webp, bomb_tiff])
def test_what_a_header_claims_is_refused_before_memory_is_taken(tmp_path: Path, make: Any) -> None:
    import tracemalloc

    data = make()
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"claims|exceeds limit"):
            read_bytes(data, tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


def test_large_but_allowed_images_dont_warn(tmp_path: Path) -> None:
    flat = Image.new("L", (12_000, 8_000))  # Image.open warns from 89 million pixels on
    assert read_bytes(saved(flat, "PNG", compress_level=1), tmp_path).shape == (8_000, 12_000)


def test_pillow_set_to_make_up_pixels_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SetupError, match="make up the missing part"):
        read(PHOTOS / "camera.png")
