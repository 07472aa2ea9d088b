"""The store: one folder that holds everything, and the verbs on it. The CLI does the same things, verb for verb."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore import folder
from featstore.catalog import listings, sandbox
from featstore.catalog.connection import Catalog
from featstore.files import inside
from featstore.keys import Ref
from featstore.plugins import Plugins

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featstore.extract import ExtractRequest, ExtractResult, Progress
    from featstore.imports import ImportResult
    from featstore.ingest import IngestResult, TabularResult
    from featstore.ingest.layout import LabelType
    from featstore.ingest.trained import TrainedOnResult
    from featstore.learn import ProbeResult
    from featstore.splits import SplitResult
    from featstore.tables import ExportResult, FeatureSetView, MaterializeResult, Recipe, TrainingTable
    from featstore.tables.diff import TableDiff
    from featstore.tables.leaks import LeakReport


def init(path: str | os.PathLike[str]) -> Store:
    """Make a new, empty store, readable by its owner only.

    Raises:
        ConflictError: there is something else already. SetupError: it can't be made there.
    """
    folder.make(Path(path))
    return Store(path)


def open(
    path: str | os.PathLike[str] | None = None, *, plugins: Sequence[str] = (), strict_plugins: bool = False
) -> Store:
    """Open a store; see :func:`featstore.folder.find` for which one.

    Raises:
        NotFoundError: there is none. CorruptError: it is made by a newer featstore, or damaged.
    """
    return Store(folder.find(path), plugins=plugins, strict_plugins=strict_plugins)


class Store:
    """One store. Nothing stays open between calls: any number of processes may use it at once.

    Args:
        path: its folder.
        plugins: plugin files or modules beside the installed ones.
        strict_plugins: raise for a broken plugin instead of listing it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, plugins: Sequence[str] = (), strict_plugins: bool = False
    ) -> None:
        self.path = Path(path).resolve()
        self._plugin_paths, self._strict = tuple(plugins), strict_plugins
        self._plugins: Plugins | None = None
        settings = folder.settings(self.path)
        self.catalog = Catalog(self.path / "catalog.duckdb", wait_s=float(settings.get("wait_s", 60)))

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    @property
    def plugins(self) -> Plugins:
        """The plugins, found on first use."""
        if self._plugins is None:
            self._plugins = Plugins.load(self._plugin_paths, strict=self._strict)
        return self._plugins

    # --------------------------------------------------------------------------------------- coming in
    def ingest(
        self,
        root: str | os.PathLike[str],
        *,
        layouts: Sequence[str] = (),
        expand: Sequence[str] = (),
        mask_layout: str | None = None,
        dataset: str | None = None,
        patient_id: str | None = None,
        modality: str | None = None,
        label_type: LabelType | None = None,
        same_patients_across_sites: bool = False,
    ) -> IngestResult:
        """Take the files of a folder tree, or behind a URL, that a layout matches, or one file with its parts; see
        :func:`featstore.ingest.find` and :func:`featstore.ingest.add_samples`.
        """
        from featstore.ingest import add_samples, find

        base, name, found = find(os.fspath(root), layouts, expand, mask_layout, self.plugins)
        self._absorb()
        return add_samples(
            self.path, self.catalog, self.plugins, found, root=base, dataset=dataset or name, patient_id=patient_id,
            modality=modality, label_type=label_type, same_patients_across_sites=same_patients_across_sites,
        )  # fmt: skip

    def ingest_manifest(
        self,
        manifest: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        expand: Sequence[str] = (),
        dataset: str | None = None,
        patient_id: str | None = None,
        label_type: LabelType | None = None,
        allow_missing: bool = False,
        same_patients_across_sites: bool = False,
    ) -> IngestResult:
        """Take the files that a CSV or Parquet lists; see :func:`featstore.ingest.read_manifest`."""
        from featstore.ingest import add_samples, expand_all, parse_settings, read_manifest

        file = Path(manifest)
        base = os.fspath(root) if root is not None else str(file.absolute().parent)
        found = read_manifest(file, root=base, label_type=label_type, allow_missing=allow_missing)
        found = expand_all(found, base, self.plugins, parse_settings(expand))
        self._absorb()
        return add_samples(
            self.path, self.catalog, self.plugins, found, root=base, dataset=dataset or file.stem,
            patient_id=patient_id, same_patients_across_sites=same_patients_across_sites,
        )  # fmt: skip

    def ingest_table(
        self, file: str | os.PathLike[str], *, name: str, time: str | None = None, replace: bool = False
    ) -> TabularResult:
        """Keep a table keyed by patient_id as ``name``; see :func:`featstore.ingest.add_table`."""
        from featstore.ingest import add_table

        self._absorb()
        return add_table(self.path, self.catalog, self.plugins, Path(file), name=name, time=time, replace=replace)

    def import_features(
        self,
        source: str | os.PathLike[str],
        *,
        name: str,
        index: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> ImportResult:
        """Take in vectors that were extracted before; see :class:`featstore.imports.ImportRequest` for the options."""
        from featstore.imports import ImportRequest, import_features

        request = ImportRequest(Path(source), name, None if index is None else Path(index), **options)
        self._absorb()
        return import_features(self.path, self.catalog, self.plugins, request)

    def split(self, **arguments: Any) -> SplitResult:
        """Assign patients to splits; see :func:`featstore.splits.split_patients` for the arguments."""
        from featstore.splits import split_patients

        self._absorb()
        return split_patients(self.path, self.catalog, self.plugins, **arguments)

    def trained_on(self, features: str, **options: Any) -> TrainedOnResult:
        """Say whom the weights of a feature set were trained on; see :func:`featstore.ingest.trained.trained_on`."""
        from featstore.ingest.trained import trained_on

        self._absorb()
        return trained_on(self.path, self.catalog, self.plugins, features, **options)

    # -------------------------------------------------------------------------------------- extraction
    def extract(
        self,
        request: ExtractRequest | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        **fields: Any,
    ) -> ExtractResult:
        """Make every pending vector. Give an :class:`~featstore.extract.ExtractRequest`, or its fields:
        ``store.extract(name="r18", backbone="timm:resnet18", poolers=("mean",))``.
        """
        from featstore.extract import ExtractRequest, extract

        self._absorb()
        if request is None:
            request = ExtractRequest(**fields)
        return extract(self.path, self.catalog, self.plugins, request, on_progress=on_progress)

    def retry(
        self,
        run_id: str | None = None,
        *,
        on_progress: Callable[[Progress], None] | None = None,
        trust_run: bool = False,
    ) -> list[ExtractResult]:
        """Try failed inputs again, with the settings that they failed with; see :func:`featstore.extract.retry`."""
        from featstore.extract import retry

        return retry(self.path, self.catalog, self.plugins, run_id, on_progress=on_progress, trust_run=trust_run)

    def errors(self, run_id: str | None = None, *, resolved: bool = False) -> pa.Table:
        """Failed inputs, each as it failed last, with how often it was tried.

        Args:
            resolved: also those that have been mended since.

        Raises:
            NotFoundError: no such run.
        """
        return listings.errors(self.catalog, run_id, resolved=resolved)

    # ---------------------------------------------------------------------------------- training tables
    def materialize(
        self,
        recipe: Recipe | str | os.PathLike[str] | None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        wide: bool = False,
        **fields: Any,
    ) -> MaterializeResult:
        """Make a training table. Give a :class:`~featstore.tables.Recipe`, a recipe's file, or the CLI's words as
        keywords: ``store.materialize(name="grade", inputs=["r18/A:mean"], scheme="default")``.
        """
        from featstore.tables import Recipe, materialize, recipe_file, recipe_flags
        from featstore.tables.materialize import recipe_columns

        self._absorb()
        if recipe is None:
            tables = fields.get("tables", ())
            known = recipe_columns(self.catalog, [tables] if isinstance(tables, str) else list(tables))
            recipe = recipe_flags.from_flags(known_columns=known, **recipe_flags.known_words(fields))
        elif not isinstance(recipe, Recipe):
            recipe = recipe_file.read(Path(recipe))
        if out is None and recipe.output is not None:
            out, wide = recipe.output.file, wide or recipe.output.wide
        target = Path(out) if out is not None else None
        return materialize(self.path, self.catalog, self.plugins, recipe, out=target, wide=wide)

    def probe(self, name: str, **options: Any) -> ProbeResult:
        """Train a small model on a table's train rows, and measure it on every split; see
        :func:`featstore.learn.probe` for the options.
        """
        from featstore.learn import probe

        self._absorb()
        return probe(self.path, self.catalog, self.plugins, self.table(name), **options)

    def diff(self, before: str, after: str | None = None) -> TableDiff:
        """What changed between two versions of a training table; one alone is compared with the version before it."""
        from featstore.tables.diff import diff, version_before

        if after is None:
            before, after = version_before(self.table(before)), before
        return diff(self.catalog, self.table(before), self.table(after))

    def leaks(self, name: str, **options: Any) -> LeakReport:
        """Look for what one split would learn of another; see :func:`featstore.tables.leaks.leaks` for the options."""
        from featstore.tables.leaks import leaks

        return leaks(self.path, self.catalog, name, **options)

    def table(self, name: str) -> TrainingTable:
        """A training table, ``NAME`` or ``NAME@vK``."""
        from featstore.catalog import training_tables
        from featstore.tables import TrainingTable

        with self.catalog.read() as connection:
            row = training_tables.get(connection, Ref.parse(name))
        return TrainingTable(
            row["name"], row["version"], inside(self.path, row["path"]), row["recipe"], row["report"],
            row["created_at"], row["entity"], row["folds"] or 0, row["stale"], self.path, self.catalog,
            self.plugins,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------- going out
    def export(
        self,
        *names: str,
        out: str | os.PathLike[str],
        format: str | None = None,
        split: str | None = None,
        scheme: str | None = None,
        modality: str | None = None,
        where: str | None = None,
        fold: int | None = None,
        layout: str | None = None,
        wide: bool = False,
    ) -> ExportResult:
        """Write the vectors of feature sets, or a training table, to a file or folder of yours; see
        :func:`featstore.tables.export.export`.
        """
        from featstore.tables import export
        from featstore.tables.export import Choice

        choice = Choice(split, fold, scheme, modality, where)
        return export(
            self.path, self.catalog, self.plugins, names, out=out, format=format, choice=choice, layout=layout,
            wide=wide,
        )  # fmt: skip

    # -------------------------------------------------------------------------------------- asking
    def features(self, name: str, *, scheme: str = "default") -> FeatureSetView:
        """The current vectors of a feature set, ``NAME`` or ``NAME@vK``, with the splits of one scheme."""
        from featstore.catalog import feature_sets

        with self.catalog.read() as connection:
            return self._features(connection, feature_sets.get(connection, Ref.parse(name)), scheme)

    def _features(self, connection: duckdb.DuckDBPyConnection, found: Any, scheme: str) -> FeatureSetView:
        from featstore.tables import FeatureSetView

        return FeatureSetView.of(self.path, connection, found, scheme)

    def sql(self, query: str) -> pa.Table:
        """Ask SQL about everything: the public views, your tables, and ``vectors."<feature set>"``.

        Returns:
            an Arrow table, which has ``.to_pandas()``.

        Raises:
            SqlError: not one SELECT or EXPLAIN, or DuckDB has something against it.
        """
        return sandbox.query(self.catalog, query, vectors=self._vectors)

    def _vectors(self, connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, pa.Table]:
        if "vectors" not in query.lower():
            return {}
        from featstore.catalog import feature_sets

        names = [
            str(r[0]) for r in connection.execute("SELECT DISTINCT name FROM core.feature_set ORDER BY 1").fetchall()
        ]
        versions = [
            str(r[0]) for r in connection.execute("SELECT name || '@v' || version FROM core.feature_set").fetchall()
        ]
        return {
            name: self._features(connection, feature_sets.get(connection, Ref.parse(name)), "default").to_arrow()
            for name in sandbox.mentioned(query, [*names, *versions])
        }

    def lineage(self, name: str, *, samples: bool = True) -> dict[str, Any]:
        """Where a training table or a feature set is from; see :func:`featstore.tables.lineage.lineage`."""
        from featstore.tables.lineage import lineage

        return lineage(self.path, self.catalog, name, samples=samples)

    def ls(self, noun: str) -> pa.Table:
        """List ``features``, ``runs``, ``tables``, ``samples`` or ``plugins``."""
        import pyarrow as pa

        if noun == "plugins":
            return pa.Table.from_pylist(self.plugins.describe())
        return listings.ls(self.catalog, noun)

    def show(self, name: str) -> dict[str, Any]:
        """Everything about one feature set, training table, run, tabular data set, split scheme or sample.

        Raises:
            NotFoundError: nothing is called so, with a suggestion.
        """
        return listings.show(self.catalog, name)

    def status(self) -> dict[str, Any]:
        """Counts of everything, unfinished runs and unresolved failures."""
        from featstore.extract.resume import liveness

        facts = {"store": str(self.path), **listings.status(self.catalog)}
        facts["unfinished"] = [run | liveness(self.path, run["run_id"]) for run in facts["unfinished"]]
        return facts

    # ---------------------------------------------------------------------------------------- upkeep
    def migrate(self) -> list[str]:
        """Bring the catalog to this featstore's migrations; returns those applied. A copy of the old one is kept."""
        from featstore.catalog.migrations import migrate

        return migrate(self.catalog)

    def _absorb(self) -> None:
        """Take in what killed extractions have finished, and away what killed imports have begun: every writing verb
        begins with it.
        """
        from featstore.extract import absorb_dead_runs
        from featstore.imports import sweep

        absorb_dead_runs(self.path, self.catalog)
        sweep(self.path, self.catalog)


__all__ = ["Store", "init", "open"]
