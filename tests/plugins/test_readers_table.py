"""The reader of texts in CSV and Parquet tables, against pandas."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from featstore_readers import featstore_readers, table

from featstore import ConflictError, InputError, Part, Source, UsageError
from featstore.testing import check_reader

(READER,) = (reader for reader in featstore_readers() if ".csv" in reader.suffixes)
TEXTS = {
    "007": 'A "focal" lesion, 3 mm²\nin segment IV',
    "7": "no lesion",
    "P/1": "Leber: Größe normal\r\n\r\nKein Aszites.",
    "ü&=#%": ",",
    "a b": '"""',
    "0": "0.50",
}


def read(path: Path | str, fragment: str | None) -> Any:
    return READER.read(Source(path, fragment))


def expand(path: Path | str, **settings: str) -> list[Part]:
    assert READER.expand is not None
    return list(READER.expand(Source(path), settings))


def save(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False, lineterminator="\n")
    else:
        frame.to_parquet(path, index=False)
    return path


@pytest.fixture(params=[".csv", ".parquet"])
def path(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return tmp_path / f"notes{request.param}"


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"patient_id": list(TEXTS), "report": list(TEXTS.values()), "age": range(6)})


# ------------------------------------------------------------------------------------------------------ reading
def test_each_key_has_its_own_text_wherever_its_row_is(path: Path, frame: pd.DataFrame) -> None:
    parts = expand(save(frame, path), text="report")
    assert len(parts) == 6
    assert [part.fields["patient_id"] for part in parts] == list(TEXTS)
    assert parts[0] == Part(
        "column=report&by=patient_id&key=007", {"modality": "report", "patient_id": "007"}, alone=True
    )
    for seed in range(3):
        save(frame.sample(frac=1, random_state=seed)[["age", "report", "patient_id"]], path)
        for part in parts:
            source = Source(path, part.fragment)
            text = TEXTS[part.fields["patient_id"]]
            assert READER.read(source) == text
            assert source.content_hash == hashlib.sha256(text.encode()).hexdigest()
            assert source.size == path.stat().st_size


def test_keys_are_quoted(path: Path, frame: pd.DataFrame) -> None:
    fragments = [part.fragment or "" for part in expand(save(frame, path), text="report")]
    assert all(fragment.isascii() and not set(" /#%\n") & set(unquote(fragment.rpartition("=")[2]))
               for fragment in fragments[:2])  # fmt: skip
    assert fragments[2].endswith("key=P%2F1")
    assert all("/" not in fragment and "#" not in fragment for fragment in fragments)


def test_the_columns_that_say_whose_a_row_is(path: Path) -> None:
    frame = pd.DataFrame({
        "patient_id": ["007", "7"], "note": ["1", "2"], "site": ["A", "B"], "visit_id": ["v1", None], "label": [1, 0],
        "split": ["train", "test"], "acquired_at": ["2026-01-31", "2026-02-01T09:30"], "report": ["x", "y"],
    })  # fmt: skip
    first, second = expand(save(frame, path), text="report", key="note")
    assert first.fragment == "column=report&by=note&key=1"
    assert dict(first.fields) == {
        "modality": "report", "patient_id": "007", "site": "A", "visit_id": "v1", "label": "1", "split": "train",
        "acquired_at": "2026-01-31", "note": "1",
    }  # fmt: skip
    assert "visit_id" not in second.fields


def test_without_patients(path: Path) -> None:
    frame = pd.DataFrame({"caption_id": ["a", "b"], "Caption text": ["x", "y"]})
    parts = expand(save(frame, path), text="Caption text", key="caption_id")
    fields = {"modality": "Caption text", "caption_id": "b"}
    assert parts[1] == Part("column=Caption%20text&by=caption_id&key=b", fields, alone=True)
    assert read(path, parts[1].fragment) == "y"


def test_rows_without_text_are_no_inputs(path: Path) -> None:
    frame = pd.DataFrame({"patient_id": ["1", "2", "3"], "report": ["x", None, "  \n"]})
    assert [part.fields["patient_id"] for part in expand(save(frame, path), text="report")] == ["1"]
    with pytest.raises(InputError, match="has no report"):
        read(path, "column=report&by=patient_id&key=2")
    with pytest.raises(InputError, match="blank"):
        read(path, "column=report&by=patient_id&key=3")
    with pytest.raises(InputError, match="holds no text"):
        expand(save(frame[1:], path), text="report")


