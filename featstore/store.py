"""The store: one folder that holds everything, and the verbs on it. The CLI does the same things, verb for verb."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import listings, sandbox
from featstore.catalog.connection import CONFIG, Catalog, first
from featstore.errors import ConflictError, CorruptError, NotFoundError, SetupError
from featstore.files import fsync, inside, write_atomic
from featstore.keys import Ref
from featstore.plugins import Plugins

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featstore.extract import ExtractRequest, ExtractResult, Progress
    from featstore.ingest import IngestResult, TabularResult
    from featstore.ingest.layout import LabelType
    from featstore.splits import SplitResult
    from featstore.tables import FeatureSetView, MaterializeResult, Recipe, TrainingTable

FORMAT = 1
CONFIG_NAME = "featstore.toml"
ENVIRONMENT = "FEATSTORE_STORE"


def find(path: str | os.PathLike[str] | None = None) -> Path:
    """The store's folder: ``path``, else ``$FEATSTORE_STORE``, else the nearest parent with a ``featstore.toml``.

    Raises:
        NotFoundError: none of these is a store.
    """
    given = path or os.environ.get(ENVIRONMENT)
    if given:
        folder = Path(given)
        if not (folder / CONFIG_NAME).is_file():
            why = "there is no such folder" if not folder.exists() else f"it has no {CONFIG_NAME}"
            raise NotFoundError(f"{folder} isn't a store: {why}.", hint=f"featstore init {folder}")
        return folder.resolve()
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / CONFIG_NAME).is_file():
            return folder
    raise NotFoundError(
        "No store was named, and no parent folder is one.",
        hint=f"featstore init ./store; export {ENVIRONMENT}=./store   (or --store ./store)",
    )


def _settings(file: Path) -> dict[str, Any]:
    """What a ``featstore.toml`` says, checked."""
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # not there, not text, not TOML
        raise CorruptError(f"{file} can't be read: {error}.", hint="restore it from a backup") from error
    if settings.get("format") != FORMAT:
        raise CorruptError(
            f"{file.parent} has the format {settings.get('format')!r}; this featstore reads {FORMAT}.",
            hint="pip install --upgrade featstore",
        )
    wait_s = settings.get("wait_s", 60)
    if isinstance(wait_s, bool) or not isinstance(wait_s, (int, float)) or not wait_s >= 0:
        raise CorruptError(f"{file} gives wait_s = {wait_s!r}.", hint="write a number of seconds, such as 60")
    return settings


def init(path: str | os.PathLike[str]) -> Store:
    """Make a new, empty store, readable by its owner only.

    Raises:
        ConflictError: there is something else already.
    """
    import duckdb

    from featstore.catalog import migrations

    folder = Path(path)
    if (folder / CONFIG_NAME).exists():
        raise ConflictError(f"{folder} is a store already.", hint=f"featstore status --store {folder}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConflictError(f"{folder} is not an empty folder.", hint="give a folder that isn't there yet")
    # Built aside and renamed, so that a store is whole or not there at all.
    aside = folder.absolute().with_name(f".tmp-{secrets.token_hex(4)}-{folder.absolute().name}")
    try:
        aside.mkdir(parents=True, mode=0o700)  # medical data: nobody else's business
        for name in ("features", "runs", "tables", "models"):
            (aside / name).mkdir()
        connection = duckdb.connect(str(aside / "catalog.duckdb"), config=CONFIG)
        try:
            migrations.apply(connection)
        finally:
            connection.close()
        fsync(aside / "catalog.duckdb")
        settings = f"# A featstore store. Its format's version:\nformat = {FORMAT}\n"
        write_atomic(aside / CONFIG_NAME, settings.encode())
        if folder.exists():  # empty, perhaps a mount point, which can't be replaced
            for part in sorted(aside.iterdir(), key=lambda part: part.name == CONFIG_NAME):
                shutil.move(part, folder / part.name)
            folder.chmod(0o700)
            fsync(folder)
        else:
            aside.replace(folder)
            fsync(folder.absolute().parent)
    except (OSError, duckdb.IOException) as error:
        raise SetupError(
            f"The store {folder} can't be made: {getattr(error, 'strerror', None) or error}.",
            hint="choose a folder that you may write to, on a disk with room",
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Store(folder)


def open(
    path: str | os.PathLike[str] | None = None, *, plugins: Sequence[str] = (), strict_plugins: bool = False
) -> Store:
    """Open a store; see :func:`find` for which one.

    Raises:
        NotFoundError: there is none. CorruptError: it is made by a newer featstore, or damaged.
    """
    return Store(find(path), plugins=plugins, strict_plugins=strict_plugins)


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
        settings = _settings(self.path / CONFIG_NAME)
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
        layouts: Sequence[str],
        dataset: str | None = None,
        patient_id: str | None = None,
        modality: str | None = None,
        same_patients_across_sites: bool = False,
    ) -> IngestResult:
        """Take the files of a folder tree that a layout matches; see :func:`featstore.ingest.add_samples`."""
        from featstore.ingest import Layout, add_samples, scan

        folder = Path(root)
        found = scan(folder, [Layout.parse(text) for text in layouts])
        self._absorb()
        return add_samples(
            self.path, self.catalog, self.plugins, found, root=folder, dataset=dataset or folder.resolve().name,
            patient_id=patient_id, modality=modality, same_patients_across_sites=same_patients_across_sites,
        )  # fmt: skip

    def ingest_manifest(
        self,
        manifest: str | os.PathLike[str],
        *,
        root: str | os.PathLike[str] | None = None,
        dataset: str | None = None,
        patient_id: str | None = None,
        label_type: LabelType | None = None,
        allow_missing: bool = False,
        same_patients_across_sites: bool = False,
    ) -> IngestResult:
        """Take the files that a CSV or Parquet lists; see :func:`featstore.ingest.read_manifest`."""
        from featstore.ingest import add_samples, read_manifest

        file = Path(manifest)
        base = Path(root) if root is not None else file.parent
        found = read_manifest(file, root=base, label_type=label_type, allow_missing=allow_missing)
        self._absorb()
        return add_samples(
            self.path, self.catalog, self.plugins, found, root=base, dataset=dataset or file.stem,
            patient_id=patient_id, same_patients_across_sites=same_patients_across_sites,
        )  # fmt: skip

    def ingest_table(self, file: str | os.PathLike[str], *, name: str, replace: bool = False) -> TabularResult:
        """Keep a table keyed by patient_id as ``name``; see :func:`featstore.ingest.add_table`."""
        from featstore.ingest import add_table

        self._absorb()
        return add_table(self.path, self.catalog, self.plugins, Path(file), name=name, replace=replace)

    def split(self, **arguments: Any) -> SplitResult:
        """Assign patients to splits; see :func:`featstore.splits.split_patients` for the arguments."""
        from featstore.splits import split_patients

        self._absorb()
        return split_patients(self.path, self.catalog, self.plugins, **arguments)

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
        self, run_id: str | None = None, *, on_progress: Callable[[Progress], None] | None = None
    ) -> list[ExtractResult]:
        """Try failed inputs again, with the settings that they failed with; see :func:`featstore.extract.retry`."""
        from featstore.extract import retry

        return retry(self.path, self.catalog, self.plugins, run_id, on_progress=on_progress)

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
        recipe: Recipe | None = None,
        *,
        out: str | os.PathLike[str] | None = None,
        wide: bool = False,
        **fields: Any,
    ) -> MaterializeResult:
        """Make a training table. Give a :class:`~featstore.tables.Recipe`, or the CLI's words as keywords:
        ``store.materialize(name="grade", inputs=["r18/A:mean"], scheme="default")``.
        """
        from featstore.tables import Recipe, materialize
        from featstore.tables.materialize import recipe_columns

        self._absorb()
        if recipe is None:
            known = recipe_columns(self.catalog, list(fields.get("tables", ())))
            recipe = Recipe.from_flags(known_columns=known, **fields)
        target = Path(out) if out is not None else None
        return materialize(self.path, self.catalog, self.plugins, recipe, out=target, wide=wide)

    def table(self, name: str) -> TrainingTable:
        """A training table, ``NAME`` or ``NAME@vK``."""
        from featstore.catalog import training_tables
        from featstore.tables import TrainingTable

        with self.catalog.read() as connection:
            row = training_tables.get(connection, Ref.parse(name))
        return TrainingTable(
            row["name"],
            row["version"],
            inside(self.path, row["path"]),
            row["recipe"],
            row["report"],
            row["created_at"],
            self.catalog,
        )

    # -------------------------------------------------------------------------------------- asking
    def features(self, name: str, *, scheme: str = "default") -> FeatureSetView:
        """The current vectors of a feature set, ``NAME`` or ``NAME@vK``, with the splits of one scheme."""
        from featstore.catalog import feature_sets

        with self.catalog.read() as connection:
            return self._features(connection, feature_sets.get(connection, Ref.parse(name)), scheme)

    def _features(self, connection: duckdb.DuckDBPyConnection, found: Any, scheme: str) -> FeatureSetView:
        from featstore.catalog import feature_sets, splits
        from featstore.tables import FeatureSetView

        exists = first(connection.execute("SELECT 1 FROM core.scheme WHERE lower(name) = lower(?)", [scheme]))
        if not exists and scheme != "default":
            splits.scheme_id(connection, scheme)  # raises, with a suggestion
        scheme_id = splits.scheme_id(connection, scheme) if exists else None
        rows = feature_sets.rows(connection, found.id, scheme_id)
        paths = feature_sets.segment_paths(connection, found.id)
        return FeatureSetView(found, rows, {id: inside(self.path, path) for id, path in paths.items()})

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
        import duckdb

        from featstore.catalog import migrations
        from featstore.catalog.connection import exclusive, retry_busy

        path = self.catalog.path
        with exclusive(path):
            connection = retry_busy(lambda: duckdb.connect(str(path), config=CONFIG), path, self.catalog.wait_s)
            try:
                todo = migrations.pending(connection)
                if todo:
                    connection.execute("CHECKPOINT")
                    copy = path.with_name(f"catalog-before-{todo[0].version:04}.duckdb")
                    # By another process: had this one opened the file beside DuckDB, closing it again would drop
                    # DuckDB's lock, as POSIX has it, and let others write in the middle of the migration.
                    script = "import shutil, sys; shutil.copy2(sys.argv[1], sys.argv[2])"
                    subprocess.run([sys.executable, "-c", script, path, copy], check=True)
                    fsync(copy)
                    migrations.apply(connection)
            finally:
                connection.close()
        return [f"{m.version:04} {m.name}" for m in todo]

    def _absorb(self) -> None:
        """Take in what killed extractions have finished: every writing verb begins with it."""
        from featstore.extract import absorb_dead_runs

        absorb_dead_runs(self.path, self.catalog)


__all__ = ["Store", "find", "init", "open"]
