"""Text files, and the text columns of CSV and Parquet tables."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .seeds import Format, Odd, Rng, Seed, integer, pick, put

_NOTE = "A first note, with \u00e9 and 3\u00b5m.\nSecond line.\n"
_ROWS = [
    ("p1", "a first note", "1.5"),
    ("p2", 'said: "none", twice', ""),
    ("007", "third\nof two lines", "2"),
    ("p4", "", "3"),
]
_SETTINGS = (("text", "report"), ("key", "patient_id"))
_STEM = "column=report&by=patient_id&key="
_KEYS = tuple(_STEM + key for key in ("p1", "p2", "007"))
_PARTS = (
    _STEM + "p9", _STEM + "p4", _STEM, "column=nothing&by=patient_id&key=p1", "column=report&by=nothing&key=p1", "/0",
    "column=report",
    "slice=0", "column=report&by=patient_id&key=7", _STEM + "%FF%00", "column=score&by=patient_id&key=p9",
)  # fmt: skip


# ----------------------------------------------------------------------------------------------------- text
def _absurd_text(seed: Seed, rng: Rng) -> bytes:
    place = int(rng.integers(len(seed.data)))
    piece = pick(
        rng,
        [b"\xff", b"\xc3", b"\0", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80", b"\xc0\xaf", b"\xef\xbf\xbf", b"\x1b[2J"],
    )
    return seed.data[:place] + piece * (1 + int(rng.integers(3))) + seed.data[place:]


def _odd_text(rng: Rng) -> Odd:
    makers = [
        b" \n\t\r\n",
        "\ufeff".encode(),
        _NOTE.encode("utf-16"),
        _NOTE.encode("utf-32"),
        "\u2003\u3000".encode(),
        b"x",
        _NOTE.encode("latin-1"),
    ]
    return Odd(pick(rng, makers))


def _text_bomb(rng: Rng) -> Odd:
    return Odd(b"word " * int(pick(rng, [200_001, 20_000_000, 200_000])))


# ------------------------------------------------------------------------------------------------------ CSV
def csv(rows: list[tuple[str, ...]] = _ROWS, names: tuple[str, ...] = ("patient_id", "report", "score")) -> bytes:
    quoted = [
        ",".join('"' + cell.replace('"', '""') + '"' if set(cell) & set(',"\n') else cell for cell in row)
        for row in [names, *rows]
    ]
    return "\n".join(quoted).encode() + b"\n"


def _absurd_csv(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    for _ in range(1 + int(rng.integers(3))):
        place = int(rng.integers(len(data)))
        piece = pick(
            rng,
            [
                b'"',
                b",",
                b"\n",
                b"\r",
                b"\0",
                b"\xff",
                b'","',
                b"\n\n",
                b";",
                b"\t",
                b'""',
                b"\xef\xbb\xbf",
                b"\\",
                b"=cmd()",
            ],
        )
        data = data[:place] + piece + data[place + int(rng.integers(3)) :]
    return data


def _odd_csv(rng: Rng) -> Odd:
    names, many = ("patient_id", "report", "score"), tuple(f"c{n}" for n in range(5000))
    tables = [
        csv(names=("patient_id", "report", "report")), csv(names=("patient_id", "", "score")), csv([], names),
        csv(_ROWS * 2),
        csv([("", "x", "y")] * 3), b"\n\n\n", b"patient_id,report\n1,2,3\n", b"report\nx\n", csv([many], many),
        csv().replace(b",", b";"), csv().replace(b",", b"\t"), csv().decode().encode("utf-16"),
        b'patient_id,report\np1,"open',
        csv([("p1", "\x1b[31mred", "1"), ("p2", " ", "2")]), csv([("7", "x", "1"), ("7.0", "y", "2")]),
        b"patient_id,report\n" + b"," * 9000,
        b"patient_id," + b"x" * 100_000 + b"\np1,2\n", csv(names=("patient_id", "report", "report ")),
    ]  # fmt: skip
    return Odd(tables[int(rng.integers(len(tables)))], pick(rng, _KEYS), _SETTINGS)


def _csv_bomb(rng: Rng) -> Odd:
    which = int(rng.integers(3))
    if which == 0:
        data = csv()[:-1] + b'\np9,"' + b"x" * (40 << 20)  # no end
    elif which == 1:
        data = b"patient_id,report\n" + b"p,x\n" * 3_000_000
    else:
        data = b"patient_id,report" + b",c" * 200_000 + b"\n"
    return Odd(data, pick(rng, _KEYS), _SETTINGS)


# -------------------------------------------------------------------------------------------------- Parquet
def parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def _table(**more: object) -> pa.Table:
    keys, texts, scores = zip(*_ROWS, strict=True)
    return pa.table({"patient_id": list(keys), "report": list(texts), "score": list(scores), **more})


def _absurd_parquet(seed: Seed, rng: Rng) -> bytes:
    data = seed.data
    size = int.from_bytes(data[-8:-4], "little")
    which = int(rng.integers(6))
    if which == 0:
        return put(data, len(data) - 8, integer(rng), 4)
    start = len(data) - 8 - size if which <= 4 else 4  # the footer, or a page's header
    for _ in range(1 + int(rng.integers(3))):
        data = put(data, start + int(rng.integers(size if which <= 4 else 40)), integer(rng), 1)
    return data


def _odd_parquet(rng: Rng) -> Odd:
    keys = [key for key, _, _ in _ROWS]
    columns = [
        {"report": [[1, 2], [3], [], None]}, {"report": [{"a": 1}] * 4}, {"report": [b"\xff", b"b", b"c", b"d"]},
        {"report": [1.5, 2, 3, None]},
        {"report": pa.array([None] * 4)}, {"report": pa.array(["a", "b", "a", "b"]).dictionary_encode()},
        {"report": [True] * 4},
        {"patient_id": [1.0, 2.0, 3.0, 4.0]}, {"patient_id": ["p1"] * 4}, {"patient_id": [None] * 4},
        {"other": list("abcd")},
        {"report": pa.array([2**40] * 4, pa.timestamp("ns"))}, {"report": pa.array([1, 2, 3, 4], pa.decimal128(38, 2))},
        {"report": ["\0", "\x1b", " ", "\ufffe"]}, {"report": pa.array([2**62] * 4, pa.timestamp("us"))},
        {"report": pa.array([2**31 - 1] * 4, pa.date32())},
    ]  # fmt: skip
    table = pa.table({"patient_id": keys} | pick(rng, columns))
    if rng.random() < 0.15:
        table = table.slice(0, 0)
    return Odd(parquet(table), pick(rng, _KEYS), _SETTINGS)


def _parquet_bomb(rng: Rng) -> Odd:
    return Odd(_large(int(rng.integers(3))), _KEYS[0], _SETTINGS)


@lru_cache
def _large(which: int) -> bytes:
    """A few texts, repeated: nothing on disk, everything in memory. One text of 200 MB; or many short ones."""
    if which == 0:
        codes = np.zeros(2_000_000, np.int32)
        texts, keys = (pa.DictionaryArray.from_arrays(codes, pa.array([word])) for word in ("x" * 4_000, "p"))
        table = pa.table({"patient_id": keys, "report": texts})
    elif which == 1:
        table = pa.table({"patient_id": ["p1"], "report": ["x" * (200 << 20)]})
    else:
        table = pa.table({"patient_id": pa.array(np.arange(400_000)), "report": pa.array(["note"] * 400_000)})
    return parquet(table, compression="zstd", use_dictionary=which == 0, write_statistics=False)


def formats() -> list[Format]:
    texts = [Seed("utf8", ".txt", _NOTE.encode()), Seed("marked", ".txt", _NOTE.encode("utf-8-sig"))]
    tables = [
        Seed("quoted", ".csv", csv(), _KEYS, _SETTINGS),
        Seed("crlf", ".csv", csv().replace(b"\n", b"\r\n"), _KEYS[:2], _SETTINGS),
    ]
    columns = [
        Seed("snappy", ".parquet", parquet(_table(), compression="snappy"), _KEYS, _SETTINGS),
        Seed("plain", ".parquet", parquet(_table(), compression="none", use_dictionary=False), _KEYS, _SETTINGS),
        Seed("gzip", ".parquet", parquet(_table(), compression="gzip", data_page_version="2.0"), _KEYS, _SETTINGS),
        Seed("zstd", ".parquet", parquet(_table(more=[1, 2, 3, 4]), compression="zstd", write_page_checksum=True),
        _KEYS, _SETTINGS),
    ]  # fmt: skip
    return [
        Format(
            "text",
            ".txt",
            texts,
            _absurd_text,
            [_odd_text],
            [_text_bomb],
            ("/0", "column=a", "frame=0"),
            truncatable=False,
        ),
        Format("CSV", ".csv", tables, _absurd_csv, [_odd_csv], [_csv_bomb], _PARTS, truncatable=False),
        Format("Parquet", ".parquet", columns, _absurd_parquet, [_odd_parquet], [_parquet_bomb], _PARTS),
    ]
