"""The verb: who is to be split, into what, and the versions of schemes that this makes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import sandbox
from featstore.catalog import splits as catalog
from featstore.catalog.connection import Catalog
from featstore.catalog.runs import add_run
from featstore.errors import UsageError
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now
from featstore.splits.dealing import deal, deal_stable
from featstore.splits.export import scheme_files, write_scheme
from featstore.splits.files import read_sources
from featstore.splits.matching import assigned
from featstore.splits.request import SplitRequest, SplitResult, check_splits, folds_among
from featstore.splits.sites import by_site, place_sites
from featstore.splits.strata import Stratum, in_order, shown, strata_of

if TYPE_CHECKING:
    import duckdb

Rows = Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class _Made:
    """A scheme before it is in the catalog: its name, patient → split, and what it says of itself."""

    name: str
    splits: dict[str, str]
    recipe: dict[str, Any]
    order: list[str]
    sites: dict[str, list[str]] = field(default_factory=dict)
    strata: Mapping[str, Stratum] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)


def split_patients(
    store: Path, catalog_file: Catalog, plugins: Plugins, request: SplitRequest | None = None, **fields: Any
) -> SplitResult:
    """Assign every patient to one split of a scheme. Give a :class:`SplitRequest`, or its fields.

    A scheme that is there already, with the same patients in the same splits by the same recipe, is left as it is.

    Raises:
        UsageError: ratios, names, a column; too few patients, or sites; what doesn't go together.
        SqlError: the holdout. ConflictError: the scheme exists; a patient has several values of what is stratified by;
            a file contradicts the store; the folder of an export holds another.
        NotFoundError: a file, or what it lists; the scheme, where it is only exported.
        LeakageError: files have a patient in two splits.
    """
    request = request or SplitRequest(**fields)
    if request.only_exports:
        with catalog_file.read() as connection:
            results = [_existing(connection, request.scheme)]
    else:
        results = _make(store, catalog_file, plugins, request)
    if request.export is not None:
        folder = Path(request.export)
        for result in results:
            with catalog_file.read() as connection:
                id_ = catalog.scheme(connection, f"{result.scheme}@v{result.version}").id
                files = scheme_files(connection, id_, relative=request.relative)
            result.exported = write_scheme(folder / result.scheme if request.repeats else folder, files)
    results[0].repeats = results[1:]
    return results[0]


def _make(store: Path, catalog_file: Catalog, plugins: Plugins, request: SplitRequest) -> list[SplitResult]:
    started = utc_now()
    files = read_sources(request.sources)
    while True:
        state, held = _held_out(catalog_file, request.holdout)
        with catalog_file.write() as connection, RunFolder.creating(store, "split") as create_run:
            if state != catalog.state(connection):
                continue  # samples came in since the condition was looked at: look again
            rows = catalog.candidates(connection).to_pylist()
            if not rows:
                raise UsageError("No patient is left to split.", hint="ingest samples first")
            if files:
                splits, unmatched = assigned(connection, files, rows, allow_missing=request.allow_missing)
                schemes = [_imported(request, splits, [file.recipe() for file in files], unmatched)]
            else:
                schemes = _drawn(connection, request, rows, held)
            return _keep(connection, create_run, started, plugins, request, schemes, rows)


def _held_out(catalog_file: Catalog, holdout: str | None) -> tuple[int, set[str]]:
    """The patients who meet the condition, and what the catalog's state was before it was looked at."""
    with catalog_file.read() as connection:
        state = catalog.state(connection)
    if holdout is None:
        return state, set()
    rows = sandbox.predicate(catalog_file, "patients", "patient_id", holdout, "--holdout")
    return state, set(rows["patient_id"].to_pylist())


