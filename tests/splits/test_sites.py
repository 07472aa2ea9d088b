"""Splits that divide no site: as near to the ratios as can be, and the same on every machine."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from featstore.errors import UsageError
from featstore.splits.sites import by_site, place_sites

Sites = Mapping[str, Mapping[str, int]]
SITES = st.dictionaries(
    st.text(min_size=1, max_size=3),
    st.dictionaries(st.sampled_from("xyz"), st.integers(1, 9), min_size=1),
    min_size=1,
    max_size=6,
)
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def cost(sites: Sites, placed: Mapping[str, str], ratios: Mapping[str, float]) -> Fraction:
    """Squares of what is off, of all patients and of each stratum, summed over the splits."""
    strata = {s for counts in sites.values() for s in counts}
    everyone = sum(sum(counts.values()) for counts in sites.values())
    total = Fraction(0)
    for split, ratio in ratios.items():
        here = [sites[name] for name, there in placed.items() if there == split]
        share = Fraction(str(ratio))
        total += (sum(sum(counts.values()) for counts in here) - share * everyone) ** 2
        for s in strata:
            asked = share * sum(counts.get(s, 0) for counts in sites.values())
            total += (sum(counts.get(s, 0) for counts in here) - asked) ** 2
    return total


class TestPlacing:
    @settings(max_examples=40)
    @given(SITES, st.integers(0, 9))
    def test_few_sites_are_placed_best(self, sites: Sites, seed: int) -> None:
        assume(len(sites) >= 3)
        placed = place_sites(sites, SHARES, seed)
        assert set(placed) == set(sites)
        assert set(placed.values()) == set(SHARES)
        ways = (dict(zip(sites, way, strict=True)) for way in itertools.product(SHARES, repeat=len(sites)))
        best = min(cost(sites, way, SHARES) for way in ways if set(way.values()) == set(SHARES))
        assert cost(sites, placed, SHARES) == best
        assert place_sites(dict(reversed(sites.items())), SHARES, seed) == placed

    def test_many_sites(self) -> None:
        draw = random.Random(5)
        sites = {f"s{i}": {label: draw.randint(1, 40) for label in "xyz"[: 1 + i % 3]} for i in range(40)}
        placed = place_sites(sites, SHARES, 0)
        assert set(placed) == set(sites)
        assert place_sites(dict(reversed(sites.items())), SHARES, 0) == placed
        tried = [{s: draw.choices(list(SHARES), list(SHARES.values()))[0] for s in sites} for _ in range(2000)]
        assert cost(sites, placed, SHARES) <= min(cost(sites, way, SHARES) for way in tried) / 10
        everyone = sum(sum(counts.values()) for counts in sites.values())
        for split, ratio in SHARES.items():
            here = sum(sum(sites[s].values()) for s, there in placed.items() if there == split)
            assert abs(here / everyone - ratio) < 0.01

    def test_no_split_stays_empty(self) -> None:
        sites = {"huge": {"x": 1000}, "a": {"x": 1}, "b": {"x": 1}}
        placed = place_sites(sites, {"train": 0.98, "val": 0.01, "test": 0.01}, 0)
        assert placed["huge"] == "train"
        assert sorted(placed.values()) == ["test", "train", "val"]
        many = {f"s{i}": {"x": 1} for i in range(30)} | {"huge": {"x": 10**6}}
        assert set(place_sites(many, {f"fold{i}": Fraction(1, 31) for i in range(31)}, 0).values()) == {
            f"fold{i}" for i in range(31)
        }

    def test_too_few_sites(self) -> None:
        with pytest.raises(UsageError, match=r"2 site\(s\) can't fill 3 splits"):
            place_sites({"a": {"x": 1}, "b": {"x": 1}}, SHARES, 0)


class TestBySite:
    def test_in_order_of_names(self) -> None:
        rows = [{"patient_id": str(i), "sites": [site]} for i, site in enumerate(["KD", "JM", "Ä", "KD"])]
        assert {site: len(members) for site, members in by_site(rows, "--x").items()} == Counter(JM=1, KD=2, Ä=1)
        assert list(by_site(rows, "--x")) == ["JM", "KD", "Ä"]

    def test_no_site_and_several(self) -> None:
        rows = [{"patient_id": str(i), "sites": s} for i, s in enumerate([["A"], [], ["A", "B"], ["A+B"]])]
        with pytest.raises(UsageError, match=r"2 of 4 have none.*\n    1: no site\n    2: A and B"):
            by_site(rows, "--preserve-sites")
