"""The reader of .txt files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from featstore_readers import featstore_readers
from featstore_readers.text import MAX_BYTES

from featstore import InputError, Source

(READER,) = (reader for reader in featstore_readers() if ".txt" in reader.suffixes)
REPORT = "Leberzirrhose, Größe 3 mm²\r\nKein Aszites.\n"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_utf8_with_and_without_a_byte_order_mark(mark: bytes, tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_bytes(mark + REPORT.encode())
    source = Source(path)
    assert READER.read(source) == REPORT
    assert source.content_hash == hashlib.sha256(mark + REPORT.encode()).hexdigest()
    assert source.size == len(mark + REPORT.encode())


def test_the_largest_text(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_bytes(b"word " * (MAX_BYTES // 5))
    assert len(READER.read(Source(tmp_path / "report.txt"))) == MAX_BYTES


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b" \r\n\t\xc2\xa0", "blank"),
        (b"\xef\xbb\xbf\n", "blank"),
        (REPORT.encode("cp1252"), "isn't UTF-8: byte 17 is 0xf6"),
        (REPORT.encode("utf-16"), "UTF-16"),
        (b"\x89PNG\0\0", "NUL byte at 4"),
        (b"word " * (MAX_BYTES // 5) + b"w", "1,000,001 bytes"),
    ],
)
def test_what_is_no_text_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_bytes(data)
    with pytest.raises(InputError, match=says):
        READER.read(Source(tmp_path / "report.txt"))


def test_a_text_file_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text(REPORT)
    with pytest.raises(InputError, match="no parts"):
        READER.read(Source(tmp_path / "report.txt", "/1"))
