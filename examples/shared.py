"""What the examples' scripts share: a command is shown as one types it, run, and its exit code checked."""

from __future__ import annotations

import argparse
import csv
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

console = Console(highlight=False)


def empty_folder(text: str) -> Path:
    """Of ``--out``: a folder that is new or empty, and there afterwards.

    Raises:
        argparse.ArgumentTypeError: it holds anything, or is no folder.
    """
    folder = Path(text)
    if folder.exists() and not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{folder} is not a folder")
    if folder.exists() and any(folder.iterdir()):
        raise argparse.ArgumentTypeError(f"{folder} holds something already: remove it, or choose another")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run(program: str, *arguments: str | Path, code: int = 0) -> None:
    """Show a command as one types it, then run it with the programs next to this Python.

    Args:
        code: the exit code that it must end with.

    Raises:
        SystemExit: it ended with another.
    """
    words = [display(argument) if isinstance(argument, Path) else argument for argument in arguments]
    show(program, words)
    executable = sys.executable if program == "python" else str(Path(sys.executable).with_name(program))
    began = time.monotonic()
    try:
        found = subprocess.run([executable, *words], check=False).returncode
    except FileNotFoundError:
        raise SystemExit(f"{executable} isn't there: is featstore installed in this environment?") from None
    if found != code:
        raise SystemExit(f"That command ended with exit code {found}, not {code}; the example stops here.")
    console.print(f"[dim]{time.monotonic() - began:.1f} s{f', exit code {code}' if code else ''}[/]")


def show(program: str, words: Sequence[str]) -> None:
    """Show a command as one types it."""
    console.print(f"\n[bold cyan]$ {escape(shell_line(program, words))}[/]", soft_wrap=True)


def shell_line(program: str, words: Sequence[str]) -> str:
    r"""A command for a POSIX shell, each option with its values, broken into lines where it is long.

    >>> print(shell_line("featstore", ["split", "--holdout", "site <> 'JM'", "--seed", "42"]))
    featstore split --holdout "site <> 'JM'" --seed 42
    """
    groups = [program]
    for word in words:
        # Single quotes inside read better in double ones, where the shell would touch nothing else.
        quoted = f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)
        if word.startswith("-"):
            groups.append(quoted)
        else:
            groups[-1] += f" {quoted}"
    lines = [groups[0]]
    for group in groups[1:]:
        if len(lines[-1]) + len(group) < 100:
            lines[-1] += f" {group}"
        else:
            lines.append(f"    {group}")
    return " \\\n".join(lines)


def title(words: str) -> None:
    console.print(f"\n[bold]── {escape(words)}[/]", soft_wrap=True)


def display(path: Path) -> str:
    """A path as one would type it: below the current folder where it can be."""
    path = path.absolute()
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV with Unix line ends, the same on every system."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
