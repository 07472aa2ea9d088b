"""Lineage: from a training table to its feature sets, their runs and models, and the samples behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import exported, feature_sets, training_tables
from featstore.catalog import lineage as queries
from featstore.catalog.connection import Catalog
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.files import inside
from featstore.keys import Ref
from featstore.tables.data import POINTERS
from featstore.tables.made_of import kept_pointers

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_KINDS = {"features": "feature set", "tables": "training table"}
#: What a run's provenance says of the machine and the code.
_HOST = ("device", "threads", "seed", "git", "python", "platform", "cpus", "packages", "plugins", "argv")


def lineage(store: Path, catalog: Catalog, name: str, *, samples: bool = True) -> dict[str, Any]:
    """Where a training table is from, or a feature set: everything that the catalog and the table's folder know.

    Args:
        name: ``NAME`` or ``NAME@vK``, of a table, else of a feature set; ``tables/NAME`` or ``features/NAME`` says
            which.
        samples: with ``sample_keys``, of every input.

    Returns:
        plain data, as JSON has it. ``kind``, ``name``, ``version``; of a table also its ``run``, ``inputs`` (each with
        ``encoder``, ``runs``, ``samples`` by data set and modality), ``tables``, ``scheme``, ``label``, ``fits``,
        ``allowed``, ``stale``, ``recipe``; of a feature set ``encoder``, ``runs``, ``samples`` and the ``tables`` that
        use it. Where ``exact`` is false, the version was made by a featstore that didn't keep which samples went into
        it: those that have a vector now are counted.

    Raises:
        UsageError: no such form of a name. NotFoundError: no such table, feature set or version, with a suggestion.
        CorruptError: the table's record of its samples can't be read.
    """
    with catalog.read() as connection:
        kind, ref = _resolve(connection, name)
        if kind == "feature set":
            return _feature_set(connection, ref, samples)
        row = training_tables.get(connection, ref)
        inputs = training_tables.inputs(connection, row["name"], row["version"])
        known = queries.version(connection, row["name"], row["version"])
        found = describe(connection, inputs, known["scheme"])
        run = run_facts(queries.runs(connection, [known["run"]])[known["run"]])
        folder = inside(store, row["path"])
        pointers = kept_pointers(folder) if (folder / POINTERS).exists() else None
        if pointers is not None:
            counts, by_run = queries.samples_of(connection, pointers)
        for item, entry in zip([i for i in inputs if i.feature_set is not None], found["inputs"], strict=True):
            assert item.feature_set is not None
            entry["exact"] = pointers is not None
            if pointers is None:
                entry["samples"], made = queries.current_samples(connection, item.feature_set, item.modality)
            else:
                entry["samples"], made = counts.get(item.alias, []), by_run.get(item.alias, {})
            for id, facts in zip(item.runs, entry["runs"], strict=True):
                facts["samples"] = made.get(id, 0)
    if samples and pointers is not None:
        _add_keys(found["inputs"], pointers)
    return {
        "kind": kind,
        **{key: row[key] for key in ("name", "version", "entity", "folds", "rows", "label", "path", "data_hash")},
        "width": row["report"].get("width"),
        "created_at": _plain(row["created_at"]),
        "stale": row["stale"],
        "run": run,
        **found,
        "fits": known["fits"],
        "allowed": known["allowed"],
        "recipe": row["recipe"],
    }


def describe(
    connection: duckdb.DuckDBPyConnection, inputs: Sequence[training_tables.Input], scheme: int | None
) -> dict[str, Any]:
    """The ``inputs``, ``tables`` and ``scheme`` of a lineage, also of a table that isn't in the catalog yet."""
    made = queries.runs(connection, [run for item in inputs for run in item.runs])
    vectors, tables = [], []
    for item in inputs:
        runs = [run_facts(made[run]) for run in item.runs if run in made]
        if item.feature_set is not None:
            entry = {"alias": item.alias, "modality": item.modality, "aggregation": item.aggregation}
            vectors.append(entry | {"encoder": _encoder(connection, item.feature_set), "runs": runs})
        else:
            now = queries.tabular_run(connection, str(item.tabular))
            tables.append({"name": item.tabular, "runs": runs, "taken_in_anew": now not in item.runs})
    splits = None
    if scheme is not None:
        splits = queries.scheme(connection, scheme)
        run = splits.pop("run")
        splits["run"] = run_facts(queries.runs(connection, [run])[run])
    return {"inputs": vectors, "tables": tables, "scheme": splits}