def _imported(
    request: SplitRequest, splits: dict[str, str], files: list[dict[str, Any]], unmatched: dict[str, int]
) -> _Made:
    if not splits:
        raise UsageError("None of the rows is of a patient in the store.", hint="look at the ids or paths in the file")
    order = sorted(set(splits.values()))
    check_splits(dict.fromkeys(order))
    recipe: dict[str, Any] = {"from": files, "allow_missing": request.allow_missing}
    if folds := folds_among(order):
        recipe["folds"] = folds
        order.sort(key=lambda name: (not name.startswith("fold"), len(name), name))
    return _Made(request.scheme, splits, recipe, order, unmatched=unmatched)


def _drawn(connection: duckdb.DuckDBPyConnection, request: SplitRequest, rows: Rows, held: set[str]) -> list[_Made]:
    """The schemes of shares, or of a fold a site."""
    chosen, left_out = _having(rows, request.require_modalities)
    if not chosen:
        raise UsageError("No patient is left to split.", hint="ingest samples first, or check --require-modality")
    outside = {row["patient_id"]: request.holdout_as for row in chosen if row["patient_id"] in held}
    if request.holdout is not None and not outside:  # a misspelt site would leave no external test set, and nobody know
        raise UsageError(
            f"No patient meets --holdout {request.holdout!r}.",
            hint='featstore sql "select site, count(*) from patients group by all"',
        )
    inside = [row for row in chosen if row["patient_id"] not in held]
    if len(outside) == len(chosen):
        raise UsageError(
            f"Every patient meets --holdout {request.holdout!r}: nobody is left to learn from.",
            hint='featstore sql "select * from patients limit 5"   (its columns can stand in the condition)',
        )
    beside = [] if request.holdout is None else [request.holdout_as]
    if request.leave_one_site_out:
        made = _fold_a_site(request, inside)
        made.splits |= outside
        made.order += beside
        made.left_out = left_out
        return [made]
    strata = strata_of(connection, chosen, request.stratify)
    within = {row["patient_id"]: strata[row["patient_id"]] for row in inside}
    if request.k_folds is not None and len(inside) < request.k_folds:
        fewer = f"--k-folds {len(inside)}" if len(inside) > 1 else "ingest more, or look at --holdout"
        raise UsageError(f"{len(inside)} patient(s) can't fill {request.k_folds} folds.", hint=fewer)
    sizes = Counter(shown(stratum) for stratum in within.values())
    found = []
    for name, seed, beside_recipe in request.schemes:
        splits, sites = _shared_out(request, inside, within, seed)
        found.append(
            _Made(
                name, splits | outside, request.recipe(seed) | beside_recipe, [*request.shares, *beside], sites, strata,
                left_out, asked={split: float(share) for split, share in request.shares.items()},
                small={s: n for s, n in sorted(sizes.items()) if request.stratify and n < len(request.shares)},
            )
        )  # fmt: skip
    return found


