"""Requests: what is refused, how outputs are named, and what a fingerprint depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore import UsageError
from featstore.extract import ExtractRequest
from featstore.extract.request import Target


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
    ],
)
def test_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        request(**fields)


def test_one_pooler_takes_the_name_and_several_add_theirs() -> None:
    assert request(poolers=("gem(3)",)).outputs() == {"s": "gem(3)"}
    outputs = request(poolers=("mean", "gem(2.5)", "gem")).outputs()
    assert outputs == {"s.mean": "mean", "s.gem2.5": "gem(2.5)", "s.gem": "gem"}


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
    one = Target("a", "last", "mean", {"x": 1, "y": [0.1, "ä"]})
    other = Target("b", "last", "mean", {"y": [0.1, "ä"], "x": 1})
    assert one.fingerprint == other.fingerprint != Target("a", "last", "mean", {"x": 2, "y": [0.1, "ä"]}).fingerprint
    assert len(one.fingerprint) == 64
    with pytest.raises(ValueError, match="JSON"):
        _ = Target("a", "last", "mean", {"x": float("nan")}).fingerprint
