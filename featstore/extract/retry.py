"""Retry: failed inputs are tried again, with the settings that they failed with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from featstore.catalog import runs
from featstore.catalog.connection import Catalog
from featstore.errors import CorruptError, FeatstoreError, NotFoundError, UsageError
from featstore.extract.request import ExtractRequest
from featstore.extract.resume import absorb_dead_runs
from featstore.extract.run import ExtractResult, Progress, extract
from featstore.plugins import Plugins
from featstore.runs import RunFolder

log = logging.getLogger("featstore")


def retry(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    run_id: str | None,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    trust_run: bool = False,
) -> list[ExtractResult]:
    """Try failed inputs again, with the settings of the run that they failed in last.

    What a run did is read from the store, which may be a stranger's: no code that it names is run on its word alone.

    Args:
        trust_run: run it: a network of one's own, a checkpoint with code.
        run_id: one run; all runs with unresolved failures if None. One of these that can't be repeated is warned of,
            and keeps no other from being tried.

    Raises:
        NotFoundError: no such run. ConflictError: the weights or code are not those of the run any more.
        SetupError: the environment's fault.
    """
    absorb_dead_runs(store, catalog)
    with catalog.read() as connection:
        if run_id and not runs.exists(connection, run_id):
            raise NotFoundError(f"There is no run {run_id!r}.", hint="featstore ls runs")
        failed = runs.failed_inputs(connection, run_id)
    results: list[ExtractResult] = []
    problems: list[tuple[str, FeatstoreError]] = []
    for run, keys in failed.items():
        try:
            results.append(_retry(store, catalog, plugins, run, keys, on_progress, trust_run))
        except FeatstoreError as error:
            problems.append((run, error))
    if problems and not results:
        raise problems[0][1]
    for run, problem in problems:
        log.warning("The failed inputs of %s could not be tried again: %s", run, problem.message)
    return results


def _retry(
    store: Path,
    catalog: Catalog,
    plugins: Plugins,
    run_id: str,
    keys: Sequence[str],
    on_progress: Callable[[Progress], None] | None,
    trust_run: bool,
) -> ExtractResult:
    import pyarrow as pa

    facts = RunFolder.of(store, run_id).facts()
    if "plan" not in facts:
        raise CorruptError(f"The folder of the run {run_id} is gone.", hint="restore runs/ from a backup")
    expected = {planned["name"]: planned["fingerprint"] for planned in facts["plan"]["sets"]}
    request = ExtractRequest.from_json(facts["request"])
    if request.trust_checkpoint and not trust_run:
        raise UsageError(
            f"The run {run_id} let code run that its checkpoint {request.checkpoint} holds; a store's word isn't "
            "enough for that.",
            hint=f"featstore retry {run_id} --trust-run, if you trust that file",
        )
    return extract(
        store,
        catalog,
        plugins,
        replace(request, where=None),
        on_progress=on_progress,
        only=pa.table({"sample_key": list(keys)}),
        expected=expected,
        trusted=trust_run,
    )
