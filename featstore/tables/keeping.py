"""Keeping: what was made → one version of a table, on the disk and in the catalog, or neither."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import lineage as queries
from featstore.catalog import training_tables
from featstore.catalog.connection import Catalog
from featstore.files import fsync, inside, write_json
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished
from featstore.tables.card import card
from featstore.tables.data import CARD, DATA, POINTERS, ROWS, TableData, unless_same
from featstore.tables.lineage import planned
from featstore.tables.made_of import PLACES
from featstore.tables.mending import gaps, mend
from featstore.tables.placing import card_beside, exporting
from featstore.tables.recipe_file import from_json, to_yaml
from featstore.tables.writing import Made

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

log = logging.getLogger("featstore")


@dataclass(slots=True)
class MaterializeResult:
    """What a materialize did.

    Attributes:
        unchanged: the latest version has these very bytes by this very recipe, so no new one was made.
        report: the alignment report.
        out: the exported files, where some were asked for: one, or one a fold.
    """

    name: str
    version: int
    rows: int
    width: int
    path: Path
    unchanged: bool
    run_id: str | None
    report: dict[str, Any] = field(default_factory=dict)
    out: list[Path] = field(default_factory=list)


def keep(
    store: Path, catalog: Catalog, plugins: Plugins, made: Made, started: datetime, *, out: Path | None, wide: bool
) -> MaterializeResult:
    """Keep what was made as the next version, unless the latest is by this very recipe and has these very bytes.

    Of such a version, what is gone or damaged is put beside what isn't, and its runs become those of now. On any error
    the store and ``out`` are as they were.
    """
    targets = {fold: out.with_name(f"{out.stem}.{fold}{out.suffix}") if fold else out for fold in made.digests if out}
    facts = finished("materialize", started, made.recipe.to_json(), plugins)
    while True:
        with catalog.read() as connection:
            latest = _latest(connection, made)
            version = latest.version if latest else training_tables.next_version(connection, made.recipe.name)
            text = _card(store, connection, made, facts, latest, version)
        writes = {
            target: _exporter(plugins, made.folder / fold / DATA, target, wide, text)
            for fold, target in targets.items()
        }
        # What can't be exported is refused here, before anything is recorded.
        with exporting(writes) as exports:
            if latest:
                path, run_id = inside(store, latest.path), None
                exports.place()
                _renew(catalog, made, latest, path, text)
                break
            _complete(made, text)
            if kept := _record(store, catalog, made, facts, version, exports.place):
                path, run_id = kept
                break
        # Another process made that version meanwhile: perhaps this very one.
    return MaterializeResult(
        made.recipe.name, version, len(made.rows), made.width, path, run_id is None, run_id, made.report,
        list(targets.values()),
    )  # fmt: skip


def _card(
    store: Path,
    connection: duckdb.DuckDBPyConnection,
    made: Made,
    facts: dict[str, Any],
    latest: training_tables.Latest | None,
    version: int,
) -> str:
    """The data card; a version keeps its own, and a run that makes nothing new is no part of what it is from."""
    if latest:
        kept = inside(store, latest.path) / CARD
        if kept.is_file() and latest.runs == _runs(made):
            return kept.read_text("utf-8")
        facts = queries.runs(connection, [latest.run])[latest.run]
    origin = planned(connection, _inputs(made), made.scheme.id if made.scheme else None, facts)
    return card(made.recipe.to_json(), made.report, origin, made.recipe.name, version)


def _exporter(plugins: Plugins, data: Path, out: Path, wide: bool, text: str) -> Callable[[Path], None]:
    """Writes one fold's data, and the data card beside it."""
    exporter = unless_same(plugins, plugins.exporter(out), wide=wide)

    def export(path: Path) -> None:
        TableData(data).write(exporter, path, wide=wide)
        card_beside(path).write_text(text, encoding="utf-8")

    return export


def _latest(connection: duckdb.DuckDBPyConnection, made: Made) -> training_tables.Latest | None:
    """The table's latest version, if it is by the same recipe, of the same inputs, and equal."""
    latest = training_tables.latest(connection, made.recipe.name)
    if latest is None:
        return None
    inputs = [(s.alias, s.feature_set.id) for s in made.sets]
    scheme = made.scheme.id if made.scheme else None
    same = (latest.inputs, latest.scheme, latest.data_hash) == (inputs, scheme, made.digest)
    # Through a Recipe: what an older featstore wrote in other words is the same recipe.
    return latest if same and from_json(latest.recipe) == made.recipe else None


