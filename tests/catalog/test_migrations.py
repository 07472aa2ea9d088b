"""Migrations: in order, whole or not at all, and never edited afterwards. The views are a public interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import featstore
from featstore.catalog import migrations
from featstore.errors import MigrationError

#: The public views, column by column. Columns are only ever added.
VIEWS = {
    "allowed": ["table", "version", "kind", "reason", "found"],
    "coverage": ["patient_id", "modality", "feature_set", "version", "samples", "extracted"],
    "failures": [
        "run_id", "sample_key", "stage", "error", "message", "failed_at", "resolved", "patient_id", "modality", "uri",
    ],
    "feature_sets": [
        "name", "version", "backbone", "model_version", "layer", "facet", "pooler", "dim", "shape", "dtype", "vectors",
        "patients", "created_at", "fingerprint", "config", "run_id",
    ],
    "features": [
        "sample_key", "patient_id", "visit_id", "modality", "split", "site", "label", "feature_set", "version",
        "backbone", "model_version", "layer", "facet", "pooler", "dim", "shape", "dtype", "run_id", "segment", "row",
        "extracted_at",
    ],
    "lineage": [
        "table", "table_version", "alias", "feature_set", "feature_set_version", "tabular", "modality", "aggregation",
        "backbone", "model_version", "run_id",
    ],
    "metrics": [
        "table", "version", "split", "metric", "value", "logged_at", "model", "parameters", "fold", "low", "high",
        "run_id",
    ],
    "patients": ["patient_id", "split", "site", "label", "label_type", "modalities", "samples", "visits"],
    "runs": [
        "run_id", "kind", "state", "started_at", "finished_at", "seconds", "done", "failed", "request", "provenance",
    ],
    "samples": [
        "sample_key", "patient_id", "visit_id", "modality", "split", "site", "label", "acquired_at", "uri",
        "content_hash", "dataset", "attributes", "size", "mask_uri",
    ],
    "schemes": ["scheme", "version", "current", "patients", "splits", "recipe", "tables", "run_id"],
    "splits": ["scheme", "patient_id", "split"],
    "tables": [
        "name", "version", "label", "scheme", "scheme_version", "rows", "path", "data_hash", "created_at", "recipe",
        "report", "run_id", "entity", "folds", "stale",
    ],
    "trained_on": ["model_version", "patient_id", "run_id"],
}  # fmt: skip


@pytest.fixture
def memory() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(":memory:")
    yield connection
    connection.close()


def write(folder: Path, **files: str) -> list[migrations.Migration]:
    """Migrations of a folder: ``write(folder, _0001_a="CREATE …")``."""
    for name, sql in files.items():
        (folder / f"{name.removeprefix('_')}.sql").write_text(sql)
    return migrations.load(folder)


class TestOurs:
    def test_schema_sql_is_what_the_migrations_make(self) -> None:
        assert (migrations.folder() / "schema.sql").read_text() == migrations.schema_sql(), "run: make schema"

    def test_apply_on_empty_records_every_file(self, memory: duckdb.DuckDBPyConnection) -> None:
        done = migrations.apply(memory)
        assert [m.version for m in done] == list(range(1, len(done) + 1))
        assert migrations.applied(memory) == {m.version: m.checksum for m in migrations.load()}
        assert migrations.apply(memory) == []
        migrations.require_current(memory)

    def test_an_empty_catalog_is_not_current(self, memory: duckdb.DuckDBPyConnection) -> None:
        with pytest.raises(MigrationError, match=r"lacks \d+ migration.*\n  next: featstore migrate"):
            migrations.require_current(memory)

    def test_plain_duckdb_reads_every_view(self, store: featstore.Store) -> None:
        with duckdb.connect(str(store.path / "catalog.duckdb"), read_only=True) as connection:
            found = connection.execute(
                "SELECT view_name FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal ORDER BY 1"
            ).fetchall()
            assert [name for (name,) in found] == sorted(VIEWS)
            for name, columns in VIEWS.items():
                rows = connection.execute(f"SELECT * FROM {name}")
                assert [column[0] for column in rows.description] == columns, name
                assert rows.fetchall() == []


class TestLoad:
    def test_gaps_and_repeats(self, tmp_path: Path) -> None:
        with pytest.raises(MigrationError, match=r"numbered 1, 2, 3 …: found \[1, 3\]"):
            write(tmp_path, _0001_a="SELECT 1", _0003_c="SELECT 1")
        with pytest.raises(MigrationError, match=r"found \[1, 1, 3\]"):
            write(tmp_path, _0001_b="SELECT 1")

    @pytest.mark.parametrize("name", ["1_a", "0001-a", "0001_A", "0001"])
    def test_names(self, tmp_path: Path, name: str) -> None:
        (tmp_path / f"{name}.sql").write_text("SELECT 1")
        with pytest.raises(MigrationError, match=r"isn't named NNNN_name\.sql"):
            migrations.load(tmp_path)

    @pytest.mark.parametrize("word", ["BEGIN", "begin transaction", "COMMIT", "ROLLBACK", "/* x */ Commit", "END"])
    def test_transactions_are_refused(self, tmp_path: Path, word: str) -> None:
        with pytest.raises(MigrationError, match=r"0001_a\.sql holds BEGIN, COMMIT or ROLLBACK"):
            write(tmp_path, _0001_a=f"CREATE TABLE a (x INTEGER);\n{word};")

    def test_the_words_may_stand_in_comments_and_text(self, tmp_path: Path) -> None:
        assert write(tmp_path, _0001_a="-- BEGIN; COMMIT;\nCREATE TABLE a AS SELECT 'COMMIT; BEGIN' AS x;")

    def test_schema_sql_and_others_are_no_migrations(self, tmp_path: Path) -> None:
        assert len(write(tmp_path, _0001_a="SELECT 1", schema="nonsense")) == 1


class TestApply:
    def test_an_edited_one_is_refused(self, tmp_path: Path, memory: duckdb.DuckDBPyConnection) -> None:
        migrations.apply(memory, write(tmp_path, _0001_a="CREATE TABLE a (x INTEGER)"))
        edited = write(tmp_path, _0001_a="CREATE TABLE a (x BIGINT)", _0002_b="CREATE TABLE b (x INTEGER)")
        with pytest.raises(MigrationError, match="0001 a was edited after this catalog applied it"):
            migrations.apply(memory, edited)
        assert list(migrations.applied(memory)) == [1]

    def test_a_newer_catalog_is_refused(self, tmp_path: Path, memory: duckdb.DuckDBPyConnection) -> None:
        known = write(tmp_path, _0001_a="CREATE TABLE a (x INTEGER)", _0002_b="CREATE TABLE b (x INTEGER)")
        migrations.apply(memory, known)
        with pytest.raises(MigrationError, match=r"newer featstore: it has migration 2, this one knows 1"):
            migrations.apply(memory, known[:1])

    def test_a_failure_rolls_back_all_of_its_file(self, tmp_path: Path, memory: duckdb.DuckDBPyConnection) -> None:
        known = write(
            tmp_path,
            _0001_a="CREATE TABLE a (x INTEGER); INSERT INTO a VALUES (1)",
            _0002_b="CREATE TABLE b (x INTEGER); INSERT INTO a VALUES (2); INSERT INTO nowhere VALUES (1)",
        )
        with pytest.raises(MigrationError, match=r"Migration 0002 b failed.*\n?.*nowhere"):
            migrations.apply(memory, known)
        assert list(migrations.applied(memory)) == [1]
        assert memory.execute("FROM a").fetchall() == [(1,)]
        with pytest.raises(duckdb.CatalogException, match="b does not exist"):
            memory.execute("FROM b")
        # Mended, it goes on from there.
        mended = write(tmp_path, _0002_b="CREATE TABLE b (x INTEGER)")
        assert [m.version for m in migrations.apply(memory, mended)] == [2]

    def test_the_first_one_failing_leaves_nothing(self, tmp_path: Path, memory: duckdb.DuckDBPyConnection) -> None:
        with pytest.raises(MigrationError):
            migrations.apply(memory, write(tmp_path, _0001_a="CREATE TABLE a (x INTEGER); SELECT nothing"))
        assert memory.execute("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]

    def test_checksums_are_of_the_bytes(self, tmp_path: Path) -> None:
        one = write(tmp_path, _0001_a="SELECT 1")[0].checksum
        assert write(tmp_path, _0001_a="SELECT 1 ")[0].checksum != one


def test_a_store_of_a_newer_featstore_is_refused(store: featstore.Store) -> None:
    with duckdb.connect(str(store.path / "catalog.duckdb")) as connection:
        connection.execute("INSERT INTO featstore.migration VALUES (9999, 'later', 'x', now()::TIMESTAMP)")
    for use in (lambda: store.sql("SELECT 1"), lambda: store.split(ratios={"train": 1.0}), store.migrate):
        with pytest.raises(MigrationError, match="pip install --upgrade featstore"):
            use()
