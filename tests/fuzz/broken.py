"""The fuzz target with a reader of texts that breaks a law each time, another one each turn: it must find them all."""

from __future__ import annotations

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

import featstore_readers.text
import numpy as np

from featstore import InputError, SetupError, Source

from . import cases
from .__main__ import main

#: In the order of the turns: what the reader does, and what is said of it.
LAWS = {
    "hang": "takes too long", "crash": "ends the process: SIGSEGV", "leak": "leaves 1 files open",
    "print": "prints 'oh'",
    "memory": "MiB of memory", "fault": "stops the run",
}  # fmt: skip
_read = featstore_readers.text.read
_open: list[object] = []


def read(source: Source) -> Any:
    if not source.path.stem.isdecimal():  # no case, but a seed
        return _read(source)
    source.read_bytes()
    law = list(LAWS)[int(source.path.stem) // len(cases.formats()) % len(LAWS)]
    if law == "hang":
        time.sleep(1000)
    elif law == "crash":
        ctypes.string_at(0)
    elif law == "leak":
        _open.append(Path(source.location).open())  # noqa: SIM115
    elif law == "print":
        ctypes.CDLL(None).puts(b"oh")
    elif law == "memory":
        np.ones(150 << 20, np.uint8)
    elif law == "fault":
        raise SetupError("The disk is full.")
    raise InputError("no")


if __name__ == "__main__":
    featstore_readers.text.read = read
    sys.exit(main(("-m", "fuzz.broken")))
