"""Five hundred malformed inputs in processes of their own; ``make fuzz`` tries ten thousand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from featstore.plugins import Plugins

from . import cases
from .broken import LAWS

COUNT = 500
SEED = int(os.environ.get("FEATSTORE_TEST_SEED", "20261121"))


def test_every_malformed_input_is_one_failure_in_bounded_memory(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The table of the whole run is what is shown where this fails; its last line is shown after the tests."""
    told = tmp_path / "cases.json"
    words = ["--count", COUNT, "--seed", SEED, "--jobs", 1, "--json", told]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", *map(str, words)], cwd=tmp_path, capture_output=True, text=True, timeout=500,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(told.read_text())
    record_property("summary", found["summary"])
    assert f"{COUNT:,} malformed inputs tried (seed {SEED}): 0 findings" in found["summary"]
    assert [case["number"] for case in found["cases"]] == list(range(COUNT))
    refused = Counter(case["format"] for case in found["cases"] if case["outcome"] == "refused")
    assert set(refused) == {format.name for format in cases.formats()}
    assert min(refused.values()) > 5  # each format has its share, and what is refused isn't refused for another reason
    assert sum(case["outcome"] == "readable" for case in found["cases"]) > COUNT // 10


def test_cases_are_the_same_wherever_they_are_made() -> None:
    for number in range(14, 490, 5):
        one, other = cases.make(3, number), cases.make(3, number)
        assert (one.data, one.fragment, one.kind) == (other.data, other.fragment, other.kind)
    assert cases.make(3, 14).data != cases.make(4, 14).data


def test_there_are_cases_of_every_reader_of_ours() -> None:
    plugins = Plugins.load()
    tried = {plugins.reader(f"x{seed.suffix}").name for format in cases.formats() for seed in format.seeds}
    ours = {item.name for item in plugins.registered("reader") if item.provider == "readers"}
    assert tried == ours


def test_what_a_reader_does_wrong_is_found(tmp_path: Path) -> None:
    """The target itself, with a reader of texts that breaks a law each time."""
    turn = len(cases.formats())
    words = ["--first", turn * len(LAWS), "--count", turn * len(LAWS), "--limit", 10, "--memory", 100, "--jobs", 1]
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.broken", *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("case ")]
    assert len(found) == len(LAWS), done.stdout
    for line, says in zip(found, LAWS.values(), strict=True):
        assert "(text" in line
        assert says in line
