"""Whom an encoder was trained on: recorded once, of its weights, and of patients who aren't here yet, too."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import featstore
from featstore import ConflictError, LeakageError, NotFoundError, SqlError, UsageError
from featstore.ingest.trained import TrainedOnResult, trained_on

IDS = ["007", "7", "é 3", "a'b", "P 1", "P 2", "P 3", "P 4"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> featstore.Store:
    """Three imports of eight patients: two of the same weights, one of weights that nobody named."""
    folder = tmp_path_factory.mktemp("trained")
    made = featstore.init(folder / "store")
    rng = np.random.default_rng(0)
    for name, version in (("a", "sha-1"), ("b", "sha-1"), ("plain", None), ("other", None)):
        np.save(folder / f"{name}.npy", rng.normal(size=(8, 3)).astype(np.float32))
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([["row", "key", "patient_id", "modality"], *([n, p, p, "A"] for n, p in enumerate(IDS))])
        options: dict[str, Any] = {"model_version": version} if version else {}
        made.import_features(folder / f"{name}.npy", name=name, index=folder / f"{name}.csv", dataset="d", **options)
    made.split(scheme="s", ratios={"train": 0.5, "val": 0.25, "test": 0.25})
    made.split(scheme="s", ratios={"train": 0.25, "test": 0.75}, seed=1, replace=True)
    return made


@pytest.fixture
def say(store: featstore.Store) -> Callable[..., TrainedOnResult]:
    def call(name: str, **told: Any) -> TrainedOnResult:
        return trained_on(store.path, store.catalog, store.plugins, name, **told)

    return call


def recorded(store: featstore.Store, model_version: str) -> set[str]:
    rows = store.sql("SELECT model_version, patient_id FROM trained_on").to_pylist()
    return {row["patient_id"] for row in rows if row["model_version"] == model_version}


def test_splits_of_a_scheme(store: featstore.Store, say: Callable[..., TrainedOnResult]) -> None:
    first = say("a", scheme="s@v1", split=["train", "val"])
    assert (first.feature_sets, first.model_version, first.added, first.known) == (["a@v1", "b@v1"], "sha-1", 6, 0)
    with store.catalog.read() as connection:
        rows = connection.execute(
            "SELECT p.patient_id FROM core.split s JOIN core.scheme c ON c.id = s.scheme "
            "JOIN core.patient p ON p.id = s.patient WHERE c.version = 1 AND s.split <> 'test'"
        ).fetchall()
    assert recorded(store, "sha-1") == {row[0] for row in rows}
    run = store.path / "runs" / str(first.run_id)
    assert set(pq.read_table(run / "trained_on.parquet")["patient_id"].to_pylist()) == {row[0] for row in rows}
    (facts,) = store.sql(f"SELECT kind, state, done FROM runs WHERE run_id = '{first.run_id}'").to_pylist()
    assert facts == {"kind": "trained-on", "state": "done", "done": 6}
    # The same again, by the other feature set of these weights: nothing is new, and no run is made.
    runs = store.sql("SELECT run_id FROM runs").num_rows
    again = say("b@v1", scheme="s@v1", split=["train", "val"])
    assert (again.run_id, again.added, again.known) == (None, 0, 6)
    assert store.sql("SELECT run_id FROM runs").num_rows == runs == len(list((store.path / "runs").iterdir()))
    # Others are added. Where no split is named, it is train; where no version is, the current one.
    current = set(store.sql("SELECT patient_id FROM splits WHERE scheme = 's' AND split = 'train'")[0].to_pylist())
    before = recorded(store, "sha-1")
    more = say("a", scheme="S")
    assert (more.added, more.known) == (len(current - before), len(current & before))
    assert recorded(store, "sha-1") == before | current


def test_a_file_of_ids(store: featstore.Store, say: Callable[..., TrainedOnResult], tmp_path: Path) -> None:
    """Ids are text; some are told twice, some are of patients who aren't here."""
    (tmp_path / "p.csv").write_text("site,patient_id\nJM,007\nJM,é 3\nKD,08\nKD,x\nJM,007\n", encoding="utf-8")
    result = say("plain", patients=tmp_path / "p.csv")
    assert (result.added, result.known, result.here) == (4, 0, 2)
    assert result.lookalikes == []
    # Nobody said which weights made these vectors: it is said of this very feature set, and of no other import.
    assert (result.model_version, result.feature_sets) == ("plain@v1", ["plain@v1"])
    assert recorded(store, "plain@v1") == {"007", "é 3", "08", "x"}
    assert say("plain", patients=tmp_path / "p.csv").run_id is None


