"""The data card of a training table: what is in it, where it is from and what is wrong with it, for people to read.

After "Datasheets for Datasets" (Gebru et al., 2021). A card may be published where the data may not: it has counts, and
no patient's id or value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from featstore.tables.card_gaps import classes_of, known_gaps, lost_rows
from featstore.tables.markdown import count, escaped, last_part, settings, table
from featstore.tables.placing import CARD_TITLE

_ELSEWHERE = "(in recipe.yaml: it may name patients)"


def card(
    recipe: Mapping[str, Any], report: Mapping[str, Any], lineage: Mapping[str, Any], name: str, version: int
) -> str:
    """The data card, as Markdown. The same facts give the same text.

    No id of a patient and no clinical value is in it, with two exceptions that a table is pointless without or that
    somebody wrote to be read: the classes of the label, and the reasons for which a leak was allowed.

    Args:
        recipe: :meth:`featstore.tables.Recipe.to_json`.
        report: the alignment report.
        lineage: of :func:`featstore.tables.lineage.lineage` or, of a version that isn't there yet, ``planned``.
    """
    sections = {
        "": _summary(report, lineage),
        "What a row is": _rows(recipe, report),
        "Rows by split": _splits(recipe, report),
        "Inputs": _inputs(report, lineage),
        "Clinical columns": _clinical(recipe, report),
        "Missing values": _missing(recipe, report),
        "Fusion": _fusion(recipe, report),
        "How the splits were made": _scheme(lineage),
        "Who was left out": _lost(report),
        "What else predicts the label": _confounders(report),
        "Allowed leaks": [
            f"- **{escaped(leak['kind'])}: {count(leak['found'], 'case')}, allowed: {escaped(leak['reason'])}**"
            for leak in report.get("allowed", ())
        ],
        "Known gaps": [f"- {escaped(gap)}" for gap in known_gaps(recipe, report, lineage)]
        or ["None that could be seen."],
        "Making it again": _again(recipe, name, version),
        "Environment": _environment(lineage),
    }
    title = f"{CARD_TITLE}{escaped(name)}@v{version}"
    parts = [title, *("\n".join([f"## {head}\n"] * bool(head) + lines) for head, lines in sections.items() if lines)]
    return "\n\n".join(parts) + "\n"


def _summary(report: Mapping[str, Any], lineage: Mapping[str, Any]) -> list[str]:
    run = lineage.get("run", {})
    when = f", made {run['started_at'][:10]}" if "started_at" in run else ""
    lines = [
        f"A training table of {count(report['rows'], 'row')} × {count(report['width'], 'fused feature')}{when} by "
        f"featstore {escaped(run.get('packages', {}).get('featstore', ''))}".rstrip()
        + "."
    ]
    if lineage.get("stale"):
        lines.append(f"\n**It is stale: {escaped(lineage['stale'])}.**")
    return lines


def _rows(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    entity = report.get("entity", "patient")
    label = recipe.get("label", "label")
    label = ", ".join(f"{key} {value}" for key, value in label.items()) if isinstance(label, Mapping) else label
    kept = {
        "inner": "Only rows that have every input are kept.",
        "left": "Rows that have the first input are kept.",
        "outer": "Rows that have any of the inputs are kept.",
    }
    fewest = recipe.get("min_modalities")
    lines = [
        f"- One row is one {escaped(entity)}: {report['rows']:,} of {count(report['candidates'], 'candidate')}.",
        f"- Label: {escaped(label)}.",
        f"- {f'Rows with at least {fewest} of the inputs are kept.' if fewest else kept[recipe.get('join', 'inner')]}",
    ]
    if recipe.get("where"):
        lines.append("- A condition chose among the samples; recipe.yaml has it.")
    if recipe.get("as_of"):
        lines.append(
            f"- A row's time is {escaped(recipe['as_of'])}: of dated tables, the latest row at or before it counts."
        )
    return lines


def _splits(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    by_split = report["by_split"]
    classes = classes_of(recipe, report)
    rows = [
        [split or "(none)", counts["rows"], *(counts["labels"].get(c, 0) for c in classes)]
        for split, counts in by_split.items()
    ]
    lines = table(["split", "rows", *(f"label {c}" for c in classes)], rows)
    for fold, facts in report.get("folds", {}).items():
        lines.append(
            f"\n{escaped(fold)}: steps fitted on {count(facts['train_rows'], 'row')}, width {facts['width']:,}."
        )
    return lines


def _inputs(report: Mapping[str, Any], lineage: Mapping[str, Any]) -> list[str]:
    sources = {entry["alias"]: entry for entry in lineage.get("inputs", ())}
    rows, notes = [], []
    for alias, facts in report["inputs"].items():
        encoder = sources.get(alias, {}).get("encoder", {})
        how = [encoder.get(key) for key in ("layer", "facet", "pooler")]
        rows.append([
            alias, facts["feature_set"], facts["modality"], facts["aggregation"] or "none",
            encoder.get("backbone", ""), ", ".join(str(word) for word in how if word),
            str(encoder.get("weights", ""))[:12], facts["patients"], facts["samples"], facts["missing"],
        ])  # fmt: skip
        notes += [f"- {escaped(alias)}: {text}." for text in _encoder(encoder)]
    heads = [
        "input", "feature set", "modality", "aggregation", "encoder", "layer, pooler", "weights", "patients", "samples",
        "rows without",
    ]  # fmt: skip
    return table(heads, rows) + (["", *notes] if notes else []) + _coverage(report)


def _encoder(encoder: Mapping[str, Any]) -> list[str]:
    """What a row of the table has no room for."""
    model = encoder.get("model", {})
    found = []
    if encoder.get("imported"):
        found.append("vectors that were made elsewhere and imported")
    if model.get("checkpoint"):
        found.append(f"weights from {escaped(last_part(model['checkpoint']))}")
    elif model.get("pretrained") is not None:
        found.append("pretrained weights" if model["pretrained"] else "weights initialized at random")
    if encoder.get("preprocessing"):
        found.append(f"preprocessing {settings(encoder['preprocessing'])}")
    if encoder.get("trained_on"):
        found.append(f"weights trained on {count(encoder['trained_on'], 'patient')}")
    return found


def _coverage(report: Mapping[str, Any]) -> list[str]:
    coverage = report.get("coverage", ())
    if len(coverage) < 2:
        return []
    splits = list(dict.fromkeys(split for entry in coverage for split in entry["by_split"]))
    rows = [
        [
            " + ".join(entry["has"]) or "none", entry["rows"], entry.get("kept", entry["rows"]),
            *(entry["by_split"].get(split, 0) for split in splits),
        ]
        for entry in coverage
    ]  # fmt: skip
    heads = ["inputs", "candidates", "kept", *(split or "(none)" for split in splits)]
    return ["\nCandidates by the inputs that they have:\n", *table(heads, rows)]


def _clinical(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    asked = {item["name"]: item for item in recipe.get("tables", ())}
    rows = []
    for name, facts in report.get("tables", {}).items():
        of = asked.get(name, {})
        for kind in ("numeric", "categorical"):
            rows += [[name, column, kind, facts.get("gaps", {}).get(column, 0)] for column in of.get(kind, ())]
    lines = table(["table", "column", "kind", "rows without"], rows) if rows else []
    for name, facts in report.get("tables", {}).items():
        dated = {
            "no_row": "have no row of it", "too_old": "one that is too old", "future": "later ones alone",
            "untimed": "no time of their own",
        }  # fmt: skip
        counts = [f"{facts[key]:,} {text}" for key, text in dated.items() if facts.get(key)]
        lines.append(
            f"\n{escaped(name)}: {count(facts['rows'], 'row')}, {count(facts.get('missing', 0), 'row')} of this table "
            "without" + (f"; of the candidates {', '.join(counts)}" if counts else "") + "."
        )
    return lines


def _missing(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    policy = recipe.get("missing", "none")
    without = [(alias, facts["missing"]) for alias, facts in report["inputs"].items() if facts["missing"]]
    how = "stay NaN" if policy == "none" else f"are imputed ({escaped(policy)}), learned from train rows alone"
    return [
        f"- Missing values {how}; columns `has_…` say where.",
        *(f"- {escaped(alias)} is missing for {count(rows, 'row')}." for alias, rows in without),
        *(
            f"- Of the candidates, {rows:,} are without {escaped(alias)}: {escaped(why)}."
            for alias, facts in report["inputs"].items()
            for why, rows in facts.get("lost", {}).items()
            if rows
        ),
    ]


def _fusion(recipe: Mapping[str, Any], report: Mapping[str, Any]) -> list[str]:
    lines = []
    for item in (*recipe["inputs"], *recipe.get("tables", ())):
        if isinstance(item, Mapping) and item.get("steps"):
            alias = item.get("name") or str(item["input"]).partition("=")[0]
            lines.append(f"- {escaped(alias)}: {escaped(' → '.join(item['steps']))}, before the fuser.")
    lines.append(f"- Fuser: {escaped(recipe.get('fuser', 'concat'))}.")
    if recipe.get("steps"):
        lines.append(f"- Then: {escaped(' → '.join(recipe['steps']))}.")
    if not report.get("folds"):
        lines.append(f"- What is learned is learned from {count(report.get('train_rows', 0), 'train row')} alone.")
    else:
        lines.append("- What is learned is learned for each fold, from the other folds' rows alone.")
    return lines


def _scheme(lineage: Mapping[str, Any]) -> list[str]:
    scheme = lineage.get("scheme")
    if not scheme:
        return ["The table has no splits."]
    made = settings(scheme.get("recipe", {}), hidden=("holdout", "where"))
    counts = ", ".join(f"{escaped(split)} {n:,}" for split, n in scheme["splits"].items())
    return [
        f"- Scheme {escaped(scheme['name'])}, version {scheme['version']}; a patient is in one split of it.",
        f"- Its patients, also those without a row here: {counts}.",
        *([f"- How: {made}."] if made else []),
    ]


def _lost(report: Mapping[str, Any]) -> list[str]:
    lines = [f"- {count(lost_rows(item), 'row')}: {escaped(item['reason'])}." for item in report.get("lost", ())]
    return lines or ["Nobody."]


def _confounders(report: Mapping[str, Any]) -> list[str]:
    found = report.get("confounders", ())
    if not found:
        return []
    rows = [
        [c["column"], c["levels"], c["rows"], f"{c['measure']} {c['value']:.2f}",
         *(("" if c.get(key) is None else f"{c[key]:.2f}") for key in ("accuracy", "baseline"))]
        for c in found
    ]  # fmt: skip
    return [
        "How well each of these tells the label by itself, and guessing the commonest one does:\n",
        *table(["column", "values", "rows", "association", "accuracy", "guessing"], rows),
    ]


def _again(recipe: Mapping[str, Any], name: str, version: int) -> list[str]:
    from featstore.tables.recipe_yaml import dump

    shown = {key: _ELSEWHERE if key == "where" and value else value for key, value in recipe.items()}
    text = dump(shown).rstrip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return [
        f"`featstore reproduce {name}@v{version}` makes it and compares. The recipe:\n",
        f"{fence}yaml",
        text,
        fence,
    ]


def _environment(lineage: Mapping[str, Any]) -> list[str]:
    run = lineage.get("run", {})
    lines = [f"- Made {escaped(run['started_at'])} UTC."] if "started_at" in run else []
    words = [f"{key} {run[key]}" for key in ("python", "platform") if key in run]
    words += [f"{name} {number}" for name, number in sorted(run.get("packages", {}).items())]
    if words:
        lines.append(f"- {escaped(', '.join(words))}.")
    if run.get("git"):
        changed = ", with changes that aren't committed" if run["git"]["dirty"] else ""
        lines.append(f"- Commit of the code around it: {escaped(run['git']['commit'])}{changed}.")
    runs = {r["run_id"]: r for entry in lineage.get("inputs", ()) for r in entry["runs"]}
    for run_id, made in sorted(runs.items()):
        where = ", ".join(f"{key} {made[key]}" for key in ("device", "threads", "seed") if key in made)
        lines.append(f"- Vectors of run {escaped(run_id)}" + (f": {escaped(where)}." if where else "."))
    return lines
