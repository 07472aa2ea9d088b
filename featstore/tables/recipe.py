"""The recipe of a training table: what a user asks for, checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from featstore.errors import LeakageError, UsageError, did_you_mean
from featstore.keys import Ref, check_name, parse_words

Entity = Literal["patient", "visit", "sample"]
Join = Literal["inner", "left", "outer"]
LabelKind = Literal["classes", "number", "survival"]
#: Columns that a table has, or may have; no input may be called so.
RESERVED = ("patient_id", "visit_id", "sample_key", "split", "fold", "label", "time", "event", "fused")
#: What fills missing values, by the step ``impute``; ``knn(5)`` has its number of neighbours.
MISSING = ("none", "mean", "median", "zero", "knn")
#: What ``allow`` may except from refusal; :mod:`featstore.tables.leakage` says what each is.
LEAKS = ("same-content", "same-vectors", "near-duplicates", "fine-tuned", "label-input", "older-version", "outdated")
_SPAN = re.compile(r"(?P<number>[1-9][0-9]*)(?P<unit>[dhw])")


@dataclass(frozen=True, slots=True)
class Input:
    """Vectors of one feature set and modality.

    Attributes:
        alias: its name in the table, and the prefix of its columns.
        aggregation: how several rows become one: a pooler of groups, ``mean``; None where there is one.
        steps: what it goes through before the fuser, ``("l2", "pca(64)")``.
        max_samples: of one row of the table at most, spread evenly over their order; None: the recipe's.
        order_by: what they are in order of; None: the recipe's.
        per: whose rows are pooled; None: the recipe's entity. ``patient`` in a table of visits or samples gives every
            row of a patient the same vector.
    """

    alias: str
    ref: Ref
    modality: str | None = None
    aggregation: str | None = None
    steps: tuple[str, ...] = ()
    max_samples: int | None = None
    order_by: str | None = None
    per: Entity | None = None

    def __str__(self) -> str:
        modality = f"/{self.modality}" if self.modality else ""
        return f"{self.alias}={self.ref}{modality}" + (f":{self.aggregation}" if self.aggregation else "")


@dataclass(frozen=True, slots=True)
class TabularInput:
    """A tabular data set and the columns of it that are fused.

    Attributes:
        encode: the step that makes numbers of the categorical columns.
        steps: what its numbers go through before the fuser, the encoded ones among them.
        time: a column of a dated table: of a patient's rows, the latest at or before the row's own time
            (:attr:`Recipe.as_of`) counts.
        within: how old that may be: ``90d``, ``12h``, ``4w``.
    """

    name: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    encode: str = "onehot"
    steps: tuple[str, ...] = ()
    time: str | None = None
    within: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return (*self.numeric, *self.categorical)

    @property
    def within_s(self) -> int | None:
        """``within`` in seconds."""
        match = _SPAN.fullmatch(self.within or "")
        return int(match["number"]) * {"h": 3600, "d": 86400, "w": 604800}[match["unit"]] if match else None


@dataclass(frozen=True, slots=True)
class Label:
    """What a table's rows are labelled with.

    Attributes:
        column: ``label`` for the patients' own, or ``TABLE.COLUMN``; None where there is none, or it is survival.
        kind: ``classes``, ``number`` or ``survival``; None: a number where the labels are floats, else classes.
        time, event: of survival, ``TABLE.COLUMN`` each: how long, and whether it happened (1) or was censored (0).
    """

    column: str | None = "label"
    kind: LabelKind | None = None
    time: str | None = None
    event: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(c for c in (self.column, self.time, self.event) if c is not None)

    def __str__(self) -> str:
        return ", ".join(self.columns) or "none"


@dataclass(frozen=True, slots=True)
class Output:
    """Where a table is exported to: not part of what it is.

    Attributes:
        file: the ending picks the exporter.
        wide: one column a feature.
    """

    file: str
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training table.

    Attributes:
        entity: what a row is.
        scheme: the split scheme, or None for a table without splits, where nothing can be learned. One of k folds makes
            one fitted object and one file of data a fold.
        where: a condition on the view ``samples``.
        join: ``inner`` keeps rows with every input, ``left`` those with the first, ``outer`` those with any.
        min_modalities: instead of ``join``: rows with at least so many of the inputs (of vectors).
        missing: ``none`` leaves NaN; else how ``impute`` fills: ``mean``, ``median``, ``zero``, ``knn``, ``knn(5)``.
            ``has_`` columns say where, always.
        fuser: makes one vector of the inputs: ``concat``, ``kronecker(8)``.
        steps: what the fused vector goes through, in order: ``standardize``, ``pca(32)``.
        as_of: the time of a row, for dated tables: ``acquired_at``, its earliest sample's, or ``TABLE.COLUMN``.
        max_samples: of one input and row at most, spread evenly over their order; None: all.
        order_by: what a row's samples are in order of, before they are pooled: ``acquired_at``, or one of their
            attributes; None: the natural order of their keys.
        near_duplicates: a cosine above which vectors of two patients in two splits are refused; None: not looked at.
        allow: a kind of leak that is known and wanted → why.
    """

    name: str
    inputs: tuple[Input, ...]
    tables: tuple[TabularInput, ...] = ()
    entity: Entity = "patient"
    label: Label = Label()
    scheme: str | None = None
    where: str | None = None
    join: Join = "inner"
    min_modalities: int | None = None
    fuser: str = "concat"
    missing: str = "none"
    steps: tuple[str, ...] = ()
    as_of: str | None = None
    max_samples: int | None = None
    order_by: str | None = None
    near_duplicates: float | None = None
    allow: Mapping[str, str] = field(default_factory=dict)
    output: Output | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_name(self.name, "training table")
        if not self.inputs:
            raise UsageError("A training table needs at least one input.", hint="--input FEATURES:mean")
        one_of("entity", self.entity, get_args(Entity))
        one_of("join", self.join, get_args(Join))
        for kind, reason in self.allow.items():
            one_of("allow", kind, LEAKS)
            if not reason.strip():
                raise UsageError(f"allow {kind} needs a reason: it is kept with the table.", hint=f"{kind}=WHY")
        one_of("missing", self.missing.partition("(")[0].strip(), MISSING)
        encoders = (t.encode for t in self.tables)
        for what in (self.fuser, self.missing, *encoders, *self.steps, *(s for part in self.parts for s in part.steps)):
            parse_words(what)
        if self.min_modalities is not None and not 1 <= self.min_modalities <= len(self.inputs):
            raise UsageError(f"min_modalities must be 1 to {len(self.inputs)}, the inputs, not {self.min_modalities}.")
        if self.min_modalities is not None and self.join != "inner":
            raise UsageError("join and min_modalities both say which rows are kept; give one of them.")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise UsageError(f"near_duplicates is a cosine above 0 and at most 1, not {self.near_duplicates:g}.")
        for item in self.inputs:
            if item.per is not None:
                one_of(f"{item.alias}: per", item.per, get_args(Entity))
        for most in (self.max_samples, *(i.max_samples for i in self.inputs)):
            if most is not None and most < 1:
                raise UsageError(f"max_samples must be at least 1, not {most}.")
        self._check_label()
        self._check_times()
        self._check_columns()

    @property
    def parts(self) -> tuple[Input | TabularInput, ...]:
        return (*self.inputs, *self.tables)

    @property
    def every_input(self) -> bool:
        """Whether only rows are kept that have every input."""
        return self.join == "inner" and self.min_modalities is None

    def require_scheme(self, what_learns: str) -> None:
        """Raise :class:`UsageError` where nothing says which rows are train's."""
        if self.scheme is None:
            raise UsageError(
                f"{what_learns} from the train rows, and no --scheme says which they are.", hint="--scheme default"
            )

    def _check_label(self) -> None:
        label = self.label
        if label.kind is not None:
            one_of("label: kind", label.kind, get_args(LabelKind))
        survival = label.time is not None or label.event is not None
        if survival and (label.time is None or label.event is None or label.column is not None):
            raise UsageError("A label of survival is a time and an event, TABLE.COLUMN each, and nothing else.")
        if survival != (label.kind == "survival"):
            raise UsageError("A label is of survival where it has a time and an event.", hint="kind: survival")
        labels = {c.lower(): c for c in label.columns}
        for t in self.tables:
            for column in t.columns:
                if column.lower() == "label":
                    what = f"The column {column!r} of {t.name!r}"
                elif f"{t.name}.{column}".lower() in labels:
                    what = labels[f"{t.name}.{column}".lower()]
                else:
                    continue
                raise LeakageError(
                    f"{what} is the label and an input at once: a model would be given the answer.",
                    hint=f"take {column} out of --numeric and --categorical",
                )

    def _check_times(self) -> None:
        dated = [t for t in self.tables if t.time is not None]
        for table in self.tables:
            if table.within is not None and (table.time is None or table.within_s is None):
                raise UsageError(
                    f"{table.name}: within {table.within!r} isn't a span (90d, 12h, 4w) of a table with a time."
                )
        if bool(dated) != (self.as_of is not None):
            raise UsageError(
                "as_of is the time of a row, and a table's time is that of its own rows: one needs the other.",
                hint="--as-of acquired_at --table labs --time drawn_at",
            )

    def _check_columns(self) -> None:
        aliases = [i.alias for i in self.inputs]
        columns = [c for t in self.tables for c in t.columns]
        names = [*aliases, *columns, *(t.name for t in self.tables)]
        # Every column may get a mask beside it, so its name is taken too.
        lower = [c.lower() for c in (*RESERVED, *names, *(f"has_{name}" for name in names))]
        twice = [c for c in dict.fromkeys(names) if lower.count(c.lower()) > 1]
        if twice:
            apart = "give each column once, and a table another name than its columns"
            hint = "name inputs apart: --input other=…" if set(twice) & set(aliases) else apart
            raise UsageError(f"Two columns of the table would be called {', '.join(map(repr, twice))}.", hint=hint)

    def to_json(self) -> dict[str, Any]:
        """As plain data, what :func:`featstore.tables.recipe_file.from_json` takes; what is as it always is left out.

        ``output`` is not in it: where a copy went doesn't make a table another one.
        """
        plain: dict[str, Any] = {"name": self.name, "entity": self.entity, "label": _label(self.label)}
        plain |= {"scheme": self.scheme, "where": self.where}
        plain |= {"min_modalities": self.min_modalities} if self.min_modalities else {"join": self.join}
        plain["inputs"] = [_input(item) for item in self.inputs]
        plain["tables"] = [
            _lean(t, name=t.name, encode=None if t.encode == "onehot" else t.encode) for t in self.tables
        ]
        plain |= {"missing": self.missing, "fuser": self.fuser, "steps": list(self.steps)}
        rest = {
            "as_of": self.as_of, "max_samples": self.max_samples, "order_by": self.order_by,
            "near_duplicates": self.near_duplicates, "allow": dict(self.allow),
        }  # fmt: skip
        return plain | {key: value for key, value in rest.items() if value}


def one_of(what: str, value: str, known: tuple[str, ...]) -> None:
    """Raise :class:`UsageError` where a value isn't one of those known."""
    if value not in known:
        raise UsageError(f"{what} {value!r} isn't one of {', '.join(known)}.{did_you_mean(value, known)}")


def _input(item: Input) -> Any:
    """As a line of the ``--input`` grammar, or as a mapping where that can't say all."""
    if re.search("[/:]", item.modality or ""):
        return {"features": str(item.ref), **_lean(item, ref=None)}
    rest = _lean(item, alias=None, ref=None, modality=None, aggregation=None)
    return {"input": str(item), **rest} if rest else str(item)


def _label(label: Label) -> Any:
    if label.kind == "survival":
        return {"time": label.time, "event": label.event}
    if label.kind is not None:
        return {"column": label.column, "kind": label.kind}
    return label.column or "none"


def _lean(item: Any, **instead: Any) -> dict[str, Any]:
    """A dataclass as a mapping, without what is empty."""
    values = {name: getattr(item, name) for name in item.__slots__} | instead
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if v not in (None, ())}
