"""One extraction from beginning to end: resume what was begun, plan what is pending, work, commit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from featstore import kept_open
from featstore.catalog import feature_sets, runs, sandbox, vectors
from featstore.catalog.connection import Catalog
from featstore.errors import ConflictError, FeatstoreError, NotFoundError
from featstore.extract import journal
from featstore.extract.commit import Committer
from featstore.extract.encoder import Encoder
from featstore.extract.inputs import Inputs
from featstore.extract.plan import Plan, Planned, make_plans, makes
from featstore.extract.request import ExtractRequest
from featstore.extract.resume import resume
from featstore.extract.work import work
from featstore.keys import Ref
from featstore.plugins import Plugins
from featstore.runs import RunFolder, provenance

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


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
        later_versions: names that have a later version than this one, of another function → the latest.
        matching: samples that the selection matches.
        pending: inputs that were to be tried: ``done + failed``, unless the run was stopped.
        failed_before: inputs that failed before and whose files haven't changed since; ``retry`` tries them again.
        elsewhere: pending samples that another living run is working on.
        resumed: runs that had been begun before.
    """

    feature_sets: dict[str, int] = field(default_factory=dict)
    new_versions: list[str] = field(default_factory=list)
    later_versions: dict[str, int] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    matching: int = 0
    pending: int = 0
    failed_before: int = 0
    elsewhere: int = 0
    done: int = 0
    failed: int = 0
    seconds: float = 0.0


def extract(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    request: ExtractRequest,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    only: pa.Table | None = None,
    expected: Mapping[str, str] | None = None,
    trusted: bool = True,
) -> ExtractResult:
    """Make every vector that is pending, and only those.

    Args:
        only: a table of ``sample_key`` to keep to, instead of the request's condition; what failed before is tried
            again then.
        expected: the feature sets to make, of those that the request names, and the fingerprint that each must have.
        trusted: the user typed the request, or trusts whoever did; else no code that it names is run.

    Raises:
        NotFoundError: a plugin, or no sample matches. SqlError: the condition. SetupError: the environment's fault.
        ConflictError: ``expected`` isn't met, or a pooler can't work on the backbone's tokens.
    """
    start = time.monotonic()
    kept_open.forget()
    chosen = only
    if chosen is None and request.where is not None:
        chosen = sandbox.predicate(catalog, "samples", "sample_key", request.where, "--where")
    _require_samples(catalog, request, chosen)
    encoder = Encoder.load(plugins, request, expected, trusted=trusted)
    for target in encoder.targets:
        if expected is not None and expected[target.name] != target.fingerprint:
            raise ConflictError(
                f"{target.name} would not be what it was: its weights, preprocessing or code changed since that run.",
                hint="run featstore extract, which makes a new version for all samples",
            )
    job = _Extraction(store, catalog, plugins, request, encoder, chosen, on_progress)
    with ExitStack() as locks:
        job.run(locks, again=only is not None)
    job.result.seconds = time.monotonic() - start
    return job.result


