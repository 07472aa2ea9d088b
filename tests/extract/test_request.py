"""Requests: what is refused, how outputs are named, and what a fingerprint depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import Backbone, Tokens, UsageError
from featstore.extract import ExtractRequest
from featstore.extract.request import Target, find_layer


def request(**fields: Any) -> ExtractRequest:
    return ExtractRequest(**{"name": "s", "backbone": "lab:stats", **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "a/b"}, "a/b"),
        ({"poolers": ()}, "--pooler"),
        ({"poolers": ("mean", "mean()")}, "twice"),
        ({"poolers": ("gem(3)", "gem3")}, "same name"),
        ({"poolers": ("mean", "Mean")}, "same name"),
        ({"poolers": ("gem(x)",)}, "numbers"),
        ({"dtype": "float61"}, "float16"),
        ({"amp": "fp61"}, "fp16"),
        ({"batch_size": 0}, "--batch-size"),
        ({"chunk_rows": 0}, "--chunk-rows"),
        ({"num_workers": -1}, "--num-workers"),
        ({"threads": 0}, "--threads"),
        ({"drop_last": -1}, "--drop-last"),
        ({"layers": ("3", "3")}, "twice"),
        ({"trust_checkpoint": True}, "--trust-checkpoint"),
    ],
)
def test_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        request(**fields)


def names(**fields: Any) -> list[str]:
    return [output.name for output in request(**fields).outputs()]


def test_only_what_is_given_more_than_once_is_in_the_name() -> None:
    assert names(poolers=("gem(3)",), layers=("3",), facets=("query",)) == ["s"]
    assert names(poolers=("mean", "gem(2.5)", "gem")) == ["s.mean", "s.gem2.5", "s.gem"]
    assert names(layers=("3", "-1", "head")) == ["s.l3", "s.l-1", "s.head"]
    assert names(layers=("3", "11"), facets=("token", "query"), poolers=("cls", "mean")) == [
        "s.l3.token.cls", "s.l3.token.mean", "s.l3.query.cls", "s.l3.query.mean",
        "s.l11.token.cls", "s.l11.token.mean", "s.l11.query.cls", "s.l11.query.mean",
    ]  # fmt: skip
    assert [output.facet for output in request(facets=("token", "query")).outputs()] == [None, "query"]


class Blocks(Backbone):
    """Three blocks with facets, and what comes after them."""

    layers = ("0", "1", "2", "head", "last")
    facets = ("query",)

    def forward(self, batch: Any, layers: Sequence[str]) -> Mapping[str, Tokens]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("layer", "facet", "found"),
    [
        (None, None, "last"),
        (None, "query", "2"),
        ("last", "query", "2"),
        ("last", None, "last"),
        ("1", None, "1"),
        ("-1", None, "2"),
        ("-3", "query", "0"),
        ("head", None, "head"),
    ],
)
def test_which_layer_is_meant(layer: str | None, facet: str | None, found: str) -> None:
    assert find_layer(Blocks(), "lab:blocks", layer, facet) == found


@pytest.mark.parametrize("layer", ["3", "-4", "-0", "haed", "1.query"])
def test_layers_that_are_not_there(layer: str) -> None:
    with pytest.raises(UsageError, match=r"no layer .* Its layers: 0…2 \(or -1…-3\), head, last"):
        find_layer(Blocks(), "lab:blocks", layer, None)
    with pytest.raises(UsageError, match=r"no facet 'quary'\. Did you mean 'query'"):
        find_layer(Blocks(), "lab:blocks", "1", "quary")


def test_one_spelling_of_the_same_thing() -> None:
    assert request(poolers=["gem( 3.0 )"], modalities=["A"]) == request(poolers=("gem(3)",), modalities=("A",))
    assert request(poolers="mean", modalities="T1") == request(poolers=("mean",), modalities=("T1",))


def test_a_checkpoint_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert request(checkpoint="weights.pt").checkpoint == str(tmp_path / "weights.pt")


@given(
    poolers=st.lists(st.sampled_from(["mean", "max", "cls", "gem(2)", "gem(0.5)"]), min_size=1, unique=True),
    modalities=st.lists(st.text(min_size=1), unique=True),
    where=st.none() | st.text(),
    settings=st.dictionaries(st.text(min_size=1), st.text()),
    numbers=st.tuples(st.integers(1, 999), st.integers(1, 99_999), st.integers(0, 64), st.integers(0, 2**40)),
)
def test_json_round_trip(poolers: Any, modalities: Any, where: Any, settings: Any, numbers: Any) -> None:
    batch_size, chunk_rows, num_workers, seed = numbers
    one = request(
        poolers=poolers, modalities=modalities, where=where, settings=settings, batch_size=batch_size,
        chunk_rows=chunk_rows, num_workers=num_workers, seed=seed,
    )  # fmt: skip
    assert ExtractRequest.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_the_fingerprint_is_of_the_configuration_whatever_its_order() -> None:
    one = Target("a", "last", None, "mean", {"x": 1, "y": [0.1, "ä"]})
    other = Target("b", "last", None, "mean", {"y": [0.1, "ä"], "x": 1})
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != Target("a", "last", None, "mean", {"x": 2, "y": [0.1, "ä"]}).fingerprint
    assert len(one.fingerprint) == 64
    with pytest.raises(ValueError, match="JSON"):
        _ = Target("a", "last", None, "mean", {"x": float("nan")}).fingerprint
