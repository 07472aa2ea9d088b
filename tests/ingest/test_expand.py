"""Expanding: files that hold several samples, of this machine or behind a URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import featstore
from featstore import ConflictError, InputError, NotFoundError, PluginError, UsageError
from featstore.ingest import parse_settings
from featstore.store import Store

PLUGIN = str(Path(__file__).with_name("parts_plugin.py"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    featstore.init(tmp_path / "store")
    return featstore.open(tmp_path / "store", plugins=[PLUGIN])


def write(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(("rows", *rows)) + "\n")
    return path


def samples(store: Store, columns: str = "sample_key, patient_id, modality") -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in store.sql(f"SELECT {columns} FROM samples ORDER BY sample_key").to_pylist()]


# ------------------------------------------------------------------------------------------------- one file
def test_the_rows_of_one_file_are_samples_and_entities_of_their_own(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "in" / "tiles.rows", "1 2 3", "4 5 6", "7 8 9")
    result = store.ingest(file, modality="SST")
    assert (result.dataset, result.added, result.alone) == ("tiles", 3, 3)
    assert samples(store) == [(f"tiles/tiles.rows#/{i}", f"tiles/tiles.rows#/{i}", "SST") for i in range(3)]
    store.extract(name="n", backbone="parts:numbers")
    values, _, keys = store.features("n").arrays()
    assert keys.tolist() == [f"tiles/tiles.rows#/{i}" for i in range(3)]
    assert values.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert store.ingest(file, modality="SST").run_id is None


def test_a_template_says_otherwise(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "tiles.rows", "1 2 3;cruise=a", "4 5 6;cruise=b", "7 8 9;cruise=a")
    assert store.ingest(file, modality="SST", patient_id="{dataset}-{cruise}").alone == 0
    assert [row[1] for row in samples(store)] == ["tiles-a", "tiles-b", "tiles-a"]


def test_what_rows_say_of_themselves_is_taken_and_the_user_s_word_goes_first(store: Store, tmp_path: Path) -> None:
    line = "1 2 3;patient_id=007;modality=X;site=S;label=2;split=train;visit_id=v1;acquired_at=2020-01-31;depth=5"
    write(tmp_path / "in" / "B" / "f.rows", line)
    store.ingest(tmp_path / "in", layouts=["{site}/*.rows"], modality="{modality}-{depth}", label_type="int")
    row = store.sql("SELECT * FROM samples").to_pylist()[0]
    assert (row["patient_id"], row["site"], row["modality"], row["label"]) == ("007", "B", "X-5", "2")
    assert (row["split"], row["visit_id"], str(row["acquired_at"])) == ("train", "v1", "2020-01-31 00:00:00")
    assert dict(row["attributes"]) == {"depth": "5"}
    assert store.sql("SELECT label_type FROM patients").to_pylist() == [{"label_type": "int"}]


def test_settings_reach_the_reader_and_unknown_ones_are_refused(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "t.rows", "1 2 3", "4 5 6", "7 8 9")
    with pytest.raises(UsageError, match=r"--expand stepp.*Did you mean 'step'"):
        store.ingest(file, modality="X", expand=["stepp=2"])
    with pytest.raises(UsageError, match="step=0 is no whole number"):
        store.ingest(file, modality="X", expand=["step=0"])
    assert store.ingest(file, modality="X", expand=["step=2"]).added == 2


@pytest.mark.parametrize(
    ("words", "says"), [(["axis"], "KEY=VALUE"), (["a=1,a=2"], "twice"), (["a=1", "a=1"], "twice")]
)
def test_bad_words_of_expand(words: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_settings(words)


def test_one_file_that_holds_no_samples_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(UsageError, match="isn't a file that holds several samples"):
        store.ingest(tmp_path / "x.png")
    with pytest.raises(NotFoundError, match="There is no file or folder"):
        store.ingest(tmp_path / "nothing.rows")
    with pytest.raises(NotFoundError, match="no folder"):
        store.ingest(tmp_path / "x.png", layouts=["{patient_id}.png"])
    (tmp_path / "bad.rows").write_text("columns\n")
    with pytest.raises(InputError, match="doesn't begin with 'rows'"):
        store.ingest(tmp_path / "bad.rows", modality="X")


def test_a_reader_that_lists_a_part_twice_is_at_fault(store: Store, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"lists #/0 of 't.rows' twice"):
        store.ingest(write(tmp_path / "t.rows", "1 2 3", "twice"), modality="X")


# ---------------------------------------------------------------------------------------------- bad files
def test_a_file_that_can_t_be_read_fails_when_it_is_extracted_and_its_parts_take_its_place(
    store: Store, tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a" / "good.rows", "1 2 3")
    bad = write(tmp_path / "in" / "b" / "bad.rows")
    bad.write_text("nothing")
    layouts = ["{patient_id}/*.rows"]
    result = store.ingest(tmp_path / "in", layouts=layouts, modality="X")
    assert (result.added, list(result.unreadable)) == (2, ["b/bad.rows"])
    assert "doesn't begin with 'rows'" in result.unreadable["b/bad.rows"]
    extracted = store.extract(name="n", backbone="parts:numbers")
    assert (extracted.done, extracted.failed) == (1, 1)
    assert store.errors().column("sample_key").to_pylist() == ["in/b/bad.rows"]

    write(bad, "4 5 6", "7 8 9")
    again = store.ingest(tmp_path / "in", layouts=layouts, modality="X")
    assert (again.added, again.missing, again.unreadable) == (2, 0, {})
    assert [row[0] for row in samples(store)] == ["in/a/good.rows#/0", "in/b/bad.rows#/0", "in/b/bad.rows#/1"]
    extracted = store.extract(name="n", backbone="parts:numbers")
    assert (extracted.done, extracted.failed, extracted.failed_before) == (2, 0, 0)
    assert store.errors().num_rows == 0


def test_a_whole_sample_that_has_vectors_is_never_dropped_for_parts(store: Store, tmp_path: Path, rng: Any) -> None:
    """Only what failed gives way: two ways to see one file may live beside each other."""
    np.save(tmp_path / "p.npy", rng.random((1, 3)))
    (tmp_path / "m.csv").write_text("path,patient_id,modality\np.npy,1,A\n")
    store.ingest_manifest(tmp_path / "m.csv", dataset="d")
    store.extract(name="n", backbone="parts:numbers")
    (tmp_path / "n.csv").write_text("path,patient_id,modality\np.npy#/0,1,A\n")
    result = store.ingest_manifest(tmp_path / "n.csv", dataset="d")
    assert (result.added, result.missing) == (1, 1)
    assert [row[0] for row in samples(store)] == ["d/p.npy", "d/p.npy#/0"]


def test_a_bad_file_of_which_nothing_is_known_is_left_out_and_told(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "in" / "good.rows", "1 2 3;patient_id=1")
    (tmp_path / "in" / "bad.rows").write_text("nothing")
    result = store.ingest(tmp_path / "in", layouts=["*.rows"], modality="X")
    assert (result.added, list(result.unreadable)) == (1, ["bad.rows"])
    (tmp_path / "in" / "good.rows").unlink()
    with pytest.raises(InputError, match=r"None of the files can be read\. 'bad\.rows'"):
        store.ingest(tmp_path / "in", layouts=["*.rows"], modality="X", dataset="other")


# --------------------------------------------------------------------------------------- files that tell
def test_a_reader_as_layout_reads_whose_its_files_are(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "in" / "IM0001.rows", "1 2 3;patient_id=007;modality=CT")
    write(tmp_path / "in" / "1.2.840.113.rows", "4 5 6;patient_id=7;modality=MR")
    write(tmp_path / "in" / "deep" / "x.rows", "7 8 9;patient_id=7;modality=MR")
    (tmp_path / "in" / "README.rows").write_text("nothing")
    (tmp_path / "in" / "x.png").write_bytes(b"")
    result = store.ingest(tmp_path / "in", layouts=["rows"])
    assert (result.added, result.unmatched, result.left_out) == (3, ["x.png"], 1)
    assert list(result.unreadable) == ["README.rows"]
    assert {row[1] for row in samples(store)} == {"007", "7"}
    assert [set(pair) for pair in result.lookalikes] == [{"007", "7"}]
    assert store.extract(name="n", backbone="parts:numbers").done == 3
    with pytest.raises(UsageError, match="goes with no other layout"):
        store.ingest(tmp_path / "in", layouts=["rows", "{patient_id}/*.rows"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.rows").write_text("nothing")
    with pytest.raises(UsageError, match=r"finds no sample below .*'README\.rows'.*doesn't begin"):
        store.ingest(tmp_path / "empty", layouts=["rows"])


# -------------------------------------------------------------------------------------------------- URLs
@pytest.fixture
def bucket() -> Any:
    """A folder of fsspec's own file system in memory."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/in/a/f.rows", b"rows\n1 2 3\n4 5 6\n")
    memory.pipe("/bucket/in/b/g.rows", b"rows\n7 8 9\n")
    memory.pipe("/bucket/in/.hidden/h.rows", b"rows\n7 8 9\n")
    yield memory
    memory.rm("/bucket", recursive=True)


