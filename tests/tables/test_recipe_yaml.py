"""YAML without its traps: what is written is what is read, or it is refused with its line."""

from __future__ import annotations

import time
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from featstore import UsageError
from featstore.tables.recipe_yaml import dump, parse, parse_json

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(plain)
def test_what_is_written_is_read_again(value: Any) -> None:
    again = parse(dump(value), "x.yaml")
    assert again == value
    assert repr(again) == repr(value)  # True is not 1


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("off", "off"), ("n", "n"), ("true", True), ("False", False),
        ("7", 7), ("-7", -7), ("0", 0), ("1.50", 1.5), (".5", 0.5), ("1e-3", 0.001), ("1e5", 1e5), ("'007'", "007"),
        ("!!str 007", "007"), ("~", None), ("", None), ("null", None), ("none", "none"), ("1:30", "1:30"),
        ("0x1F", "0x1F"), ("1_000", "1_000"), ("2024-01-01", "2024-01-01"), (".nan", ".nan"), (".inf", ".inf"),
        ("[a, pca(32)]", ["a", "pca(32)"]), ("site <> 'JM'", "site <> 'JM'"), ("'<<'", "<<"), ("=", "="),
    ],
)  # fmt: skip
def test_values(written: str, value: Any) -> None:
    read = parse(written, "x.yaml")
    assert read == value
    assert type(read) is type(value)


def test_keys_are_names() -> None:
    assert parse("no: 1\n007: 2\n1.5: 3\n", "x.yaml") == {"no": 1, "007": 2, "1.5": 3}


def test_anchors_and_merges() -> None:
    text = "one: &one {a: 1, b: [x]}\ntwo: {<<: *one, a: 2}\nthree: *one\n"
    read = parse(text, "x.yaml")
    assert read == {"one": {"a": 1, "b": ["x"]}, "two": {"a": 2, "b": ["x"]}, "three": {"a": 1, "b": ["x"]}}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("a: 1\nb: 007\n", "line 2: 007 may be text or a number", "quote it: '007'"),
        ("a: -08\n", "line 1: -08 may be text", "'-08'"),
        ("a: 1\na: 2\n", "line 2: 'a' is given twice", "keep one"),
        ("a: {b: 1, b: 1}", "'b' is given twice", "keep one"),
        ("&x a: 1\n*x : 2\n", "'a' is given twice", "keep one"),
        ("a:\n\tb: 1\n", "line 2 isn't YAML", "no tabs"),
        ("a: b: c\n", "line 1 isn't YAML", "quote"),
        ("a: [1, 2\n", "isn't YAML", "quote"),
        ("a: 1\n---\nb: 2\n", "another document", ""),
        ("a: *nobody\n", "undefined alias", ""),
        ("a: &a [*a]\n", "line 1: an anchor refers to itself", ""),
        ("&a {b: *a}\n", "refers to itself", ""),
        ("&a {<<: *a}\n", "refers to itself", ""),
        ("a: {<<: [{b: 1}]}\n", "<< takes one mapping", "once"),
        ("a: {<<: {b: 1}, <<: {c: 1}}\n", "<< takes one mapping", "once"),
        ("[a]: 1\n", "a key must be text", ""),
        ("a: !!python/object/apply:os.system [ls]\n", "isn't for recipes", ""),
        ("a: !!binary aGk=\n", "isn't for recipes", ""),
        ("a: !!set {x}\n", "isn't for recipes", ""),
        ("a: !mine x\n", "isn't for recipes", ""),
        ("a: !!int x\n", "'x' is no int", ""),
        ("a: 1e999\n", "too large", ""),
        (f"a: {'9' * 5000}\n", "too large", ""),
        ("a: \x00\n", "isn't YAML", ""),
        ("[" * 20_000, "nested too deep", ""),
    ],
)  # fmt: skip
def test_traps(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, "x.yaml")
    assert message in caught.value.message
    assert caught.value.message.startswith("x.yaml")
    assert hint in caught.value.hint
    assert len(caught.value.message) < 300


def test_references_cost_nothing() -> None:
    """Sixty lists, each twice in the next: 2**60 values, were they copied."""
    lists = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    merges = "".join(f"a{n}: &a{n} {{<<: *a{n - 1}, k{n}: 1}}\n" for n in range(1, 300))
    start = time.monotonic()
    assert len(parse(f"a0: &a0 [x]\n{lists}", "x.yaml")) == 60
    with pytest.raises(UsageError, match="at most 100 keys"):
        parse(f"a0: &a0 {{x: 1}}\n{merges}", "x.yaml")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 1}', "gives 'a' twice"),
        ('{"a": NaN}', "NaN, which is no number"),
        ('{"a": -Infinity}', "Infinity, which is no number"),
        ('{"a"', "isn't JSON"),
        ("", "isn't JSON"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_json_traps(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_json(text, "x.json")


def test_json_is_read_as_it_is() -> None:
    assert parse_json('{"name": "007", "on": [1, 1.5, true, null]}', "x.json") == {
        "name": "007", "on": [1, 1.5, True, None],
    }  # fmt: skip
