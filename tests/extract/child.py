"""What a forked process runs: one extraction, in a process group of its own."""

import os
from pathlib import Path
from typing import Any

import featstore


def main(root: str, name: str, fields: dict[str, Any], environment: dict[str, str]) -> None:
    os.setpgid(0, 0)
    os.environ.update(environment)
    store = featstore.open(Path(root) / "store", plugins=[str(Path(__file__).with_name("lab.py"))])
    defaults = {"backbone": "lab:stats", "batch_size": 4, "chunk_rows": 8, "device": "cpu"}
    store.extract(name=name, **{**defaults, **fields})


if __name__ == "<run_path>":
    main(**call)  # type: ignore[name-defined]  # noqa: F821
