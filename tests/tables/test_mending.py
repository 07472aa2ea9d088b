"""Mending: an equal version that is there is made whole, and told of as it is now."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.tables import keeping
from featstore.tables.placing import locked_folder

RECIPE: dict[str, Any] = {
    "name": "t", "inputs": ["a=v/A:mean"], "tables": ["clinical"], "numeric": ["age"], "standardize": True,
}  # fmt: skip


def rows_of(cohort: Any, note: str = "x") -> dict[str, dict[str, object]]:
    return {p: {"age": 20 + n, "note": note} for n, p in enumerate(cohort.patients)}


@pytest.fixture
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(90, count=12, slices=2, modalities=("A",))
    made.clinical(rows_of(made))
    made.store.split(scheme="cv", k_folds=2, seed=1)
    return made


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("scheme", ["default", "cv"])
def test_a_version_of_an_older_featstore_gets_what_it_lacks(cohort: Any, scheme: str) -> None:
    store, recipe = cohort.store, RECIPE | {"scheme": scheme}
    first = store.materialize(**recipe)
    before = contents(first.path)
    for name in ("rows.parquet", "pointers.parquet", "card.md"):
        (first.path / name).unlink()
    for file in first.path.rglob("fitted.skops"):
        file.write_bytes(b"another layout")
    with store.catalog.write() as connection:
        fits = connection.execute("FROM core.fit ORDER BY fold").fetchall()
        connection.execute("DELETE FROM core.fit")
        connection.execute("UPDATE core.training_table SET report = '{}', entity = NULL")
    assert fits
    again = store.materialize(**recipe)
    assert (again.version, again.unchanged, again.path) == (1, True, first.path)
    after = contents(first.path)
    assert after.keys() == before.keys()
    assert {n: b for n, b in after.items() if not n.endswith("skops")} == {
        n: b for n, b in before.items() if not n.endswith("skops")
    }
    table = store.table("t")
    assert table.report == first.report
    assert "standardize" in table.fitted(fold=0 if scheme == "cv" else None)["steps"]
    assert table.reproduce().same
    assert store.leaks("t").rows == first.rows
    with store.catalog.read() as connection:
        assert connection.execute("FROM core.fit ORDER BY fold").fetchall() == fits


@pytest.mark.parametrize("scheme", ["default", "cv"])
@pytest.mark.parametrize("what", ["data", "truncated", "fitted", "folder"])
def test_what_is_gone_or_damaged_is_put_back(
    cohort: Any, scheme: str, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, recipe = cohort.store, RECIPE | {"scheme": scheme}
    first = store.materialize(**recipe)
    before = contents(first.path)
    data = next(first.path.rglob("data.parquet"))
    if what == "data":
        data.unlink()
    elif what == "truncated":
        data.write_bytes(data.read_bytes()[:-9])
    elif what == "fitted":
        (data.parent / "fitted.skops").unlink()
    else:
        shutil.rmtree(first.path.parent)
    again = store.materialize(**recipe)
    assert (again.version, again.unchanged) == (1, True)
    after = contents(first.path)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if not name.endswith("skops"))
    assert ("made again" in caplog.text) == (what != "fitted")
    assert store.table("t").reproduce().same
    assert store.table("t").fitted(fold=0 if scheme == "cv" else None)


def test_a_table_taken_in_anew_with_the_same_values_is_no_longer_stale(cohort: Any) -> None:
    """A new patient's row comes first there: the places of all others are new ones."""
    store, recipe = cohort.store, RECIPE | {"scheme": "default"}
    first = store.materialize(**recipe)
    cohort.clinical({"!": {"age": 99, "note": "y"}} | rows_of(cohort, "z"), replace=True)
    assert "taken in anew" in store.table("t").stale
    again = store.materialize(**recipe)
    assert (again.version, again.unchanged) == (1, True)
    assert store.table("t").stale is None
    assert store.table("t").reproduce().same
    assert not store.lineage("t")["tables"][0]["taken_in_anew"]
    kept = contents(first.path)
    store.materialize(**recipe)
    assert contents(first.path) == kept


@pytest.mark.parametrize("equal", [True, False])
def test_of_two_at_once_both_end_well(
    cohort: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, equal: bool
) -> None:
    recipe, real = RECIPE | {"scheme": "default"}, keeping._complete

    def another_is_first(*given: Any) -> None:
        monkeypatch.undo()
        cohort.store.materialize(**recipe if equal else recipe | {"pca": 2})
        real(*given)

    monkeypatch.setattr(keeping, "_complete", another_is_first)
    second = cohort.store.materialize(**recipe, out=tmp_path / "t.parquet")
    assert (second.version, second.unchanged) == ((1, True) if equal else (2, False))
    card = (second.path / "card.md").read_text()
    assert f"t@v{second.version}" in card.splitlines()[0]
    assert (tmp_path / "t.parquet.card.md").read_text() == card
    assert cohort.store.ls("tables").num_rows == (1 if equal else 2)
    assert (tmp_path / "t.parquet").read_bytes() == (second.path / "data.parquet").read_bytes()


def test_what_killed_ones_left_is_removed_and_what_is_in_use_stays(cohort: Any) -> None:
    tables = cohort.store.path / "tables"
    for name, files in ((".tmp-dead", ["data.parquet"]), (".tmp-0123abcd", ["lock", "data.parquet"])):
        (tables / name).mkdir(parents=True)
        for file in files:
            (tables / name / file).write_bytes(b"left")
    with locked_folder(tables) as used:
        cohort.store.materialize(**RECIPE | {"scheme": "default"})
        assert sorted(p.name for p in tables.iterdir()) == [used.name, "t"]
    assert [p.name for p in tables.iterdir()] == ["t"]
