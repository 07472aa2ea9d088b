"""What is known of a file while it is written."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from featstore.tables import writing
from featstore.tables.writing import digested


@pytest.mark.parametrize("pieces", [[], [b""], [b"a" * 7, b"b" * 3_000_000, b"c"], [b"x" * 700_001] * 9])
def test_the_digest_is_that_of_all_that_was_written(
    tmp_path: Path, pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(writing, "_SYNC_NBYTES", 1 << 20)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with digested(tmp_path / "file") as known, open(tmp_path / "file", "wb", buffering=0) as file:
        for piece in pieces:
            file.write(piece)
            time.sleep(writing._PAUSE_S)
    data = b"".join(pieces)
    assert known.done()
    assert known.result() == hashlib.sha256(data).hexdigest()
    assert synced[-1] == len(data)  # all of it is on the disk


def test_an_error_while_writing_is_the_one_that_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), digested(tmp_path / "never"):
        raise ZeroDivisionError