def test_a_folder_behind_a_url(store: Store, bucket: Any) -> None:
    result = store.ingest("memory://bucket/in", layouts=["{patient_id}/*.rows"], modality="X")
    assert (result.dataset, result.added) == ("in", 3)
    assert samples(store, "sample_key, uri")[0] == ("in/a/f.rows#/0", "memory://bucket/in/a/f.rows#/0")
    assert store.extract(name="n", backbone="parts:numbers").done == 3
    values, _, _ = store.features("n").arrays()
    assert values.tolist() == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert store.ingest("memory://bucket/in", layouts=["{patient_id}/*.rows"], modality="X").run_id is None
    bucket.pipe("/bucket/in/b/g.rows", b"rows\n7 8 10\n")
    assert store.ingest("memory://bucket/in", layouts=["{patient_id}/*.rows"], modality="X").changed == 1
    assert store.extract(name="n", backbone="parts:numbers").done == 1


def test_one_file_behind_a_url_and_a_manifest_of_urls(store: Store, bucket: Any, tmp_path: Path) -> None:
    assert store.ingest("memory://bucket/in/a/f.rows", modality="X").added == 2
    (tmp_path / "m.csv").write_text(
        "path,patient_id,modality\nmemory://bucket/in/b/g.rows,1,X\nmemory://bucket/in/b/none.rows,2,X\n"
    )
    with pytest.raises(NotFoundError, match=r"none\.rows"):
        store.ingest_manifest(tmp_path / "m.csv")
    assert store.ingest_manifest(tmp_path / "m.csv", allow_missing=True).added == 2
    result = store.extract(name="n", backbone="parts:numbers")
    assert (result.done, result.failed) == (3, 1)
    assert store.errors().column("message").to_pylist() == ["the file isn't there"]


