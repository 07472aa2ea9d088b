"""The process that reads the cases: its memory is limited, its time is, and what it prints is caught."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import logging
import os
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from . import cases
from .arrays import npy
from .laws import Laws

#: What a case may take of the processor's time before it is a finding: it is read, listed, and its parts are read.
#: By the clock it gets more, where others use the machine too. And its address space, beside what the process had.
SECONDS, SPACE = 30, 3 << 30


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{name}:"))


def _reset_peak() -> None:
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


class Caught:
    """Standard output and standard error as files, at the level of descriptors: C libraries print there too."""

    def __init__(self, folder: Path) -> None:
        self.file = open(folder / "printed", "w+b", buffering=0)  # noqa: SIM115
        os.dup2(self.file.fileno(), 1)
        os.dup2(self.file.fileno(), 2)
        self.libc = ctypes.CDLL(None)

    def text(self) -> str:
        """What was printed since the last look."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.libc.fflush(None)
        size = os.fstat(self.file.fileno()).st_size
        if not size:
            return ""
        self.file.seek(0)
        text = self.file.read().decode("utf-8", "replace")
        self.file.seek(0)
        self.file.truncate()
        return text


class Worker:
    """One process's cases, one after the other."""

    def __init__(self, folder: Path, limit: float, memory: int) -> None:
        self.folder, self.limit, self.memory = folder, limit, memory
        self.laws = Laws(folder)
        self._keepers = [folder / f"keep{n}.npy" for n in range(2)]
        for path in self._keepers:
            path.write_bytes(npy(np.arange(8, dtype=np.uint8).reshape(2, 2, 2)))

    def warm(self) -> None:
        """Read every kind of file once: what is imported and cached then is no case's."""
        for format in cases.formats():
            for seed in format.seeds:
                path = self.folder / f"seed{seed.suffix}"
                path.write_bytes(seed.data)
                for fragment in seed.fragments:
                    item = self.laws.read(path, fragment)
                    if not isinstance(item.values, np.ndarray):
                        raise AssertionError(f"the seed {format.name} {seed.name} #{fragment}: {item}")
        self._release()
        self.opened = len(os.listdir("/proc/self/fd"))

    def _release(self) -> None:
        """Put other files in the places of those that are kept open."""
        for path in self._keepers:
            os.utime(path)  # changed: taken anew
            self.laws.read(path, "/0")

    def run(self, case: cases.Case, caught: Caught, stacks: BinaryIO) -> dict[str, Any]:
        """Check a case; what it took."""
        path = self.folder / f"{case.number}{case.suffix}"
        path.write_bytes(case.data)
        caught.text()  # what making it printed
        before = _status("VmRSS")
        _reset_peak()
        faulthandler.dump_traceback_later(self.limit, exit=True, file=stacks)
        started = time.process_time()
        try:
            outcome, findings = self.laws.check(case, path)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            outcome, findings = "raised", [f"raises {type(error).__name__}: {error} ({where.filename}:{where.lineno})"]
        took = time.process_time() - started
        faulthandler.cancel_dump_traceback_later()
        if took > SECONDS:
            findings.append(f"takes {took:.0f} s")
        grown = max(_status("VmHWM") - before, 0)
        if grown > self.memory:
            findings.append(f"takes {grown >> 20:,} MiB of memory")
        if printed := caught.text():
            findings.append(f"prints {printed.strip()[:300]!r}")
        path.unlink()
        findings += self._left_open()
        return {
            "number": case.number, "format": case.format, "kind": case.kind, "seed": case.seed, "outcome": outcome,
            "findings": findings, "seconds": took, "grown": grown,
        }  # fmt: skip

    def _left_open(self) -> list[str]:
        self._release()
        if len(os.listdir("/proc/self/fd")) <= self.opened:
            return []
        gc.collect()  # of an exception and the frames that it holds
        count = len(os.listdir("/proc/self/fd"))
        left, self.opened = count - self.opened, max(count, self.opened)
        return [f"leaves {left} files open"] if left > 0 else []


def work(numbers: Iterable[int], seed: int, limit: float, memory: int, folder: Path, out: BinaryIO) -> None:
    """Run the cases, and write a line before and after each: what was begun and never ended is found so."""
    warnings.simplefilter("always")
    logging.getLogger("featstore").addHandler(logging.NullHandler())  # what readers say to users on purpose is no noise
    stacks = open(folder / "stacks", "wb", buffering=0)  # noqa: SIM115
    faulthandler.enable(stacks)
    caught = Caught(folder)
    worker = Worker(folder, limit, memory)
    worker.warm()
    caught.text()
    space = _status("VmSize") + SPACE
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        resource.setrlimit(kind, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        case = cases.make(seed, number)
        out.write(json.dumps({"began": number}).encode() + b"\n")
        out.flush()
        out.write(json.dumps(worker.run(case, caught, stacks)).encode() + b"\n")
        out.flush()