def _shared_out(
    request: SplitRequest, rows: Rows, strata: Mapping[str, Stratum], seed: int
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Patient → split, and split → sites where no site is divided."""
    if request.preserve_sites:
        sites = by_site(rows, "--preserve-sites")
        counted = {site: Counter(strata[row["patient_id"]] for row in members) for site, members in sites.items()}
        placed = place_sites(counted, request.shares, seed)
        by_split = {split: sorted(s for s, there in placed.items() if there == split) for split in request.shares}
        return {row["patient_id"]: placed[site] for site, members in sites.items() for row in members}, by_split
    if not request.stable:
        return deal(in_order(strata), request.shares, seed), {}
    splits = deal_stable(list(strata), request.shares, seed)
    empty = sorted(set(request.shares) - set(splits.values()))
    if request.k_folds is not None and empty:
        raise UsageError(
            f"No patient's hash falls into {', '.join(empty)}: --stable meets shares on average only.",
            hint="fewer folds, another --seed, or leave out --stable",
        )
    return splits, {}


def _fold_a_site(request: SplitRequest, rows: Rows) -> _Made:
    sites = by_site(rows, "--leave-one-site-out")
    if len(sites) < 2:
        raise UsageError(
            f"Leaving one site out needs two at least; the patients are of {len(sites)}.", hint="--k-folds 5"
        )
    folds = {f"fold{i}": site for i, site in enumerate(sites)}
    splits = {row["patient_id"]: fold for fold, site in folds.items() for row in sites[site]}
    recipe = {"folds": len(folds), "sites": folds, **request.kept_out()}
    return _Made(request.scheme, splits, recipe, list(folds), {fold: [site] for fold, site in folds.items()})


def _having(rows: Rows, modalities: Sequence[str]) -> tuple[list[Mapping[str, Any]], dict[str, int]]:
    known = {m for row in rows for m in row["modalities"]}
    for modality in modalities:
        if modality not in known:
            raise UsageError(
                f"No patient has the modality {modality!r}.",
                hint=f"modalities here: {', '.join(sorted(known))}",
            )
    lacking = {m: sum(m not in row["modalities"] for row in rows) for m in modalities}
    chosen = [row for row in rows if all(m in row["modalities"] for m in modalities)]
    return chosen, {m: n for m, n in lacking.items() if n}


def _keep(
    connection: duckdb.DuckDBPyConnection,
    create_run: Any,
    started: Any,
    plugins: Plugins,
    request: SplitRequest,
    schemes: Sequence[_Made],
    rows: Rows,
) -> list[SplitResult]:
    """Put the schemes that are new into the catalog, as one run."""
    import pyarrow as pa

    tables = []
    for made in schemes:
        ids = sorted(made.splits)
        tables.append(pa.table({"patient_id": ids, "split": [made.splits[i] for i in ids]}))
    versions = [
        catalog.next_version(connection, made.name, table, made.recipe, replace=request.replace)
        for made, table in zip(schemes, tables, strict=True)
    ]
    if not all(there for _, _, there in versions):
        run = create_run()
        facts = finished("split", started, {"scheme": request.scheme} | schemes[0].recipe, plugins)
        id_ = add_run(connection, run.run_id, facts, done=sum(t.num_rows for t in tables))
        kept = []
        for (name, version, there), made, table in zip(versions, schemes, tables, strict=True):
            if not there:
                catalog.put(connection, name, version, table, made.recipe, id_)
                kept.append(table.append_column("scheme", pa.array([name] * table.num_rows, pa.string())))
        run.save_rows("splits", pa.concat_tables(kept))
        run.record(**facts)
    results = []
    for (name, version, there), made in zip(versions, schemes, strict=True):
        of = catalog.run_of(connection, catalog.scheme(connection, f"{name}@v{version}").id)
        results.append(_result(made, name, version, of, there, rows))
    return results


def _result(made: _Made, name: str, version: int, run_id: str, there: bool, rows: Rows) -> SplitResult:
    counts: dict[str, dict[str, int]] = {split: {} for split in made.order}
    samples: dict[str, dict[str, int]] = {split: {} for split in made.order}
    for row in rows:
        split = made.splits.get(row["patient_id"])
        if split is None:
            continue
        stratum = shown(made.strata.get(row["patient_id"], ()))
        counts[split][stratum] = counts[split].get(stratum, 0) + 1
        samples[split][stratum] = samples[split].get(stratum, 0) + row["samples"]
    return SplitResult(
        name, version, run_id, counts, made.left_out, there, samples, made.asked, made.recipe.get("folds", 0),
        made.sites, made.small, made.unmatched,
    )  # fmt: skip


def _existing(connection: duckdb.DuckDBPyConnection, name: str) -> SplitResult:
    """What there is to say of a scheme that was made before."""
    scheme = catalog.scheme(connection, name)
    found = catalog.assignment_of(connection, scheme.id).to_pylist()
    splits = {row["patient_id"]: row["split"] for row in found}
    made = _Made(scheme.name, splits, {"folds": scheme.folds}, sorted(set(splits.values())))
    rows = catalog.candidates(connection).to_pylist()
    return _result(made, scheme.name, scheme.version, catalog.run_of(connection, scheme.id), True, rows)
