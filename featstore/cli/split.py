"""split."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, ratios, with_store
from featstore.cli.output import note, plural, print_json, print_table

if TYPE_CHECKING:
    from featstore.splits import SplitResult
    from featstore.store import Store

#: Strata that are columns of the splits' table; more are rows of a table of their own.
_COLUMNS = 6


@click.command()
@with_store
@click.option("--scheme", default="default", show_default=True, help="Name of the split scheme.")
@click.option("--ratio", "shares", multiple=True, metavar="SPLIT=SHARE", help="Repeatable; they sum to 1.")
@click.option("--k-folds", type=int, metavar="K", help="K folds of equal shares instead: fold0, fold1, ….")
@click.option("--repeats", type=int, metavar="N", help="N schemes of folds, NAME-r1 …, each with a seed of its own.")
@click.option("--leave-one-site-out", is_flag=True, help="One fold a site.")
@click.option(
    "--from",
    "sources",
    multiple=True,
    metavar="[SPLIT=]FILE.csv",
    help="Take the splits of a CSV: patient_id and split; or image_path, a file a split. Repeatable.",
)
@click.option("--allow-missing", is_flag=True, help="Leave out what such files list and the store hasn't.")
@click.option(
    "--stratify",
    metavar="COLUMN[+COLUMN]",
    help="Keep the shares within each value of label, site, another column of the view patients, an attribute of the "
    "samples, or TABLE.COLUMN.",
)
@click.option("--preserve-sites", is_flag=True, help="All patients of a site come into one split.")
@click.option("--stable", is_flag=True, help="By each patient's own hash: who comes in later moves nobody.")
@click.option(
    "--holdout",
    metavar="SQL",
    help="Condition on the view patients: these are held out, such as \"site <> 'JM'\".",
)
@click.option("--holdout-as", default="test", show_default=True, help="The split of those held out.")
@click.option(
    "--require-modality", "require_modalities", multiple=True, help="Leave out patients without it; repeatable."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--replace", is_flag=True, help="Make a new version of a scheme that exists.")
@click.option(
    "--export",
    metavar="DIR",
    help="Write the scheme there as CSVs: image_path and label by split and modality, and patients.csv.",
)
@click.option("--relative", is_flag=True, help="Paths in --export are relative to their data sets' roots.")
@json_option
def split(store: Store, shares: tuple[str, ...], as_json: bool, **fields: Any) -> None:
    """Assign every patient to one split; the same seed gives the same split on any machine.

    Give --ratio, --k-folds, --leave-one-site-out or --from. With --export alone, a scheme that exists is written.
    """
    result = store.split(ratios=ratios(shares) if shares else None, **fields)
    if as_json:
        print_json(asdict(result))
        return
    for one in (result, *result.repeats):
        _print(one, fields["stratify"] or "")
    for modality, count in result.left_out.items():
        note(f"{plural(count, 'patient')} without modality {modality} are in no split.")
    for what, count in result.unmatched.items():
        note(f"{plural(count, 'row')} left out: {what} in the store.")
    if fields["stable"]:
        note("Each patient's split is by its own hash: the shares are met on average only.")
    for stratum, count in list(result.small.items())[:8]:
        note(f"{fields['stratify']} {stratum}: {plural(count, 'patient')}, fewer than splits.")
    if len(result.small) > 8:
        note(f"… and {len(result.small) - 8} more such strata.")


def _print(result: SplitResult, stratify: str) -> None:
    strata = sorted({name for counts in result.counts.values() for name in counts if name})
    totals = {name: sum(counts.values()) for name, counts in result.counts.items()}
    total = sum(totals.values())
    inside = sum(totals[name] for name in result.asked)
    of_all = not result.asked or inside < total  # else it is what was got
    rows = []
    for name, n in totals.items():
        row: list[Any] = [name, n]
        if of_all:
            row.append(f"{n / total:.1%}" if total else "")
        if result.asked:
            asked = result.asked.get(name)
            row += ["", ""] if asked is None else [f"{asked:.1%}", f"{n / inside:.1%}" if inside else ""]
        row.append(sum(result.samples[name].values()))
        if len(strata) <= _COLUMNS:
            row += [result.counts[name].get(s, 0) for s in strata]
        if result.sites:
            row.append(", ".join(result.sites.get(name, [])))
        rows.append(row)
    names = [
        "split",
        "patients",
        *(["share"] if of_all else []),
        *(["asked", "got"] if result.asked else []),
        "samples",
    ]
    names += [f"{stratify} {s}" for s in strata] if len(strata) <= _COLUMNS else []
    state = " is unchanged" if result.unchanged else ""
    title = f"{result.scheme} v{result.version}{state}: {plural(total, 'patient')}"
    print_table(names + (["sites"] if result.sites else []), rows, title=title)
    if len(strata) > _COLUMNS:
        by_stratum = [[s, *(result.counts[name].get(s, 0) for name in result.counts)] for s in strata]
        print_table([stratify, *result.counts], by_stratum, title="Patients by stratum")
    for file, count in result.exported.items():
        note(f"{file}: {plural(count, 'row')}.")
