"""Recipes from the words of the command line, and from the keywords of :meth:`featstore.Store.materialize`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from featstore.errors import UsageError, did_you_mean
from featstore.keys import InputRef
from featstore.tables.recipe import Entity, Input, Join, Label, LabelKind, Recipe, TabularInput


def from_flags(
    name: str,
    inputs: Sequence[str],
    *,
    tables: Sequence[str] = (),
    numeric: Sequence[str] = (),
    categorical: Sequence[str] = (),
    encode: Sequence[str] = (),
    time: Sequence[str] = (),
    within: Sequence[str] = (),
    known_columns: Mapping[str, Sequence[str]] | None = None,
    entity: Entity = "patient",
    label: str | None = None,
    label_kind: LabelKind | None = None,
    survival: str | None = None,
    scheme: str | None = None,
    where: str | None = None,
    join: Join | None = None,
    min_modalities: int | None = None,
    input_steps: Sequence[str] = (),
    fuser: str = "concat",
    missing: str | None = None,
    steps: Sequence[str] = (),
    impute: str | None = None,
    standardize: bool = False,
    pca: float | None = None,
    as_of: str | None = None,
    max_samples: int | None = None,
    order_by: str | None = None,
    near_duplicates: float | None = None,
    allow: Mapping[str, str] | None = None,
) -> Recipe:
    """A recipe from flags; where there are several of a kind, one text stands for a list of one.

    Args:
        inputs: lines, ``[ALIAS=]NAME[@vK][/MODALITY][:AGG]``.
        numeric, categorical, time: ``COLUMN``, or ``TABLE.COLUMN`` where several tables have it.
        encode, within: ``ordinal``, ``90d``, of the one table that this can be meant for; else ``TABLE=…``.
        known_columns: table → its columns, to find the table of a bare name.
        label: ``label`` (where it is None too, but for survival), ``TABLE.COLUMN`` or ``none``.
        survival: ``TABLE.COLUMN,TABLE.COLUMN``, the time and the event.
        input_steps: ``ALIAS=STEP`` or ``TABLE=STEP``, in their order.
        impute, standardize, pca: ``missing``, and the steps ``standardize`` and ``pca(N)``, by their former names.

    Raises:
        UsageError: a column that no table has, or that several have; what can't be told to be of which table; a word of
            another form. LeakageError: the label is among the inputs.
    """
    names, known = _several(tables), known_columns or {}
    missing, steps = old_words(impute, standardize, pca, missing, _several(steps))
    if join is not None and min_modalities is not None:
        raise UsageError("--join and --min-modalities both say which rows are kept; give one of them.")
    parts: dict[str, Input | TabularInput] = {}
    vectors = [_input(line) for line in _several(inputs)]
    clinical = _tables(names, _several(numeric), _several(categorical), known)
    clinical = _dated(clinical, _several(time), _several(within), known)
    clinical = _encoded(clinical, _several(encode))
    parts = {item.alias: item for item in vectors} | {t.name: t for t in clinical}
    given = [_assigned(text, "--input-step", parts, "l2") for text in _several(input_steps)]

    def stepped(key: str, part: Any) -> Any:
        return replace(part, steps=tuple(step for whose, step in given if whose == key))

    return Recipe(
        name, tuple(stepped(v.alias, v) for v in vectors), tuple(stepped(t.name, t) for t in clinical), entity=entity,
        label=_label(label, label_kind, survival), scheme=scheme, where=where, join=join or "inner",
        min_modalities=min_modalities, fuser=fuser, missing=missing, steps=tuple(steps), as_of=as_of,
        max_samples=max_samples, order_by=order_by, near_duplicates=near_duplicates, allow=dict(allow or {}),
    )  # fmt: skip


def known_words(words: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keywords that :func:`from_flags` is to be called with.

    Raises:
        UsageError: it knows none of this name, with a suggestion.
    """
    known = inspect.signature(from_flags).parameters
    for word in words:
        if word not in known:
            raise UsageError(
                f"There is no {word!r} here.{did_you_mean(word, known)}", hint=f"known: {', '.join(known)}"
            )
    return words


def old_words(
    impute: str | None, standardize: bool, pca: float | None, missing: str | None, steps: Sequence[str]
) -> tuple[str, list[str]]:
    """``missing`` and ``steps`` of what says them by its former name: impute, then standardize, then PCA.

    Raises:
        UsageError: one of them is of another form, or both names are used.
    """
    if impute not in (None, "none", "mean"):
        raise UsageError(
            f"--impute {impute!r} isn't one of none, mean.{did_you_mean(str(impute), ['none', 'mean'])}",
            hint=f"--missing {impute}",
        )
    if pca is not None and not (0 < pca < 1 or (pca >= 1 and float(pca).is_integer())):
        raise UsageError(f"--pca takes a whole number, or a share of the variance between 0 and 1, not {pca:g}.")
    old = ["standardize"] * bool(standardize)
    old += [f"pca({int(pca) if pca >= 1 else repr(float(pca))})"] if pca is not None else []
    if old and steps:
        raise UsageError(
            "--standardize and --pca are steps too, and which comes first can't be told beside --step.",
            hint=" ".join(f"--step '{step}'" for step in [*old, *steps]),
        )
    if impute not in (None, "none") and missing is not None:
        raise UsageError("--impute is --missing by its former name; give one of them.", hint=f"--missing {missing}")
    return missing or impute or "none", old or list(steps)


