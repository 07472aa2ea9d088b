"""What can't be had is refused with the fact, the cause and the next step, and leaves the store as it was."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import duckdb
import pytest

import featstore
from featstore import ConflictError, FeatstoreError, LeakageError, NotFoundError, SqlError, UsageError


@pytest.fixture(scope="module")
def cohort(make_cohort: Callable[..., Any]) -> Any:
    made = make_cohort(20, count=18, slices=3)
    # One vector a patient and modality, a second version of it, and a set of tokens.
    made.extract("one", where="attributes['slice'] = '0'")
    made.extract("one", dim=5, where="attributes['slice'] = '0'", dtype="float16")
    made.extract("tok", poolers=("tokens",))
    rows = {p: {"age": 20 + n, "sex": "MF"[n % 2], "grade": n % 2, "Label": n % 2} for n, p in enumerate(made.patients)}
    made.clinical(rows)
    made.clinical({p: {"age": 1, "a": 2, "a_0": 3} for p in made.patients}, name="other")
    made.store.split(scheme="empty_train", ratios={"val": 0.5, "test": 0.5})
    made.store.materialize(name="kept", inputs=["a=v/A:mean"])
    return made


def snapshot(store: featstore.Store) -> tuple[Any, ...]:
    """All files but the catalog with their bytes, and all rows of the catalog."""
    files = {
        path.relative_to(store.path).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.path.rglob("*"))
        if path.is_file() and not path.name.startswith("catalog.duckdb")
    }
    folders = sorted(path.relative_to(store.path).as_posix() for path in store.path.rglob("*") if path.is_dir())
    with duckdb.connect(str(store.path / "catalog.duckdb"), read_only=True) as connection:
        tables = connection.execute("SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL").fetchall()
        rows = {
            t: connection.execute(f'SELECT count(*), bit_xor(hash(t)) FROM "{t[0]}"."{t[1]}" t').fetchall()
            for t in tables
        }
    return files, folders, rows


@pytest.fixture
def unchanged(cohort: Any) -> Iterator[None]:
    before = snapshot(cohort.store)
    yield
    assert snapshot(cohort.store) == before


A = "a=v/A:mean"
CLINICAL: dict[str, Any] = {"inputs": [A], "tables": ["clinical"], "scheme": "default"}
REFUSALS: dict[str, tuple[dict[str, Any], type[FeatstoreError], str, str]] = {
    "mixes modalities": ({"inputs": ["v:mean"]}, ConflictError, r"mix modalities: v@v1 has A, P", r"--input v=v@v1/A"),
    "several rows": ({"inputs": ["v/A"]}, ConflictError, r"several rows of a patient", r"--input v_A=v@v1/A:mean"),
    "mixes without agg": ({"inputs": ["one"]}, ConflictError, r"mix modalities", r"one@v2/A"),
    "tokens": ({"inputs": ["tok/A:mean"]}, UsageError, r"tok@v1 keeps tokens, 1 × 5", r"--pooler mean"),
    "no such set": ({"inputs": ["vv/A:mean"]}, NotFoundError, r"no feature set 'vv'. Did you mean 'v'", r"ls features"),
    "no such version": ({"inputs": ["v@v7/A:mean"]}, NotFoundError, r"no version 7; its latest is v1", r"show v"),
    "no such modality": ({"inputs": ["v/T1:mean"]}, NotFoundError, r"no current vectors of modality 'T1'", r"A, P"),
    "no such pooler": ({"inputs": ["v/A:maen"]}, NotFoundError, r"no pooler 'maen'. Did you mean 'mean'", r"plugins"),
    "pooler of tokens": ({"inputs": ["v/A:cls"]}, NotFoundError, r"'cls' works on tokens", r"mean"),
    "no such fuser": ({"inputs": [A], "fuser": "concta"}, NotFoundError, r"no fuser 'concta'.*'concat'", r"plugins"),
    "no such scheme": (
        {"inputs": [A], "scheme": "defualt"}, NotFoundError, r"'defualt'.*'default'", r"featstore split",
    ),
    "no such table": (CLINICAL | {"tables": ["clincal"]}, NotFoundError, r"'clincal'.*'clinical'", r"ingest-table"),
    "no such column": (CLINICAL | {"numeric": ["agee"]}, UsageError, r"'agee'.*'age'", r"columns: age, sex, grade"),
    "no such column, named": (CLINICAL | {"numeric": ["clinical.agee"]}, UsageError, r"agee", r"columns: age"),
    "column of several": (
        CLINICAL | {"tables": ["clinical", "other"], "numeric": ["age"]}, UsageError, r"in several tables",
        r"clinical\.age",
    ),
    "no column asked for": (CLINICAL, UsageError, r"No column of the table 'clinical'", r"--numeric"),
    "column without a table": ({"inputs": [A], "numeric": ["age"]}, UsageError, r"need a --table", ""),
    "text as a number": (
        CLINICAL | {"numeric": ["sex"]}, UsageError, r"holds string, not numbers", r"--categorical sex",
    ),
    "label nowhere": ({"inputs": [A], "label": "grade"}, UsageError, r"neither 'label'", r"--label label"),
    "label in no table": ({"inputs": [A], "label": "nope.grade"}, NotFoundError, r"no table 'nope'", r"ingest-table"),
    "label in no column": (
        {"inputs": [A], "label": "clinical.grad"}, NotFoundError, r"no column 'grad'.*'grade'", r"columns",
    ),
    "label is an input": (
        CLINICAL | {"numeric": ["grade"], "label": "clinical.grade"}, LeakageError, r"label and an input",
        r"take grade out",
    ),
    "label is a category": (
        CLINICAL | {"categorical": ["clinical.grade"], "label": "clinical.grade"}, LeakageError, r"label and an input",
        r"take",
    ),
    "label in another case": (
        CLINICAL | {"numeric": ["grade"], "label": "Clinical.GRADE"}, LeakageError, r"label and an input", r"take",
    ),
    "a column called label": (CLINICAL | {"numeric": ["Label"]}, LeakageError, r"'Label' of 'clinical'", r"take Label"),
    "a category called label": (CLINICAL | {"categorical": ["Label"]}, LeakageError, r"label and an input", r"take"),
    "one alias twice": ({"inputs": [A, "a=v/P:mean"]}, UsageError, r"called 'a'", r"name inputs apart"),
    "aliases by case": ({"inputs": [A, "A=v/P:mean"]}, UsageError, r"'a', 'A'", r"name inputs apart"),
    "alias is reserved": ({"inputs": ["Fused=v/A:mean"]}, UsageError, r"'Fused'", r"name inputs apart"),
    "alias is a column": (
        CLINICAL | {"tables": ["other"], "numeric": ["a"]}, UsageError, r"called 'a'", r"name inputs apart",
    ),
    "alias is a mask": ({"inputs": [A, "has_a=v/P:mean"]}, UsageError, r"'has_a'", r"name inputs apart"),
    "a column twice": (CLINICAL | {"numeric": ["age", "age"]}, UsageError, r"called 'age'", r"once"),
    "number and category": (CLINICAL | {"numeric": ["age"], "categorical": ["age"]}, UsageError, r"'age'", r"once"),
    "pca without a scheme": ({"inputs": [A], "pca": 2}, UsageError, r"no --scheme", r"--scheme default"),
    "standardize without": ({"inputs": [A], "standardize": True}, UsageError, r"no --scheme", r"--scheme default"),
    "impute without": ({"inputs": [A], "impute": "mean"}, UsageError, r"no --scheme", r"--scheme default"),
    "one-hot without": (CLINICAL | {"scheme": None, "categorical": ["sex"]}, UsageError, r"no --scheme", r"--scheme"),
    "no train rows": (
        {"inputs": [A], "scheme": "empty_train", "standardize": True}, ConflictError, r"split 'train'",
        r"featstore sql",
    ),
    "fuser that learns without": (
        {"inputs": [A], "fuser": "twice"}, UsageError, r"'twice' learns .* no --scheme", r"--scheme default",
    ),
    "no train rows for a fuser": (
        {"inputs": [A], "scheme": "empty_train", "fuser": "twice"}, ConflictError, r"split 'train'", r"featstore sql",
    ),
    "pca of nothing": ({"inputs": [A], "scheme": "default", "pca": 0}, UsageError, r"--pca takes", ""),
    "pca of a half": ({"inputs": [A], "scheme": "default", "pca": 2.5}, UsageError, r"not 2.5", ""),
    "pca without end": ({"inputs": [A], "scheme": "default", "pca": float("inf")}, UsageError, r"not inf", ""),
    "pca of no number": ({"inputs": [A], "scheme": "default", "pca": float("nan")}, UsageError, r"not nan", ""),
    "too many components": (
        {"inputs": [A], "scheme": "default", "pca": 99}, UsageError, r"can't give 99", r"pca\(2\)",
    ),
    "nobody is left": ({"inputs": [A], "where": "label = '77'"}, NotFoundError, r"'a' is empty.*--where", r"samples"),
    "nobody has both": (
        {"inputs": [A, "p=one/P"], "where": "modality = 'A'"}, NotFoundError, r"'p' is empty.*the --where", r"samples",
    ),
    "where is no SQL": ({"inputs": [A], "where": "label ="}, SqlError, r"--where 'label ='", r"information_schema"),
    "where of no column": ({"inputs": [A], "where": "grade = 1"}, SqlError, r"grade", r"information_schema"),
    "where that writes": ({"inputs": [A], "where": "true); DROP TABLE core.run; --"}, SqlError, r"--where", ""),
    "where that reads files": (
        {"inputs": [A], "where": "sample_key IN (SELECT content FROM read_text('/etc/hostname'))"}, SqlError,
        r"--where", "",
    ),
    "join of another kind": ({"inputs": [A], "join": "innner"}, UsageError, r"join 'innner'.*'inner'", ""),
    "impute of another kind": ({"inputs": [A], "impute": "median"}, UsageError, r"--impute 'median'", ""),
    "no inputs": ({"inputs": []}, UsageError, r"at least one input", r"--input"),
    "an input that is none": ({"inputs": ["v//A"]}, UsageError, r"'v//A' isn't an input", ""),
    "a name that is none": ({"inputs": [A], "name": "a/b"}, UsageError, r"'a/b' can't be the name", ""),
    "a name by case": ({"inputs": [A], "name": "Kept"}, ConflictError, r"differs from it in case only", r"--name"),
    "wide without out": ({"inputs": [A], "wide": True}, UsageError, r"no --out", r"--out table.parquet"),
}  # fmt: skip


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("what", REFUSALS)
def test_refused(cohort: Any, what: str) -> None:
    fields, kind, message, hint = REFUSALS[what]
    with pytest.raises(FeatstoreError) as caught:
        cohort.store.materialize(**({"name": "t"} | fields))
    assert type(caught.value) is kind, caught.value
    assert re.search(message, caught.value.message), caught.value.message
    assert re.search(hint, caught.value.hint), caught.value.hint


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("out", "kind", "message"),
    [
        ("t.xlsx", NotFoundError, "No exporter"),
        ("nowhere/t.parquet", NotFoundError, "no folder"),
        ("folder.csv", UsageError, "is a folder"),
        ("store/tables/t.csv", UsageError, "the store's own"),
    ],
)  # fmt: skip
def test_out_that_cant_be_written_is_refused(cohort: Any, out: str, kind: Any, message: str) -> None:
    parent = cohort.store.path.parent
    (parent / "folder.csv").mkdir(exist_ok=True)
    with pytest.raises(kind, match=message) as caught:
        cohort.store.materialize(name="t", inputs=[A], out=parent / out)
    assert caught.value.hint


@pytest.mark.usefixtures("unchanged")
def test_out_survives_a_run_that_fails(cohort: Any) -> None:
    """Also where the failure is the exporter's own: one column a feature would give a name twice."""
    out = cohort.store.path.parent / "precious.csv"
    out.write_text("precious")
    clash = {"inputs": [A], "tables": ["other"], "numeric": ["a_0"]}
    for fields in (clash, {"inputs": ["nope"]}, {"inputs": [A], "scheme": "default", "pca": 99}):
        with pytest.raises(FeatstoreError):
            cohort.store.materialize(name="t", out=out, **fields)
        assert out.read_text() == "precious"
    assert sorted(p.name for p in out.parent.iterdir() if p.name.startswith(".tmp")) == []


