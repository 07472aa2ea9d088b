"""Import: features that somebody extracted before come into the store, as a feature set of their own."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.arrays import group_attributes
from featstore.catalog import feature_sets, identity
from featstore.catalog import imports as catalog
from featstore.catalog import runs as catalog_runs
from featstore.catalog import samples as catalog_samples
from featstore.catalog.connection import Catalog, first, registered
from featstore.catalog.feature_sets import FeatureSet
from featstore.errors import ConflictError, FeatstoreError, SetupError
from featstore.files import inside
from featstore.imports import writing
from featstore.imports.columns import Columns, read_table
from featstore.imports.hashing import check_unchanged, hashes, stats_below
from featstore.imports.matching import Matched, match
from featstore.imports.opening import open_source
from featstore.imports.request import ImportRequest, ImportResult
from featstore.imports.samples import Planned, plan_samples
from featstore.imports.staging import Staging
from featstore.imports.vectors import Contents, Vectors, spill
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now
from featstore.spec import Json

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb
    import pyarrow as pa

_AGAIN = "run the same command again"


def import_features(store: Path, file: Catalog, plugins: Plugins, request: ImportRequest) -> ImportResult:
    """Take in vectors from a file or folder, for samples that are there or are made.

    The vectors are written as an extraction writes them; the catalog learns of them, of samples and of the run in one
    transaction. Killed before it, nothing is visible, and the same command does it anew.

    Raises:
        NotFoundError, InputError: the source or the index can't be read.
        UsageError, ConflictError: what is wrong and in which rows; the store is as it was.
        SetupError: the disk is full, or a library isn't here.
    """
    stats = stats_below([request.source, *([request.index] if request.index else [])])
    index = None if request.index is None else Columns.of(read_table(request.index), request.key)
    contents, index = open_source(request, index)
    matched = match(contents, index, request)
    return _Import(store, file, plugins, request, contents, matched, stats).run()


@dataclass(slots=True)
class _Target:
    """The feature set that the vectors are of, as the catalog has it: None where it is a new one or a new version."""

    found: FeatureSet | None
    config: dict[str, Json]
    others: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Import:
    store: Path
    file: Catalog
    plugins: Plugins
    request: ImportRequest
    contents: Contents
    matched: Matched
    stats: Mapping[Path, tuple[int, int]]
    started: Any = field(default_factory=utc_now)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.contents.vectors.shape

    @property
    def dtype(self) -> str:
        """What is stored: as it came, or float32 for float64."""
        own = {2: "float16"}.get(self.contents.vectors.dtype.itemsize, "float32")
        return self.request.dtype or own

    def run(self) -> ImportResult:
        with self.file.read() as connection:
            target = self._target(connection)
            planned = plan_samples(connection, self.matched, self.contents, self.request)
            held, segments, failing = self._held(connection, target, planned)
            self._compare(connection, planned)
        result = self._result(target)
        result.ignored = planned.ignored
        with ExitStack() as stack, _explained(self.request.source):
            run = RunFolder.create(self.store, "import")
            stack.enter_context(run.locked())
            staging = Staging(self.store, run, self.request.name)
            committing = False
            try:
                staging.begin()
                vectors = self._vectors(staging)
                done, still = self._known(vectors, planned, held, segments, failing)
                result.unchanged, result.failed_before = len(done), len(still)
                rows = self._write(vectors, staging, planned, done | still)
                digests = hashes(self._files(), self.request.source)
                check_unchanged(self._files(), self.stats, self.request.source)
                with self.file.write() as connection:
                    self._commit(connection, staging, target, planned, rows, digests, result)
                    # From here on only the catalog knows whether it happened; the next command asks it.
                    committing = result.run_id is not None
            except BaseException:
                if not committing:
                    with suppress(FeatstoreError):  # or the next command does it: the reason matters more
                        self._discard(staging)
                raise
            if committing:
                staging.end()
            else:
                self._discard(staging)
        return result

    def _discard(self, staging: Staging) -> None:
        with self.file.write() as connection:
            staging.discard(connection)

    # ------------------------------------------------------------------------------------------ before
    def _files(self) -> list[Path]:
        return [*self.contents.files, *([self.request.index] if self.request.index else [])]

    def _target(self, connection: duckdb.DuckDBPyConnection) -> _Target:
        config = self.request.config(self.shape, self.dtype)
        feature_sets.find(connection, self.request.name, "")  # raises where the name differs in case only
        found, counter, others = catalog.of_origin(connection, self.request.name, config)
        if found is not None and (self.request.new_version or counter > 1):
            number = counter + 1 if self.request.new_version else counter
            config[catalog.COUNTER] = number
        if self.request.new_version:
            return _Target(None, config, others + ([found.version] if found else []))
        return _Target(found, config, others)

    def _held(
        self, connection: duckdb.DuckDBPyConnection, target: _Target, planned: Planned
    ) -> tuple[pa.Table | None, dict[int, Path], set[int]]:
        """What the feature set has of these samples: vectors, the segments that hold them, failures."""
        import pyarrow as pa

        if target.found is None:
            return None, {}, set()
        held = catalog.held(connection, target.found.id, pa.table({"sample": list(planned.samples.values())}))
        paths = feature_sets.segment_paths(connection, target.found.id)
        segments = {id: inside(self.store, path) for id, path in paths.items()}
        return held, segments, catalog.failed(connection, target.found.id)

    def _compare(self, connection: duckdb.DuckDBPyConnection, planned: Planned) -> catalog_samples.Counts:
        checks = catalog_samples.Checks(same_patients_across_sites=self.request.same_patients_across_sites)
        return catalog_samples.compare(connection, planned.rows, planned.dataset, planned.root, checks)

    def _result(self, target: _Target) -> ImportResult:
        contents, matched = self.contents, self.matched
        return ImportResult(
            self.request.name, target.found.version if target.found else 0, key=matched.key, in_order=matched.in_order,
            shape=self.shape, dtype=self.dtype,
            source_dtype="text" if contents.text_values else contents.vectors.dtype.newbyteorder("=").name,
            other_versions=target.others, unmatched=contents.unmatched, coordinates=contents.coordinates,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ vectors
    def _vectors(self, staging: Staging) -> Vectors:
        vectors = self.contents.vectors
        return vectors if vectors.random else spill(vectors, staging.folder / "rows.bin")

    def _known(
        self, vectors: Vectors, planned: Planned, held: pa.Table | None, segments: Mapping[int, Path], failing: set[int]
    ) -> tuple[set[int], set[int]]:
        """The samples that need no row: those that have these vectors, and those that failed and still would."""
        if held is None:
            return set(), set()
        keys = planned.rows.column("sample_key").to_pylist()
        here = {planned.samples[key]: row for row, key in enumerate(keys) if key in planned.samples}
        places = {sample: planned.places[row] for sample, row in here.items()}
        names = {sample: keys[row] for sample, row in here.items()}
        done = writing.unchanged(vectors, places, names, held, segments, self.dtype)
        again = {sample: place for sample, place in places.items() if sample in failing and sample not in done}
        return done, writing.still_failing(vectors, again, self.dtype)

    def _write(self, vectors: Vectors, staging: Staging, planned: Planned, without: set[int]) -> pa.Table | None:
        """Write the segment of the samples that lack a vector; returns its rows, or None where there are none."""
        import pyarrow as pa

        keys = planned.rows.column("sample_key").to_pylist()
        pending = [row for row, key in enumerate(keys) if planned.samples.get(key) not in without]
        if not pending:
            return None
        names = [keys[row] for row in pending]
        places = np.array([planned.places[row] for row in pending], np.int64)
        layout = writing.layout_of(staging.group, staging.run.run_id, len(pending), self.shape, self.dtype)
        failed = writing.write_segment(layout, names, vectors, places)
        why = [failed.get(row) for row in range(len(pending))]
        return pa.table(
            {
                "sample_key": names,
                "row": pa.array(range(len(pending)), pa.int64()),
                "source_row": pa.array(places),
                "error": pa.array([w.error if w else None for w in why], pa.string()),
                "message": pa.array([w.message if w else None for w in why], pa.string()),
            }
        )

    # ------------------------------------------------------------------------------------------- commit
    def _commit(
        self,
        connection: duckdb.DuckDBPyConnection,
        staging: Staging,
        target: _Target,
        planned: Planned,
        rows: pa.Table | None,
        digests: dict[str, Any],
        result: ImportResult,
    ) -> None:
        """Put everything into the catalog, inside the caller's transaction, unless there is nothing new."""
        self._require_same(connection, target, planned, rows)
        counts = self._compare(connection, planned)
        with registered(connection, incoming=planned.rows):
            patients = "SELECT patient_id FROM incoming"
            if planned.made:
                result.lookalikes = identity.lookalikes(connection, patients)
                found = identity.known_elsewhere(connection, patients, planned.dataset)
                result.known_elsewhere, result.known_such_as = found
        if rows is None and not counts.anything:
            return
        run, now = staging.run, utc_now()
        result.samples_added, result.patients_added = counts.added, counts.patients_added
        request = self.request.to_json() | digests
        facts = finished("import", self.started, request, self.plugins)
        if counts.anything:
            run.save_rows("samples", planned.rows)
            catalog_samples.apply(connection, planned.rows, run.run_id, facts, counts)
            row = first(connection.execute("SELECT id FROM core.run WHERE run_id = ?", [run.run_id]))
            assert row
            id = int(row[0])
        else:
            id = catalog_runs.add_run(connection, run.run_id, facts)
        if rows is not None:
            run.save_rows("vectors", rows)
            feature_set = target.found or self._add_set(connection, target.config, id)
            result.version = feature_set.version
            layout = writing.layout_of(staging.group, run.run_id, rows.num_rows, self.shape, self.dtype)
            path = staging.path(feature_set.version)
            segment = feature_sets.add_segment(connection, feature_set.id, id, path, rows.num_rows, layout.chunk_rows)
            state = _array([digests["sha256"]] * rows.num_rows)
            catalog.add_vectors(connection, id, feature_set.id, segment, rows.append_column("file_state", state), now)
            result.added = rows.column("error").null_count
            result.failed = rows.num_rows - result.added
            facts["segment"] = {
                "name": feature_set.name, "version": feature_set.version, "fingerprint": feature_set.fingerprint,
                "path": path, "chunk_rows": layout.chunk_rows,
            }  # fmt: skip
            about = group_attributes(feature_set.name, feature_set.version, feature_set.fingerprint, target.config)
            staging.place(feature_set.version, about)
        run.record(**facts)
        result.run_id = run.run_id

    def _require_same(
        self, connection: duckdb.DuckDBPyConnection, target: _Target, planned: Planned, rows: pa.Table | None
    ) -> None:
        """Raise where another process has changed since what this import was planned by."""
        import pyarrow as pa

        now = self._target(connection)
        found = catalog.known(connection, planned.rows.select(["sample_key"]))
        contents = dict(zip(*(found.column(name).to_pylist() for name in ("sample_key", "content")), strict=True))
        same = (now.found, now.config) == (target.found, target.config) and contents == planned.contents
        if same and rows is not None and target.found is not None:
            written = [planned.samples[key] for key in rows.column("sample_key").to_pylist() if key in planned.samples]
            held = catalog.held(connection, target.found.id, pa.table({"sample": pa.array(written, pa.int64())}))
            same = not any(held.column("current").to_pylist())
        if not same:
            raise ConflictError("The store was changed by another process while the vectors were read.", hint=_AGAIN)

    def _add_set(self, connection: duckdb.DuckDBPyConnection, config: dict[str, Json], run: int) -> FeatureSet:
        fingerprint = feature_sets.fingerprint(config)
        return feature_sets.add(connection, self.request.name, fingerprint, config, self.shape, run, utc_now())


def _array(values: list[str]) -> pa.Array:
    import pyarrow as pa

    return pa.array(values, pa.string())


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"{source} can't be imported: {error.strerror or error}.", hint="is there room on the store's disk?"
        ) from error
