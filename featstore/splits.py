"""Splitting patients: by ratio, stratified, with a holdout; the same seed gives the same split on any machine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from featstore.catalog import sandbox
from featstore.catalog import splits as catalog
from featstore.catalog.connection import Catalog
from featstore.errors import UsageError
from featstore.keys import check_name
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now


@dataclass(slots=True)
class SplitResult:
    """What a split did.

    Attributes:
        counts: patients by split, and within it by stratum.
        left_out: patients that lack a required modality, by that modality.
    """

    scheme: str
    version: int
    run_id: str
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int] = field(default_factory=dict)


def assign(patients: Sequence[str], ratios: Mapping[str, float], seed: int) -> dict[str, str]:
    """Assign patients to splits so that each count is within one patient of its ratio.

    Patients are ordered by SHA-256 of seed and id, which is the same on every machine and Python, and dealt out by
    largest remainder.

    >>> sorted(assign(["a", "b", "c", "d"], {"train": 0.5, "val": 0.5}, seed=0).values())
    ['train', 'train', 'val', 'val']
    """
    order = sorted(patients, key=lambda p: (hashlib.sha256(f"{seed}\0{p}".encode()).digest(), p))
    shares = {name: Fraction(str(ratio)) for name, ratio in ratios.items()}
    exact = {name: share / sum(shares.values()) * len(order) for name, share in shares.items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    # Whoever was rounded down most gets the next patient; ties go by the order in which the ratios were given.
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: len(order) - sum(counts.values())]:
        counts[name] += 1
    names = [name for name, count in counts.items() for _ in range(count)]
    return dict(zip(order, names, strict=True))


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Raise :class:`UsageError` unless the ratios are positive and sum to 1."""
    for name, ratio in ratios.items():
        check_name(name, "split")
        if not (math.isfinite(ratio) and 0 < ratio <= 1):
            raise UsageError(f"The ratio of {name!r} must be above 0 and at most 1, not {ratio:g}.")
    if abs(sum(ratios.values()) - 1) > 1e-9:  # 1/3 + 1/3 + 1/3 isn't 1 to the last bit
        written = " + ".join(f"{r:g}" for r in ratios.values())
        raise UsageError(
            f"The ratios sum to {sum(ratios.values()):g} ({written}), not to 1.",
            hint="they are shares of the patients who aren't held out",
        )


def split_patients(
    store: Path,
    catalog_file: Catalog,
    plugins: Plugins,
    *,
    scheme: str = "default",
    ratios: Mapping[str, float],
    stratify: str | None = None,
    holdout: str | None = None,
    holdout_as: str = "test",
    require_modalities: Sequence[str] = (),
    seed: int = 0,
    replace: bool = False,
) -> SplitResult:
    """Assign every patient to one split of a scheme.

    Args:
        ratios: split → share of the patients that are not held out; they sum to 1.
        stratify: a column of the view ``patients`` (``label``, ``site``) whose values keep their shares.
        holdout: a condition on the view ``patients``; those who meet it become ``holdout_as``.
        require_modalities: patients without all of these are in no split.

    Raises:
        UsageError: ratios, names or the column; ``holdout_as`` is one of the ratios.
        SqlError: the condition. ConflictError: the scheme exists.
    """
    started = utc_now()
    check_name(scheme, "split scheme")
    check_name(holdout_as, "split")
    check_ratios(ratios)
    if holdout is not None and holdout_as in ratios:
        raise UsageError(
            f"Those held out would be mixed into {holdout_as!r}, which --ratio fills.",
            hint="--holdout-as with a name of its own, such as external",
        )
    if stratify not in {None, "label", "site"}:
        raise UsageError(f"--stratify takes label or site, not {stratify!r}.")
    recipe = {
        "ratios": dict(ratios), "stratify": stratify, "holdout": holdout, "holdout_as": holdout_as,
        "require_modalities": list(require_modalities), "seed": seed,
    }  # fmt: skip
    while True:
        state, held = _held_out(catalog_file, holdout)
        with catalog_file.write() as connection, RunFolder.creating(store, "split") as create_run:
            if state != catalog.state(connection):
                continue  # samples came in since the condition was looked at: look again
            rows = catalog.candidates(connection).to_pylist()
            chosen, left_out = _having(rows, require_modalities)
            splits = _assign_all(chosen, held, holdout_as, ratios, stratify, seed)
            run = create_run()
            facts = finished("split", started, {"scheme": scheme} | recipe, plugins)
            table = _table(splits)
            version = catalog.put(connection, scheme, table, recipe, run.run_id, facts, replace=replace)
            run.save_rows("splits", table)
            run.record(**facts)
        break
    counts: dict[str, dict[str, int]] = {name: {} for name in [*ratios, *([] if holdout is None else [holdout_as])]}
    for row in chosen:
        within = counts[splits[row["patient_id"]]]
        within[_stratum(row, stratify)] = within.get(_stratum(row, stratify), 0) + 1
    return SplitResult(scheme, version, run.run_id, counts, left_out)


def _held_out(catalog_file: Catalog, holdout: str | None) -> tuple[int, set[str]]:
    """The patients who meet the condition, and what the catalog's state was before it was looked at."""
    with catalog_file.read() as connection:
        state = catalog.state(connection)
    if holdout is None:
        return state, set()
    rows = sandbox.predicate(catalog_file, "patients", "patient_id", holdout, "--holdout")
    return state, set(rows["patient_id"].to_pylist())


def _assign_all(
    chosen: Sequence[Mapping[str, Any]],
    held: set[str],
    holdout_as: str,
    ratios: Mapping[str, float],
    stratify: str | None,
    seed: int,
) -> dict[str, str]:
    """Patient → split: those held out, and the others stratum by stratum."""
    if not chosen:
        raise UsageError("No patient is left to split.", hint="ingest samples first, or check --require-modality")
    if stratify and all(row[stratify] is None for row in chosen):
        raise UsageError(
            f"No patient has a {stratify}, so there is nothing to stratify by.", hint="leave out --stratify"
        )
    strata: dict[str, list[str]] = {}
    for row in chosen:
        if row["patient_id"] not in held:
            strata.setdefault(_stratum(row, stratify), []).append(row["patient_id"])
    splits = {row["patient_id"]: holdout_as for row in chosen if row["patient_id"] in held}
    for members in strata.values():
        splits |= assign(members, ratios, seed)
    return splits


def _having(rows: list[dict[str, Any]], modalities: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    known = {m for row in rows for m in row["modalities"]}
    for modality in modalities:
        if known and modality not in known:
            raise UsageError(
                f"No patient has the modality {modality!r}.",
                hint=f"modalities here: {', '.join(sorted(known))}",
            )
    lacking = {m: sum(m not in row["modalities"] for row in rows) for m in modalities}
    chosen = [row for row in rows if all(m in row["modalities"] for m in modalities)]
    return chosen, {m: n for m, n in lacking.items() if n}


def _stratum(row: Mapping[str, Any], column: str | None) -> str:
    if column is None:
        return ""
    return "(none)" if row[column] is None else str(row[column])


def _table(splits: Mapping[str, str]) -> Any:
    import pyarrow as pa

    ids = sorted(splits)
    return pa.table({"patient_id": ids, "split": [splits[i] for i in ids]})