def _several(words: str | Sequence[str]) -> list[str]:
    return [words] if isinstance(words, str) else list(words)


def _input(line: str) -> Input:
    found = InputRef.parse(line)
    return Input(found.alias, found.ref, found.modality, found.agg)


def _label(column: str | None, kind: LabelKind | None, survival: str | None) -> Label:
    if survival is None:
        return Label(None if column == "none" else column or "label", kind)
    words = [word.strip() for word in survival.split(",")]
    if len(words) != 2 or not all(words):
        raise UsageError(
            f"--survival {survival!r} isn't TIME,EVENT: a column of times and one of what happened.",
            hint="--survival outcome.days,outcome.died; names that hold a comma need a recipe file",
        )
    if column is not None:
        raise UsageError("--label and --survival both say what the label is; give one of them.")
    return Label(None, kind or "survival", *words)


def _tables(
    names: Sequence[str], numeric: Sequence[str], categorical: Sequence[str], known: Mapping[str, Sequence[str]]
) -> list[TabularInput]:
    wanted: dict[str, dict[str, list[str]]] = {name: {"numeric": [], "categorical": []} for name in names}
    for kind, columns in (("numeric", numeric), ("categorical", categorical)):
        for text in columns:
            owner, column = _owner(text, names, known, f"--{kind}")
            wanted[owner][kind].append(column)
    tables = [TabularInput(name, tuple(w["numeric"]), tuple(w["categorical"])) for name, w in wanted.items()]
    for table in tables:
        if not table.columns:
            raise UsageError(
                f"No column of the table {table.name!r} is asked for.", hint="--numeric COLUMN or --categorical COLUMN"
            )
    return tables


def _dated(
    tables: list[TabularInput], time: Sequence[str], within: Sequence[str], known: Mapping[str, Sequence[str]]
) -> list[TabularInput]:
    names = [t.name for t in tables]
    times: dict[str, str] = {}
    for text in time:
        owner, column = _owner(text, names, known, "--time")
        if owner in times:
            raise UsageError(f"--time gives {owner!r} two columns, {times[owner]!r} and {column!r}.")
        times[owner] = column
    spans = _by_table(within, "--within", {n: n for n in times}, "90d", "a --time")
    return [replace(t, time=times.get(t.name), within=spans.get(t.name)) for t in tables]


def _encoded(tables: list[TabularInput], encode: Sequence[str]) -> list[TabularInput]:
    words = _by_table(encode, "--encode", {t.name: t for t in tables if t.categorical}, "ordinal", "a --categorical")
    return [replace(t, encode=words.get(t.name, t.encode)) for t in tables]


def _by_table(words: Sequence[str], flag: str, may: Mapping[str, Any], example: str, what: str) -> dict[str, str]:
    """Table → its word: ``TABLE=word``, or only the word where one table can be meant."""
    found: dict[str, str] = {}
    for text in words:
        if not may:
            raise UsageError(f"{flag} {text!r} is of a --table with {what}, and there is none.")
        if "=" not in text and len(may) > 1:
            raise UsageError(
                f"{flag} {text!r} may be of {' or '.join(map(repr, may))}.", hint=f"{flag} {next(iter(may))}={text}"
            )
        owner, word = _assigned(text, flag, may, example) if "=" in text else (next(iter(may)), text)
        if owner in found:
            raise UsageError(f"{flag} gives {owner!r} both {found[owner]!r} and {word!r}.")
        found[owner] = word
    return found


def _assigned(text: str, flag: str, known: Mapping[str, Any], example: str) -> tuple[str, str]:
    """``NAME=WORD`` of one of the names."""
    name, mark, word = text.partition("=")
    some = next(iter(known), "labs")
    if not mark or not word.strip():
        raise UsageError(f"{flag} {text!r} isn't NAME=VALUE.", hint=f"{flag} {some}={example}")
    if name not in known:
        raise UsageError(
            f"{flag} {text!r}: there is no {name!r}.{did_you_mean(name, known)}", hint=f"there is {', '.join(known)}"
        )
    return name, word


def _owner(text: str, tables: Sequence[str], known: Mapping[str, Sequence[str]], flag: str) -> tuple[str, str]:
    """The table and column that ``COLUMN`` or ``TABLE.COLUMN`` names; names of tables and of columns may hold dots."""
    for table in tables:
        column = text.removeprefix(f"{table}.")
        if column != text and column in known.get(table, ()):
            return table, column
    owners = [t for t in tables if text in known.get(t, ())]
    if len(owners) == 1:
        return owners[0], text
    if owners:
        raise UsageError(f"The column {text!r} is in several tables.", hint=f"write {owners[0]}.{text}")
    if not tables:
        raise UsageError(f"{flag} {text!r}: columns need a --table that has them.", hint="--table NAME")
    columns = [c for t in tables for c in known.get(t, ())]
    raise UsageError(
        f"No given --table has a column {text!r}.{did_you_mean(text, columns)}", hint=f"columns: {', '.join(columns)}"
    )