def _renew(catalog: Catalog, made: Made, latest: training_tables.Latest, path: Path, text: str) -> None:
    """Mend the equal version that is there: what of it is gone, damaged, or not yet of today."""
    runs, older = _runs(made), "fitted" not in latest.report
    # Places of rows and vectors are those in the runs that the catalog names.
    again = [ROWS, POINTERS, CARD] if runs != latest.runs else []
    missing = gaps(path, made.folder, made.digests, fitted=made.report["fitted"], older=older, again=again)
    if not missing and not again and not older:
        return
    _complete(made, text)
    with catalog.write() as connection:
        if again:
            training_tables.renew_runs(connection, latest.id, runs)
        if older:
            training_tables.complete(connection, latest.id, made.report, _fits(made))
        mend(path, made.folder, missing)


def _complete(made: Made, text: str) -> None:
    """Write what lies beside the data."""
    import pyarrow.parquet as pq

    folder, alignment = made.folder, made.alignment
    write_json(folder / "report.json", made.report)
    (folder / "recipe.yaml").write_text(to_yaml(made.recipe), encoding="utf-8")
    (folder / CARD).write_text(text, encoding="utf-8")
    pq.write_table(alignment.lost, folder / "lost.parquet", compression="zstd")
    # Which rows of tabular data sets went where, by their places: to make the table again from the very same rows.
    rows = alignment.rows
    for name, places in alignment.table_rows.items():
        rows = rows.append_column(f"{PLACES}{name}", places)
    pq.write_table(rows, folder / ROWS, compression="zstd")
    with pq.ParquetWriter(folder / POINTERS, _pointers(), compression="zstd") as writer:
        for rows in alignment.pointers.values():
            writer.write_table(rows.select(_pointers().names).cast(_pointers()))
    for file in folder.rglob("*"):
        fsync(file)


def _pointers() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([
        ("position", pa.int64()), ("alias", pa.string()), ("segment", pa.int64()), ("row", pa.int64()),
        ("sample_key", pa.string()),
    ])  # fmt: skip


def _record(
    store: Path, catalog: Catalog, made: Made, facts: dict[str, Any], version: int, place: Callable[[], None]
) -> tuple[Path, str] | None:
    """Move the finished folder into place and add its rows, in one transaction; returns path and run.

    Args:
        place: puts the exports in place.

    Returns:
        None where another process has made that version meanwhile.
    """
    recipe = made.recipe
    # The transaction is the outer one: an interrupt after the commit must not take the run's folder away again.
    with catalog.write() as connection, RunFolder.creating(store, "materialize") as create_run:
        if training_tables.next_version(connection, recipe.name) != version:
            return None
        path = store / "tables" / recipe.name / f"v{version}"
        row = training_tables.Row(
            recipe.name, version, str(recipe.label), made.scheme.id if made.scheme else None, len(made.rows),
            path.relative_to(store).as_posix(), made.digest, recipe.to_json(), made.report, recipe.entity,
            made.rows.folds or None,
        )  # fmt: skip
        run = create_run()
        training_tables.put(connection, row, _inputs(made), _fits(made), run.run_id, facts)
        run.record(**facts, table={"name": recipe.name, "version": version, "data_hash": made.digest})
        place()
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_aside(path, run.run_id)
        made.folder.rename(path)
        fsync(path.parent)
    return path, run.run_id


def _fits(made: Made) -> list[training_tables.Fit]:
    return [
        training_tables.Fit(fold, told["train_rows"], made.rows.train_hash(fold))
        for fold in made.digests
        if made.report["fitted"]
        for told in [made.report["folds"][fold] if fold else made.report]
    ]


def _runs(made: Made) -> list[list[int]]:
    return [item.runs for item in _inputs(made)]


def _inputs(made: Made) -> list[training_tables.Input]:
    """The vector inputs in the recipe's order, then the tables, the label's among them."""
    aligned, aggregation = made.alignment, {item.alias: item.aggregation for item in made.recipe.inputs}
    vectors = [
        training_tables.Input(
            s.alias, aligned.runs[s.alias], feature_set=s.feature_set.id,
            modality=str(made.report["inputs"][s.alias]["modality"]), aggregation=aggregation[s.alias],
        )
        for s in made.sets
    ]  # fmt: skip
    return vectors + [training_tables.Input(t, [run], tabular=t) for t, run in aligned.table_runs.items()]


def _put_aside(path: Path, run_id: str) -> None:
    """Rename what stands where a new version goes and the catalog doesn't know.

    A kill between rename and commit leaves such a folder; but a catalog restored from a backup is older than the tables
    beside it, and they are real. So nothing is deleted.
    """
    if path.exists():
        aside = path.with_name(f"{path.name}.orphan-{run_id}")
        path.rename(aside)
        log.warning("%s isn't in the catalog (was it restored from a backup?): kept as %s.", path, aside.name)
