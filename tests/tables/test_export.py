"""Tables in files of the user's: the same numbers in each, whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from featstore import ConflictError, SetupError, UsageError

RECIPE: dict[str, Any] = {
    "name": "t", "inputs": ["a=v/A:mean", "p=v/P:max"], "tables": ["clinical"], "numeric": ["age"],
    "categorical": ["sex"], "scheme": "default", "join": "left",
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(40, count=18, missing=0.3, slices=2, dim=4)
    made.clinical({p: {"age": 20 + n / 3, "sex": ("M", "=F()")[n % 2]} for n, p in enumerate(made.patients) if n % 5})
    made.store.materialize(**RECIPE)
    made.frame = made.store.table("t").to_pandas()
    return made


def test_parquet_is_the_tables_own_bytes(cohort: Any, tmp_path: Path) -> None:
    result = cohort.store.materialize(**RECIPE, out=tmp_path / "t.parquet")
    assert result.unchanged
    assert result.out == [tmp_path / "t.parquet"]
    assert (tmp_path / "t.parquet").read_bytes() == (result.path / "data.parquet").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.parquet", "t.parquet.card.md"]
    assert (tmp_path / "t.parquet.card.md").read_text() == (result.path / "card.md").read_text()


def test_duckdb_reads_the_parquet_as_fixed_size_vectors(cohort: Any, tmp_path: Path) -> None:
    cohort.store.materialize(**RECIPE, out=tmp_path / "t.parquet")
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT patient_id, array_cosine_similarity(a::FLOAT[4], p::FLOAT[4]) FROM '{tmp_path}/t.parquet' "
            "WHERE has_a AND has_p ORDER BY patient_id"
        ).fetchall()
    both = cohort.frame[cohort.frame.has_a & cohort.frame.has_p]
    a, p = np.stack(both.a).astype(float), np.stack(both.p).astype(float)
    expected = (a * p).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(p, axis=1)
    assert [row[0] for row in rows] == both.patient_id.tolist()
    np.testing.assert_allclose([row[1] for row in rows], expected, atol=1e-5)


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_wide_files_read_back_equal(cohort: Any, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"t.{ending}"
    cohort.store.materialize(**RECIPE, out=out, wide=ending == "parquet")
    if ending == "csv":
        text = {"patient_id": str, "sex": str}
        wide = pd.read_csv(out, dtype=text, keep_default_na=False, na_values=["", "nan", "NaN"])
        for column in ("patient_id", "sex"):  # a spreadsheet would run what begins with = or -
            assert not wide[column].dropna().str.match(r"^[=+\-@]").any()
            wide[column] = wide[column].str.removeprefix("'")
    else:
        wide = pq.read_table(out).to_pandas()
    frame = cohort.frame
    assert wide.patient_id.tolist() == frame.patient_id.tolist()
    assert wide.split.tolist() == frame.split.tolist()
    assert wide.label.tolist() == frame.label.tolist()
    assert wide.sex.fillna("").tolist() == frame.sex.fillna("").tolist()
    np.testing.assert_allclose(wide.age, frame.age)
    assert wide.has_p.tolist() == frame.has_p.tolist()
    for vector, width in (("a", 4), ("p", 4), ("fused", 11)):
        columns = wide[[f"{vector}_{i}" for i in range(width)]].to_numpy(np.float32)
        np.testing.assert_array_equal(columns, np.stack(frame[vector]))


def test_npy_with_its_index(cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "fused.npy"
    cohort.store.materialize(**RECIPE, out=out)
    np.testing.assert_array_equal(np.load(out), np.stack(cohort.frame.fused))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fused.index.csv", "fused.npy", "fused.npy.card.md"]
    index = pd.read_csv(tmp_path / "fused.index.csv", dtype=str)
    assert index.patient_id.str.removeprefix("'").tolist() == cohort.frame.patient_id.tolist()


def test_a_file_that_is_there_is_replaced_whole(cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "t.csv"
    out.write_text("old\n" * 10_000)
    cohort.store.materialize(**RECIPE, out=out)
    assert "old" not in out.read_text()


@pytest.mark.parametrize("ending", ["parquet", "npy"])
def test_a_second_export_replaces_the_card_too(cohort: Any, tmp_path: Path, ending: str) -> None:
    out = tmp_path / f"t.{ending}"
    first = cohort.store.materialize(**RECIPE, out=out)
    other = cohort.store.materialize(**RECIPE | {"name": "other"}, out=out)
    assert (tmp_path / f"t.{ending}.card.md").read_text() == (other.path / "card.md").read_text()
    cohort.store.materialize(**RECIPE, out=out)
    assert (tmp_path / f"t.{ending}.card.md").read_text() == (first.path / "card.md").read_text()


def test_a_file_that_is_no_card_is_left(cohort: Any, tmp_path: Path) -> None:
    notes = tmp_path / "t.parquet.card.md"
    notes.write_text("# My own notes\n")
    for beside in (False, True):
        if beside:
            (tmp_path / "t.parquet").write_text("old")
        with pytest.raises(ConflictError, match=r"t\.parquet\.card\.md is there already, and isn't the data card"):
            cohort.store.materialize(**RECIPE | {"name": "another"}, out=tmp_path / "t.parquet")
    assert notes.read_text() == "# My own notes\n"
    assert (tmp_path / "t.parquet").read_text() == "old"
    assert "another" not in cohort.store.ls("tables").column("name").to_pylist()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_file_of_two_parts_is_never_a_mixed_pair(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """An index of new rows beside an array of old ones would be wrong without a sign: the old pair is put back."""
    out = tmp_path / "t.npy"
    cohort.store.materialize(**RECIPE, out=out)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert set(before) == {"t.npy", "t.index.csv", "t.npy.card.md"}
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if target == out:
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    name = f"inner{type(error).__name__}"
    with pytest.raises((KeyboardInterrupt, SetupError)) as caught:
        cohort.store.materialize(**RECIPE | {"join": "inner", "name": name}, out=out)
    assert isinstance(caught.value, KeyboardInterrupt) or "can't be written: No space left" in str(caught.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert name not in cohort.store.ls("tables").column("name").to_pylist()


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("old", [True, False])
def test_folds_are_all_exported_or_none(
    cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, old: bool
) -> None:
    with contextlib.suppress(ConflictError):
        cohort.store.split(scheme="cv", k_folds=3, seed=1)
    if old:
        for fold in range(3):
            (tmp_path / f"o.fold{fold}.parquet").write_bytes(b"old")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    replace, runs = os.replace, sorted((cohort.store.path / "runs").iterdir())

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == "o.fold1.parquet":
            raise OSError(28, "No space left on device")
        replace(source, target)

    def no_links(*_: Any, **__: Any) -> None:
        raise OSError(95, "Operation not supported")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        if not links:
            patch.setattr(os, "link", no_links)
        with pytest.raises(SetupError, match=r"o\.fold1\.parquet can't be written"):
            cohort.store.materialize(name="g", inputs=["v/A:mean"], scheme="cv", out=tmp_path / "o.parquet")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert "g" not in cohort.store.ls("tables").column("name").to_pylist()
    assert sorted((cohort.store.path / "runs").iterdir()) == runs
    name = f"g{links}{old}"
    made = cohort.store.materialize(name=name, inputs=["v/A:mean"], scheme="cv", out=tmp_path / "o.parquet")
    assert [p.read_bytes() for p in made.out] == [
        (made.path / f"fold{n}" / "data.parquet").read_bytes() for n in range(3)
    ]
    assert len(list(tmp_path.iterdir())) == 6


def test_a_folder_in_the_way_of_a_part_leaves_the_old_file(cohort: Any, tmp_path: Path) -> None:
    out = tmp_path / "t.npy"
    out.write_bytes(b"old")
    (tmp_path / "t.index.csv").mkdir()
    with pytest.raises(UsageError, match=r"t\.index\.csv is a folder"):
        cohort.store.materialize(**RECIPE, out=out)
    assert out.read_bytes() == b"old"


def test_a_folder_that_cant_be_written_is_said(cohort: Any) -> None:
    """/proc takes no new folders, whoever asks."""
    tables = cohort.store.ls("tables").num_rows
    with pytest.raises(SetupError, match="can't be written") as caught:
        cohort.store.materialize(**RECIPE | {"name": "other"}, out="/proc/t.csv")
    assert "--out" in caught.value.hint
    assert cohort.store.ls("tables").num_rows == tables


def test_relative_out_is_below_the_working_folder(cohort: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cohort.store.materialize(**RECIPE, out="here.parquet")
    assert (tmp_path / "here.parquet").is_file()
