"""Segments to test with: real folders, written by the functions under test or by zarr itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.arrays import SegmentLayout, create_group, create_segment, write_chunk

WriteSegment = Callable[..., SegmentLayout]


def write_segment(
    path: Path, values: np.ndarray, *, chunk_rows: int, dtype: str = "float32", valid: Any = None
) -> SegmentLayout:
    """Write ``values`` as the segment ``path``; every row is valid unless ``valid`` says otherwise."""
    layout = SegmentLayout(path, len(values), chunk_rows, values.shape[1:], dtype)  # type: ignore[arg-type]
    create_group(path.parent, {})
    create_segment(layout, [f"made/{row}" for row in range(layout.rows)])
    valid = np.ones(layout.rows, np.bool_) if valid is None else valid
    for index in range(layout.chunks):
        part = slice(index * chunk_rows, (index + 1) * chunk_rows)
        write_chunk(layout, index, values[part], valid[part])
    return layout


@pytest.fixture(scope="session", name="write_segment")
def _write_segment() -> WriteSegment:
    return write_segment


@pytest.fixture
def group(tmp_path: Path) -> Path:
    """The folder of a feature set's version; it isn't made yet."""
    return tmp_path / "features" / "r18" / "v1.zarr"


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """Run a script in a fresh interpreter and give what it printed."""

    def run(script: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32 values."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.fixture(scope="session", name="random")
def _random() -> Callable[..., np.ndarray]:
    return random
