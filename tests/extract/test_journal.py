"""Receipts come back as they were written, folded or not, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.extract import journal
from featstore.extract.inputs import Failure
from featstore.extract.journal import Receipt
from featstore.runs import RunFolder

texts = st.text()
failures = st.builds(Failure, texts, texts, texts, texts)
reads = st.none() | st.tuples(texts, st.integers(-1, 2**62), st.integers(-1, 2**62))
receipts = st.builds(
    Receipt,
    st.integers(0, 10**8),
    st.integers(0, 10**10),
    st.lists(reads),
    st.dictionaries(st.integers(0, 10**6), st.tuples(failures, st.lists(texts))),
    texts,
)


@given(receipts)
def test_round_trip(receipt: Receipt) -> None:
    assert Receipt.parse(receipt.text()) == receipt


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path)
    run.journal.mkdir()
    return run


def write(run: RunFolder, *chunks: int, at: str = "2026-01-01T00:00:00") -> list[Receipt]:
    made = [
        Receipt(chunk, chunk * 10, [("h", 1, 2), None], {1: (Failure("a", "b", "c", "d"), ["s"])}, at)
        for chunk in chunks
    ]
    for receipt in made:
        receipt.write(run)
    return made


def load(run: RunFolder, *chunks: int) -> list[Receipt]:
    return list(journal.load(run, {chunk: range(chunk * 10, chunk * 10 + 2) for chunk in chunks}))


def test_folded_receipts_are_the_same_receipts(run: RunFolder) -> None:
    made = write(run, 0, 3, 12)
    (run.journal / ".tmp-00badbad-00000004.json").write_text("{")
    assert journal.receipts(run) == {0, 3, 12}
    assert load(run, 0, 3, 12) == made
    journal.fold(run)
    assert not run.journal.exists()
    assert journal.receipts(run) == {0, 3, 12}
    assert load(run, 12, 0) == [made[2], made[0]]
    journal.fold(run)
    assert journal.receipts(run) == {0, 3, 12}


def test_folding_goes_on_after_a_kill(run: RunFolder) -> None:
    made = write(run, 0, 1, 2)
    texts = {file.name: file.read_text() for file in run.journal.iterdir()}
    journal.fold(run)
    run.journal.mkdir()  # as if it had been killed while it removed the files
    (run.journal / "00000002.json").write_text(texts["00000002.json"])
    assert journal.receipts(run) == {0, 1, 2}
    journal.fold(run)
    assert load(run, 0, 1, 2) == made


def test_many_receipts_are_folded_a_few_at_a_time(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet as pq

    monkeypatch.setattr(journal, "_GROUP", 2)
    made = write(run, *range(5))
    journal.fold(run)
    assert load(run, *range(5)) == made
    assert pq.read_metadata(run.path / "receipts.parquet").num_row_groups == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: "",
        lambda text: "[]",
        lambda text: "\udcff",
        lambda text: text.replace('"at"', '"ta"'),
        lambda text: text.replace(",null]", "]"),
        lambda text: text.replace('"first":10', '"first":20'),
        lambda text: text.replace('["h",1,2]', '["h"]'),
        lambda text: text.replace("2026-01-01", "2026"),
    ],
)
def test_a_damaged_receipt_is_as_good_as_none(
    run: RunFolder, damage: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    made = write(run, 0, 1, 2)
    file = run.journal / "00000001.json"
    file.write_text(damage(file.read_text()), "utf-8", "surrogateescape")
    assert load(run, 0, 1, 2) == [made[0], made[2]]
    assert "is damaged" in caplog.text
    assert journal.receipts(run) == {0, 2}


def test_no_journal_is_no_receipts(tmp_path: Any) -> None:
    assert journal.receipts(RunFolder(tmp_path)) == set()
    journal.fold(RunFolder(tmp_path))