def test_a_patient_in_two_splits_is_impossible(make_cohort: Callable[..., Any]) -> None:
    """Not by a check that could be forgotten: the catalog's own key refuses the row."""
    cohort = make_cohort(21, count=12, slices=1)
    with (
        duckdb.connect(str(cohort.store.path / "catalog.duckdb")) as connection,
        pytest.raises(duckdb.ConstraintException, match=r"[Dd]uplicate key"),
    ):
        connection.execute(
            "INSERT INTO core.split SELECT scheme, patient, 'test' FROM core.split WHERE split = 'train'"
        )


def test_two_splits_are_refused_even_if_the_key_were_gone(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(21, count=12, slices=1)
    with duckdb.connect(str(cohort.store.path / "catalog.duckdb")) as connection:
        connection.execute("CREATE TABLE core.copy AS FROM core.split")
        connection.execute("INSERT INTO core.copy SELECT scheme, patient, 'test' FROM core.split WHERE split = 'train'")
        connection.execute("DROP VIEW main.samples")
        for view in ("patients", "features"):
            connection.execute(f"DROP VIEW main.{view}")
        connection.execute("DROP VIEW core.default_split")
        connection.execute("DROP VIEW main.splits")
        connection.execute("DROP TABLE core.split")
        connection.execute("ALTER TABLE core.copy RENAME TO split")
    with pytest.raises(LeakageError, match="more than one split") as caught:
        cohort.store.materialize(name="t", inputs=["a=v/A"], scheme="default")
    assert "007" in caught.value.message


def test_infinite_numbers_are_refused(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(22, count=12, slices=1)
    cohort.clinical({p: {"x": "inf" if n == 3 else n / 2} for n, p in enumerate(cohort.patients)})
    with pytest.raises(ConflictError, match="'x' holds an infinite number"):
        cohort.store.materialize(name="t", inputs=["a=v/A"], tables=["clinical"], numeric=["x"])


def test_inputs_without_any_vector_say_how_to_get_them(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(23, count=12, slices=1, extract=False)
    for key in cohort.vectors:
        cohort.file(key).write_bytes(b"")
    cohort.ingest()
    cohort.extract()
    with pytest.raises(NotFoundError, match="'a' is empty") as caught:
        cohort.store.materialize(name="t", inputs=["a=v/A"])
    assert "featstore extract" in caught.value.hint
    assert cohort.store.features("v").arrays()[0].shape == (0, 5)
    assert cohort.store.sql("SELECT count(*) n FROM vectors.v").to_pylist() == [{"n": 0}]


def test_nobody_with_a_label_of_that_table(make_cohort: Callable[..., Any]) -> None:
    cohort = make_cohort(24, count=12, slices=1)
    cohort.clinical({"nobody": {"x": 1}})
    with pytest.raises(NotFoundError, match=r"No patient is left.*12 without a value of 'clinical.x'"):
        cohort.store.materialize(name="t", inputs=["a=v/A"], label="clinical.x")
