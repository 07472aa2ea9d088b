"""One extraction from beginning to end: resume what was begun, plan what is pending, work, commit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.catalog import feature_sets, runs, sandbox, vectors
from featstore.catalog.connection import Catalog, first
from featstore.errors import BusyError, ConflictError, NotFoundError
from featstore.extract import network as net
from featstore.extract.commit import Committer
from featstore.extract.inputs import Inputs
from featstore.extract.network import Network
from featstore.extract.plan import Frozen, Plan, make_plans
from featstore.extract.request import ExtractRequest, Target, targets
from featstore.extract.work import work
from featstore.plugins import Plugins
from featstore.runs import RunFolder, provenance, utc_now
from featstore.spec import Backbone, BackboneSpec, PoolFunction

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

log = logging.getLogger("featstore")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an extraction is. ``gpu_bytes`` is the most memory that torch took on the GPU, where there is one."""

    total: int
    done: int
    failed: int
    gpu_bytes: int | None


@dataclass(slots=True)
class ExtractResult:
    """What an extraction did.

    Attributes:
        feature_sets: name → version.
        new_versions: names that got a new version now, because something that makes their vectors changed.
        matching: samples that the selection matches; ``pending`` of them lacked a vector.
        failed_before: inputs that failed before and whose files haven't changed since; ``retry`` tries them again.
        elsewhere: pending samples that another living run is working on.
        resumed: runs that had been begun before.
    """

    feature_sets: dict[str, int] = field(default_factory=dict)
    new_versions: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    matching: int = 0
    pending: int = 0
    failed_before: int = 0
    elsewhere: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Loaded:
    """A backbone with everything that names its outputs; put on a device only when there is something to do."""

    spec: BackboneSpec
    backbone: Backbone
    poolers: dict[str, PoolFunction]
    targets: list[Target]
    device: str
    _network: Network | None = None

    def frozen(self, request: ExtractRequest) -> Frozen:
        import torch

        return Frozen(
            request.batch_size, request.chunk_rows, request.threads or torch.get_num_threads(),
            self.device == "cpu", request.amp, self.device.partition(":")[0], net.capability(),
        )  # fmt: skip

    def network(self, frozen: Frozen) -> Network:
        if self._network is None:
            self._network = Network.place(self.backbone, self.device, frozen.amp, frozen.threads, frozen.channels_last)
        return self._network

    def shapes(self, frozen: Frozen, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
        wanted = [t for t in self.targets if t.name in names]
        if not wanted:
            return {}
        functions = [self.poolers[t.pooler] for t in wanted]
        shapes = self.network(frozen).shapes(wanted[0].layer, functions)
        return {t.name: shape for t, shape in zip(wanted, shapes, strict=True)}


def _load(plugins: Plugins, request: ExtractRequest) -> _Loaded:
    poolers = {text: plugins.pooler(text, "tokens") for text in request.poolers}  # cheap, so wrong names fail first
    spec = plugins.backbone(request.backbone)
    device = net.choose_device(request.device)
    backbone = spec.load(request.for_backbone())
    revisions = {text: plugins.pooler_revision(text) for text in request.poolers}
    wanted = targets(request, spec, backbone, net.weights_digest(backbone.module), revisions)
    return _Loaded(spec, backbone, poolers, wanted, device)


def extract(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    request: ExtractRequest,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    only: pa.Table | None = None,
    expected: Mapping[str, str] | None = None,
) -> ExtractResult:
    """Make every vector that is pending, and only those.

    Args:
        only: a table of ``sample_key`` to keep to, instead of the request's condition.
        expected: feature set name → fingerprint that it must have.

    Raises:
        NotFoundError: a plugin, or no sample matches. SqlError: the condition. SetupError: the environment's fault.
        ConflictError: ``expected`` isn't met.
    """
    start = time.monotonic()
    chosen = only
    if chosen is None and request.where is not None:
        chosen = sandbox.predicate(catalog, "samples", "sample_key", request.where, "--where")
    _require_samples(catalog, request, chosen)
    loaded = _load(plugins, request)
    for target in loaded.targets:
        if expected is not None and expected.get(target.name) != target.fingerprint:
            raise ConflictError(
                f"{target.name} would not be what it was: its weights, preprocessing or code changed since that run.",
                hint="run featstore extract, which makes a new version for all samples",
            )
    result = ExtractResult()
    with ExitStack() as locks:
        plans = _resume(store, catalog, request, loaded, locks, result)
        plans += _plan(store, catalog, plugins, request, loaded, chosen, plans, locks, result, again=only is not None)
        result.pending = sum(plan.rows.num_rows for plan in plans)
        for plan in plans:
            _run(store, catalog, plugins, request, loaded, plan, result, on_progress)
    result.seconds = time.monotonic() - start
    return result


def _require_samples(catalog: Catalog, request: ExtractRequest, chosen: pa.Table | None) -> None:
    """Raise before anything heavy is loaded, where the selection matches nothing."""
    with catalog.read() as connection:
        known = [
            str(r[0]) for r in connection.execute("SELECT DISTINCT modality FROM core.sample ORDER BY 1").fetchall()
        ]
    if not known:
        raise NotFoundError("The store has no samples yet.", hint="featstore ingest FOLDER --layout '…'")
    for modality in request.modalities:
        if modality not in known:
            raise NotFoundError(f"No sample has the modality {modality!r}.", hint=f"modalities: {', '.join(known)}")
    if chosen is not None and not chosen.num_rows:
        raise NotFoundError(f"No sample meets the condition {request.where!r}.", hint="featstore ls samples")


def _resume(
    store: Path,
    catalog: Catalog,
    request: ExtractRequest,
    loaded: _Loaded,
    locks: ExitStack,
    result: ExtractResult,
) -> list[Plan]:
    """Take over the dead runs of these very feature sets: go on with those that were asked for alike, end the others."""
    plans = []
    wanted = {(t.name, t.fingerprint) for t in loaded.targets}
    for plan, lock in _dead_plans(store, catalog):
        with lock:
            if not wanted & {(s.name, s.fingerprint) for s in plan.sets} or Committer(catalog, plan).commit():
                continue
            if not _alike(ExtractRequest.from_json(plan.run.facts()["request"]), request):
                with catalog.write() as connection:
                    runs.finish_run(connection, plan.id, "abandoned", utc_now())
                plan.run.record(state="abandoned", finished_at=utc_now().isoformat())
                continue
            locks.enter_context(lock.pop_all())
        if dict(plan.frozen.capability) != net.capability() or plan.frozen.device != loaded.device.partition(":")[0]:
            log.warning(
                "Run %s was begun elsewhere (%s): its remaining vectors agree to about 1e-5, not to the bit.",
                plan.run.run_id, plan.frozen.device,
            )  # fmt: skip
        resumed = [
            *plan.run.facts().get("resumed", []),
            {"at": utc_now().isoformat(), "capability": net.capability()},
        ]
        plan.run.record(resumed=resumed)
        result.resumed.append(plan.run.run_id)
        plans.append(plan)
    return plans


def _alike(old: ExtractRequest, new: ExtractRequest) -> bool:
    """Whether two requests ask for the same rows in the same batches; device and workers may differ."""
    same = {"num_workers": new.num_workers, "device": new.device, "threads": new.threads}
    # What the weights are is told by the fingerprint, not by how the flags were written.
    same |= {"checkpoint": new.checkpoint, "pretrained": new.pretrained, "seed": new.seed}
    return replace(old, **same) == new  # type: ignore[arg-type]


def _dead_plans(store: Path, catalog: Catalog) -> Iterator[tuple[Plan, ExitStack]]:
    """The plans of unfinished runs that no process works on, each with its lock held by the stack beside it."""
    with catalog.read() as connection:
        open_runs = runs.open_runs(connection).to_pylist()
    for row in open_runs:
        folder = RunFolder(store / "runs" / row["run_id"])
        lock = ExitStack()
        try:
            lock.enter_context(folder.locked())
        except BusyError:
            continue
        yield Plan.load(folder, row["id"]), lock


def absorb_dead_runs(store: Path, catalog: Catalog) -> None:
    """Put into the catalog what killed runs have finished; every writing command begins with it."""
    for plan, lock in _dead_plans(store, catalog):
        with lock:
            Committer(catalog, plan).commit()


def _plan(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    request: ExtractRequest,
    loaded: _Loaded,
    chosen: pa.Table | None,
    resumed: Sequence[Plan],
    locks: ExitStack,
    result: ExtractResult,
    *,
    again: bool,
) -> list[Plan]:
    frozen = loaded.frozen(request)
    with catalog.read() as connection:
        missing = [t.name for t in loaded.targets if feature_sets.find(connection, t.name, t.fingerprint) is None]
        versioned = [
            n for n in missing if first(connection.execute("SELECT 1 FROM core.feature_set WHERE name = ?", [n]))
        ]
    shapes = loaded.shapes(frozen, missing)
    facts = provenance("extract", plugins, device=loaded.device, seed=request.seed, threads=frozen.threads)
    with catalog.write() as connection:
        result.matching = vectors.select(connection, request.modalities, chosen)
        reserved = _reserved(store, connection, loaded, resumed)
        plans, result.failed_before = make_plans(
            connection, store, request, loaded.targets, shapes, frozen, reserved, facts, locks, again=again
        )
        for target in loaded.targets:
            found = feature_sets.find(connection, target.name, target.fingerprint)
            if found:
                result.feature_sets[target.name] = found.version
        result.elsewhere = reserved.num_rows - sum(plan.rows.num_rows for plan in resumed)
    result.new_versions = versioned
    return plans


def _reserved(store: Path, connection: duckdb.DuckDBPyConnection, loaded: _Loaded, resumed: Sequence[Plan]) -> pa.Table:
    """Samples that the resumed runs, or living runs of the same feature sets, are working on."""
    import pyarrow as pa

    tables = [plan.rows.select(["sample"]) for plan in resumed]
    wanted = {(t.name, t.fingerprint) for t in loaded.targets}
    ours = {plan.run.run_id for plan in resumed}
    for row in runs.open_runs(connection).to_pylist():
        if row["run_id"] in ours:
            continue
        plan = Plan.load(RunFolder(store / "runs" / row["run_id"]), row["id"])
        if wanted & {(s.name, s.fingerprint) for s in plan.sets}:
            tables.append(plan.rows.select(["sample"]))
    return pa.concat_tables(tables) if tables else pa.table({"sample": pa.array([], pa.int64())})


def _run(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    request: ExtractRequest,
    loaded: _Loaded,
    plan: Plan,
    result: ExtractResult,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    result.runs.append(plan.run.run_id)
    plan.make_arrays(store, {t.name: t.config for t in loaded.targets})
    with catalog.read() as connection:
        roots = tuple(vectors.dataset_roots(connection))
    network = loaded.network(plan.frozen)
    inputs = Inputs(
        plan.rows.column("uri").to_pylist(),
        loaded.backbone.transform,
        tuple(loaded.backbone.input_shape),
        plugins,
        roots,
    )
    committer = Committer(catalog, plan)
    try:
        for done, failed, chunk_written in work(store, plan, network, loaded.poolers, inputs, request.num_workers):
            result.done += done
            result.failed += failed
            if on_progress:
                on_progress(Progress(result.pending, result.done, result.failed, _gpu_bytes(loaded.device)))
            if chunk_written:
                committer.now_and_then()
    finally:
        # Also after a fault or Ctrl-C: what was finished becomes visible at once. If this fails, the next command does it.
        committer.commit()
    if network.halved:
        plan.run.record(batches_halved=network.halved)


def _gpu_bytes(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))


def retry(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    run_id: str | None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[ExtractResult]:
    """Try failed inputs again, with the settings of the run that they failed in.

    Args:
        run_id: one run; all runs with unresolved failures if None.

    Raises:
        NotFoundError: no such run. ConflictError: the weights or code are not those of the run any more.
    """
    absorb_dead_runs(store, catalog)
    with catalog.read() as connection:
        if run_id and not first(connection.execute("SELECT 1 FROM runs WHERE run_id = ?", [run_id])):
            raise NotFoundError(f"There is no run {run_id!r}.", hint="featstore ls runs")
        rows = connection.execute(
            "SELECT sample_key, max(run_id) FROM failures WHERE NOT resolved AND ($run IS NULL OR run_id = $run) "
            "GROUP BY sample_key, (SELECT list_sort(list(feature_set)) FROM core.segment g JOIN core.run r ON r.id = g.run "
            "WHERE r.run_id = failures.run_id) ORDER BY ALL",
            {"run": run_id},
        ).fetchall()
    by_run: dict[str, list[str]] = {}
    for key, run in rows:
        by_run.setdefault(run, []).append(key)
    return [_retry(store, catalog, plugins, run, keys, on_progress) for run, keys in sorted(by_run.items())]


def _retry(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    run_id: str,
    keys: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
) -> ExtractResult:
    import pyarrow as pa

    facts = RunFolder(store / "runs" / run_id).facts()
    expected = {s["name"]: s["fingerprint"] for s in facts["plan"]["sets"]}
    request = ExtractRequest.from_json(facts["request"])
    kept = tuple(pooler for name, pooler in request.outputs().items() if name in expected)
    if len(kept) == 1 and len(request.poolers) > 1:  # keep the name that the pooler gave it
        request = replace(request, name=next(iter(expected)), poolers=kept)
    elif len(kept) < len(request.poolers):
        request = replace(request, poolers=kept)
    only = pa.table({"sample_key": list(keys)})
    return extract(
        store,
        catalog,
        plugins,
        replace(request, where=None),
        on_progress=on_progress,
        only=only,
        expected=expected,
    )
