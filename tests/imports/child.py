"""What a forked process runs: one import, that dies where a power cut may strike: when it waits for the disk."""

from __future__ import annotations

import os
import signal
from typing import Any

import featstore


def main(root: str, options: dict[str, Any], moment: int) -> None:
    waits, wait = 0, os.fsync

    def dying(descriptor: int) -> None:
        nonlocal waits
        waits += 1
        if waits == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        wait(descriptor)

    os.fsync = dying
    featstore.open(root).import_features(**options)


if __name__ == "<run_path>":
    main(**call)  # type: ignore[name-defined]  # noqa: F821