def test_types_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array(["x", "y"]).dictionary_encode()
    columns = {"patient_id": pa.array([7, 8]), "report": texts, "label": [0.5, None], "vector": [[1.0], [2.0]],
               "acquired_at": [pd.Timestamp("2026-01-31 09:30"), pd.Timestamp("2026-02-01")], "raw": [b"x", b"y"],
               "large": pa.array(["p", "q"], pa.large_string())}  # fmt: skip
    pq.write_table(pa.table(columns), path)
    first, second = expand(path, text="report")
    assert (first.fields["patient_id"], first.fields["label"]) == ("7", "0.5")
    assert "label" not in second.fields
    assert first.fields["acquired_at"].startswith("2026-01-31 09:30:00")
    assert [read(path, f"column={name}&by=patient_id&key=8") for name in ("report", "large", "label")[:2]] == ["y", "q"]
    for name in ("raw", "vector"):
        with pytest.raises(InputError, match="text is needed"):
            expand(path, text=name)
    with pytest.raises(ConflictError, match="decimal numbers"):
        expand(path, text="report", key="label")


def test_a_byte_order_mark_and_null_words(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfpatient_id , report\r\n007,NA\r\n7,none\r\n")
    assert [part.fragment for part in expand(path, text="report")] == ["column=report&by=patient_id&key=7"]


def test_many_rows_parse_the_file_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [f"{n:05}" for n in range(10_000)]
    save(pd.DataFrame({"patient_id": keys, "report": [f"text\n{key}" for key in keys]}), path)
    parsed = []
    for name in ("load_csv", "load_parquet"):
        load = getattr(table, name)
        monkeypatch.setattr(table, name, lambda file, load=load: parsed.append(file) or load(file))
    parts = expand(path, text="report")
    for part in parts[::50]:
        assert read(path, part.fragment) == f"text\n{part.fields['patient_id']}"
    assert len(parsed) == 1


def test_of_a_url(path: Path, frame: pd.DataFrame) -> None:
    fsspec.filesystem("memory").pipe(f"/featstore-table/{path.name}", save(frame, path).read_bytes())
    url = f"memory://featstore-table/{path.name}"
    assert {part.fields["patient_id"]: read(url, part.fragment) for part in expand(url, text="report")} == TEXTS


# ---------------------------------------------------------------------------------------------- what is refused
def test_a_table_isnt_an_input_by_itself(path: Path, frame: pd.DataFrame) -> None:
    save(frame, path)
    with pytest.raises(UsageError, match=r"--expand text=COLUMN, of: patient_id, report, age; .*ingest-table"):
        expand(path)
    with pytest.raises(UsageError, match="Did you mean 'report'"):
        expand(path, text="reprot")
    with pytest.raises(UsageError, match="no column 'note_id'"):
        expand(path, text="report", key="note_id")
    with pytest.raises(UsageError, match="key=COLUMN names another key"):
        expand(save(frame[["report", "age"]], path), text="report")
    with pytest.raises(InputError, match="none was named"):
        read(path, None)


def test_keys_must_tell_rows_apart(path: Path, frame: pd.DataFrame) -> None:
    twice = pd.concat([frame, frame[:2]])
    with pytest.raises(ConflictError, match=r"2 patient_id\(s\) stand in more than one row: '007', '7'.\n.*key=COLUMN"):
        expand(save(twice, path), text="report")
    for fragment in ("column=report&by=patient_id&key=007", "column=report&by=patient_id&key=008"):
        with pytest.raises(InputError, match=r"Several rows|No row"):
            read(path, fragment)
    assert read(path, "column=report&by=patient_id&key=P%2F1") == TEXTS["P/1"]
    with pytest.raises(ConflictError, match=r"1 row\(s\) have no patient_id \(row 3\)"):
        expand(save(frame.assign(patient_id=["1", "2", None, "4", "5", "6"]), path), text="report")


@pytest.mark.parametrize(
    "fragment",
    ["/1", "column=report", "column=report&key=1&by=patient_id", "column=report&by=patient_id&key=1&x=2",
     "column=no&by=patient_id&key=7", "column=report&by=no&key=7", "axis=0&slice=1"],
)  # fmt: skip
def test_fragments_that_name_no_text(path: Path, frame: pd.DataFrame, fragment: str) -> None:
    with pytest.raises(InputError):
        read(save(frame, path), fragment)


def test_a_text_that_is_too_long(path: Path) -> None:
    save(pd.DataFrame({"patient_id": ["1", "2"], "report": ["x" * 1_000_000, "x" * 1_000_001]}), path)
    assert len(read(path, "column=report&by=patient_id&key=1")) == 1_000_000
    with pytest.raises(InputError, match="1,000,001 bytes"):
        read(path, "column=report&by=patient_id&key=2")


BAD_CSV = {
    "nothing": b"",
    "an open quote": b'patient_id,report\n1,"goes on\n',
    "an open quote at the end": b'patient_id,report\n1,"goes on',
    "a quote opened by a doubled one": b'patient_id,report\n1,"goes on""\n',
    "an open quote in the header": b'patient_id,"report\n1,x\n',
    "too many values": b"patient_id,report\n1,x,y\n",
    "too few values": b"patient_id,report\n1\n",
    "one byte missing": b"patient_id,report\n1,x\n2",
    "another encoding": "patient_id,report\n1,Größe\n".encode("cp1252"),
    "UTF-16": "patient_id,report\n1,x\n".encode("utf-16"),
    "semicolons": b"patient_id;report\n1;x\n",
    "two columns of one name": b"patient_id,report,report\n1,x,y\n",
    "a column without a name": b"patient_id,,report\n1,x,y\n",
    "a binary file": bytes(range(256)) * 20,
    "only a header": b"patient_id,report\n",
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(BAD_CSV[name])
    with pytest.raises(InputError):
        read(path, "column=report&by=patient_id&key=1")
    with pytest.raises(InputError):
        expand(path, text="report")


def test_damaged_files(path: Path, frame: pd.DataFrame, tmp_path: Path, rng: np.random.Generator) -> None:
    data = save(frame, path).read_bytes()
    refused = 0
    for number in range(400):
        made = bytearray(data[: int(rng.integers(0, len(data)))] if number % 3 == 0 else data)
        if made and number % 3 == 1:
            made[int(rng.integers(0, len(made)))] ^= int(rng.integers(1, 256))
        elif made and number % 3:
            at = int(rng.integers(0, len(made)))
            made[at : at + 4] = b"\xff" * 4
        file = tmp_path / f"damaged{number}{path.suffix}"
        file.write_bytes(made)
        try:
            assert isinstance(read(file, "column=report&by=patient_id&key=7"), str)
        except InputError:
            refused += 1
    assert refused > 130


BOMB = r"""
import json, resource, sys
from featstore import Source
from featstore_readers import featstore_readers
reader, = [r for r in featstore_readers() if ".csv" in r.suffixes]
list(reader.expand(Source(sys.argv[1]), {"text": "report"}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parts = list(reader.expand(Source(sys.argv[2]), {"text": "report"}))
text = reader.read(Source(sys.argv[2], parts[-1].fragment))
print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, len(parts), len(text)]))
"""


def test_texts_that_repeat_take_no_memory(tmp_path: Path, frame: pd.DataFrame) -> None:
    """2,000 rows of one text of 1 MB are 2 GB, and a Parquet file of some kilobytes."""
    fine, bomb = save(frame, tmp_path / "fine.parquet"), tmp_path / "bomb.parquet"
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(2000, "i4")), ["x" * 1_000_000])
    rows = pa.table({"patient_id": [str(n) for n in range(2000)], "report": texts})
    pq.write_table(rows, bomb, compression="zstd", dictionary_pagesize_limit=1 << 22, store_schema=False)
    assert bomb.stat().st_size < 100_000
    done = subprocess.run(
        [sys.executable, "-c", BOMB, str(fine), str(bomb)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    grown, parts, length = json.loads(done.stdout)
    assert (parts, length) == (2000, 1_000_000)
    assert grown < 100 << 20


def test_a_parquet_that_claims_too_much(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.table({"patient_id": pa.nulls(70_000_000, pa.int8())})
    pq.write_table(rows, path, compression="zstd")
    with pytest.raises(InputError, match="The table would take"):
        expand(path, text="patient_id")


def test_it_keeps_the_laws(path: Path, frame: pd.DataFrame) -> None:
    save(frame, path)
    check_reader(READER, files=[f"{path}#column=report&by=patient_id&key=P%2F1"])
