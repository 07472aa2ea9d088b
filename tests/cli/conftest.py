"""The command line as a user meets it: its words, its exit code, what is on stdout and what on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from featstore import cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """``run("sql", "select 1")``: one command in this process, through the same ``main`` as the script."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["featstore", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        code = caught.value.code
        return Outcome(0 if code is None else int(code), out, err)

    return call


@pytest.fixture(scope="session")
def script() -> Callable[..., Outcome]:
    """The installed script in a process of its own, with a shell's working folder and environment."""
    executable = Path(sys.executable).with_name("featstore")

    def call(*words: object, cwd: Path | None = None, **environment: str) -> Outcome:
        env = {k: v for k, v in os.environ.items() if k != "FEATSTORE_STORE"} | environment
        done = subprocess.run(
            [executable, *map(str, words)], capture_output=True, text=True, cwd=cwd, env=env, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call
