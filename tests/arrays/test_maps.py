"""The cache of maps: bounded, shared, safe across forks, and clear when the kernel says no."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featstore.arrays import FeatureReader, SegmentLayout, SegmentReader
from featstore.arrays.maps import DEFAULT_LIMIT, SHARED, Chunk, MapCache, map_file

Random = Callable[..., np.ndarray]
WriteSegment = Callable[..., SegmentLayout]


def maps_below(folder: Path) -> int:
    """How many files below ``folder`` this process maps, as the kernel counts them."""
    return Path("/proc/self/maps").read_text().count(str(folder))


def test_lets_go_of_the_least_used() -> None:
    cache = MapCache(limit=2)
    a, b, c = (Chunk.of(np.array([value])) for value in range(3))
    cache.add("a", a)
    cache.add("b", b)
    assert cache.get("a") is a
    cache.add("c", c)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (a, None, c)
    cache.discard(["a", "unknown"])
    assert cache.get("a") is None
    assert len(cache) == 1


def test_default_is_well_below_the_kernels_limit() -> None:
    assert SHARED.limit == DEFAULT_LIMIT == 16_384


@pytest.mark.parametrize("order", ["scattered", "in order"])
def test_bound_holds_over_all_segments(group: Path, random: Random, write_segment: WriteSegment, order: str) -> None:
    values = random(300, 2)
    folders = {i: write_segment(group / f"s{i}", values, chunk_rows=20).path for i in range(3)}
    cache = MapCache(limit=4)
    reader = FeatureReader(folders, maps=cache)
    rows = np.tile(np.arange(300), 3)
    ids = np.repeat(np.arange(3), 300)
    if order == "scattered":
        shuffle = np.random.default_rng(0).permutation(900)
        rows, ids = rows[shuffle], ids[shuffle]
    assert np.array_equal(reader.gather(ids, rows), values[rows])
    assert len(cache) == 4
    assert maps_below(group) == 4
    reader.close()
    assert len(cache) == 0
    assert maps_below(group) == 0


def test_evicted_chunks_live_as_long_as_they_are_held(group: Path, random: Random, write_segment: WriteSegment) -> None:
    values = random(10, 2)
    reader = SegmentReader(write_segment(group / "s1", values, chunk_rows=1).path, maps=MapCache(limit=1))
    chunks = [reader.chunk(index) for index in range(10)]
    assert maps_below(group) == 10
    assert np.array_equal(np.concatenate(chunks), values)


def test_readers_share_maps(group: Path, random: Random, write_segment: WriteSegment) -> None:
    path = write_segment(group / "s1", random(4, 2), chunk_rows=4).path
    assert np.shares_memory(SegmentReader(path).chunk(0), SegmentReader(path).chunk(0))
    assert maps_below(group) == 1


def test_no_such_file(tmp_path: Path) -> None:
    assert map_file(tmp_path / "none", 4) is None


def test_a_fork_while_another_holds_the_lock(
    group: Path, random: Random, write_segment: WriteSegment, run_python: Callable[..., str]
) -> None:
    script = """
import os, sys
from pathlib import Path
from featstore.arrays import SegmentReader
from featstore.arrays.maps import SHARED
reader = SegmentReader(Path(sys.argv[1]))
reader.chunk(0)
with SHARED._lock:
    child = os.fork()
    if child == 0:
        os._exit(reader.chunk(0).shape[0])
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    path = write_segment(group / "s1", random(4, 2), chunk_rows=4).path
    assert run_python(script, path) == "4\n"


def test_no_more_maps(tmp_path: Path, run_python: Callable[..., str]) -> None:
    script = """
import os, resource, sys
from pathlib import Path
import pyarrow
from featstore.arrays.maps import map_file
from featstore.errors import SetupError
path = Path(sys.argv[1])
with open(path, "wb") as file:
    os.truncate(file.fileno(), 1 << 32)
used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30),) * 2)
try:
    map_file(path, 1 << 32)
except SetupError as error:
    print(error)
"""
    told = run_python(script, tmp_path / "large")
    assert "too many maps" in told
    assert "vm.max_map_count" in told
