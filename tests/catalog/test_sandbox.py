"""A user's SQL reads the catalog, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import featstore
from featstore.catalog import sandbox
from featstore.catalog.connection import explaining
from featstore.errors import SqlError

ALLOWED = [
    "SELECT 1",
    "select 1;",
    "-- a comment\nSELECT 1 -- another",
    "FROM samples",
    "VALUES (1)",
    "WITH p AS (SELECT patient_id FROM patients) SELECT * FROM p",
    "EXPLAIN SELECT * FROM samples",
    "EXPLAIN ANALYZE SELECT * FROM samples",
    "DESCRIBE samples",
    "SUMMARIZE samples",
    "SHOW TABLES",
    "SELECT * FROM core.sample",
    "SELECT * FROM store.main.samples",
    "PIVOT samples ON modality IN ('A')",
    "SELECT table_name, column_name FROM information_schema.columns",
]
OTHER_KINDS = [
    "COPY (SELECT 1) TO '{file}'",
    "COPY samples FROM '/etc/passwd'",
    "ATTACH '{file}' AS x",
    "DETACH store",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '64GB'",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CREATE TABLE memory.main.x (i INTEGER)",
    "CREATE MACRO f() AS 1",
    "DROP VIEW samples",
    "ALTER TABLE store.core.run ADD COLUMN x INTEGER",
    "INSERT INTO store.core.run VALUES (1)",
    "UPDATE store.core.patient SET label = '1'",
    "DELETE FROM store.core.sample",
    "TRUNCATE store.core.sample",
    "EXPORT DATABASE '{file}'",
    "IMPORT DATABASE '{file}'",
    "BEGIN",
    "CHECKPOINT",
    "USE memory",
    "PREPARE q AS SELECT 1",
    "EXECUTE q",
    "VACUUM",
]
FILES = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_duckdb('{other}')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "WITH x AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM x",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM 'https://example.org/x.parquet'",
]
WRITES = [
    "EXPLAIN ANALYZE DELETE FROM store.core.sample",
    "EXPLAIN ANALYZE INSERT INTO store.core.chunk VALUES (1, 1)",
    "SELECT * FROM enable_logging(storage = 'file', storage_config = {'path': '{file}'})",
    "SELECT * FROM enable_profiling(save_location = '{file}')",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    """One store for all: nothing here can change it, which is what these tests are about."""
    return featstore.init(tmp_path_factory.mktemp("sandbox") / "store")


@pytest.mark.parametrize("query", ALLOWED)
def test_reading_is_allowed(store: featstore.Store, query: str) -> None:
    assert isinstance(store.sql(query), pa.Table)


@pytest.mark.parametrize("query", OTHER_KINDS)
def test_other_statements_are_refused_by_their_kind(store: featstore.Store, tmp_path: Path, query: str) -> None:
    file = tmp_path / "out"
    with pytest.raises(SqlError, match="Only SELECT and EXPLAIN run here") as caught:
        store.sql(query.replace("{file}", str(file)))
    assert "next: open catalog.duckdb with DuckDB itself" in str(caught.value)
    assert not file.exists()


@pytest.mark.parametrize("query", FILES + WRITES)
def test_files_network_and_settings_are_out_of_reach(store: featstore.Store, tmp_path: Path, query: str) -> None:
    other = tmp_path / "other.duckdb"
    if "{other}" in query:
        featstore.init(tmp_path / "other").catalog.path.rename(other)
    file = tmp_path / "out"
    before = store.catalog.path.read_bytes()
    with pytest.raises(SqlError):
        store.sql(query.replace("{file}", str(file)).replace("{other}", str(other)))
    assert not file.exists()
    assert store.catalog.path.read_bytes() == before


@pytest.mark.parametrize(
    ("query", "count"), [("SELECT 1; SELECT 2", "2"), ("", "none"), ("-- nothing", "none"), (";", "none")]
)
def test_one_statement_at_a_time(store: featstore.Store, query: str, count: str) -> None:
    with pytest.raises(SqlError, match=f"this text holds {count}"):
        store.sql(query)


def test_the_environment_is_out_of_reach(store: featstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEATSTORE_SECRET", "hush")
    with pytest.raises(SqlError, match="getenv"):
        store.sql("SELECT getenv('FEATSTORE_SECRET')")


def test_python_variables_are_out_of_reach(store: featstore.Store) -> None:
    secrets = pa.table({"x": [1]})
    with pytest.raises(SqlError, match="secrets does not exist"):
        store.sql("SELECT * FROM secrets")
    assert secrets.num_rows == 1


def test_the_configuration_is_locked(store: featstore.Store) -> None:
    found = store.sql(
        "SELECT name, value FROM duckdb_settings() WHERE name IN "
        "('enable_external_access', 'lock_configuration', 'autoload_known_extensions', 'python_enable_replacements')"
    )
    assert {row["name"]: row["value"] for row in found.to_pylist()} == {
        "autoload_known_extensions": "false", "enable_external_access": "false", "lock_configuration": "true",
        "python_enable_replacements": "false",
    }  # fmt: skip


def test_memory_is_bounded_and_spilling_works(store: featstore.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MEMORY_LIMIT", "64MB")
    found = store.sql("SELECT count(*) AS n FROM (SELECT i, md5(i::VARCHAR) AS h FROM range(1000000) t(i) ORDER BY h)")
    assert found.to_pylist() == [{"n": 1000000}]


def test_a_folder_with_quotes_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'it\'s "one" ; DROP --'
    (folder / "tmp").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder / "tmp"))
    assert featstore.init(folder / "store").sql("SELECT count(*) AS n FROM samples").to_pylist() == [{"n": 0}]
    assert os.listdir(folder / "tmp") == []


class TestMessages:
    def test_a_misspelt_view(self, store: featstore.Store) -> None:
        with pytest.raises(SqlError, match=r'(?s)sampels does not exist!.*"samples".*information_schema\.columns'):
            store.sql("SELECT * FROM sampels")

    def test_a_misspelt_column(self, store: featstore.Store) -> None:
        with pytest.raises(SqlError, match=r'(?s)"patient".*patient_id'):
            store.sql("SELECT patient FROM samples")

    def test_a_syntax_error(self, store: featstore.Store) -> None:
        with pytest.raises(SqlError, match='syntax error at or near "selct"'):
            store.sql("selct 1")

    def test_a_pivot_without_values(self, store: featstore.Store) -> None:
        with pytest.raises(SqlError, match=r"PIVOT … ON modality IN"):
            store.sql("PIVOT samples ON modality")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    """Patients a, b (site X) and c (no site)."""
    tmp_path = tmp_path_factory.mktemp("cohort")
    store = featstore.init(tmp_path / "store")
    rows = ["path,patient_id,modality,site"]
    for patient, site in (("a", "X"), ("b", "X"), ("c", "")):
        (tmp_path / f"{patient}.png").write_bytes(b"x")
        rows.append(f"{patient}.png,{patient},A,{site}")
    (tmp_path / "m.csv").write_text("\n".join(rows))
    store.ingest_manifest(tmp_path / "m.csv")
    return store


class TestPredicate:
    def ask(self, store: featstore.Store, condition: str) -> list[str]:
        found = sandbox.predicate(store.catalog, "patients", "patient_id", condition, "--where")
        return [str(value) for value in found.column(0).to_pylist()]

    @pytest.mark.parametrize(
        ("condition", "found"),
        [
            ("site = 'X'", ["a", "b"]),
            ("site <> 'X'", []),  # NULL counts as not met
            ("site IS NULL -- those without", ["c"]),
            ("patient_id = 'a' /* one */", ["a"]),
            ("patient_id = 'a' OR patient_id = 'c'", ["a", "c"]),
            ("true", ["a", "b", "c"]),
            ("NULL", []),
            ("patient_id IN (SELECT patient_id FROM samples WHERE site = 'X')", ["a", "b"]),
            ("EXISTS (SELECT 1 FROM core.patient p WHERE p.patient_id = patients.patient_id)", ["a", "b", "c"]),
            ("list_contains(modalities, 'A')", ["a", "b", "c"]),
            ("patient_id = ')'", []),
        ],
    )
    def test_conditions(self, cohort: featstore.Store, condition: str, found: list[str]) -> None:
        assert self.ask(cohort, condition) == found

    @pytest.mark.parametrize(
        "condition",
        [
            "1=1) OR (1=1",
            "true) UNION SELECT label FROM core.patient WHERE (true",
            "true) UNION ALL (SELECT 'x'",
            "true); DELETE FROM store.core.patient; SELECT (1",
            "true) --",
            "true /*",
            "true; SELECT 1",
            "true ORDER BY 1",
            "true THEN 1 END, CASE WHEN true",
            "SELECT true",
            "true, true",
            "",
            "-- nothing",
            "patient_id IN (SELECT content FROM read_text('/etc/passwd'))",
            "patient = 'a'",
            "'",
        ],
    )
    def test_what_is_no_condition_is_refused(self, cohort: featstore.Store, condition: str) -> None:
        before = cohort.catalog.path.read_bytes()
        with pytest.raises(SqlError, match=r"--where .* can't be used as a condition on the view 'patients'"):
            self.ask(cohort, condition)
        assert cohort.catalog.path.read_bytes() == before


def test_mentioned() -> None:
    assert sandbox.mentioned('select * from vectors."A_r18"', ["a_r18", "p_r18"]) == ["a_r18"]


def test_a_strangers_catalog_reads_no_files(store: featstore.Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\nmy-secret\n")
    connection = duckdb.connect(str(store.catalog.path))
    connection.execute("DROP VIEW main.metrics")
    connection.execute(f"CREATE VIEW main.metrics AS SELECT * FROM read_csv('{secret}')")
    connection.execute("""CREATE VIEW main."a"" b" AS SELECT 1 AS one""")
    connection.close()
    with pytest.raises(featstore.FeatstoreError) as refused:
        store.sql("FROM metrics")
    assert "my-secret" not in str(refused.value)


def test_a_query_that_takes_too_long_can_be_ended(tmp_path: Path) -> None:
    """DuckDB doesn't look for signals within it: without help, Ctrl-C would do nothing for hours."""
    query = "SELECT count(*) FROM range(9000000) a, range(9000000) b WHERE a.range * 7 < b.range"
    code = "import sys, featstore; s = featstore.open(sys.argv[1]); print(1, flush=True); s.sql(sys.argv[2])"
    featstore.init(tmp_path / "store")
    command = [sys.executable, "-c", code, str(tmp_path / "store"), query]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "1\n"
            for _ in range(30):  # one that comes before the query begins, DuckDB may keep to itself
                time.sleep(2)
                process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=2)
                    break
            ended = process.poll()
        finally:
            process.kill()
    assert ended == -signal.SIGINT


def test_an_interrupt_within_our_own_queries_is_one(store: featstore.Store) -> None:
    with pytest.raises(KeyboardInterrupt), explaining(store.catalog.path):
        raise RuntimeError("Query interrupted")
    with pytest.raises(RuntimeError, match="another"), explaining(store.catalog.path):
        raise RuntimeError("another")
