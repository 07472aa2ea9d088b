"""Recipe files as people write them: lenient in shape, strict in words, and every error says where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featstore import LeakageError, NotFoundError, UsageError
from featstore.keys import Ref
from featstore.tables.recipe import Input, Label, Output, Recipe, TabularInput
from featstore.tables.recipe_file import from_json, read, to_yaml, with_settings
from featstore.tables.recipe_yaml import parse

GRADE = """\
# Which is read by people.
name: grade
entity: patient
label: label
scheme: default
where: site <> 'JM'
inputs:
  - a=r18@v2/A:mean
  - &p
    features: r18
    modality: P
    aggregation: gem(3)
    steps: [l2, pca(64)]
  - {<<: *p, modality: T1, prefix: t1, steps: l2}
tables:
  - name: labs
    numeric: age
    categorical: [no, on, 2024-01-01]
    text: {report: minilm:mean, history: minilm/notes:mean}
  - name: letters
    text: {letter: minilm}
missing: median
steps:
  - standardize
  - "select(8, anova)"
output: {file: grade.csv, wide: true}
"""


def write(folder: Path, text: str | bytes, name: str = "grade.yaml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_as_people_write_it(tmp_path: Path) -> None:
    recipe = read(write(tmp_path, GRADE))
    assert recipe == Recipe(
        "grade",
        (
            Input("a", Ref("r18", 2), "A", "mean"),
            Input("r18_P", Ref("r18"), "P", "gem(3)", ("l2", "pca(64)")),
            Input("t1", Ref("r18"), "T1", "gem(3)", ("l2",)),
            Input("report", Ref("minilm"), None, "mean"),
            Input("history", Ref("minilm"), "notes", "mean"),
            Input("letter", Ref("minilm")),
        ),
        (TabularInput("labs", ("age",), ("no", "on", "2024-01-01")),),
        scheme="default", where="site <> 'JM'", missing="median", steps=("standardize", "select(8, anova)"),
    )  # fmt: skip
    assert recipe.output == Output("grade.csv", wide=True)
    assert read(write(tmp_path, to_yaml(recipe), "again.yaml")) == recipe


def test_json_and_other_beginnings(tmp_path: Path) -> None:
    expected = Recipe("t", (Input("v", Ref("v")),))
    for name, data in (
        ("t.json", b'{"name": "t", "inputs": ["v"]}'),
        ("t.JSON", b'\xef\xbb\xbf{"name": "t",\t"inputs": "v"}'),
        ("t.yml", b"\xef\xbb\xbfname: t\r\ninputs: v\r\n"),
        ("t", b"{name: t, inputs: [v]}"),
    ):
        assert read(write(tmp_path, data, name)) == expected


@pytest.mark.parametrize(
    ("written", "label"),
    [
        ("label: label", Label()),
        ("max_samples: 3", Label()),
        ("label: none", Label(None)),
        ("label: null", Label(None)),
        ("label:", Label(None)),
        ("label: labs.grade", Label("labs.grade")),
        ("label: {}", Label()),
        ("label: {kind: number}", Label("label", "number")),
        ("label: {column: labs.crp, kind: number}", Label("labs.crp", "number")),
        ("label: {column: null}", Label(None)),
        ("label: {column: none}", Label(None)),
        ("label: {time: o.days, event: o.died}", Label(None, "survival", "o.days", "o.died")),
        ("label: {time: o.days, event: o.died, kind: survival}", Label(None, "survival", "o.days", "o.died")),
    ],
)
def test_labels(written: str, label: Label) -> None:
    assert from_json({"name": "t", "inputs": "v"} | parse(written, "t")).label == label


@pytest.mark.parametrize(
    ("old", "missing", "steps"),
    [
        ({"impute": "none", "standardize": False, "pca": None}, "none", ()),
        ({"impute": "mean", "standardize": False, "pca": None}, "mean", ()),
        ({"impute": "none", "standardize": True, "pca": 4.0}, "none", ("standardize", "pca(4)")),
        ({"impute": "mean", "standardize": True, "pca": 0.95}, "mean", ("standardize", "pca(0.95)")),
        ({"impute": "none", "standardize": False, "pca": 32}, "none", ("pca(32)",)),
        ({"standardize": True}, "none", ("standardize",)),
    ],
)
def test_stored_recipes_of_before(old: dict[str, Any], missing: str, steps: tuple[str, ...]) -> None:
    """As featstore 0.1 wrote them, whole."""
    plain = {
        "name": "grade", "inputs": ["a=a_r18:mean", "p_r18.mean=p_r18.mean@v2/P:mean"],
        "tables": [{"name": "clinical", "numeric": ["age"], "categorical": []}],
        "label": "none", "scheme": "default", "where": None, "join": "left", "fuser": "concat", **old,
    }  # fmt: skip
    before = dict(plain)
    recipe = from_json(plain)
    assert plain == before
    assert recipe == Recipe(
        "grade",
        (Input("a", Ref("a_r18"), None, "mean"), Input("p_r18.mean", Ref("p_r18.mean", 2), "P", "mean")),
        (TabularInput("clinical", ("age",)),), label=Label(None), scheme="default", join="left", missing=missing,
        steps=steps,
    )  # fmt: skip


REFUSALS: dict[str, tuple[str, str, str]] = {
    "no name": ("inputs: v", "has no name", "name: grade"),
    "no inputs": ("name: t", "has no inputs", "inputs: [r18/A:mean]"),
    "empty inputs": ("name: t\ninputs: []", "at least one input", ""),
    "nothing": ("", "should be a mapping, and is empty", ""),
    "a list": ("- name: t", "should be a mapping, and is a list", ""),
    "unknown": ("name: t\ninputs: v\nnumeric: age", "numeric: there is no such key", "known: name"),
    "unknown below": ("name: t\ninputs: [{features: v, agregation: mean}]", "inputs[0].agregation", "aggregation"),
    "name of digits": ("name: 007\ninputs: v", "line 1: 007 may be text or a number", "quote it: '007'"),
    "name of a number": ("name: 7\ninputs: v", "name should be text, and is the number 7", "'7'"),
    "name that is none": ("name: a/b\ninputs: v", "'a/b' can't be the name", ""),
    "no line": ("name: t\ninputs: [{alias: a}]", "inputs[0]: an input has either a line", "features: r18"),
    "line and set": ("name: t\ninputs: [{input: v, features: w}]", "inputs[0]: an input has either a line", ""),
    "aggregation twice": (
        "name: t\ninputs: [{input: 'v:mean', aggregation: max}]", "inputs[0]: aggregation is said twice", "keep one",
    ),
    "alias twice": ("name: t\ninputs: [{input: a=v, alias: b}]", "inputs[0]: alias is said twice", "keep one"),
    "alias and prefix": ("name: t\ninputs: [{features: v, alias: a, prefix: a}]", "alias and prefix are the same", ""),
    "line as a set": ("name: t\ninputs: [{features: 'v/A:mean'}]", "inputs[0]: 'v/A:mean' isn't", "input: v/A:mean"),
    "a line that is none": ("name: t\ninputs: [v, v//A]", "inputs[1]: 'v//A' isn't an input", ""),
    "alias of a space": ("name: t\ninputs: [{features: v, modality: T1 w}]", "inputs[0]: 'v_T1 w' can't be", "alias"),
    "step in parts": ("name: t\ninputs: v\nsteps: [select(8, anova)]", "steps[0]: 'select(8' isn't", "has a comma"),
    "step of an input": ("name: t\ninputs: [{features: v, steps: [l2, 'x y']}]", "inputs[0].steps[1]: 'x y'", ""),
    "step of a table": ("name: t\ninputs: v\ntables: [{name: l, numeric: a, steps: '('}]", "tables[0].steps[0]", ""),
    "nameless table": ("name: t\ninputs: v\ntables: [{numeric: age}]", "tables[0] has no name", ""),
    "no columns": ("name: t\ninputs: v\ntables: [{name: labs}]", "tables[0]: no column of the table 'labs'", "numeric"),
    "no columns but steps": (
        "name: t\ninputs: v\ntables: [{name: labs, text: {r: m}, steps: l2}]", "no column of the table 'labs'", "",
    ),
    "text with an alias": (
        "name: t\ninputs: v\ntables: [{name: labs, text: {r: 'x=m:mean'}}]", "tables[0].text.r: 'x=m:mean'", "m:mean",
    ),
    "text of a column with a space": (
        "name: t\ninputs: v\ntables: [{name: labs, text: {two words: m}}]", "tables[0].text.two words", "NAME=m",
    ),
    "text of nothing": ("name: t\ninputs: v\ntables: [{name: labs, text: {r: }}]", "text.r should be text", ""),
    "join and a number": ("name: t\ninputs: v\njoin: inner\nmin_modalities: 1", "give one of them", ""),
    "survival of one": ("name: t\ninputs: v\nlabel: {time: o.days}", "a time and an event", ""),
    "survival and a column": (
        "name: t\ninputs: v\nlabel: {column: label, time: o.days, event: o.died}", "nothing else", "",
    ),
    "output of nothing": ("name: t\ninputs: v\noutput: {wide: true}", "output has no file", "file: grade.parquet"),
    "yes": ("name: t\ninputs: v\noutput: {file: t.csv, wide: yes}", "wide should be true or false", ""),
    "old and new": ("name: t\ninputs: v\nstandardize: true\nsteps: [l2]", "which comes first", "--step"),
    "old of a kind": ("name: t\ninputs: v\nstandardize: 1", "standardize should be true or false", ""),
    "old of another kind": ("name: t\ninputs: v\nimpute: median", "impute 'median' isn't one of none, mean", ""),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSALS)
def test_refused(tmp_path: Path, what: str) -> None:
    text, message, hint = REFUSALS[what]
    with pytest.raises(UsageError) as caught:
        read(write(tmp_path, text))
    assert message in caught.value.message
    assert caught.value.message.startswith("grade.yaml")
    assert hint in caught.value.hint


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no file"):
        read(tmp_path / "nowhere.yaml")
    with pytest.raises(UsageError, match="can't be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(UsageError, match="UTF-8"):
        read(write(tmp_path, "name: é".encode("latin-1")))
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read(write(tmp_path, b"#" * (1 << 20) + b"\nname: t"))


def test_the_label_is_no_input(tmp_path: Path) -> None:
    text = "name: t\ninputs: v\nlabel: labs.crp\ntables: [{name: labs, numeric: crp}]"
    with pytest.raises(LeakageError, match="the label and an input at once"):
        read(write(tmp_path, text))


BASE: dict[str, Any] = {
    "name": "t", "label": "labs.grade", "inputs": ["v/A:mean", {"input": "b=v/P:mean", "steps": ["l2"]}],
    "tables": [{"name": "labs", "numeric": ["age", "crp"]}], "output": "t.csv",
}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "place", "value"),
    [
        ("scheme=cv", ("scheme",), "cv"),
        ("scheme=", ("scheme",), None),
        ("where=site <> 'JM' and label = 1", ("where",), "site <> 'JM' and label = 1"),
        ("steps=[standardize, pca(32)]", ("steps",), ["standardize", "pca(32)"]),
        ("max_samples=7", ("max_samples",), 7),
        ("near_duplicates=0.99", ("near_duplicates",), 0.99),
        ("inputs.0=v/P:max", ("inputs", 0), "v/P:max"),
        ("inputs.0.aggregation=max", ("inputs", 0), {"features": "v", "modality": "A", "aggregation": "max"}),
        ("inputs[0].alias=a", ("inputs", 0),
         {"features": "v", "modality": "A", "aggregation": "mean", "alias": "a"}),
        ("inputs.1.aggregation=max", ("inputs", 1),
         {"features": "v", "modality": "P", "aggregation": "max", "alias": "b", "steps": ["l2"]}),
        ("inputs.1.steps.0=pca(4)", ("inputs", 1, "steps"), ["pca(4)"]),
        ("inputs.1.input=b=w", ("inputs", 1, "input"), "b=w"),
        ("tables.0.numeric.1=ldh", ("tables", 0, "numeric"), ["age", "ldh"]),
        ("label.kind=number", ("label",), {"column": "labs.grade", "kind": "number"}),
        ("label=none", ("label",), "none"),
        ("output.wide=true", ("output",), {"file": "t.csv", "wide": True}),
        ("allow.outdated=frozen for the paper", ("allow",), {"outdated": "frozen for the paper"}),
    ],
)  # fmt: skip
def test_settings(word: str, place: tuple[Any, ...], value: Any) -> None:
    before = repr(BASE)
    made: Any = with_settings(BASE, [word])
    from_json(made)
    for key in place:
        made = made[key]
    assert made == value
    assert repr(BASE) == before


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [
        ("scheme", "isn't key=value", "--set scheme=cv"),
        ("=cv", "isn't key=value", ""),
        ("a..b=cv", "isn't key=value", ""),
        ("scheem=cv", "scheem: there is no such key. Did you mean 'scheme'", "known"),
        ("scheem.x=cv", "scheem: there is no such key. Did you mean 'scheme'", "known"),
        ("inputs.0.agregation=max", "inputs[0].agregation: there is no such key. Did you mean 'aggregation'", "known"),
        ("inputs.2.aggregation=max", "inputs has no '2'; it has 2", "inputs.0"),
        ("inputs.first=v", "inputs has no 'first'", "inputs.0"),
        ("name.first=v", "there is nothing at 'first'", ""),
        ("steps.0=l2", "there is nothing at '0'", ""),
        ("name=007", "--set name, line 1: 007 may be text", "quote it: '007'"),
        ("name=7", "name should be text, and is the number 7", "'7'"),
        ("max_samples=many", "max_samples should be a whole number", ""),
        ("where=a: b", "where should be text, and is a mapping", "quote"),
        ("where=[", "--set where, line 1 isn't YAML", "quote"),
    ],
)  # fmt: skip
def test_settings_that_are_none(word: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_settings(BASE, [word])
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_setting_changes_one_of_two_that_share_an_anchor(tmp_path: Path) -> None:
    text = "name: t\ninputs: [{features: v, alias: a, steps: &s [l2, pca(4)]}, {features: w, steps: *s}]"
    recipe = read(write(tmp_path, text), settings=["inputs.0.steps.1=pca(8)"])
    assert [item.steps for item in recipe.inputs] == [("l2", "pca(8)"), ("l2", "pca(4)")]


def test_a_line_of_one_is_set_too(tmp_path: Path) -> None:
    recipe = read(
        write(tmp_path, "name: t\ninputs: v/A:mean\nsteps: l2"), settings=["inputs.0.modality=P", "steps.0=pca(2)"]
    )
    assert recipe == Recipe("t", (Input("v_P", Ref("v"), "P", "mean"),), steps=("pca(2)",))


def test_name_and_reasons_from_outside(tmp_path: Path) -> None:
    file = write(tmp_path, "inputs: v\nallow: {outdated: old, same-content: phantom}")
    recipe = read(file, name="t", allow={"outdated": "new"}, settings=["max_samples=1"])
    assert recipe == Recipe(
        "t", (Input("v", Ref("v")),), allow={"outdated": "new", "same-content": "phantom"}, max_samples=1
    )
    assert read(write(tmp_path, "inputs: v\nname: s"), name="t").name == "t"
