"""The recipe of a training table: what a user asks for, checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from featstore.errors import LeakageError, UsageError, did_you_mean
from featstore.keys import InputRef, check_name

JOINS = ("inner", "left", "outer")
#: Columns that every table has; no input may be called so.
RESERVED = ("patient_id", "split", "label", "fused")


@dataclass(frozen=True, slots=True)
class TabularInput:
    """A tabular data set and the columns of it that are fused."""

    name: str
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """One training table.

    Attributes:
        label: ``label`` for the patients' own, ``TABLE.COLUMN``, or ``none`` for a table without labels.
        scheme: the split scheme, or None for a table without splits, where nothing can be learned.
        where: a condition on the view ``samples``.
        join: ``inner`` keeps patients with every input, ``left`` those with the first, ``outer`` those with any.
        impute: ``none`` leaves NaN, ``mean`` puts the train rows' mean; both keep a ``has_`` column.
        standardize: to zero mean and unit variance over the train rows, before PCA.
        pca: a number of components, or a share of the variance between 0 and 1.
    """

    name: str
    inputs: tuple[InputRef, ...]
    tables: tuple[TabularInput, ...] = ()
    label: str = "label"
    scheme: str | None = None
    where: str | None = None
    join: Literal["inner", "left", "outer"] = "inner"
    fuser: str = "concat"
    impute: Literal["none", "mean"] = "none"
    standardize: bool = False
    pca: float | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "training table")
        if not self.inputs:
            raise UsageError("A training table needs at least one --input.")
        for value, known, flag in ((self.join, JOINS, "--join"), (self.impute, ("none", "mean"), "--impute")):
            if value not in known:
                raise UsageError(f"{flag} {value!r} isn't one of {', '.join(known)}.{did_you_mean(value, known)}")
        if self.pca is not None and not (0 < self.pca < 1 or (self.pca >= 1 and float(self.pca).is_integer())):
            raise UsageError(
                f"--pca takes a whole number, or a share of the variance between 0 and 1, not {self.pca:g}."
            )
        self._check_leakage()
        self._check_columns()
        if self.standardize or self.pca or self.impute != "none" or self._categorical():
            self.require_scheme("Standardizing, PCA, imputing and one-hot encoding learn")

    def require_scheme(self, what_learns: str) -> None:
        """Raise :class:`UsageError` where nothing says which rows are train's."""
        if self.scheme is None:
            raise UsageError(
                f"{what_learns} from the train rows, and no --scheme says which they are.", hint="--scheme default"
            )

    def _categorical(self) -> bool:
        return any(table.categorical for table in self.tables)

    def _check_leakage(self) -> None:
        for t in self.tables:
            for column in (*t.numeric, *t.categorical):
                if column.lower() == "label":
                    what = f"The column {column!r} of {t.name!r}"
                elif f"{t.name}.{column}".lower() == self.label.lower():
                    what = self.label
                else:
                    continue
                raise LeakageError(
                    f"{what} is the label and an input at once: a model would be given the answer.",
                    hint=f"take {column} out of --numeric and --categorical",
                )

    def _check_columns(self) -> None:
        aliases = [i.alias for i in self.inputs]
        columns = [c for t in self.tables for c in (*t.numeric, *t.categorical)]
        names = [*aliases, *columns, *(t.name for t in self.tables)]
        # Every column may get a mask beside it, so its name is taken too.
        lower = [c.lower() for c in (*RESERVED, *names, *(f"has_{name}" for name in names))]
        twice = [c for c in dict.fromkeys(names) if lower.count(c.lower()) > 1]
        if twice:
            hint = "name inputs apart: --input other=…" if set(twice) & set(aliases) else "give each column once"
            raise UsageError(f"Two columns of the table would be called {', '.join(map(repr, twice))}.", hint=hint)

    def to_json(self) -> dict[str, Any]:
        """As plain data: what is stored, and written as ``recipe.yaml``."""
        return {
            "name": self.name,
            "inputs": [str(i) for i in self.inputs],
            "tables": [
                {"name": t.name, "numeric": list(t.numeric), "categorical": list(t.categorical)} for t in self.tables
            ],
            "label": self.label, "scheme": self.scheme, "where": self.where, "join": self.join, "fuser": self.fuser,
            "impute": self.impute, "standardize": self.standardize, "pca": self.pca,
        }  # fmt: skip

    @classmethod
    def from_flags(
        cls,
        name: str,
        inputs: Sequence[str],
        *,
        tables: Sequence[str] = (),
        numeric: Sequence[str] = (),
        categorical: Sequence[str] = (),
        known_columns: Mapping[str, Sequence[str]] | None = None,
        **rest: Any,
    ) -> Self:
        """A recipe from the CLI's words.

        Args:
            numeric, categorical: ``COLUMN``, or ``TABLE.COLUMN`` where several tables are given.
            known_columns: table → its columns, to find the table of a bare name.

        Raises:
            UsageError: a column that no table has, or that several have.
        """
        wanted: dict[str, dict[str, list[str]]] = {t: {"numeric": [], "categorical": []} for t in tables}
        for kind, columns in (("numeric", numeric), ("categorical", categorical)):
            for text in columns:
                owner, column = _resolve(text, tables, known_columns or {})
                wanted[owner][kind].append(column)
        chosen = tuple(TabularInput(t, tuple(w["numeric"]), tuple(w["categorical"])) for t, w in wanted.items())
        for table in chosen:
            if not (table.numeric or table.categorical):
                raise UsageError(
                    f"No column of the table {table.name!r} is asked for.",
                    hint="--numeric COLUMN or --categorical COLUMN",
                )
        return cls(name, tuple(InputRef.parse(text) for text in inputs), chosen, **rest)


def _resolve(text: str, tables: Sequence[str], known: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    for table in tables:  # names of tables and of columns may hold dots
        column = text.removeprefix(f"{table}.")
        if column != text and column in known.get(table, ()):
            return table, column
    owners = [t for t in tables if text in known.get(t, ())]
    if len(owners) == 1:
        return owners[0], text
    if owners:
        raise UsageError(f"The column {text!r} is in several tables.", hint=f"write {owners[0]}.{text}")
    if not tables:
        raise UsageError(f"--numeric and --categorical need a --table that has {text!r}.")
    columns = [c for t in tables for c in known.get(t, ())]
    raise UsageError(
        f"No given --table has a column {text!r}.{did_you_mean(text, columns)}",
        hint=f"columns: {', '.join(columns)}",
    )
