"""What is wrong with a training table, as far as its own report tells: the known gaps of its data card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

#: Fewer rows than this in a split measure nothing.
FEW = 20
#: More different labels than this are numbers.
MOST_CLASSES = 20


def known_gaps(recipe: Mapping[str, Any], report: Mapping[str, Any], lineage: Mapping[str, Any]) -> list[str]:
    """Sentences about what a user of the table should know, without any id or clinical value."""
    return [
        *_of_inputs(report, lineage),
        *_of_tables(report),
        *_of_splits(recipe, report),
        *_of_features(recipe, report),
    ]


def classes_of(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    """The classes of a table's labels, in order; none where the label is a number, or has more values than classes."""
    label = recipe.get("label")
    if isinstance(label, Mapping) and label.get("kind") == "number":
        return []
    found = {label for counts in report["by_split"].values() for label in counts["labels"]}
    if len(found) > MOST_CLASSES:
        return []
    return sorted(found, key=lambda label: (not label.isdigit(), len(label) if label.isdigit() else 0, label))


def lost_rows(item: Mapping[str, Any]) -> int:
    """How many rows were left out for one reason; tables of before count patients."""
    return int(item.get("rows", item["patients"]))


def _of_inputs(report: Mapping[str, Any], lineage: Mapping[str, Any]) -> Iterator[str]:
    counted = {
        "failed_samples": "of its samples failed and are in no row",
        "pending_samples": "of its samples have no vector yet and are in no row",
        "dropped_samples": "of its samples are left out, more than a row takes",
    }
    for alias, facts in report["inputs"].items():
        for key, text in counted.items():
            if facts.get(key):
                yield f"{alias}: {facts[key]:,} {text}."
    for entry in lineage.get("inputs", ()):
        changed = sum(counts["changed"] for counts in entry.get("samples", ()))
        if changed:
            yield f"{entry['alias']}: {changed:,} of its samples have changed since."
    for values in report.get("labels_alike", ()):
        yield f"The labels {' and '.join(map(repr, values))} look alike, and are {len(values)} classes."
    if report.get("lookalikes"):
        yield f"{len(report['lookalikes']):,} pairs of patients have ids that look alike, and are taken for two."


def _of_tables(report: Mapping[str, Any]) -> Iterator[str]:
    for name, facts in report.get("tables", {}).items():
        if facts.get("lookalikes"):
            yield f"{name}: {len(facts['lookalikes']):,} of its ids match nobody, and look like a patient's."
        for column, values in facts.get("unseen", {}).items():
            yield f"{name}: {column} has {len(values):,} values that no train row has."
        for column, groups in facts.get("alike", {}).items():
            yield f"{name}: {column} has {len(groups):,} categories in several spellings, counted as different."
        for column, rows in facts.get("gaps", {}).items():
            if rows:
                yield f"{name}: {column} is missing for {rows:,} of {report['rows']:,} rows."


def _of_splits(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    classes = classes_of(recipe, report)
    for split, counts in report["by_split"].items():
        shown = split or "(none)"
        if counts["rows"] < FEW:
            yield f"The split {shown} has only {counts['rows']:,} rows."
        here = [label for label in classes if counts["labels"].get(label)]
        if len(classes) > 1 and counts["rows"] and len(here) == 1:
            yield f"The split {shown} has one class alone, {here[0]}."
        elif len(classes) > 1 and len(here) < len(classes):
            yield f"The split {shown} lacks {len(classes) - len(here):,} of {len(classes):,} classes."
    if len(report["by_split"]) == 1 and not report.get("folds"):
        yield "All rows are in one split: nothing is held out to measure on."


def _of_features(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> Iterator[str]:
    if report.get("nearly_constant"):
        yield f"{report['nearly_constant']:,} fused features hardly vary among the train rows."
    folds = [facts["train_rows"] for facts in report.get("folds", {}).values()]
    train = min(folds, default=report.get("train_rows", 0))
    if 0 < train < report["width"]:
        yield f"There are more fused features ({report['width']:,}) than train rows ({train:,})."
    if recipe.get("missing", "none") == "none" and any(facts["missing"] for facts in report["inputs"].values()):
        yield "Rows without an input have NaN in fused: most models take none."
    for item in report.get("confounders", ()):
        accuracy, baseline = item.get("accuracy"), item.get("baseline")
        if accuracy is not None and baseline is not None and accuracy - baseline >= 0.1:
            yield f"{item['column']} alone predicts the label: {accuracy:.0%} right, where guessing has {baseline:.0%}."
