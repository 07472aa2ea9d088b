"""The Store: found by rule, opened without trust, asked in SQL, read back as arrays with types and order."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import featstore
from featstore import (
    ConflictError,
    CorruptError,
    FeatstoreError,
    MigrationError,
    NotFoundError,
    SetupError,
    SqlError,
    UsageError,
)
from featstore.folder import find

PLUGIN = str(Path(__file__).parent / "tables" / "vectors_plugin.py")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[featstore.Store, dict[str, np.ndarray]]:
    """Ten patients × modalities A and P × one sample; ``v`` of all, ``w.mean`` and ``w.max`` of P, ``t`` of tokens."""
    folder = tmp_path_factory.mktemp("store")
    featstore.init(folder / "store")
    store = featstore.open(folder / "store", plugins=[PLUGIN])
    rng = np.random.default_rng(0)
    vectors, lines = {}, ["path,patient_id,modality,label,split,site"]
    for number in range(10):
        for modality in "PA":
            name = f"{9 - number}{modality}.f4"
            vectors[f"m/{name}"] = rng.normal(size=6).astype(np.float32)
            (folder / name).write_bytes(vectors[f"m/{name}"].tobytes())
            label = "" if number == 4 else number % 3
            split = ("train", "train", "val", "test", "")[number % 5]
            lines.append(f"{name},{number:03},{modality},{label},{split},{'JM' if number < 5 else 'KD'}")
    (folder / "m.csv").write_text("\n".join(lines))
    store.ingest_manifest(folder / "m.csv")
    common = {"backbone": "numbers:6", "device": "cpu"}
    store.extract(name="v", **common)
    store.extract(name="v", dtype="float16", modalities=("A",), **common)
    store.extract(name="w", poolers=("mean", "max"), modalities=("P",), **common)
    store.extract(name="t", poolers=("tokens",), **common)
    store.materialize(
        name="tab", inputs=["a=v@v1/A", "p=w.mean"], scheme="default", standardize=True,
        allow={"older-version": "the version before, on purpose"},
    )  # fmt: skip
    return store, vectors


# ------------------------------------------------------------------------------------------------ finding and making
def test_a_given_path_wins_then_the_environment_then_the_nearest_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "environment", "parent"):
        featstore.init(tmp_path / name)
    below = tmp_path / "parent" / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    assert find() == tmp_path / "parent"
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "environment"))
    assert find() == tmp_path / "environment"
    assert find(tmp_path / "given") == tmp_path / "given"
    assert featstore.open("../../../given").path == tmp_path / "given"


def test_what_is_no_store_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for path, message in (
        (None, "no parent folder is one"),
        ("nowhere", "no such folder"),
        ("empty", "no featstore.toml"),
    ):
        with pytest.raises(NotFoundError, match=message) as caught:
            featstore.open(path)
        assert "featstore init" in caught.value.hint


def test_init_makes_a_private_empty_store(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = featstore.init(tmp_path / "new" / "store")
    finally:
        os.umask(old)
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    assert store.status()["samples"] == 0
    assert sorted(p.name for p in store.path.iterdir()) == [
        "catalog.duckdb", "featstore.toml", "features", "models", "runs", "tables"
    ]  # fmt: skip
    assert all(store.ls(noun).num_rows == 0 for noun in ("features", "runs", "tables", "samples"))
    (tmp_path / "there").mkdir()
    assert featstore.init(tmp_path / "there").path == tmp_path / "there"


def test_init_refuses_what_is_there(tmp_path: Path) -> None:
    featstore.init(tmp_path / "store")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for name, message in (
        ("store", "a store already"),
        ("full", "not an empty folder"),
        ("file", "not an empty folder"),
    ):
        with pytest.raises(ConflictError, match=message) as caught:
            featstore.init(tmp_path / name)
        assert caught.value.hint
    with pytest.raises(SetupError, match="can't be made"):
        featstore.init(tmp_path / "file" / "below")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00garbage", "can't be read"),
        (b"format = ", "can't be read"),
        (b"", "has the format None"),
        (b"format = 2", "has the format 2"),
        (b"format = 1\nwait_s = 'soon'", "wait_s = 'soon'"),
        (b"format = 1\nwait_s = -1", "wait_s = -1"),
        (b"format = 1\nwait_s = true", "wait_s = True"),
    ],
)
def test_settings_that_make_no_sense_are_said(store: featstore.Store, content: bytes, message: str) -> None:
    (store.path / "featstore.toml").write_bytes(content)
    with pytest.raises(CorruptError, match=message) as caught:
        featstore.open(store.path)
    assert caught.value.hint


def test_a_catalog_that_is_garbage_missing_or_newer_is_said(store: featstore.Store) -> None:
    catalog = store.path / "catalog.duckdb"
    whole = catalog.read_bytes()
    with duckdb.connect(str(catalog)) as connection:
        connection.execute("INSERT INTO featstore.migration VALUES (9999, 'future', 'x', now()::TIMESTAMP)")
    for verb in (store_status, store_split):
        with pytest.raises(MigrationError, match="newer featstore"):
            verb(store.path)
    catalog.write_bytes(b"garbage" * 10_000)
    for verb in (store_status, store_split):
        with pytest.raises(CorruptError) as caught:
            verb(store.path)
        assert "backup" in caught.value.hint
    catalog.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FeatstoreError):
        store_status(store.path)
    catalog.unlink()
    for verb in (store_status, store_split):
        with pytest.raises(NotFoundError, match="missing"):
            verb(store.path)
    assert not catalog.exists()  # a reading verb must not make an empty one


def store_status(path: Path) -> None:
    featstore.open(path).status()


def store_split(path: Path) -> None:
    featstore.open(path).split(ratios={"train": 1.0})


# ------------------------------------------------------------------------------------------------------------- SQL
def test_sql_gives_arrow_and_keeps_nothing_open(cohort: tuple[featstore.Store, object]) -> None:
    store, _ = cohort
    rows = store.sql("SELECT modality, count(*) n FROM samples GROUP BY ALL ORDER BY 1")
    assert type(rows) is pa.Table
    assert rows.to_pandas().n.tolist() == [10, 10]
    with duckdb.connect(str(store.path / "catalog.duckdb")) as connection:  # nobody holds the file
        connection.execute("SELECT 1")


def test_vectors_of_every_version_in_sql(cohort: tuple[featstore.Store, dict[str, np.ndarray]]) -> None:
    store, vectors = cohort
    rows = store.sql(
        "SELECT a.sample_key AS one, b.sample_key AS other, array_cosine_similarity(a.vector, b.vector) AS s "
        'FROM vectors."v@v1" a JOIN vectors."v@v1" b ON a.sample_key < b.sample_key'
    ).to_pylist()
    assert len(rows) == 20 * 19 // 2
    for row in rows:
        a, b = (vectors[row[k]].astype(float) for k in ("one", "other"))
        assert row["s"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-5)
    # the latest version by its plain name, of A alone, stored as float16 and asked for as float32
    latest = store.sql("SELECT sample_key, patient_id, modality, split, label, vector FROM vectors.v ORDER BY 1")
    assert latest.schema.field("vector").type == pa.list_(pa.float32(), 6)
    assert len(latest) == 10
    for row in latest.to_pylist():
        np.testing.assert_array_equal(np.float16(row["vector"]), vectors[row["sample_key"]].astype(np.float16))
    assert store.sql('SELECT count(*) n FROM Vectors."W.MAX"').to_pylist() == [{"n": 10}]
    joined = store.sql(
        "SELECT count(*) n FROM vectors.v JOIN samples USING (sample_key) JOIN features USING (sample_key)"
    )
    assert joined.to_pylist()[0]["n"] > 0


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; SELECT 2",
        "DROP TABLE core.run",
        "COPY samples TO 'x.csv'",
        "SELEC 1",
        "SELECT * FROM vectors.nope",
        "",
    ],
)
def test_sql_that_isnt_allowed_is_an_error_of_ours(cohort: tuple[featstore.Store, object], query: str) -> None:
    with pytest.raises(SqlError):
        cohort[0].sql(query)


# ------------------------------------------------------------------------------------------------------ reading back
def test_feature_arrays_by_key_with_types(cohort: tuple[featstore.Store, dict[str, np.ndarray]]) -> None:
    store, vectors = cohort
    x, y, keys = store.features("v@v1").arrays()
    assert (x.dtype, x.shape, keys.dtype.kind) == (np.float32, (20, 6), "U")
    assert keys.tolist() == sorted(vectors)
    np.testing.assert_array_equal(x, np.stack([vectors[key] for key in keys]))
    assert y.dtype == np.float64  # an int label that somebody lacks
    assert np.isnan(y).sum() == 2
    some, labels, keys = store.features("v@v1").arrays(split="train", modality="A")
    assert (len(some), labels.dtype) == (4, np.int64)
    assert all(key.endswith("A.f4") for key in keys)
    x16, _, _ = store.features("v").arrays()
    assert (x16.dtype, x16.shape) == (np.float16, (10, 6))
    tokens, _, _ = store.features("t").arrays()
    assert tokens.shape == (20, 1, 6)
    view = store.features("w.max")
    assert (view.name, view.version, len(view)) == ("w.max", 1, 10)
    frame = view.to_pandas()
    np.testing.assert_array_equal(np.stack(frame.vector), view.arrays()[0])


def test_features_refuse_what_isnt_there(cohort: tuple[featstore.Store, object]) -> None:
    store, _ = cohort
    for call, message in (
        (lambda: store.features("vv"), "Did you mean"),
        (lambda: store.features("v@v9"), "no version 9"),
        (lambda: store.features("v").arrays(split="tset"), "Did you mean 'test'"),
        (lambda: store.features("v").arrays(modality="P"), "no modality 'P'"),
        (lambda: store.features("v", scheme="nope"), "no split scheme 'nope'"),
        (lambda: store.table("tba"), "Did you mean 'tab'"),
        (lambda: store.table("tab").arrays(split="fold0"), "no split 'fold0'"),
        (lambda: store.show("nope"), "Nothing here is called 'nope'"),
        (lambda: store.errors("no-run"), "no run 'no-run'"),
    ):
        with pytest.raises(NotFoundError, match=re.escape(message)) as caught:
            call()
        assert caught.value.hint
        assert isinstance(caught.value, KeyError)
    for text in ("v@", "v@v0", "", "v@2"):
        with pytest.raises(UsageError):
            store.features(text)


@pytest.mark.parametrize(
    ("label_type", "labels", "dtype", "expected"),
    [
        ("int", ["3", "", "03"], np.float64, [3.0, np.nan, 3.0]),
        ("int", ["3", "1", "2"], np.int64, [3, 1, 2]),
        ("float", ["0.1", "1e-3", "7"], np.float64, [0.1, 0.001, 7.0]),
        ("float", ["0.1", "", "7"], np.float64, [0.1, np.nan, 7.0]),
        ("str", ["é", "07", "x"], np.str_, ["é", "07", "x"]),
        ("str", ["é", "", "x"], object, ["é", None, "x"]),
    ],
)
def test_labels_come_back_typed(
    tmp_path: Path, label_type: str, labels: list[str], dtype: type, expected: list[object]
) -> None:
    featstore.init(tmp_path / "store")
    store = featstore.open(tmp_path / "store", plugins=[PLUGIN])
    lines = ["path,patient_id,modality,label"]
    for number, label in enumerate(labels):
        (tmp_path / f"{number}.f4").write_bytes(np.float32([number]).tobytes())
        lines.append(f"{number}.f4,p{number},A,{label}")
    (tmp_path / "m.csv").write_text("\n".join(lines))
    store.ingest_manifest(tmp_path / "m.csv", label_type=label_type)
    store.extract(name="v", backbone="numbers:1", device="cpu")
    y = store.features("v").arrays()[1]
    assert y.dtype.type is np.dtype(dtype).type
    np.testing.assert_array_equal(y, np.array(expected, y.dtype))
    store.materialize(name="t", inputs=["v"])
    _, y, patients = store.table("t").arrays()
    kept = [n for n, label in enumerate(labels) if label]
    assert patients.tolist() == [f"p{n}" for n in kept]
    assert y.tolist() == [{"int": int, "float": float, "str": str}[label_type](expected[n]) for n in kept]


def test_table_arrays_frames_and_metrics(cohort: tuple[featstore.Store, object]) -> None:
    store, _ = cohort
    table = store.table("tab@v1")
    x, y, patients = table.arrays()
    assert (x.dtype, x.shape, y.dtype, patients.dtype.kind) == (np.float32, (8, 12), np.int64, "U")
    frame = table.to_pandas()
    assert frame.patient_id.tolist() == patients.tolist() == sorted(patients)
    np.testing.assert_array_equal(np.stack(frame.fused), x)
    parts = [table.arrays(split=split) for split in ("train", "val", "test")]
    assert sum(len(part[0]) for part in parts) == len(x)
    assert (frame.split[frame.patient_id.isin(parts[1][2])] == "val").all()
    table.log_metrics("val", {"auc": 0.75, "accuracy": 1})
    rows = store.sql('SELECT "table", version, split, metric, value FROM metrics ORDER BY metric').to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("tab", 1, "val", "accuracy", 1.0), ("tab", 1, "val", "auc", 0.75)
    ]  # fmt: skip


def test_a_table_whose_file_is_gone_is_corrupt(tmp_path: Path) -> None:
    featstore.init(tmp_path / "store")
    store = featstore.open(tmp_path / "store", plugins=[PLUGIN])
    (tmp_path / "1.f4").write_bytes(np.float32([1]).tobytes())
    (tmp_path / "m.csv").write_text("path,patient_id,modality,label\n1.f4,p,A,1\n")
    store.ingest_manifest(tmp_path / "m.csv")
    store.extract(name="v", backbone="numbers:1", device="cpu")
    data = store.materialize(name="t", inputs=["v"]).path / "data.parquet"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(CorruptError, match="t@v1 can't be read"):
        store.table("t").arrays()
    data.unlink()
    with pytest.raises(CorruptError, match="t@v1 can't be read"):
        store.table("t").to_pandas()


# ----------------------------------------------------------------------------------------------- lists and upkeep
def test_lists_and_status(cohort: tuple[featstore.Store, object]) -> None:
    store, _ = cohort
    features = store.ls("features").to_pylist()
    assert [(f["name"], f["version"], f["vectors"]) for f in features] == [
        ("t", 1, 20), ("v", 1, 20), ("v", 2, 10), ("w.max", 1, 10), ("w.mean", 1, 10)
    ]  # fmt: skip
    assert store.ls("tables").to_pylist()[0]["path"] == "tables/tab/v1"
    assert {run["kind"] for run in store.ls("runs").to_pylist()} == {"ingest", "extract", "materialize"}
    assert store.ls("samples").num_rows == 20
    assert {"vectors_plugin", "timm", "poolers"} <= set(store.ls("plugins").column("plugin").to_pylist())
    status = store.status()
    assert (status["patients"], status["samples"], status["vectors"], status["tables"]) == (10, 20, 70, 1)
    assert (status["failed_inputs"], status["unfinished"]) == (0, [])
    assert status["modalities"] == [{"modality": m, "patients": 10, "samples": 10} for m in "AP"]
    with pytest.raises(UsageError, match="Did you mean 'features'"):
        store.ls("feature")


def test_show_everything_by_name(cohort: tuple[featstore.Store, object]) -> None:
    store, _ = cohort
    assert store.show("v")["feature set"]["version"] == 2
    assert store.show("v@v1")["feature set"]["dtype"] == "float32"
    assert store.show("tab")["training table"]["rows"] == 8
    run = store.show("tab")["training table"]["run_id"]
    assert store.show(run)["run"]["kind"] == "materialize"
    scheme = store.show("default")["split scheme"]
    assert ([split for split, _ in scheme["splits"]], scheme["version"]) == (["test", "train", "val"], 1)
    assert store.show("default@v1")["split scheme"] == scheme
    with pytest.raises(UsageError, match=r"There is no 'nme' here. Did you mean 'name'"):
        store.materialize(nme="x")
    assert store.show("m/0A.f4")["sample"]["patient_id"] == "009"
    with pytest.raises(NotFoundError, match=r"'v' has no version 7; there is v1, v2"):
        store.show("v@v7")
    with pytest.raises(NotFoundError, match=r"Did you mean 'w\.max'"):
        store.show("w.maxx")
    for odd in ("a@b", "it's", "m/x@2.f4", '"', ";", ""):
        with pytest.raises(NotFoundError):
            store.show(odd)


def test_errors_and_retry(tmp_path: Path) -> None:
    featstore.init(tmp_path / "store")
    store = featstore.open(tmp_path / "store", plugins=[PLUGIN])
    (tmp_path / "1.f4").write_bytes(b"123")
    (tmp_path / "m.csv").write_text("path,patient_id,modality,label\n1.f4,p,A,1\n")
    store.ingest_manifest(tmp_path / "m.csv")
    run = store.extract(name="v", backbone="numbers:1", device="cpu").runs[0]
    store.retry()
    failed = store.errors().to_pylist()
    assert [(row["sample_key"], row["attempts"], row["resolved"]) for row in failed] == [("m/1.f4", 2, False)]
    assert store.errors(run).num_rows == 1
    assert store.status()["failed_inputs"] == 1
    (tmp_path / "1.f4").write_bytes(np.float32([1]).tobytes())
    store.retry()
    assert store.errors().num_rows == 0
    assert store.errors(resolved=True).to_pylist()[0]["resolved"]


def test_migrate_has_nothing_to_do_and_says_so(store: featstore.Store) -> None:
    before = (store.path / "catalog.duckdb").read_bytes()
    assert store.migrate() == []
    assert (store.path / "catalog.duckdb").read_bytes() == before
    assert not list(store.path.glob("catalog-before*"))


def test_a_sample_key_with_an_at_sign_is_shown(
    store: featstore.Store, make_tree: Callable[..., Path], tmp_path: Path
) -> None:
    root = make_tree(tmp_path / "data", patients=1, slices=1, modalities=("A",), external=None)
    file = next(root.rglob("*.png"))
    file.rename(file.with_name("a@v1.png"))
    store.ingest(root, layouts=["{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png"])
    key = store.ls("samples").column("sample_key")[0].as_py()
    assert store.show(key)["sample"]["patient_id"] == "JM001"


def test_importing_a_store_is_light() -> None:
    code = (
        "import sys, featstore; featstore.Store; "
        "print([m for m in ('torch', 'duckdb', 'pandas', 'zarr', 'pyarrow', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_materializing_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    """pandas and scikit-learn are a second of a short command, and pyarrow imports pandas at the least excuse."""
    featstore.init(tmp_path / "store")
    (tmp_path / "m.csv").write_text("path,patient_id,modality,label\n1.f4,p,A,1\n2.f4,q,A,0\n")
    for number in (1, 2):
        (tmp_path / f"{number}.f4").write_bytes(np.float32([number]).tobytes())
    store = featstore.open(tmp_path / "store", plugins=[PLUGIN])
    store.ingest_manifest(tmp_path / "m.csv")
    store.extract(name="v", backbone="numbers:1", device="cpu")
    store.split(ratios={"train": 0.5, "val": 0.5})
    code = (
        "import sys, featstore; "
        "print(featstore.open(sys.argv[1]).materialize(name='t', inputs=['v'], scheme='default').rows, "
        "[m for m in ('torch', 'pandas', 'zarr', 'sklearn') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "2 []"


def test_migrate_keeps_a_copy_and_keeps_others_out(
    store: featstore.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from featstore.catalog import migrations

    folder = tmp_path / "migrations"
    shutil.copytree(migrations.folder(), folder)
    number = len(migrations.load()) + 1
    (folder / f"{number:04}_more.sql").write_text("CREATE TABLE core.more (id INTEGER);")
    monkeypatch.setattr(migrations, "folder", lambda: folder)
    with pytest.raises(MigrationError, match="lacks 1 migration"):
        featstore.open(store.path).sql("SELECT 1")
    apply, seen = migrations.apply, []

    def look(connection: duckdb.DuckDBPyConnection) -> object:
        other = subprocess.run(
            [sys.executable, "-c", "import duckdb, sys; duckdb.connect(sys.argv[1])", store.catalog.path],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        seen.append(other.stderr)
        return apply(connection)

    monkeypatch.setattr(migrations, "apply", look)
    assert store.migrate() == [f"{number:04} more"]
    assert "Could not set lock" in seen[0]
    assert store.migrate() == []
    assert featstore.open(store.path).sql("SELECT count(*) AS n FROM core.more").to_pylist() == [{"n": 0}]
    copy = duckdb.connect(str(store.path / f"catalog-before-{number:04}.duckdb"), read_only=True)
    assert copy.sql("SELECT max(version) FROM featstore.migration").fetchall() == [(number - 1,)]
    copy.close()


def test_init_into_an_empty_folder_and_after_a_kill(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / ".tmp-0-empty").mkdir()
    assert featstore.init(empty).status()["samples"] == 0
    assert empty.stat().st_mode & 0o777 == 0o700
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-0-empty", "empty"]


def test_scheme_names_ignore_case(store: featstore.Store, make_tree: Any, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "data")
    store.ingest(root, layouts=["{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png"])
    store.split(scheme="Default", ratios={"train": 1.0})
    plugin = tmp_path / "mean.py"
    plugin.write_text(MEAN)
    store = featstore.open(store.path, plugins=[str(plugin)])
    store.extract(name="m", backbone="lab:mean")
    assert len(store.features("m").arrays(split="train")[0]) == len(store.features("m"))


MEAN = """
import featstore, numpy as np

class Mean(featstore.Backbone):
    transform, input_shape = staticmethod(lambda image: np.float32([image.mean()])), (1,)

    def forward(self, batch, layers):
        return {layers[0]: featstore.Tokens(batch[:, None, :])}

@featstore.hookimpl
def featstore_backbones():
    yield featstore.BackboneSpec("lab:mean", load=lambda request: Mean())
"""
