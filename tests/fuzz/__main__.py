"""``python -m fuzz``: malformed inputs of every reader, in processes of their own, and what became of them."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEED = int(os.environ.get("FEATSTORE_TEST_SEED", "20261121"))


def main(program: tuple[str, ...] = ("-m", "fuzz")) -> int:
    """Returns the exit code: 1 where a law was broken. ``program`` starts the processes."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many cases (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="other cases (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: one a core)"
    )
    parser.add_argument("--case", type=int, help="only this one, and keep its file in the current folder")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=90, help="seconds a case may take (default: %(default)s)")
    parser.add_argument(
        "--memory", type=int, default=1024, help="MiB of memory that a case may take (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, help="write what became of each case to this file")
    parser.add_argument("--worker", type=int, nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        from .worker import work

        start, stop, step, pipe = arguments.worker
        with os.fdopen(pipe, "wb") as out:
            numbers = range(start, stop, step)
            work(numbers, arguments.seed, arguments.limit, arguments.memory << 20, Path.cwd(), out)
        return 0
    if arguments.case is not None:
        numbers = range(arguments.case, arguments.case + 1)
        _keep(arguments.seed, arguments.case)
    else:
        numbers = range(arguments.first, arguments.first + arguments.count)
    command = [sys.executable, *program]
    for name in ("seed", "limit", "memory"):
        command += [f"--{name}", str(getattr(arguments, name))]
    run = Run(numbers, arguments.seed, max(1, min(arguments.jobs, len(numbers))), command)
    found = run.go(sys.stderr.isatty())
    if arguments.json:
        arguments.json.write_text(json.dumps({"summary": run.summary(), "cases": found}), encoding="utf-8")
    run.report(found)
    return 1 if any(case["findings"] for case in found) else 0


def _keep(seed: int, number: int) -> None:
    from .cases import make

    case = make(seed, number)
    path = Path(f"case-{number}{case.suffix}")
    path.write_bytes(case.data)
    part = "" if case.fragment is None else f"#{case.fragment}"
    print(f"{path}{part}: {case.format}, {case.kind} {case.seed}, {len(case.data):,} bytes, --expand {case.settings}")


class Run:
    """All cases, shared out to processes that are started again when one of them ends."""

    def __init__(self, numbers: range, seed: int, jobs: int, command: list[str]) -> None:
        self.numbers, self.seed, self.jobs, self.command = numbers, seed, jobs, command
        self.cases: list[dict[str, Any]] = []
        self.broken: list[str] = []
        self.seconds = 0.0
        self._lock = threading.Lock()

    def go(self, shown: bool) -> list[dict[str, Any]]:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            threads = [threading.Thread(target=self._share, args=(job, Path(folder))) for job in range(self.jobs)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(1.0) if threads[0].is_alive() else time.sleep(0.1)
                if shown:
                    sys.stderr.write(f"\r{len(self.cases):,} of {len(self.numbers):,} ")
        if shown:
            sys.stderr.write("\r\033[K")
        self.seconds = time.monotonic() - started
        if self.broken:
            self.report(self.cases)
            raise SystemExit("\n".join(self.broken))
        return sorted(self.cases, key=lambda case: case["number"])

    def _share(self, job: int, folder: Path) -> None:
        start = self.numbers.start + job
        while start < self.numbers.stop:
            home = folder / f"{job}-{start}"
            home.mkdir()
            done, began = self._process(start, home)
            if began is None or began == done:
                if done is None or done + self.jobs < self.numbers.stop:
                    printed = (home / "printed").read_text("utf-8", "replace")
                    self.broken.append(f"a process of the fuzz target itself failed:\n{printed[-4000:]}")
                return
            start = began + self.jobs

    def _process(self, start: int, home: Path) -> tuple[int | None, int | None]:
        """Run the cases from ``start`` on: the last one that was done, and the last that was begun."""
        reading, writing = os.pipe()
        words = (start, self.numbers.stop, self.jobs, writing)
        command = [*self.command, "--worker", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        # Blocks of a size to be mapped are given back at once: what one case took isn't counted for the next.
        environment |= {
            "MALLOC_MMAP_THRESHOLD_": "1048576",
            "MALLOC_ARENA_MAX": "1",
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        }
        with open(home / "printed", "wb") as printed:
            process = subprocess.Popen(
                command, cwd=home, env=environment, pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=printed,
                stderr=printed,
            )  # fmt: skip
        os.close(writing)
        done = began = None
        with os.fdopen(reading, "rb") as lines:
            for line in lines:
                told = json.loads(line)
                if "began" in told:
                    began = told["began"]
                else:
                    done = told["number"]
                    with self._lock:
                        self.cases.append(told)
        code = process.wait()
        if began is not None and began != done:
            with self._lock:
                self.cases.append(self._ended(began, code, home))
        return done, began

    def _ended(self, number: int, code: int, home: Path) -> dict[str, Any]:
        """A case that its process didn't survive."""
        from .cases import make

        case = make(self.seed, number)
        stacks = (home / "stacks").read_text("utf-8", "replace")
        how = "takes too long" if "Timeout" in stacks else f"ends the process: {_name(code)}"
        where = " < ".join(line.split(", line ")[0].split("/")[-1].strip('"') + line.rsplit(" in", 1)[-1]
                           for line in stacks.splitlines() if line.startswith("  File"))[:400]  # fmt: skip
        return {
            "number": number, "format": case.format, "kind": case.kind, "seed": case.seed, "outcome": "died",
            "findings": [f"{how}: {where}"], "seconds": 0.0, "grown": 0,
        }  # fmt: skip

    # -------------------------------------------------------------------------------------------- report
    def summary(self) -> str:
        found = sum(bool(case["findings"]) for case in self.cases)
        peak = max((case["grown"] for case in self.cases), default=0) >> 20
        return (
            f"{len(self.cases):,} malformed inputs tried (seed {self.seed}): {found} findings; "
            f"peak memory + {peak:,} MB; {self.seconds:.0f} s"
        )

    def report(self, found: list[dict[str, Any]]) -> None:
        by_format: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for case in found:
            by_format[case["format"]].append(case)

        def count(cases: list[dict[str, Any]], test: Callable[[dict[str, Any]], bool]) -> str:
            return f"{sum(map(test, cases)):,}"

        print(
            f"{'format':12} {'cases':>7} {'readable':>9} {'refused':>8} {'findings':>9} {'peak MB':>8} {'longest':>9}"
        )
        for name, cases in by_format.items():
            readable = count(cases, lambda case: case["outcome"] == "readable")
            refused = count(cases, lambda case: case["outcome"] == "refused")
            broken = count(cases, lambda case: bool(case["findings"]))
            peak = max(case["grown"] for case in cases) >> 20
            longest = max(case["seconds"] for case in cases)
            print(f"{name:12} {len(cases):>7,} {readable:>9} {refused:>8} {broken:>9} {peak:>8,} {longest:>7.1f} s")
        for case in [case for case in found if case["findings"]][:100]:
            what = "; ".join(case["findings"])
            print(f"case {case['number']} ({case['format']}, {case['kind']} {case['seed']}): {what}")
        print(self.summary())


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


if __name__ == "__main__":
    sys.exit(main())
