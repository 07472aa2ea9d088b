"""Manifests: one row a sample, read as it is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from featstore.errors import ConflictError, NotFoundError, UsageError
from featstore.ingest import read_manifest
from featstore.ingest.scan import Scan

Read = Callable[..., Scan]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """A function that writes a CSV beside a.png and b.png, and reads it as a manifest."""
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(name.encode())

    def write_and_read(text: str, **arguments: object) -> Scan:
        (tmp_path / "m.csv").write_text(text, newline="")
        return read_manifest(tmp_path / "m.csv", **arguments)  # type: ignore[arg-type]

    return write_and_read


def test_columns_and_attributes(read: Read) -> None:
    (a, b) = read(
        "path,patient_id,modality,site,visit_id,acquired_at,label,split,scanner,dose,day\n"
        "a.png,007,A,JM,1,2026-01-31,2,train,GE,1.50,2026-01-31\nb.png,7,A,,,,,,,,\n"
    ).found
    assert a.fields == {
        "patient_id": "007", "modality": "A", "site": "JM", "visit_id": "1", "acquired_at": "2026-01-31", "label": "2",
        "split": "train", "scanner": "GE", "dose": "1.50", "day": "2026-01-31",
    }  # fmt: skip
    assert b.fields == {"patient_id": "7", "modality": "A"}
    assert a.size == 1


def test_windows_line_ends_and_a_byte_order_mark(read: Read) -> None:
    found = read('\ufeffpath,patient_id,modality,note\r\na.png,1,A,"x\r\ny"\r\n').found
    assert [f.fields["note"] for f in found] == ["x\r\ny"]


@pytest.mark.parametrize(
    ("labels", "given", "kind", "text"),
    [
        (["0", "1"], None, "int", ["0", "1"]),
        (["03", "3"], None, "str", ["03", "3"]),
        (["03", "3"], "int", "int", ["03", "3"]),
        (["0.5", "1"], None, "float", ["0.5", "1.0"]),
        (["1.50", "NaN"], "str", "str", ["1.50", None]),
        (["benign", "malignant"], None, "str", ["benign", "malignant"]),
        (["true", "false"], None, "int", ["1", "0"]),
        (["true", "false"], "str", "str", ["true", "false"]),
        (["NA", "2"], None, "int", [None, "2"]),
        (["", ""], None, "str", [None, None]),
    ],
)
def test_types_of_labels(read: Read, labels: list[str], given: str | None, kind: str, text: list[str | None]) -> None:
    found = read(f"path,patient_id,modality,label\na.png,1,A,{labels[0]}\nb.png,2,A,{labels[1]}\n", label_type=given)
    assert found.label_type == kind
    assert [f.fields.get("label") for f in found.found] == text


@pytest.mark.parametrize(
    ("labels", "kind", "text"),
    [
        (pa.array([1.0, float("nan")]), "float", ["1.0", None]),
        (pa.array([1, None]), "int", ["1", None]),
        (pa.array([True, False]), "int", ["1", "0"]),
        (pa.array([1, 2]).dictionary_encode(), "int", ["1", "2"]),
        (pa.array(["x", "y"]).dictionary_encode(), "str", ["x", "y"]),
    ],
)
def test_parquet(tmp_path: Path, labels: pa.Array, kind: str, text: list[str | None]) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"x")
    rows = pa.table(
        {"path": ["a.png", "b.png"], "patient_id": [7, 8], "modality": ["A", "A"], "label": labels, "w": [0.5, None]}
    )
    pq.write_table(rows, tmp_path / "m.parquet")
    found = read_manifest(tmp_path / "m.parquet")
    assert found.label_type == kind
    assert [f.fields.get("label") for f in found.found] == text
    assert [f.fields["patient_id"] for f in found.found] == ["7", "8"]
    assert [f.fields.get("w") for f in found.found] == ["0.5", None]


class TestPaths:
    def test_one_file_has_one_path(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        lines = ["a.png", "./a.png", "deep/../a.png", f"{tmp_path}/a.png"]
        found = read("path,patient_id,modality\n" + "".join(f"{line},1,A\n" for line in lines)).found
        assert [f.path for f in found] == ["a.png"] * 4

    def test_above_the_root_and_elsewhere(self, read: Read, tmp_path: Path) -> None:
        (tmp_path / "deep").mkdir()
        text = f"path,patient_id,modality\n../a.png,1,A\n{tmp_path}/b.png,2,A\n"
        found = read(text, root=tmp_path / "deep").found
        assert [f.path for f in found] == ["../a.png", f"{tmp_path}/b.png"]

    def test_fragments_are_kept(self, read: Read) -> None:
        found = read("path,patient_id,modality\na.png#axis=2&slice=17,1,A\n./a.png#/valid/42,1,A\n").found
        assert [f.path for f in found] == ["a.png#axis=2&slice=17", "a.png#/valid/42"]

    def test_missing_files_are_refused_or_recorded(self, read: Read, tmp_path: Path) -> None:
        text = "path,patient_id,modality\na.png,1,A\nnowhere.png,2,A\n"
        with pytest.raises(
            NotFoundError, match=r"1 of 2 files of m\.csv aren't there, such as 'nowhere\.png'"
        ) as caught:
            read(text)
        assert str(tmp_path) in str(caught.value)
        assert [f.size for f in read(text, allow_missing=True).found] == [1, -1]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("path,patient_id,modality\n", UsageError, "has no rows"),
        ("path,patient,modality\na.png,1,A\n", NotFoundError, "no column 'patient_id'. Did you mean 'patient'"),
        ("file,patient_id,modality\na.png,1,A\n", NotFoundError, "no column 'path'"),
        ("path,patient_id\na.png,1\n", NotFoundError, "no column 'modality'"),
        ("path,patient_id,modality\na.png,,A\n", ConflictError, "no patient_id, or one with spaces around it (row 1)"),
        ("path,patient_id,modality\na.png,1,A\nb.png,NA,A\n", ConflictError, "(row 2)"),
        ("path,patient_id,modality\na.png, 1,A\n", ConflictError, "no patient_id, or one with spaces"),
        ("path,patient_id,modality\na.png,1,\n", ConflictError, "no modality"),
        ("path,patient_id,modality\n,1,A\n", ConflictError, "no path"),
    ],
)
def test_refused(read: Read, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        read(text)
    assert message in str(caught.value)
