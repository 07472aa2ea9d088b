"""Run folders, their locks, and what they record."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import featstore
from featstore.errors import BusyError, CorruptError
from featstore.plugins import Plugins
from featstore.runs import RunFolder, provenance


def test_names_tell_time_and_verb(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "ingest")
    assert re.fullmatch(r"\d{8}T\d{6}-ingest-[0-9a-f]{4}", run.run_id)
    assert run.path == tmp_path / "runs" / run.run_id
    assert run.facts() == {}


def test_facts_add_up(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "ingest")
    run.record(kind="ingest", state="running")
    run.record(state="done")
    assert run.facts() == {"kind": "ingest", "state": "done"}


def test_rows_come_back(tmp_path: Path) -> None:
    rows = pa.table({"patient_id": ["007", "7"], "n": [1, None]})
    run = RunFolder.create(tmp_path, "ingest")
    run.save_rows("samples", rows)
    assert run.load_rows("samples").equals(rows)
    assert run.count_rows("samples") == 2


@pytest.mark.parametrize("kind", ["ingest", "ingest-table", "extract"])
def test_the_folder_of_a_run(tmp_path: Path, kind: str) -> None:
    run = RunFolder.create(tmp_path, kind)
    assert RunFolder.of(tmp_path, run.run_id) == run


@pytest.mark.parametrize("name", ["", ".", "..", "../../victim", "/etc", "20260101T000000-extract-0000/../.."])
def test_what_is_no_runs_name_leads_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorruptError, match="no run's name"):
        RunFolder.of(tmp_path, name)


def test_a_run_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with RunFolder.creating(tmp_path, "split") as create_run:
        kept = create_run()

    def fail() -> None:
        with RunFolder.creating(tmp_path, "split") as create_run:
            create_run().record(state="done")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list((tmp_path / "runs").iterdir()) == [kept.path]


class TestLock:
    def test_one_holder(self, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path, "extract")
        assert not run.alive()
        with run.locked():
            assert run.alive()
            with pytest.raises(BusyError, match="is being worked on by another process"), run.locked():
                pass
        assert not run.alive()

    def test_dies_with_its_process(self, tmp_path: Path) -> None:
        run = RunFolder.create(tmp_path, "extract")
        code = (
            "import sys, pathlib; from featstore.runs import RunFolder\n"
            "with RunFolder(pathlib.Path(sys.argv[1])).locked():\n    print('held', flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "held\n"
            assert run.alive()
            process.kill()
            process.wait()
            assert not run.alive()


class TestProvenance:
    def test_what_is_recorded(self) -> None:
        facts = provenance("extract", Plugins.load(), device="cpu")
        assert facts["device"] == "cpu"
        assert facts["packages"]["featstore"] == featstore.__version__
        assert facts["plugins"]["poolers"] == featstore.__version__
        assert set(facts) >= {"argv", "git", "python", "platform", "cpus", "facts"}

    def test_the_commit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
        assert provenance("x", Plugins.load())["git"] is None

        def git(*arguments: str) -> None:
            identity = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
            subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

        git("init")
        (tmp_path / "code.py").write_text("1")
        git("add", "code.py")
        git("commit", "-m", "first")
        clean = provenance("x", Plugins.load())["git"]
        assert re.fullmatch("[0-9a-f]{40}", clean["commit"])
        assert clean["dirty"] is False
        (tmp_path / "code.py").write_text("2")
        assert provenance("x", Plugins.load())["git"] == clean | {"dirty": True}
