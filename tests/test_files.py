"""A reader sees the old file or the whole new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from featstore.errors import CorruptError
from featstore.files import inside, read_json, replacing, write_atomic, write_json


def test_writes_the_parts_in_order(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", b"ab", memoryview(b"cd"), bytearray(b"e"))
    assert (tmp_path / "x").read_bytes() == b"abcde"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})

    def fail() -> None:
        with replacing(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(target) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_the_old_file_stands_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "x.parquet"
    target.write_text("old")
    with replacing(target) as temporary:
        assert temporary.suffix == ".parquet"
        assert temporary.parent == tmp_path
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_that_isnt_json_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "x.json", {"loss": value})
    assert not list(tmp_path.iterdir())


def test_json_keeps_unicode_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"site": "Köln 日本"})
    assert "Köln 日本" in (tmp_path / "x.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "x.json") == {"site": "Köln 日本"}


@pytest.mark.parametrize("relative", ["../x", "features/../../x", "/etc/passwd"])
def test_records_that_lead_out_of_a_store_are_refused(tmp_path: Path, relative: str) -> None:
    root = tmp_path / "store"
    assert inside(root, "features/a/v1.zarr") == root / "features/a/v1.zarr"
    with pytest.raises(CorruptError, match="leads out"):
        inside(root, relative)
