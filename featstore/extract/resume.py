"""Runs that were killed: what they finished is taken in, and the rest is gone on with, or left to a new plan."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from featstore.catalog import runs, vectors
from featstore.catalog.connection import Catalog
from featstore.errors import BusyError, CorruptError
from featstore.extract import journal
from featstore.extract import network as net
from featstore.extract.commit import Committer
from featstore.extract.encoder import Encoder
from featstore.extract.plan import Plan, makes, whole
from featstore.extract.request import ExtractRequest
from featstore.runs import RunFolder, utc_now

log = logging.getLogger("featstore")

#: What two requests may differ in and still make the same rows in the same batches. What the weights are is told by
#: the fingerprint, not by how the flags were written.
_FREE = {"num_workers", "device", "threads", "checkpoint", "pretrained", "seed", "trust_checkpoint"}


def absorb_dead_runs(store: Path, catalog: Catalog) -> None:
    """Put into the catalog what killed runs have finished; every writing command begins with it."""
    for plan, _ in _dead_plans(store, catalog):
        Committer(catalog, plan).commit()


def resume(store: Path, catalog: Catalog, request: ExtractRequest, encoder: Encoder, locks: ExitStack) -> list[Plan]:
    """Take over the dead runs of these very feature sets.

    Those that were asked for alike are gone on with, their locks held by ``locks``. The others are ended: what they
    finished stays, and the rest is planned anew. Runs of other feature sets are left as they are.
    """
    plans = []
    for plan, lock in _dead_plans(store, catalog, wanted=encoder.makes):
        sets = {(planned.name, planned.fingerprint) for planned in plan.sets}
        if not sets & encoder.makes or Committer(catalog, plan).commit():
            continue
        if sets <= encoder.makes and _alike(plan.run.facts()["request"], request) and not _masks_moved(catalog, plan):
            locks.enter_context(lock.pop_all())
            _note_resumption(plan, encoder)
            plans.append(plan)
        else:
            _abandon(catalog, plan.run, plan.id)
            journal.fold(plan.run)
    return plans


def liveness(store: Path, run_id: str) -> dict[str, Any]:
    """How an unfinished run stands: ``alive``, ``rows``, ``chunks_written``, and ``state``.

    The state is ``running``, ``interrupted``, or ``damaged`` where its folder is no good. Nothing is written.
    """
    try:
        run = RunFolder.of(store, run_id)
        makes(run)  # or raises
        with whole(run):
            rows, written = run.count_rows("plan"), len(journal.receipts(run))
    except CorruptError:
        return {"alive": False, "rows": 0, "chunks_written": 0, "state": "damaged"}
    alive = run.alive()
    return {"alive": alive, "rows": rows, "chunks_written": written, "state": "running" if alive else "interrupted"}


def _note_resumption(plan: Plan, encoder: Encoder) -> None:
    here = net.capability()
    if dict(plan.frozen.capability) != here or plan.frozen.device != encoder.device.partition(":")[0]:
        log.warning(
            "Run %s was begun elsewhere (%s): its remaining vectors agree to about 1e-5, not to the bit.",
            plan.run.run_id, plan.frozen.device,
        )  # fmt: skip
    before = plan.run.facts().get("resumed", [])
    plan.run.record(resumed=[*before, {"at": utc_now().isoformat(), "device": encoder.device, "capability": here}])


def _alike(old: Mapping[str, Any], new: ExtractRequest) -> bool:
    """Whether two requests, the older one as JSON, ask for the same rows in the same batches."""
    before, asked = ExtractRequest.from_json(old).to_json(), new.to_json()
    return all(before[key] == asked[key] for key in asked if key not in _FREE)


def _dead_plans(
    store: Path, catalog: Catalog, *, wanted: Collection[tuple[str, str]] = ()
) -> Iterator[tuple[Plan, ExitStack]]:
    """The plans of unfinished runs that no process works on, each with its lock, held until the next is asked for.

    A run that another process takes in at this moment is left to it, but for runs of the ``wanted`` feature sets
    (names and fingerprints): these are waited for, for what they have still to do is nobody's then.

    Raises:
        BusyError: the wait was in vain.
    """
    for id, run_id in _open_runs(catalog):
        run: RunFolder | None = None
        with ExitStack() as turn, ExitStack() as lock:
            try:
                run = RunFolder.of(store, run_id)
                if not _take(run, turn, lock, catalog.wait_s if _makes_any(run, wanted) else None):
                    continue
                if (id, run_id) not in _open_runs(catalog):  # its process ended it a moment ago
                    continue
                plan = Plan.load(run, id)
            except (CorruptError, FileNotFoundError) as error:
                # To refuse every command until somebody mends it would help nobody: at worst, vectors are made again.
                reason = error.message if isinstance(error, CorruptError) else "It isn't there."
                log.warning(
                    "The folder of the unfinished run %s can't be used, so the run is ended. %s", run_id, reason
                )
                _abandon(catalog, run, id)
                continue
            yield plan, lock


def _take(run: RunFolder, turn: ExitStack, lock: ExitStack, wait_s: float | None) -> bool:
    """Take the locks of a run; returns whether no other process works on it.

    Args:
        wait_s: how long to wait for one that takes it in; None: that one may have it.
    """
    try:
        turn.enter_context(run.absorbing(wait_s=wait_s or 0.0))
    except BusyError:
        if wait_s is None:
            return False
        raise
    try:
        lock.enter_context(run.locked())
    except BusyError:
        return False
    return True


def _masks_moved(catalog: Catalog, plan: Plan) -> bool:
    """Whether the plan's masks aren't those of its samples any more."""
    if not plan.regions:
        return False
    with catalog.read() as connection:
        return vectors.masks_differ(connection, plan.rows)


def _makes_any(run: RunFolder, wanted: Collection[tuple[str, str]]) -> bool:
    with suppress(CorruptError):  # that is looked at under the run's lock
        return not makes(run).isdisjoint(wanted)
    return False


def _open_runs(catalog: Catalog) -> list[tuple[int, str]]:
    with catalog.read() as connection:
        return runs.open_runs(connection)


def _abandon(catalog: Catalog, run: RunFolder | None, id: int) -> None:
    now = utc_now()
    with catalog.write() as connection:
        runs.finish_run(connection, id, "abandoned", now)
    if run and run.path.is_dir():
        run.record(state="abandoned", finished_at=now.isoformat())
