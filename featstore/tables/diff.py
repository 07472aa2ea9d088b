"""What two versions of a training table, or two tables, don't share: recipe, inputs, rows, columns and values."""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from featstore.catalog import lineage as queries
from featstore.catalog import training_tables
from featstore.catalog.alignment import KEYS
from featstore.catalog.connection import Catalog
from featstore.errors import UsageError
from featstore.tables.data import DATA, ROWS
from featstore.tables.diff_data import ColumnDiff, compare, open_file
from featstore.tables.diff_rows import RowsDiff, compare_rows, keys_of
from featstore.tables.lineage import describe
from featstore.tables.made_of import altered, kept_rows
from featstore.tables.training import TrainingTable

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Columns that are told of with the rows.
_OF_ROWS = ("patient_id", "visit_id", "sample_key", "split", "label", "time", "event")
_ORDER = "inputs (their order)"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that changed. ``before`` or ``after`` is None where it wasn't there."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A column that is there in one version only, has another type or width, or stands elsewhere.

    Attributes:
        change: ``added``, ``removed``, ``retyped``, ``resized`` or ``moved``; the values of a column that is retyped or
            resized aren't compared.
        before, after: its type, its width, or its place among the columns that both have.
    """

    fold: str
    column: str
    change: str
    before: str | None
    after: str | None


@dataclass(slots=True)
class TableDiff:
    """What changed from one version of a table to another, or lies between two tables.

    Attributes:
        recipe: paths in the recipe, ``inputs.a.steps``; the name of the table apart.
        inputs: feature-set versions, modalities, aggregations and runs, of each input.
        scheme: the split scheme and its version.
        packages: versions of packages, of the runs that made the two: why values may differ all the same.
        rows: rows added and lost, and those in another split or with another label.
        columns, values: of the data, each fold against its own.
        not_compared: what wasn't, and why.
        same_bytes: the files of data are equal to the byte.
    """

    before: str
    after: str
    recipe: list[Change]
    inputs: list[Change]
    scheme: list[Change]
    packages: list[Change]
    rows: RowsDiff
    columns: list[ColumnChange] = field(default_factory=list)
    values: list[ColumnDiff] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    same_bytes: bool = False

    @property
    def same(self) -> bool:
        """Nothing differs but, perhaps, the packages that made them."""
        told = (self.recipe, self.inputs, self.scheme, self.columns, self.values, self.not_compared)
        return not any(told) and self.rows.same

    def to_json(self) -> dict[str, Any]:
        """Plain data: every key of every row that was added, lost or changed."""
        plain = {name: getattr(self, name) for name in ("before", "after", "same", "same_bytes")}
        for name in ("recipe", "inputs", "scheme", "packages", "columns", "values"):
            plain[name] = [asdict(item) for item in getattr(self, name)]
        return plain | {"rows": self.rows.to_json(), "not_compared": self.not_compared}


def diff(catalog: Catalog, a: TrainingTable, b: TrainingTable) -> TableDiff:
    """Compare two versions of a table, or two tables. Values are compared in bounded memory, by key.

    Raises:
        CorruptError: data can't be read, or have a key twice.
    """
    for table in (a, b):
        if (table.path / ROWS).exists():  # versions of before have their rows in their data alone
            kept_rows(table.path, table.entity)
    with catalog.read() as connection:
        one, other = (_facts(connection, table) for table in (a, b))
    found = TableDiff(
        str(a), str(b), _recipe(a.recipe, b.recipe), _changes(one["inputs"], other["inputs"]),
        _changes(one["scheme"], other["scheme"]), _changes(one["packages"], other["packages"]), compare_rows(a, b),
    )  # fmt: skip
    if a.entity != b.entity:
        found.not_compared.append(f"rows and values: a row is a {a.entity} in one and a {b.entity} in the other")
    common = [fold for fold in _folds(a) if fold in _folds(b)]
    if a.folds != b.folds:
        found.not_compared.append(f"the data of folds that the other hasn't: one has {a.folds}, the other {b.folds}")
    equal = [_compare_data(found, a, b, fold) for fold in common]
    found.same_bytes = a.folds == b.folds and all(equal)
    return found


def version_before(table: TrainingTable) -> str:
    """What :func:`diff` compares a version with, where nothing else is said: ``NAME@vK``.

    Raises:
        UsageError: it is the first.
    """
    if table.version == 1:
        raise UsageError(
            f"{table} is the first version, and nothing to compare it with is named.",
            hint=f"featstore diff {table} OTHER_TABLE",
        )
    return f"{table.name}@v{table.version - 1}"


def _facts(connection: duckdb.DuckDBPyConnection, table: TrainingTable) -> dict[str, dict[str, Any]]:
    """What a version is made of, each fact by a name of its own."""
    version = queries.version(connection, table.name, table.version)
    made_of = describe(connection, training_tables.inputs(connection, table.name, table.version), version["scheme"])
    inputs: dict[str, Any] = {}
    for entry in made_of["inputs"]:
        alias = entry["alias"]
        inputs[f"{alias}: feature set"] = entry["encoder"]["feature_set"]
        inputs[f"{alias}: modality"] = entry["modality"]
        inputs[f"{alias}: aggregation"] = entry["aggregation"]
        inputs[f"{alias}: runs"] = [run["run_id"] for run in entry["runs"]]
    for entry in made_of["tables"]:
        inputs[f"{entry['name']}: runs"] = [run["run_id"] for run in entry["runs"]]
    splits = made_of["scheme"]
    run = queries.runs(connection, [version["run"]])[version["run"]]
    return {
        "inputs": inputs,
        "scheme": {"scheme": f"{splits['name']}@v{splits['version']}"} if splits else {},
        "packages": run["provenance"].get("packages", {}),
    }


def _recipe(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What changed in a recipe; the order of its inputs where these are the same."""
    found = _changes(_flat(before), _flat(after))
    return [c for c in found if c.what != _ORDER or sorted(c.before) == sorted(c.after)]


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as path → value, without its name; inputs and tables by theirs."""
    flat: dict[str, Any] = {}

    def put(path: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                put(f"{path}.{key}", inner)
        else:
            flat[path] = value

    for key, value in recipe.items():
        if key == "inputs":
            entries = [item if isinstance(item, Mapping) else {"input": item} for item in value]
            for entry in entries:
                alias, _, rest = entry["input"].partition("=")
                put(f"inputs.{alias}", {**entry, "input": rest})
            flat[_ORDER] = [entry["input"].partition("=")[0] for entry in entries]
        elif key == "tables":
            for item in value:
                put(f"tables.{item['name']}", item)
        elif key != "name":
            put(key, value)
    return flat


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    names = dict.fromkeys((*before, *after))
    return [Change(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)]


def _folds(table: TrainingTable) -> list[str]:
    return [f"fold{n}" for n in range(table.folds)] or [""]


def _compare_data(found: TableDiff, a: TrainingTable, b: TrainingTable, fold: str) -> bool:
    """Compare columns and values of one fold; returns whether the files are equal to the byte."""
    paths = a.path / fold / DATA, b.path / fold / DATA
    with open_file(paths[0]) as first, open_file(paths[1]) as second:
        before, after = first.schema_arrow, second.schema_arrow
        for path, form, table in zip(paths, (before, after), (a, b), strict=True):
            if gone := [name for name in KEYS[table.entity] if name not in form.names]:
                raise altered(path, f"it has no column {gone[0]!r}")
        changes = list(_columns(before, after, fold))
        found.columns.extend(changes)
        if filecmp.cmp(*paths, shallow=False):
            return True
        if a.entity == b.entity:
            keys, places = keys_of(paths, a.entity)
            skipped = {c.column for c in changes if c.change in ("retyped", "resized")} | set(_OF_ROWS)
            names = [n for n in before.names if n in after.names and n not in skipped]
            compared = (compare((first, second), name, places, keys, fold) for name in names)
            found.values.extend(difference for difference in compared if difference is not None)
        return False


def _columns(before: pa.Schema, after: pa.Schema, fold: str) -> Iterator[ColumnChange]:
    import pyarrow as pa

    for name in dict.fromkeys((*before.names, *after.names)):
        types = [schema.field(name).type if name in schema.names else None for schema in (before, after)]
        told = [None if type_ is None else str(type_) for type_ in types]
        if types[0] is None or types[1] is None:
            yield ColumnChange(fold, name, "added" if types[0] is None else "removed", *told)
        elif types[0] != types[1]:
            vectors = all(pa.types.is_fixed_size_list(type_) for type_ in types)
            sizes = [str(getattr(type_, "list_size", "")) for type_ in types]
            yield ColumnChange(fold, name, "resized", *sizes) if vectors else ColumnChange(fold, name, "retyped", *told)
    common = [n for n in before.names if n in after.names], [n for n in after.names if n in before.names]
    for place, name in enumerate(common[0]):
        if common[1].index(name) != place:
            yield ColumnChange(fold, name, "moved", str(place), str(common[1].index(name)))
