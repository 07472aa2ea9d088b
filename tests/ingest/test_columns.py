"""Tables of text keep what the text says."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ConflictError, InputError, NotFoundError, UsageError
from featstore.ingest.columns import check_ids, infer, read_rows, require


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", None], pa.int64()),
        (["007", "8"], pa.string()),
        (["1.5", "2", None], pa.float64()),
        (["1e3", "-0.5"], pa.float64()),
        (["01.5", "2"], pa.string()),
        (["0.5", "0"], pa.float64()),
        (["true", "FALSE", "True"], pa.bool_()),
        (["1", "0"], pa.int64()),
        (["true", "1"], pa.string()),
        (["2026-01-31", "2026-02-01"], pa.timestamp("us")),
        (["2026-01-31 09:30:00"], pa.timestamp("us")),
        (["1.2.840.113619"], pa.string()),
        (["12345678901234567890123"], pa.string()),
        (["12345678901234567890", "1.5"], pa.string()),
        (["9223372036854775807"], pa.int64()),
        (["+5", "-1.5"], pa.float64()),
        (["m", "f"], pa.string()),
        ([None, None], pa.string()),
        ([], pa.string()),
    ],
)
def test_infer(values: list[str | None], kind: pa.DataType) -> None:
    found = infer(pa.chunked_array([pa.array(values, pa.string())]))
    assert found.type == kind
    assert found.null_count == values.count(None)


@given(st.lists(st.integers(-(2**63), 2**63 - 1).map(str) | st.text("0123456789.e-", max_size=20), min_size=1))
def test_whole_numbers_lose_nothing(values: list[str]) -> None:
    found = infer(pa.chunked_array([pa.array(values, pa.string())]))
    if found.type in (pa.int64(), pa.string()):
        assert [str(value) for value in found.to_pylist()] == values
    else:
        for text, value in zip(values, found.to_pylist(), strict=True):
            assert value == float(text)
            assert len(text.strip("-")) < 16 or not text.strip("-").isdigit()


class TestCsv:
    def write(self, folder: Path, data: str | bytes) -> Path:
        path = folder / "t.csv"
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def test_what_spreadsheets_write(self, tmp_path: Path) -> None:
        data = '\ufeffpatient_id , note,n\r\n007,"a\r\n""b"", c",1\r\n\r\n7,NA,\r\n'
        rows = read_rows(self.write(tmp_path, data), text=["patient_id"])
        assert rows.to_pylist() == [
            {"patient_id": "007", "note": 'a\r\n"b", c', "n": 1},
            {"patient_id": "7", "note": None, "n": None},
        ]

    def test_no_line_end_at_the_end(self, tmp_path: Path) -> None:
        assert read_rows(self.write(tmp_path, "a,b\n1,2")).to_pylist() == [{"a": 1, "b": 2}]

    def test_quoted_line_ends_beyond_a_block(self, tmp_path: Path) -> None:
        cell = '"' + "line\n" * 100 + '"'
        rows = read_rows(self.write(tmp_path, "id,text\n" + "".join(f"{i},{cell}\n" for i in range(5000))))
        assert rows.num_rows == 5000
        assert rows.column("id").to_pylist() == list(range(5000))

    def test_only_a_header(self, tmp_path: Path) -> None:
        assert read_rows(self.write(tmp_path, "a,b\n")).num_rows == 0

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"patient_id,x\n1,\xfc\n",
            b"patient_id,\xfc\n1,2\n",
            "patient_id,x\n1,ü\n".encode("utf-16"),
            b"a,b\n1\n",
            b"\n",
        ],
    )
    def test_what_isnt_one(self, tmp_path: Path, data: bytes) -> None:
        with pytest.raises(InputError, match=r"can't be read as csv: .*\n  next: a CSV must be UTF-8"):
            read_rows(self.write(tmp_path, data))

    @pytest.mark.parametrize("separator", [";", "\t", "|"])
    def test_other_separators(self, tmp_path: Path, separator: str) -> None:
        with pytest.raises(UsageError, match="seems to separate its columns by"):
            read_rows(self.write(tmp_path, f"a{separator}b\n1{separator}2\n"))

    @pytest.mark.parametrize(
        ("header", "message"),
        [("a,A", "two columns of one name .*: A, a"), ("a, a", "two columns"), ("a,", "Column 2 .* has no name")],
    )
    def test_names_of_columns(self, tmp_path: Path, header: str, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            read_rows(self.write(tmp_path, f"{header}\n1,2\n"))


class TestParquet:
    def test_types_are_kept(self, tmp_path: Path) -> None:
        rows = pa.table(
            {
                "patient_id": pa.array([1, 2]), "sex": pa.array(["m", "f"]).dictionary_encode(), "x": [1.5, None],
                "text": pa.array(["1", "2"], pa.large_string()), "nothing": pa.nulls(2),
            }
        )  # fmt: skip
        pq.write_table(rows, tmp_path / "t.parquet")
        found = read_rows(tmp_path / "t.parquet", text=["patient_id"])
        assert [str(field.type) for field in found.schema] == ["string", "string", "double", "int64", "string"]
        assert found.column("patient_id").to_pylist() == ["1", "2"]

    @pytest.mark.parametrize("values", [[1.0, None], [7.5, 1.0]])
    def test_decimal_ids_are_refused(self, tmp_path: Path, values: list[float | None]) -> None:
        pq.write_table(pa.table({"patient_id": values}), tmp_path / "t.parquet")
        with pytest.raises(ConflictError, match="'patient_id' holds decimal numbers, which can't be identifiers"):
            read_rows(tmp_path / "t.parquet", text=["patient_id"])

    @pytest.mark.parametrize("values", [[[1, 2]], [{"a": 1}], [b"\xff"]])
    def test_what_is_no_text(self, tmp_path: Path, values: list[object]) -> None:
        pq.write_table(pa.table({"patient_id": values}), tmp_path / "t.parquet")
        with pytest.raises(ConflictError, match="can't be kept as text"):
            read_rows(tmp_path / "t.parquet", text=["patient_id"])

    @pytest.mark.parametrize("data", [b"", b"PAR1 nonsense PAR1", b"patient_id\n1\n"])
    def test_what_isnt_one(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "t.parquet").write_bytes(data)
        with pytest.raises(InputError, match="can't be read as parquet"):
            read_rows(tmp_path / "t.parquet")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="There is no file"):
        read_rows(tmp_path / "t.csv")
    (tmp_path / "t.xlsx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"t\.xlsx ends with neither \.csv nor \.parquet"):
        read_rows(tmp_path / "t.xlsx")


def test_require_suggests() -> None:
    with pytest.raises(
        NotFoundError,
        match=r"The table has no column 'patient_id'\. Did you mean 'PatientID'\?\n  next: its columns: PatientID, x",
    ):
        require(pa.table({"PatientID": [1], "x": [1]}), ["patient_id"], "The table")


@pytest.mark.parametrize("bad", [None, "", " 7", "7 ", "7\n"])
def test_ids_without_anything_or_with_spaces(bad: str | None) -> None:
    with pytest.raises(ConflictError, match=r"1 row\(s\) have no patient_id, or one with spaces around it \(row 2\)"):
        check_ids(pa.chunked_array([pa.array(["a", bad, "b c"], pa.string())]), "patient_id")
    check_ids(pa.chunked_array([pa.array(["a", "b c"])]), "patient_id")
