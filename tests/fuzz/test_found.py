"""What the fuzz target found once: each was mended, and stays so."""

from __future__ import annotations

import lzma
import os
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile

from featstore import ImageTransform, InputError, Source
from featstore.pixels import scale
from featstore.plugins import Plugins

from . import zeros
from .laws import Laws
from .png import GREY, RGB, saved

PLUGINS = Plugins.load()


def read(path: Path, fragment: str | None = None) -> Any:
    return PLUGINS.reader(path.name).read(Source(path, fragment))


def test_a_message_is_one_line_that_a_terminal_can_show(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(b"patient_id,\x1b[31mreport\n" + b"x" * 90_000 + b",1,2\n")
    item = Laws(tmp_path).read(path, "column=report&by=patient_id&key=1")
    assert item.read.failure is not None
    message = item.read.failure.message
    assert message.isprintable()
    assert "CSV" in message
    assert len(message) < 1_000


def test_values_that_no_float_holds_the_difference_of_are_refused() -> None:
    with pytest.raises(InputError, match="no float holds their difference"):
        ImageTransform(range="minmax")(np.array([[1e308, -1e308]] * 2))


@pytest.mark.parametrize("shape", [(700, 900, 3), (3, 400_000, 1), (400_000, 3, 1), (1, 1, 1)])
def test_scaling_piece_by_piece_is_scaling_at_once(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 65_536, shape).astype(np.uint16)[:, ::-1]
    expected = np.clip((pixels.astype(np.float64) - 100) / (60_000 - 100), 0, 1).astype(np.float32)
    np.testing.assert_array_equal(scale(pixels, 100, 60_000), expected)


def test_scaling_takes_little_more_than_its_result() -> None:
    pixels = np.ones((4000, 4000), np.uint8)
    tracemalloc.start()
    try:
        scale(pixels, 0, 255)
        assert tracemalloc.get_traced_memory()[1] < 1.5 * 4 * pixels.size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("compression", ["packbits", "tiff_lzw", "tiff_deflate"])
def test_a_damaged_tiff_prints_nothing(compression: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libtiff writes to standard error itself, past Python."""
    path = tmp_path / "image.tif"
    data = saved(RGB, "TIFF", compression=compression)
    for place in range(8, len(data), 97):
        path.write_bytes(data[:place] + b"\xff" * 40 + data[place + 40 :])
        try:
            read(path)
        except InputError:
            continue
    assert capfd.readouterr() == ("", "")


def test_a_tiff_that_claims_a_compression_of_newer_pythons_is_a_bad_input(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, GREY.astype(np.uint16))
    data = path.read_bytes()
    entry = data.index(struct.pack("<HHI", 259, 3, 1))
    for code in (50_000, 34_925, 50_013, 34_926):
        path.write_bytes(data[: entry + 8] + struct.pack("<H", code) + data[entry + 10 :])
        with pytest.raises(InputError):
            read(path)


@pytest.mark.parametrize("code", [8, 34_925])
def test_a_strip_of_a_tiff_is_not_unpacked_beyond_its_pixels(code: int, tmp_path: Path) -> None:
    """A gigabyte of zeros, or nine streams, in a strip of 18 MB."""
    strip = zeros.zlibbed(1 << 30) if code == 8 else lzma.compress(bytes(1 << 24)) * 9
    tags = [(256, 3000), (257, 3000), (258, 16), (259, code), (262, 1), (273, 134), (277, 1), (278, 3000)]
    tags += [(279, len(strip)), (339, 1)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path = tmp_path / "image.tif"
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + strip)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="bomb"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()


def test_a_tile_and_an_image_have_their_limits_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint16), tile=(16, 16), compression="zlib")
    data = path.read_bytes()
    np.testing.assert_array_equal(read(path), np.zeros((32, 32)))
    for tag in (322, 323):
        entry = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HHI", tag, kind, 1))) > 0)
        data = data[:entry] + struct.pack("<HHII", tag, 4, 1, 60_000) + data[entry + 12 :]
    path.write_bytes(data)
    with pytest.raises(InputError, match="in pieces of 7,200,000,000"):
        read(path)


def test_a_data_set_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.h5"
    with h5py.File(path, "w") as file:
        file[b"\xff\xfe"] = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(InputError, match="isn't UTF-8"):
        list(PLUGINS.reader(path.name).expand(Source(path), {}))


def test_columns_without_end_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(b"patient_id,report" + b",c" * 200_000 + b"\n")
    with pytest.raises(InputError, match="200,002 columns"):
        read(path, "column=report&by=patient_id&key=1")
    path.write_bytes(b'\n"patient_id","a\nb",report\n7,,text\n')
    assert read(path, "column=report&by=patient_id&key=7") == "text"


def test_a_header_that_pythons_parser_warns_of_is_refused_alone(tmp_path: Path) -> None:
    """Warnings are errors in these tests."""
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((3, 4, 4), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(3, 4, 4)", b"(3or4, 4)"))
    with pytest.raises(InputError, match="header can't be read"):
        read(path, "/0")


def test_room_is_made_before_the_next_file_is_loaded(tmp_path: Path) -> None:
    """Two kept volumes may fill the memory: a third must not be there beside them."""
    seen: list[int] = []

    class Kept:
        alive = 0

        def __init__(self, file: Any) -> None:
            Kept.alive += 1
            seen.append(Kept.alive)

        def close(self) -> None:
            Kept.alive -= 1

    for number in range(5):
        path = tmp_path / str(number)
        path.write_bytes(os.urandom(4))
        Source(path).kept(Kept)
    assert max(seen) == 2