@dataclass(slots=True)
class _Extraction:
    """One extraction under way: what it works with, and what it has done so far."""

    store: Path
    catalog: Catalog
    plugins: Plugins
    request: ExtractRequest
    encoder: Encoder
    chosen: pa.Table | None
    on_progress: Callable[[Progress], None] | None
    result: ExtractResult = field(default_factory=ExtractResult)

    def run(self, locks: ExitStack, *, again: bool) -> None:
        """Resume, plan, work and commit; the runs' locks are held by ``locks``."""
        resumed = resume(self.store, self.catalog, self.request, self.encoder, locks)
        self.result.resumed = [plan.run.run_id for plan in resumed]
        planned = self._plan(resumed, locks, again=again)
        self.result.failed_before, self.result.elsewhere = planned.failed_before, planned.elsewhere
        changed = self._make_all([*resumed, *planned.plans])
        if changed and len(self.encoder.targets) > 1:
            # Files had changed since some of the feature sets had their vectors, which are stale now: make them too.
            self._make_all(self._plan([], locks, again=False).plans)

    def _plan(self, resumed: Sequence[Plan], locks: ExitStack, *, again: bool) -> Planned:
        """Plan what is pending beside the resumed runs."""
        encoder, request = self.encoder, self.request
        frozen = encoder.frozen(request)
        with self.catalog.read() as connection:
            missing = [t.name for t in encoder.targets if feature_sets.find(connection, t.name, t.fingerprint) is None]
            versioned = [name for name in missing if feature_sets.exists(connection, name)]
        shapes = encoder.shapes(frozen, missing)
        facts = provenance("extract", self.plugins, device=encoder.device, seed=request.seed, threads=frozen.threads)
        with self.catalog.write() as connection:
            self.result.matching = vectors.select(connection, request.modalities, self.chosen)
            planned = make_plans(
                connection, self.store, request, encoder.targets, shapes, frozen, facts, locks,
                ours=[plan.left(vectors.absorbed(connection, plan.id)) for plan in resumed],
                theirs=self._reserved(connection, {plan.id for plan in resumed}),
                again=again,
            )  # fmt: skip
            for target in encoder.targets:
                found = feature_sets.find(connection, target.name, target.fingerprint)
                if found:
                    self.result.feature_sets[target.name] = found.version
                    latest = feature_sets.get(connection, Ref(target.name, None)).version
                    if latest != found.version:
                        self.result.later_versions[target.name] = latest
        self.result.new_versions += versioned
        return planned

    def _reserved(self, connection: duckdb.DuckDBPyConnection, ours: set[int]) -> list[pa.ChunkedArray]:
        """The samples that other runs of the same feature sets have still to do."""
        found = []
        for id, run_id in runs.open_runs(connection):
            if id not in ours:
                run = RunFolder.of(self.store, run_id)
                if self.encoder.makes & makes(run):
                    found.append(Plan.load(run, id).left(vectors.absorbed(connection, id)))
        return found

    def _make_all(self, plans: Sequence[Plan]) -> int:
        """Make what some plans lack; returns how many files turned out to have changed."""
        self.result.pending += sum(len(plan.left(journal.receipts(plan.run))) for plan in plans)
        return sum(self._make(plan) for plan in plans)

    def _make(self, plan: Plan) -> int:
        """Make what a plan lacks, and commit it; returns how many files turned out to have changed."""
        encoder, result = self.encoder, self.result
        result.runs.append(plan.run.run_id)
        plan.make_arrays(self.store, {target.name: target.config for target in encoder.targets})
        with self.catalog.read() as connection:
            roots = tuple(vectors.dataset_roots(connection))
        network, backbone = encoder.network(plan.frozen), encoder.backbone
        masks = plan.rows.column("mask_uri") if plan.regions else None
        shape = tuple(backbone.input_shape)
        inputs = Inputs(plan.rows.column("uri"), backbone.transform, shape, self.plugins, roots, masks)
        committer = Committer(self.catalog, plan)
        progress = work(self.store, plan, encoder, network, inputs, self.request.num_workers)
        try:
            for done, failed, chunk_written in progress:
                result.done += done
                result.failed += failed
                if self.on_progress:
                    self.on_progress(Progress(result.pending, result.done, result.failed, _gpu_bytes(encoder.device)))
                if chunk_written:
                    committer.now_and_then()
        except BaseException:
            # Also after a fault or Ctrl-C, what was finished becomes visible at once, if that can be. If not, the next
            # command does it: the reason why this one stopped matters more.
            with suppress(FeatstoreError):
                committer.commit(wait_s=1.0)
            raise
        committer.commit()
        if network.halved:
            plan.run.record(batches_halved=network.halved)
        return committer.changed


def _require_samples(catalog: Catalog, request: ExtractRequest, chosen: pa.Table | None) -> None:
    """Raise before anything heavy is loaded, where the selection matches nothing."""
    with catalog.read() as connection:
        known = vectors.modalities(connection)
        matching = vectors.select(connection, request.modalities, chosen)
    if not known:
        raise NotFoundError("The store has no samples yet.", hint="featstore ingest FOLDER --layout '…'")
    for modality in request.modalities:
        if modality not in known:
            raise NotFoundError(f"No sample has the modality {modality!r}.", hint=f"modalities: {', '.join(known)}")
    if not matching and request.where is None and not request.modalities:
        raise NotFoundError(
            "All samples of the store were imported, and have no files to extract from.",
            hint="featstore ingest their files; the same sample keys bring both together",
        )
    if not matching:
        among = f" with the modality {' or '.join(request.modalities)}" if request.modalities else ""
        raise NotFoundError(f"No sample{among} meets the condition {request.where!r}.", hint="featstore ls samples")


def _gpu_bytes(device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.max_memory_allocated(device))
