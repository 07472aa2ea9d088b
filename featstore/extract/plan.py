"""The plan: which rows a run will make, and every setting that its bits depend on, frozen."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from featstore.arrays import SegmentLayout, create_group, create_segment, group_attributes
from featstore.catalog import feature_sets, runs, vectors
from featstore.catalog.feature_sets import FeatureSet
from featstore.errors import CorruptError
from featstore.extract.inputs import is_state
from featstore.extract.request import ExtractRequest, Target
from featstore.files import inside
from featstore.runs import RunFolder, utc_now
from featstore.spec import Json

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: A chunk is held in memory until it is written: this bounds it where rows are large (tokens).
CHUNK_BYTES = 64 << 20
#: Rows of a chunk, unless the user wants more: a gather of random rows opens few files even among millions.
MOST_CHUNK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class PlannedSet:
    """One feature set of a plan and the segment that the run writes for it."""

    name: str
    version: int
    feature_set: int
    segment: int
    path: str
    layer: str
    pooler: str
    shape: tuple[int, ...]
    dtype: str
    fingerprint: str
    facet: str | None = None
    regions: bool = False

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what ``asdict`` wrote."""
        return cls(**{**value, "shape": tuple(value["shape"])})


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a resumed run must do as the first try did, for equal bits."""

    batch_size: int
    chunk_rows: int
    threads: int
    channels_last: bool
    amp: str
    device: str
    capability: Mapping[str, Any]


@dataclass(slots=True)
class Plan:
    """A run's rows, its sets, its frozen settings. ``rows``: ``sample, content, sample_key, uri, mask_uri``."""

    run: RunFolder
    id: int
    sets: list[PlannedSet]
    frozen: Frozen
    rows: pa.Table

    @property
    def regions(self) -> bool:
        """Whether any of its sets is of the inputs' masks."""
        return any(planned.regions for planned in self.sets)

    @property
    def chunks(self) -> int:
        """How many chunks the run has."""
        rows: int = self.rows.num_rows
        return -(-rows // self.frozen.chunk_rows)

    def span(self, chunk: int) -> range:
        """The plan's rows of one chunk."""
        first = chunk * self.frozen.chunk_rows
        return range(first, min(first + self.frozen.chunk_rows, self.rows.num_rows))

    def left(self, finished: Collection[int]) -> pa.ChunkedArray:
        """The samples of all chunks but the finished ones."""
        import pyarrow as pa

        samples = self.rows.column("sample")
        spans = [self.span(chunk) for chunk in range(self.chunks) if chunk not in finished]
        return pa.chunked_array([part for s in spans for part in samples.slice(s.start, len(s)).chunks], pa.int64())

    def layout(self, store: Path, planned: PlannedSet) -> SegmentLayout:
        """Where one set's segment lies, and its shape."""
        return SegmentLayout(
            inside(store, planned.path),
            self.rows.num_rows,
            self.frozen.chunk_rows,
            planned.shape,
            planned.dtype,  # type: ignore[arg-type]
        )

    def make_arrays(self, store: Path, configs: Mapping[str, Mapping[str, Json]]) -> None:
        """Make the groups and empty segments; those that are there already are left as they are."""
        keys = self.rows.column("sample_key").to_pylist()
        for planned in self.sets:
            layout = self.layout(store, planned)
            config = configs[planned.name]
            create_group(
                layout.path.parent, group_attributes(planned.name, planned.version, planned.fingerprint, config)
            )
            create_segment(layout, keys)
        self.run.journal.mkdir(exist_ok=True)

    @classmethod
    def load(cls, run: RunFolder, id: int) -> Self:
        """The plan of a run that was begun.

        Raises:
            CorruptError: the run's folder is incomplete.
        """
        with whole(run):
            facts = run.facts()["plan"]
            sets = [PlannedSet.from_json(value) for value in facts["sets"]]
            return cls(run, id, sets, Frozen(**facts["frozen"]), run.load_rows("plan"))


@contextmanager
def whole(run: RunFolder) -> Iterator[None]:
    """Raise :class:`~featstore.errors.CorruptError` for what comes of an incomplete or damaged folder."""
    try:
        yield
    except (OSError, KeyError, TypeError, ValueError) as error:  # pyarrow's and json's errors are ValueErrors
        raise CorruptError(
            f"The folder of the unfinished run {run.run_id} is incomplete or damaged: {error}.",
            hint="restore runs/ from a backup",
        ) from error


def makes(run: RunFolder) -> set[tuple[str, str]]:
    """Name and fingerprint of every feature set of a run's plan; its rows are not loaded.

    Raises:
        CorruptError: the run's folder is incomplete.
    """
    with whole(run):
        return {(planned["name"], planned["fingerprint"]) for planned in run.facts()["plan"]["sets"]}


@dataclass(frozen=True, slots=True)
class Planned:
    """What planning gave: new plans, how many inputs were left out as known failures, how many are others' to make."""

    plans: list[Plan]
    failed_before: int
    elsewhere: int


def make_plans(
    connection: duckdb.DuckDBPyConnection,
    store: Path,
    request: ExtractRequest,
    targets: Sequence[Target],
    shapes: Mapping[str, tuple[int, ...]],
    frozen: Frozen,
    provenance: Mapping[str, Any],
    locks: ExitStack,
    *,
    ours: Sequence[pa.ChunkedArray],
    theirs: Sequence[pa.ChunkedArray],
    again: bool,
) -> Planned:
    """Reserve what is pending, inside the caller's transaction.

    Samples that lack the same sets go into one run: usually that is one run; after a pooler was added, those that
    have the old one and those that lack both are two. Each run's lock is held by ``locks``.

    Args:
        shapes: by target name, of one row; only new feature sets need theirs.
        ours: samples that the resumed runs have still to do.
        theirs: samples that other runs have still to do.
        again: also try what failed before and hasn't changed since.
    """
    import pyarrow as pa

    found = [feature_sets.find(connection, t.name, t.fingerprint) for t in targets]
    pending = vectors.pending(connection, [f.id if f else None for f in found])
    table = _without(_without(pending, ours), theirs)
    elsewhere = _without(pending, ours).num_rows - table.num_rows
    failed_before = 0
    if not again and all(found):
        known = vectors.known_failures(connection, [f.id for f in found if f])
        unchanged = [sample for sample, uri, mask_uri, state in known if is_state(state, uri, mask_uri)]
        tried = table.num_rows
        table = _without(table, [pa.chunked_array([unchanged], pa.int64())])
        failed_before = tried - table.num_rows
    plans: list[Plan] = []
    made: list[Path] = []
    try:
        for lacks, rows in _groups(table):
            run = RunFolder.create(store, "extract")
            made.append(run.path)
            locks.enter_context(run.locked())
            plans.append(_plan(connection, run, request, targets, found, lacks, shapes, frozen, rows, provenance))
    except BaseException:
        for path in made:
            shutil.rmtree(path)
        raise
    return Planned(plans, failed_before, elsewhere)


def _without(table: pa.Table, samples: Sequence[pa.ChunkedArray]) -> pa.Table:
    import pyarrow.compute as pc

    for some in samples:
        table = table.filter(pc.invert(pc.is_in(table.column("sample"), some)))
    return table


def _groups(table: pa.Table) -> list[tuple[list[bool], pa.Table]]:
    """Runs of equal ``lacks``; the table is sorted by it."""
    if not table.num_rows:
        return []
    flags = table.column("lacks").combine_chunks().flatten().to_numpy(zero_copy_only=False)
    lacks = flags.reshape(table.num_rows, -1)
    starts = np.flatnonzero((lacks[1:] != lacks[:-1]).any(axis=1)) + 1
    rows = table.drop_columns(["lacks"])
    return [(lacks[a].tolist(), rows.slice(a, b - a)) for a, b in pairwise([0, *starts.tolist(), table.num_rows])]


def _plan(
    connection: duckdb.DuckDBPyConnection,
    run: RunFolder,
    request: ExtractRequest,
    targets: Sequence[Target],
    found: list[FeatureSet | None],
    lacks: Sequence[bool],
    shapes: Mapping[str, tuple[int, ...]],
    frozen: Frozen,
    rows: pa.Table,
    provenance: Mapping[str, Any],
) -> Plan:
    now = utc_now()
    facts = {
        "kind": "extract", "state": "running", "started_at": now.isoformat(), "request": request.to_json(),
        "provenance": dict(provenance),
    }  # fmt: skip
    id = runs.add_run(connection, run.run_id, facts)
    chosen = []
    for position, target in enumerate(targets):
        if lacks[position]:
            found[position] = found[position] or feature_sets.add(
                connection, target.name, target.fingerprint, target.config, shapes[target.name], id, now
            )
            chosen.append((target, found[position]))
    item = max(prod(f.shape) * (2 if f.dtype == "float16" else 4) for _, f in chosen if f)
    settings = asdict(frozen) | {"chunk_rows": chunk_rows(frozen.chunk_rows, frozen.batch_size, rows.num_rows, item)}
    plan = Plan(run, id, [], Frozen(**settings), rows)
    for target, feature_set in chosen:
        assert feature_set
        path = f"features/{feature_set.name}/v{feature_set.version}.zarr/{run.run_id}"
        segment = feature_sets.add_segment(connection, feature_set.id, id, path, rows.num_rows, plan.frozen.chunk_rows)
        plan.sets.append(
            PlannedSet(
                feature_set.name, feature_set.version, feature_set.id, segment, path, target.layer, target.pooler,
                feature_set.shape, feature_set.dtype, feature_set.fingerprint, target.facet,
                target.regions,
            )
        )  # fmt: skip
    run.save_rows("plan", rows)
    run.record(**facts, plan={"sets": [asdict(s) for s in plan.sets], "frozen": settings})
    return plan


def chunk_rows(wanted: int, batch_size: int, rows: int, item_nbytes: int) -> int:
    """Rows of a chunk: whole batches, bounded in bytes, and no more than there are rows.

    >>> chunk_rows(1000, 32, 10_000, 2048)
    992
    >>> chunk_rows(1000, 32, 40, 2048)
    64
    >>> chunk_rows(1000, 32, 10_000, 3_000_000)
    32

    Where 0 rows are wanted, a kill at any moment costs a 64th of the run or a batch, and large runs make few files:

    >>> chunk_rows(0, 32, 800, 2048), chunk_rows(0, 32, 10_000, 2048), chunk_rows(0, 32, 1_000_000, 2048)
    (32, 128, 4096)
    """
    wanted = wanted or min(max(rows // 64, batch_size), MOST_CHUNK_ROWS)
    bounded = min(wanted, CHUNK_BYTES // item_nbytes)
    whole = max(bounded // batch_size, 1) * batch_size
    return min(whole, -(-rows // batch_size) * batch_size)
