"""Printing what became of everybody on the way to a training table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore.cli.output import note, note_lookalikes, note_unmatched, plural, print_table

#: Labels that have a column of their own on the screen.
_LABELS = 8
#: What is said of how samples were made: the most telling first.
_CONFOUNDERS = 5
#: Below this, an association is as good as none.
_WEAK = 0.1
#: Classes above which a label is probably a number.
_MANY = 20
_MEASURES = {"cramers_v": "Cramér's V", "eta2": "η²"}


def print_report(report: Mapping[str, Any], path: Path, *, unchanged: bool = False) -> None:
    """Print an alignment report; those of older versions lack some of it.

    Args:
        path: the table's folder, where the whole list of those left out is.
        unchanged: the table was made before, and its list is of then.
    """
    entity = report.get("entity", "patient")
    inputs = report.get("inputs", {})
    _print_inputs(inputs)
    told = any("unseen" in fold for fold in report.get("folds", {}).values())  # each fold tells its own
    for name, facts in report.get("tables", {}).items():
        note_table(name, {**facts, "unseen": {}} if told else facts, entity)
    for values in report.get("labels_alike", ()):
        note(f"The labels {' and '.join(map(repr, values))} look alike, and are taken for {len(values)} classes.")
    note_lookalikes(report.get("lookalikes", ()))
    if constant := report.get("nearly_constant"):
        note(
            f"{plural(constant, 'feature')} hardly {'varies' if constant == 1 else 'vary'} among the train rows: "
            "standardized, values of other splits can be very large. Look at the range of fused before a model does."
        )
    if incomplete := report.get("incomplete"):
        has = "row has" if incomplete == 1 else "rows have"
        note(f"{incomplete:,} {has} missing values in fused: --missing mean fills them; has_ columns say where.")
    _note_lost(report.get("lost", ()), entity, path, " when it was made" if unchanged else "")
    _print_coverage(report.get("coverage", ()), entity)
    _print_rows(report.get("by_split", {}))
    if folds := report.get("folds"):
        site = ["site"] if any("site" in facts for facts in folds.values()) else []
        keys = [*site, "train_rows", "width"]
        rows = [[name, *(facts.get(key) for key in keys)] for name, facts in folds.items()]
        print_table(["fold", *site, "train rows", "features"], rows, title="Folds, each with its own fitted steps")
        for name, facts in folds.items():
            for columns in facts.get("unseen", {}).values():
                for column, values in columns.items():
                    note(f"  {name}: {column} has values that no train row has: {', '.join(map(str, values[:5]))}.")
    _note_confounders(report.get("confounders", ()))
    for allowed in report.get("allowed", ()):
        note(f"Allowed: {allowed['kind']}, {allowed.get('found', 0):,} found. Reason: {allowed['reason']}")


def _print_inputs(inputs: Mapping[str, Mapping[str, Any]]) -> None:
    names = ["input", "feature set", "modality", "aggregation", "patients", "samples", "failed", "pending"]
    keys = ("feature_set", "modality", "aggregation", "patients", "samples", "failed_samples", "pending_samples")
    rows = [[alias, *(facts.get(key) for key in keys), facts.get("missing")] for alias, facts in inputs.items()]
    print_table([*names, "missing here"], rows, title="Inputs")
    reasons = _in_order(reason for facts in inputs.values() for reason, n in facts.get("lost", {}).items() if n)
    if reasons:
        lost = [
            [alias, *(facts["lost"].get(reason, 0) for reason in reasons)]
            for alias, facts in inputs.items()
            if any(facts.get("lost", {}).values())
        ]
        print_table(["without input", *reasons], lost)
    for alias, facts in inputs.items():
        if dropped := facts.get("dropped_samples"):
            note(f"{alias}: {plural(dropped, 'sample')} more than --max-samples-per-patient were not pooled.")
    if pending := sum(facts.get("pending_samples", 0) for facts in inputs.values()):
        has = "has" if pending == 1 else "have"
        note(f"{plural(pending, 'sample')} {has} no current vector, left out.\n  next: featstore extract")


def note_table(name: str, facts: Mapping[str, Any], entity: str) -> None:
    """Say what of a tabular data set came into a table."""
    gaps = "".join(f", {column} is missing for {n:,}" for column, n in facts.get("gaps", {}).items() if n)
    here = "of them patients here" if facts["rows"] == facts["patients"] else "patients of them here"
    note(f"Table {name!r}: {facts['rows']:,} rows, {facts['patients']:,} {here}{gaps}.")
    why = {
        "no_row": "it has none", "too_old": "an earlier one that is too old", "future": "only later ones",
        "untimed": "no time of their own",
    }  # fmt: skip
    for key, text in why.items():
        if n := facts.get(key):
            note(f"  Of all candidates, {plural(n, entity)} got no row of it: {text}.")
    note_unmatched(facts.get("lookalikes", ()))
    for column, groups in facts.get("alike", {}).items():
        for values in groups:
            spelled = ", ".join(map(repr, values))
            note(f"  {column} has categories that look alike, and are taken for {len(values)}: {spelled}.")
    for column, values in facts.get("unseen", {}).items():
        note(f"  {column} has values that no train row has, encoded as unknown: {', '.join(map(str, values[:5]))}.")


def _note_lost(lost: Iterable[Mapping[str, Any]], entity: str, path: Path, when: str) -> None:
    for item in lost:
        who = plural(item["patients"], "patient")
        if entity != "patient" and not item.get("rowless"):
            who = f"{plural(item['rows'], entity)} of {who}"
        such_as = ", ".join(map(str, item.get("such_as", ())[:3]))
        note(f"{who} left out, {item['reason']}, such as {such_as}.")
    if lost and (whole := path / "lost.parquet").exists():
        note(f"  Everyone who was left out{when}: {whole}")


def _print_coverage(coverage: Iterable[Mapping[str, Any]], entity: str) -> None:
    """Which inputs are there together, how often, and in which splits."""
    splits = _in_order(split for item in coverage for split in item.get("by_split", {}))
    rows = [
        [" + ".join(item["has"]) or "(none)", item["rows"], item.get("kept"),
         *(item.get("by_split", {}).get(split, 0) for split in splits)]
        for item in coverage
    ]  # fmt: skip
    if len(rows) > 1:  # where everyone has everything there is nothing to see
        names = ["has", "rows", "kept", *(split or "(none)" for split in splits)]
        print_table(names, rows, title=f"Coverage: the inputs that each {entity} has")


def _print_rows(by_split: Mapping[str, Mapping[str, Any]]) -> None:
    labels = sorted({label for counts in by_split.values() for label in counts.get("labels", {})}, key=str)
    shown = labels[:_LABELS]
    print_table(
        ["split", "rows", *(f"label {label}" for label in shown)],
        [
            [split or "(none)", counts["rows"], *(counts.get("labels", {}).get(label, 0) for label in shown)]
            for split, counts in by_split.items()
        ],
        title="Rows",
    )  # fmt: skip
    if len(labels) > len(shown):
        note(f"… and {len(labels) - len(shown):,} more labels; --json gives all.")
    if len(labels) > _MANY:
        note(f"{len(labels):,} classes: if the label is a number, say so: --label-kind number (label: kind: number).")


def _note_confounders(confounders: Sequence[Mapping[str, Any]]) -> None:
    for found in confounders[:_CONFOUNDERS]:
        words = [f"{key} {found[key]:.2f}" for key in ("accuracy", "baseline") if found.get(key) is not None]
        words.append(f"{_MEASURES.get(found['measure'], found['measure'])} {found['value']:.2f}")
        how = "hardly predicts" if found["value"] < _WEAK else "predicts"
        note(f"{found['column']} {how} the label: {', '.join(words)}.")


def _in_order(words: Iterable[str]) -> list[str]:
    """Each once, in the order in which they come first."""
    return list(dict.fromkeys(words))
