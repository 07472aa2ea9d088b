"""What can be asked of a split, and what is refused before anything is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import pytest

from featstore.errors import UsageError
from featstore.splits import SplitRequest, check_ratios
from featstore.splits.request import folds_among


class TestRatios:
    @pytest.mark.parametrize(
        "shares", [{"a": 1.0}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 0.1, "b": 0.2, "c": 0.7}]
    )
    def test_good(self, shares: Mapping[str, float]) -> None:
        check_ratios(shares)
        assert sum(SplitRequest(ratios=shares).shares.values()) == 1

    @pytest.mark.parametrize(
        ("shares", "message"),
        [
            ({}, "sum to 0"),
            ({"train": 0.7, "val": 0.2}, r"sum to 0\.9 \(0\.7 \+ 0\.2\), not to 1"),
            ({"train": 70, "val": 30}, "above 0 and at most 1, not 70"),
            ({"train": 1.0, "val": 0.0}, "'val' must be above 0"),
            ({"train": 1.5, "val": -0.5}, "at most 1"),
            ({"train": math.nan, "val": 0.5}, "not nan"),
            ({"tr/ain": 1.0}, "can't be the name of a split"),
            ({"train": 0.5, "Train": 0.5}, "'train' and 'Train' differ by case alone"),
        ],
    )
    def test_bad(self, shares: Mapping[str, float], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            check_ratios(shares)


RATIOS = {"ratios": {"train": 1.0}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Nothing says how to split"),
        (RATIOS | {"k_folds": 5}, "--ratio and --k-folds each say"),
        ({"k_folds": 5, "leave_one_site_out": True, "sources": ["a.csv"]}, "--k-folds and --leave-one-site-out and"),
        ({"k_folds": 1}, "must be 2 or more, not 1"),
        ({"k_folds": 2, "repeats": 0}, "must be 1 or more, not 0"),
        (RATIOS | {"repeats": 2}, "--repeats goes with --k-folds"),
        (RATIOS | {"scheme": "a b"}, "split scheme"),
        (RATIOS | {"scheme": "a@v1"}, "split scheme"),
        (RATIOS | {"holdout": "true", "holdout_as": ""}, "a split"),
        (RATIOS | {"holdout": "true", "holdout_as": "train"}, "mixed into 'train', which --ratio fills"),
        ({"k_folds": 3, "holdout": "true", "holdout_as": "fold7"}, "which the folds are called like"),
        (RATIOS | {"stable": True, "stratify": "label"}, "--stratify goes with .*without --stable"),
        (RATIOS | {"stable": True, "preserve_sites": True}, "--preserve-sites goes with .*without --stable"),
        (RATIOS | {"allow_missing": True}, "--allow-missing goes with --from"),
        (RATIOS | {"relative": True}, "--relative goes with --export"),
        ({"sources": ["a.csv"], "holdout": "true"}, "--holdout goes with"),
        ({"sources": ["a.csv"], "require_modalities": ["A"]}, "--require-modality goes with"),
        ({"leave_one_site_out": True, "stratify": "label"}, "--stratify goes with"),
        ({"leave_one_site_out": True, "preserve_sites": True}, "--preserve-sites goes with"),
        ({"export": "out", "replace": True}, "--replace goes with"),
        ({"export": "out", "holdout": "true"}, "--holdout goes with"),
    ],
)
def test_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SplitRequest(**fields)


def test_folds_have_equal_shares_and_repeats_have_seeds_of_their_own() -> None:
    request = SplitRequest(scheme="cv", k_folds=3, repeats=2, seed=5)
    assert request.shares == {f"fold{i}": Fraction(1, 3) for i in range(3)}
    (one, first, _), (other, second, beside) = request.schemes
    assert (one, other) == ("cv-r1", "cv-r2")
    assert len({first, second, 5}) == 3
    assert beside == {"repeat": 2, "seed_of_repeats": 5}
    assert SplitRequest(scheme="cv", k_folds=3, repeats=9, seed=5).schemes[:2] == request.schemes


@pytest.mark.parametrize(
    ("names", "folds"), [(["train", "val"], 0), (["fold1", "fold0", "test"], 2), (["folder", "myfold1"], 0)]
)
def test_folds_of_files(names: list[str], folds: int) -> None:
    assert folds_among(names) == folds


@pytest.mark.parametrize("names", [["fold1", "fold2"], ["fold0", "fold2"], ["fold0"], ["fold00", "fold1"]])
def test_folds_with_a_gap(names: list[str]) -> None:
    with pytest.raises(UsageError, match="without a gap"):
        folds_among(names)
