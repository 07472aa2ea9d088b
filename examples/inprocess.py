"""What the examples' scripts share: featstore's commands, run in the script's own process.

They are shown as one types them, and do what they do there; only torch and the like are imported once, not once each.
"""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from shared import console, display, show

from featstore.cli import main


def featstore(*arguments: str | Path) -> None:
    """Show a command, run it, and say how long it took.

    Raises:
        SystemExit: it failed; it has said why.
    """
    words, began = _show("featstore", arguments), time.monotonic()
    _run(words, codes=(0,))
    console.print(f"[dim]{time.monotonic() - began:.1f} s[/]")


def featstore_json(*arguments: str | Path) -> Any:
    """Show a command, run it with ``--json``, and return what it prints; some of its inputs may fail (exit code 3).

    Raises:
        SystemExit: it failed; it has said why.
    """
    words = _show("featstore", (*arguments, "--json"))
    with redirect_stdout(io.StringIO()) as said:
        _run(words, codes=(0, 3))
    return json.loads(said.getvalue())


def script(file: Path, call: Callable[[Sequence[str]], None], *arguments: str | Path) -> None:
    """Show another script of the example as one runs it, and call its ``main``."""
    call(_show("python", (file, *arguments))[1:])


def _show(program: str, arguments: Sequence[str | Path]) -> list[str]:
    words = [display(argument) if isinstance(argument, Path) else argument for argument in arguments]
    show(program, words)
    return words


def _run(words: list[str], codes: Sequence[int]) -> None:
    before, sys.argv = sys.argv, ["featstore", *words]  # also what the run's record says
    try:
        main()
    except SystemExit as ended:
        if ended.code not in codes:
            raise SystemExit(f"That command ended with exit code {ended.code}; the example stops here.") from None
    finally:
        sys.argv = before