def test_urls_that_lead_nowhere_or_tell_too_much(store: Store) -> None:
    with pytest.raises(NotFoundError, match="nothing below memory://bucket/none"):
        store.ingest("memory://bucket/none", layouts=["{patient_id}/*.rows"])
    with pytest.raises(NotFoundError, match="There is no file"):
        store.ingest("memory://bucket/none.rows")
    with pytest.raises(UsageError, match="names a user"):
        store.ingest("s3://key:secret@bucket/in", layouts=["{patient_id}/*.rows"])
    assert store.sql("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 0}]


def test_parts_have_the_same_parts_of_their_masks(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "in" / "1" / "scan.rows", "1 2 3", "4 5 6")
    write(tmp_path / "in" / "1" / "mask.rows", "1 1 0", "0 1 1")
    store.ingest(
        tmp_path / "in", layouts=["{patient_id}/*.rows"], modality="X", mask_layout="{folder}/mask.rows#label=1"
    )
    found = store.sql("SELECT sample_key, mask_uri FROM samples ORDER BY 1").to_pylist()
    assert [row["sample_key"] for row in found] == ["in/1/scan.rows#/0", "in/1/scan.rows#/1"]
    assert [row["mask_uri"].rpartition("#")[2] for row in found] == ["/0&label=1", "/1&label=1"]


def test_another_patient_for_a_row_is_refused(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "t.rows", "1 2 3;patient_id=1")
    store.ingest(file, modality="X")
    write(file, "1 2 3;patient_id=2")
    with pytest.raises(ConflictError, match="another patient_id"):
        store.ingest(file, modality="X")


# -------------------------------------------------------------------------------- files that change under parts
def test_rows_that_are_gone_lose_their_vectors(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "t.rows", "1 2 3", "4 5 6", "7 8 9")
    store.ingest(file, modality="X")
    store.extract(name="n", backbone="parts:numbers")
    write(file, "1 2 3", "4 5 6")
    result = store.ingest(file, modality="X")
    assert (result.changed, result.missing) == (3, 1)
    result = store.extract(name="n", backbone="parts:numbers")
    assert (result.done, result.failed) == (2, 1)
    _, _, keys = store.features("n").arrays()
    assert keys.tolist() == ["t/t.rows#/0", "t/t.rows#/1"]


def test_a_file_whose_name_only_looks_like_a_part_is_another_file(store: Store, tmp_path: Path) -> None:
    """``IM1#2.rows`` is no part of ``IM1``, whatever became of that."""
    write(tmp_path / "in" / "1" / "IM1#2.rows", "1 2 3")
    (tmp_path / "in" / "1" / "IM1.rows").write_text("nothing")
    store.ingest(tmp_path / "in", layouts=["{patient_id}/IM1.rows"], modality="X")
    store.extract(name="n", backbone="parts:numbers")
    result = store.ingest(tmp_path / "in", layouts=["{patient_id}/*#2.rows"], modality="X")
    assert (result.added, result.replaced) == (1, 0)
    assert [row[0] for row in samples(store)] == ["in/1/IM1#2.rows#/0", "in/1/IM1.rows"]


def test_parts_never_take_the_id_of_the_file_that_gave_way_to_them(store: Store, tmp_path: Path) -> None:
    """A living run may still be making that file's vector."""
    bad = tmp_path / "in" / "1" / "x.rows"
    bad.parent.mkdir(parents=True)
    bad.write_text("nothing")
    store.ingest(tmp_path / "in", layouts=["{patient_id}/*.rows"], modality="X")
    with store.catalog.read() as connection:
        (before,) = connection.execute("SELECT max(id) FROM core.sample").fetchall()[0]
    write(bad, "1 2 3")
    result = store.ingest(tmp_path / "in", layouts=["{patient_id}/*.rows"], modality="X")
    assert (result.added, result.replaced) == (1, 1)
    with store.catalog.read() as connection:
        assert connection.execute("SELECT min(id) FROM core.sample").fetchall()[0][0] > before


def test_a_missing_object_behind_a_url_is_one_failure(store: Store, bucket: Any) -> None:
    store.ingest("memory://bucket/in", layouts=["{patient_id}/*.rows"], modality="X")
    bucket.rm("/bucket/in/b/g.rows")
    result = store.extract(name="n", backbone="parts:numbers")
    assert (result.done, result.failed) == (2, 1)


def test_labels_that_files_tell_have_a_type(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "t.rows", "1 2 3;patient_id=1;label=2", "4 5 6;patient_id=2;label=0")
    store.ingest(file, modality="X")
    assert store.sql("SELECT DISTINCT label_type FROM patients").to_pylist() == [{"label_type": "int"}]
    write(tmp_path / "in" / "3" / "f.rows", "1 2 3")
    with pytest.raises(UsageError, match="--label-type str is not what the layout says"):
        store.ingest(tmp_path / "in", layouts=["{label:int}/*.rows"], modality="X", label_type="str", patient_id="x")


def test_identifiers_that_can_t_be_printed_are_no_identifiers(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.rows", "1 2 3;patient_id=1\x1b[31m")
    write(tmp_path / "in" / "b.rows", "1 2 3;patient_id=2")
    result = store.ingest(tmp_path / "in", layouts=["*.rows"], modality="X")
    assert (result.added, result.left_out) == (1, 1)
    assert "patient_id holds characters" in result.unreadable["a.rows"]


def test_the_first_of_several_fields(store: Store, tmp_path: Path) -> None:
    file = write(tmp_path / "t.rows", "1 2 3;patient_id=7;visit_id=v", "4 5 6;visit_id=w")
    store.ingest(file, modality="X", patient_id="{patient_id|visit_id}")
    assert [row[1] for row in samples(store)] == ["7", "w"]
