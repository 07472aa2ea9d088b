"""A bad input costs one row, never the run and never silence; a fault of the environment is no bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from featstore import ConflictError, NotFoundError, SetupError
from featstore.errors import PluginError
from featstore.extract.commit import Committer

INPUTS = 22
BAD = {
    1: ("vector", "NonFinite"),
    3: ("transform", "ValueError"),
    5: ("transform", "InputError"),
    7: ("decode", "InputError"),
    9: ("decode", "InputError"),
    11: ("read", "FileNotFoundError"),
    13: ("read", "IsADirectoryError"),
}


def break_inputs(lab: Any) -> None:
    for number, mark in ((1, "nan"), (3, "bad_transform"), (5, "bad_shape")):
        lab.write(number, mark)
    lab.path(7).write_bytes(b"")
    lab.path(9).write_bytes(lab.path(9).read_bytes()[:30])
    lab.ingest()
    lab.path(11).unlink()
    lab.path(13).unlink()
    lab.path(13).mkdir()


@pytest.mark.parametrize("workers", [0, 2])
def test_each_failure_is_a_row_and_everything_else_is_right(make_lab: Callable[..., Any], workers: int) -> None:
    good = make_lab(INPUTS, "good")
    good.extract()
    expected = good.vectors()
    lab = make_lab(INPUTS, "bad")
    break_inputs(lab)
    result = lab.extract(num_workers=workers)
    assert (result.done, result.failed, result.pending) == (INPUTS - len(BAD), len(BAD), INPUTS)
    assert lab.failures() == {lab.key(n): (*why, 1) for n, why in BAD.items()}
    bad_keys = {lab.key(n) for n in BAD}
    # Batch-mates of failed inputs are as they would have been without.
    assert lab.vectors() == {key: value for key, value in expected.items() if key not in bad_keys}
    (path,) = (lab.root / "store/features/s/v1.zarr").glob("*-extract-*")
    segment = zarr.open_group(path, mode="r")
    for key, valid, row in zip(segment["sample_key"][:], segment["valid"][:], segment["features"][:], strict=True):
        assert valid == (str(key) not in bad_keys)
        assert np.isnan(row).all() if not valid else np.isfinite(row).all()
    (run,) = lab.sql("SELECT done, failed, state FROM runs WHERE kind = 'extract'")
    assert run == {"done": INPUTS - len(BAD), "failed": len(BAD), "state": "done"}
    messages = {row["sample_key"]: row["message"] for row in lab.store.errors().to_pylist()}
    assert messages[lab.key(3)] == "these pixels can't be transformed"
    assert messages[lab.key(5)] == "the transform gave shape (3, 3), not (8, 8)"
    assert messages[lab.key(9)] == "30 bytes are no image of 64"
    assert messages[lab.key(11)] == "the file isn't there"


def test_left_alone_until_mended(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    break_inputs(lab)
    lab.extract()
    lab.forwards()
    again = lab.extract()
    assert (again.pending, again.failed_before, again.runs) == (0, len(BAD), [])
    assert lab.forwards() == []
    # Mended files are tried again, without a new ingest; what wasn't mended is not.
    for number in (3, 9, 11):
        lab.write(number)
    mended = lab.extract()
    assert (mended.done, mended.failed, mended.failed_before) == (3, 0, 4)
    assert lab.failures().keys() == {lab.key(n) for n in BAD.keys() - {3, 9, 11}}
    assert lab.failures(resolved=True).keys() == {lab.key(n) for n in BAD}
    resolved = lab.sql("SELECT sample_key FROM failures WHERE resolved")
    assert {row["sample_key"] for row in resolved} == {lab.key(n) for n in (3, 9, 11)}
    # Retry tries all of the rest, and counts.
    (result,) = lab.store.retry()
    assert (result.done, result.failed) == (0, 4)
    assert lab.failures()[lab.key(1)] == ("vector", "NonFinite", 2)
    for number in BAD:
        if lab.path(number).is_dir():
            lab.path(number).rmdir()
        lab.write(number)
    (result,) = lab.store.retry()
    assert (result.done, result.failed) == (4, 0)
    assert lab.failures() == {}
    assert lab.store.retry() == []
    assert lab.extract().pending == 0
    assert len(lab.vectors()) == INPUTS
    assert lab.store.status()["failed_inputs"] == 0


def test_retry_of_one_run_and_of_runs_that_cannot_be(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(6)
    lab.write(2, "nan")
    lab.ingest()
    (first,) = lab.extract("s").runs
    (second,) = lab.extract("t", settings={"scale": "2"}).runs
    with pytest.raises(NotFoundError, match="no run 'x'"):
        lab.store.retry("x")
    (result,) = lab.store.retry(second)
    assert result.feature_sets == {"t": 1}
    lab.write(2)
    # What made t isn't what it was any more: s is tried all the same.
    facts = lab.root / "store/runs" / second / "run.json"
    (run,) = result.runs
    facts = lab.root / "store/runs" / run / "run.json"
    facts.write_text(facts.read_text().replace('"scale": "2"', '"scale": "4"'))
    (result,) = lab.store.retry()
    assert (result.feature_sets, result.done) == ({"s": 1}, 1)
    with pytest.raises(ConflictError, match="would not be what it was"):
        lab.store.retry()
    assert first != second


@pytest.mark.parametrize(("mark", "lost"), [("nan", {"mean", "max"}), ("half_nan", {"mean"})])
def test_a_vector_that_is_not_finite_fails_in_its_pooler_alone(
    make_lab: Callable[..., Any], mark: str, lost: set[str]
) -> None:
    lab = make_lab(10)
    for number in (0, 6):  # in the first batch of a chunk, and in the last
        lab.write(number, mark)
    lab.ingest()
    result = lab.extract(poolers=("mean", "max"))
    assert (result.done, result.failed) == (8, 2)
    bad = {lab.key(0), lab.key(6)}
    for pooler in ("mean", "max"):
        assert lab.vectors(f"s.{pooler}").keys() == {lab.key(n) for n in range(10)} - (bad if pooler in lost else set())
    assert lab.failures() == dict.fromkeys(bad, ("vector", "NonFinite", 1))
    again = lab.extract(poolers=("mean", "max"))
    assert (again.pending, again.failed_before) == (0, 2)
    for number in (0, 6):
        lab.write(number)
    lab.forwards()
    lab.extract(poolers=("mean", "max"))
    # Where one of the two had its vector, the other's new bytes make that one stale: both are made in one command.
    assert lab.forwards() == [[0, 6]] * (3 - len(lost))
    assert lab.failures() == {}
    assert len(lab.vectors("s.mean")) == len(lab.vectors("s.max")) == 10


def test_float16_overflow_is_a_failure(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(6)
    lab.write(2, "overflow")
    lab.ingest()
    result = lab.extract(dtype="float16")
    assert (result.done, result.failed) == (5, 1)
    (row,) = lab.store.errors().to_pylist()
    assert row["message"] == "the vector is not finite as float16"
    assert lab.extract("wide").failed == 0
    half, full = lab.store.features("s").arrays()[0], lab.store.features("wide").arrays()[0]
    assert (half.dtype, full.dtype) == (np.float16, np.float32)
    np.testing.assert_array_equal(half, np.delete(full, 2, axis=0).astype(np.float16))


def test_a_failure_before_a_kill_is_not_forgotten(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    lab.write(2, "nan")
    lab.ingest()
    lab.begun(keep=1)
    result = lab.extract()
    assert (result.done, result.failed, result.failed_before) == (INPUTS - 8, 0, 1)
    assert lab.failures().keys() == {lab.key(2)}


# ------------------------------------------------------------------------------------------ the command line
def test_exit_codes(make_lab: Callable[..., Any], commands: list[Any]) -> None:
    lab = make_lab(6)
    lab.write(2, "nan")
    lab.ingest()

    def run(*arguments: str) -> tuple[int, str, str]:
        process = lab.extracting("s", *arguments) if arguments == ("--json",) else lab.command(*arguments)
        commands.append(process)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    code, output, _ = run("--json")
    assert (code, json.loads(output)["failed"]) == (3, 1)
    code, output, _ = run("errors", "--json")
    assert (code, [row["sample_key"] for row in json.loads(output)]) == (0, [lab.key(2)])
    code, _, errors = run("retry")
    assert (code, "0 samples extracted, 1 failed" in errors, "featstore errors" in errors) == (3, True, True)
    lab.write(2)
    code, output, _ = run("retry", "--json")
    assert (code, [row["done"] for row in json.loads(output)]) == (0, [1])


# ---------------------------------------------------------------------------------------- the environment's
def test_faults_of_the_environment_record_nothing(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(3)
    for fields, error, words in (
        ({"backbone": "lab:stast"}, NotFoundError, "Did you mean"),
        ({"backbone": "timm:test_resnet", "checkpoint": "nowhere.pt"}, SetupError, "no weights file"),
        ({"backbone": "timm:test_resnet", "pretrained": True}, SetupError, "weights"),
        ({"device": "cuda:7"}, SetupError, "no device"),
        ({"device": "abacus"}, ValueError, "abacus"),
        ({"poolers": ("maen",)}, NotFoundError, "Did you mean 'mean'"),
        ({"poolers": ("cls",)}, ConflictError, "class token"),
        ({"where": "no_such_column = 1"}, ValueError, "no_such_column"),
    ):
        with pytest.raises(error, match=words):
            lab.extract(**fields)
    assert lab.run_states() == {}
    assert lab.sql("SELECT * FROM feature_sets") == []
    assert lab.forwards() == [[0]]  # the pooler cls was tried on zeros
    assert not list((lab.root / "store" / "runs").glob("*-extract-*"))


def test_a_data_set_that_is_not_mounted_stops_the_run(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    lab.data.rename(lab.root / "unmounted")
    for workers in (0, 2):
        with pytest.raises(SetupError, match="isn't there") as caught:
            lab.extract(num_workers=workers)
        assert "mount" in caught.value.hint
    assert lab.failures() == {}
    (lab.root / "unmounted").rename(lab.data)
    result = lab.extract()
    assert (len(result.resumed), result.done, result.failed) == (1, INPUTS, 0)


def test_a_fault_in_the_middle_keeps_what_was_finished(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS)
    lab.write(18, "fault")
    with pytest.raises(SetupError, match="The lab is closed"):
        lab.extract()
    assert lab.vectors().keys() == {lab.key(n) for n in range(16)}
    assert lab.failures() == {}
    lab.write(18)
    lab.forwards()
    assert lab.extract().done == INPUTS - 16
    assert sorted(n for batch in lab.forwards() for n in batch) == list(range(16, INPUTS))


def test_the_reason_of_a_fault_is_not_masked_by_the_commit_after_it(
    make_lab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = make_lab(INPUTS)
    lab.write(18, "fault")

    def refuse(self: Committer, *, wait_s: float | None = None) -> bool:
        raise SetupError("The disk is full.")

    monkeypatch.setattr(Committer, "commit", refuse)
    with pytest.raises(SetupError, match="The lab is closed"):
        lab.extract()


def test_a_reader_that_is_gone_stops_the_run(make_lab: Callable[..., Any], tmp_path: Path) -> None:
    import featstore

    lab = make_lab(3)
    other = tmp_path / "backbone_only.py"
    source = Path(__file__).with_name("lab.py").read_text()
    other.write_text(source.replace('yield ReaderSpec("lab"', 'yield ReaderSpec("other"').replace('".lab"', '".lob"'))
    store = featstore.open(lab.root / "store", plugins=[str(other)])
    with pytest.raises(SetupError, match=r"No reader knows.*\.lab"):
        store.extract(name="s", backbone="lab:stats", device="cpu")
    assert lab.failures() == {}


def test_a_reader_that_hashes_nothing_is_a_broken_plugin(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(1)
    (lab.data / "p/A").mkdir(parents=True)
    (lab.data / "p/A/1.unhashed").write_bytes(b"x")
    lab.store.ingest(lab.data, layouts=["{patient_id}/{modality}/*.unhashed"], dataset="other")
    with pytest.raises(PluginError, match="no content hash"):
        lab.extract()
    assert lab.failures() == {}


def test_a_pooler_of_changing_width_is_a_broken_plugin(make_lab: Callable[..., Any]) -> None:
    with pytest.raises(PluginError, match="one shape"):
        make_lab(3).extract(poolers=("fickle",))


def test_vectors_that_cannot_be_written_stop_the_run(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(INPUTS).begun(keep=1)
    (segment,) = (lab.root / "store/features/s/v1.zarr").glob("*-extract-*")
    shutil.rmtree(segment / "features/c/2")
    (segment / "features/c/2").write_bytes(b"")  # where a folder has to be made
    with pytest.raises(SetupError, match="can't be written"):
        lab.extract()
    assert len(lab.vectors()) == 16
    assert lab.failures() == {}
    (segment / "features/c/2").unlink()
    assert lab.extract().done == INPUTS - 16