def test_ids_that_look_like_patients_are_told(
    store: featstore.Store, say: Callable[..., TrainedOnResult], tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text("patient_id\np1\n007\nP-2\nnobody\n", encoding="utf-8")
    result = say("plain", patients=tmp_path / "p.csv")
    assert result.here == 1
    assert result.lookalikes == [("P-2", "P 2"), ("p1", "P 1")]


def test_a_condition(store: featstore.Store, say: Callable[..., TrainedOnResult]) -> None:
    assert say("other", where="patient_id LIKE 'P%' -- all of them").added == 4
    assert recorded(store, "other@v1") == {"P 1", "P 2", "P 3", "P 4"}


def test_what_is_refused_leaves_nothing(
    store: featstore.Store, say: Callable[..., TrainedOnResult], tmp_path: Path
) -> None:
    (tmp_path / "none.csv").write_text("patient_id\n")
    (tmp_path / "ids.csv").write_text("patient\n7\n")
    (tmp_path / "gap.csv").write_text("patient_id,x\n7,1\n,2\n")
    before = store.sql("SELECT * FROM trained_on"), sorted((store.path / "runs").iterdir())
    refusals: list[tuple[type[Exception], str, str, dict[str, Any]]] = [
        (UsageError, "one of them", "a", {}),
        (UsageError, "one of them", "a", {"scheme": "s", "where": "true"}),
        (UsageError, "--split", "a", {"where": "true", "split": ["train"]}),
        (NotFoundError, "no feature set 'c'", "c", {"scheme": "s"}),
        (NotFoundError, "no version 2", "a@v2", {"scheme": "s"}),
        (NotFoundError, "no split scheme 'z'", "a", {"scheme": "z"}),
        (NotFoundError, "no version 9", "a", {"scheme": "s@v9"}),
        (NotFoundError, "no split 'trian'.*'train'", "a", {"scheme": "s", "split": ["trian"]}),
        (SqlError, "--where", "a", {"where": "patient ="}),
        (NotFoundError, "No patient", "a", {"where": "false"}),
        (NotFoundError, "No patient", "a", {"patients": tmp_path / "none.csv"}),
        (NotFoundError, "no column 'patient_id'.*'patient'", "a", {"patients": tmp_path / "ids.csv"}),
        (ConflictError, "no patient_id", "a", {"patients": tmp_path / "gap.csv"}),
        (NotFoundError, "no file", "a", {"patients": tmp_path / "nowhere.csv"}),
    ]
    for kind, message, name, told in refusals:
        with pytest.raises(kind, match=message):
            say(name, **told)
    assert (store.sql("SELECT * FROM trained_on"), sorted((store.path / "runs").iterdir())) == before


def test_who_comes_later_is_refused_then(tmp_path: Path) -> None:
    """Said before anybody of them was here, and once more when one was."""
    made = featstore.init(tmp_path / "store")
    rng = np.random.default_rng(3)

    def take_in(ids: list[str]) -> None:
        np.save(tmp_path / "v.npy", rng.normal(size=(len(ids), 3)).astype(np.float32))
        lines = [f"{n},{p},{p},A,{'test' if p == 'late' else 'train'}" for n, p in enumerate(ids)]
        (tmp_path / "v.csv").write_text("\n".join(["row,key,patient_id,modality,split", *lines]))
        for name in ("v", "w"):
            made.import_features(
                tmp_path / "v.npy", name=name, index=tmp_path / "v.csv", dataset="d", model_version="sha-9"
            )

    table: dict[str, Any] = {"name": "t", "inputs": ["w"], "scheme": "default", "label": "none"}
    take_in(["P1", "P2"])
    (tmp_path / "p.csv").write_text("patient_id\nlate\n")
    said = made.trained_on("v", patients=tmp_path / "p.csv")
    assert (said.added, said.known, said.here) == (1, 0, 0)
    assert recorded(made, "sha-9") == {"late"}
    made.materialize(**table)
    take_in(["P3", "late"])
    with pytest.raises(LeakageError, match=r"trained on 1 patient.*\n.*'late' \(test\)"):
        made.materialize(**table)
    said = made.trained_on("v", patients=tmp_path / "p.csv")
    assert (said.run_id, said.added, said.known, said.here) == (None, 0, 1, 1)


def test_encoders_without_weights_share_no_blame(store: featstore.Store, say: Callable[..., TrainedOnResult]) -> None:
    """What is hashed of them is nothing, the same nothing of all."""
    nothing = hashlib.sha256().hexdigest()
    with store.catalog.write() as connection:
        connection.execute("UPDATE core.feature_set SET model_version = ? WHERE name IN ('plain', 'other')", [nothing])
    result = say("plain", where="patient_id = '7'")
    assert (result.model_version, result.feature_sets) == ("plain@v1", ["plain@v1"])
    assert "7" in recorded(store, "plain@v1")
    assert recorded(store, nothing) == set()