def planned(
    connection: duckdb.DuckDBPyConnection,
    inputs: Sequence[training_tables.Input],
    scheme: int | None,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The lineage of a version that is about to be added, for its data card.

    Args:
        scheme: surrogate id of the split scheme's version.
        facts: of the run that makes it, as :func:`featstore.runs.finished` gives them.
    """
    return describe(connection, inputs, scheme) | {"run": run_facts(facts)}


def run_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A run as a lineage tells it: what, when, from what code, with what packages; what isn't known is left out."""
    provenance = facts.get("provenance") or {}
    named = {key: facts.get(key) for key in ("run_id", "kind", "state", "started_at", "finished_at", "done", "failed")}
    told = named | {key: provenance.get(key) for key in _HOST} | {"request": facts.get("request")}
    return {key: _plain(value) for key, value in told.items() if value is not None}


def _resolve(connection: duckdb.DuckDBPyConnection, text: str) -> tuple[str, Ref]:
    word, mark, rest = text.rpartition("/")
    if mark and word not in _KINDS:
        raise UsageError(f"{text!r} isn't NAME, NAME@vK, features/NAME or tables/NAME.")
    ref = Ref.parse(rest)
    if mark:
        return _KINDS[word], ref
    kinds = exported.kinds(connection, ref.name)
    if not kinds:
        raise NotFoundError(
            f"There is no training table or feature set {ref.name!r}."
            f"{did_you_mean(ref.name, exported.names(connection))}",
            hint="featstore ls tables; featstore ls features",
        )
    return "training table" if "training table" in kinds else "feature set", ref


def _feature_set(connection: duckdb.DuckDBPyConnection, ref: Ref, samples: bool) -> dict[str, Any]:
    found = feature_sets.get(connection, ref)
    counts, made = queries.current_samples(connection, found.id)
    runs = queries.runs(connection, made)
    return {
        "kind": "feature set",
        "name": found.name,
        "version": found.version,
        "encoder": _encoder(connection, found.id),
        "runs": [run_facts(facts) | {"samples": made[id]} for id, facts in runs.items()],
        "samples": counts,
        **({"sample_keys": queries.sample_keys(connection, found.id)} if samples else {}),
        "tables": queries.tables_with(connection, found.id),
    }


def _encoder(connection: duckdb.DuckDBPyConnection, feature_set: int) -> dict[str, Any]:
    """What makes the vectors, with what the run that made the feature set was told of the weights."""
    facts = queries.encoder(connection, feature_set)
    id = facts.pop("run")
    request = queries.runs(connection, [id])[id]["request"]
    told = {key: request.get(key) for key in ("pretrained", "checkpoint", "settings", "seed", "source")}
    config = facts.pop("config")
    return {
        "feature_set": f"{facts['name']}@v{facts['version']}",
        **{key: _plain(value) for key, value in facts.items() if value is not None},
        "imported": bool(config.get("imported")),
        "preprocessing": config.get("preprocessing", {}),
        "model": {key: value for key, value in told.items() if value not in (None, {})},
        "config": config,
    }


def _add_keys(inputs: list[dict[str, Any]], pointers: pa.Table) -> None:
    """Say which samples: each once, in the order of the table's rows."""
    import pyarrow.compute as pc

    for entry in inputs:
        own = pointers.filter(pc.equal(pointers.column("alias"), entry["alias"]))
        entry["sample_keys"] = own.column("sample_key").unique().to_pylist()


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
