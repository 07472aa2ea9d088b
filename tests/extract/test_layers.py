"""Several layers, facets and poolers: one pass, and what separate runs give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from featstore import UsageError
from featstore.extract.encoder import load_backbone
from featstore.spec import BackboneRequest, BackboneSpec

GRID = {"layers": ("0", "-1"), "facets": ("token", "query"), "poolers": ("mean", "max")}
NAMES = [
    f"s.{layer}.{facet}.{pooler}" for layer in ("l0", "l-1") for facet in GRID["facets"] for pooler in GRID["poolers"]
]


def test_one_pass_gives_what_separate_runs_give(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(6)
    result = lab.extract(backbone="lab:blocks", **GRID)
    assert list(result.feature_sets) == NAMES
    assert lab.forwards() == [[0], [0, 1, 2, 3], [4, 5]]  # the first tells the shapes, on zeros
    together = {name: lab.vectors(name) for name in NAMES}
    assert len({tuple(sorted(vectors.items())) for vectors in together.values()}) == len(NAMES)
    for name in NAMES:
        _, layer, facet, pooler = name.split(".")
        alone = lab.extract(
            f"alone_{name}",
            backbone="lab:blocks",
            layers=(layer.removeprefix("l"),),
            facets=(facet,),
            poolers=(pooler,),
        )
        assert alone.done == 6
        assert lab.vectors(f"alone_{name}") == together[name]
    words = lab.sql("SELECT DISTINCT feature_set, layer, facet, pooler FROM features WHERE feature_set LIKE 's.%'")
    assert {(w["feature_set"], w["layer"], w["facet"], w["pooler"]) for w in words} == {
        (f"s.{word}.{facet or 'token'}.{pooler}", layer, facet, pooler)
        for word, layer in (("l0", "0"), ("l-1", "1")) for facet in (None, "query") for pooler in ("mean", "max")
    }  # fmt: skip


def test_the_same_function_by_other_words_is_not_made_again(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(4)
    lab.extract(backbone="lab:blocks", layers=("1",), poolers=("mean",))
    lab.forwards()
    again = lab.extract(backbone="lab:blocks", layers=("-1",), poolers=("mean",), facets=("token",))
    assert (again.done, again.feature_sets, lab.forwards()) == (0, {"s": 1}, [])
    with pytest.raises(UsageError, match=r"s\.l1 and s\.l-1 would hold the very same"):
        lab.extract(backbone="lab:blocks", layers=("1", "-1"))


def test_what_is_added_later_is_made_alone(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(4)
    lab.extract(backbone="lab:blocks", layers=("0", "1"))
    lab.write(9)
    lab.ingest()
    more = lab.extract(backbone="lab:blocks", layers=("0", "1", "last"))
    assert (more.done, more.feature_sets) == (5, {"s.l0": 1, "s.l1": 1, "s.last": 1})
    assert {name: len(lab.vectors(name)) for name in more.feature_sets} == {"s.l0": 5, "s.l1": 5, "s.last": 5}


def test_retry_makes_the_sets_that_failed_and_no_others(make_lab: Callable[..., Any]) -> None:
    lab = make_lab(4)
    lab.extract(backbone="lab:blocks", layers=("0",), poolers=("mean", "max"), name="s")
    lab.write(8, "half_nan")  # the mean isn't finite, the maximum is
    lab.ingest()
    lab.extract(backbone="lab:blocks", layers=("0",), poolers=("mean", "max"), name="s")
    lab.write(8)
    (retried,) = lab.store.retry()
    assert (retried.done, retried.failed) == (2, 0)  # the maximum too: it was of other bytes
    assert {name: len(lab.vectors(name)) for name in ("s.mean", "s.max")} == {"s.mean": 5, "s.max": 5}


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({"checkpoint": "w.pt"}, "--checkpoint"),
        ({"in_chans": 3}, "--in-chans"),
        ({"settings": {"scale": "2"}}, "--set"),
        ({"drop_last": 1}, "--drop-last"),
        ({"pretrained": True}, "--pretrained"),
    ],
)
def test_an_option_that_a_backbone_ignores_is_refused(
    make_lab: Callable[..., Any], fields: dict[str, Any], flags: str
) -> None:
    lab = make_lab(1)
    with pytest.raises(UsageError, match=f"lab:deaf takes no {flags}"):
        lab.extract(backbone="lab:deaf", **fields)


def test_what_is_looked_at_is_not_refused() -> None:
    def load(request: BackboneRequest) -> Any:
        assert request.rest == "x"
        return request.settings.get("scale"), request.seed

    spec = BackboneSpec("lab:x", load=load)
    assert load_backbone(spec, BackboneRequest("lab:x", False, settings={"scale": "2"}, seed=3)) == ("2", 3)  # type: ignore[comparison-overlap]


def test_a_backbone_may_hand_its_request_on() -> None:
    """As one that wraps another does; copying has looked at everything."""

    def load(request: BackboneRequest) -> Any:
        return replace(request, name="lab:other").settings["scale"]

    spec = BackboneSpec("lab:x", load=load)
    assert load_backbone(spec, BackboneRequest("lab:x", checkpoint=Path("w.pt"), settings={"scale": "2"})) == "2"  # type: ignore[comparison-overlap]
