"""Dealing patients out: each once, in proportion in every stratum and over all, the same for the same seed."""

from __future__ import annotations

import hashlib
from collections import Counter
from fractions import Fraction

from hypothesis import example, given
from hypothesis import strategies as st

from featstore.splits.dealing import apportion, assign, deal, deal_stable, shares_of

PATIENTS = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=60)
FOLDS = {f"fold{i}": Fraction(1, 5) for i in range(5)}


@st.composite
def ratios(draw: st.DrawFn) -> dict[str, float]:
    parts = draw(st.lists(st.integers(1, 20), min_size=1, max_size=5))
    return {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}


class TestAssign:
    @given(PATIENTS, ratios(), st.integers())
    def test_every_patient_once_and_each_count_within_one(
        self, patients: list[str], shares: dict[str, float], seed: int
    ) -> None:
        found = assign(patients, shares, seed)
        assert sorted(found) == sorted(patients)
        counts = Counter(found.values())
        for name, share in shares.items():
            assert abs(counts[name] - share * len(patients)) < 1 + 1e-9

    @given(PATIENTS, ratios(), st.integers(), st.randoms())
    def test_order_is_irrelevant(
        self, patients: list[str], shares: dict[str, float], seed: int, random: object
    ) -> None:
        shuffled = list(patients)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert assign(shuffled, shares, seed) == assign(patients, shares, seed)

    def test_another_seed_is_another_split(self) -> None:
        patients = [f"p{i}" for i in range(40)]
        assert assign(patients, {"a": 0.5, "b": 0.5}, 1) != assign(patients, {"a": 0.5, "b": 0.5}, 2)

    def test_a_decimal_share_is_taken_as_written(self) -> None:
        # 0.7 * 10 is 7.000000000000001 or 6.999999999999999 in other orders of multiplying.
        assert Counter(assign([str(i) for i in range(10)], {"a": 0.7, "b": 0.3}, 0).values()) == {"a": 7, "b": 3}


class TestStrata:
    @given(st.lists(st.integers(0, 12), max_size=40), ratios())
    # Dealt stratum by stratum alone, one split would get a patient too many here, and one too few there.
    @example([11, 0, 7], {f"s{i}": part / 36 for i, part in enumerate([2, 2, 20, 2, 5, 5])})
    @example([4, 7, 13, 3, 2], {f"s{i}": part / 61 for i, part in enumerate([19, 19, 1, 2, 1, 19])})
    def test_each_stratum_and_each_total_is_rounded_down_or_up(
        self, sizes: list[int], written: dict[str, float]
    ) -> None:
        shares = list(shares_of(written).values())
        counts = apportion(sizes, shares)
        assert [sum(row) for row in counts] == sizes
        for size, row in zip(sizes, counts, strict=True):
            assert all(abs(count - size * share) < 1 for count, share in zip(row, shares, strict=True))
        for j, share in enumerate(shares):
            assert abs(sum(row[j] for row in counts) - sum(sizes) * share) < 1

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(2, 7))
    def test_folds_are_as_equal_as_can_be(self, sizes: list[int], k: int) -> None:
        totals = [sum(column) for column in zip(*apportion(sizes, [Fraction(1, k)] * k), strict=True)]
        assert max(totals) - min(totals) <= 1

    @given(st.lists(PATIENTS, max_size=5), st.integers())
    def test_folds_are_disjoint_and_cover(self, groups: list[list[str]], seed: int) -> None:
        strata = [[f"{i} {patient}" for patient in group] for i, group in enumerate(groups)]
        found = deal(strata, FOLDS, seed)
        assert sorted(found) == sorted(p for stratum in strata for p in stratum)
        assert set(found.values()) <= set(FOLDS)
        for stratum in strata:
            counts = Counter(found[p] for p in stratum)
            assert all(abs(counts[fold] - len(stratum) / 5) < 1 for fold in FOLDS)


class TestStable:
    @given(PATIENTS, PATIENTS, ratios(), st.integers())
    def test_who_comes_in_moves_nobody(
        self, first: list[str], later: list[str], shares: dict[str, float], seed: int
    ) -> None:
        before = deal_stable(first, shares, seed)
        assert sorted(before) == sorted(first)
        after = deal_stable([*later, *first], shares, seed)
        assert {p: after[p] for p in first} == before

    def test_shares_are_met_on_average(self) -> None:
        counts = Counter(deal_stable([f"p{i}" for i in range(4000)], {"train": 0.7, "val": 0.3}, 0).values())
        assert abs(counts["train"] / 4000 - 0.7) < 4 * (0.7 * 0.3 / 4000) ** 0.5


class TestTheSameOnEveryMachine:
    """Against what another implementation gave once, and gives here."""

    PATIENTS = [f"{i:03}" for i in range(97)] + ["é", "患者 1", "7", "P-1"]

    def digest(self, splits: dict[str, str]) -> str:
        return hashlib.sha256("".join(f"{p}={splits[p]}\n" for p in sorted(splits)).encode()).hexdigest()

    def drawn(self, seed: int) -> list[str]:
        def number(patient: str) -> int:
            return int(hashlib.sha256(str(seed).encode() + b"\x00" + patient.encode()).hexdigest(), 16)

        return sorted(self.PATIENTS, key=number)

    def test_ratios(self) -> None:
        order = self.drawn(42)
        # 101 patients: 70.7, 20.2 and 10.1; the one that is over goes to the largest remainder.
        reference = dict.fromkeys(order[:71], "train") | dict.fromkeys(order[71:91], "val")
        reference |= dict.fromkeys(order[91:], "test")
        assert self.digest(reference) == "05a84b59b02c9252032fdd3b4aa7746101df2fa24e2311370960dd8070dba872"
        assert deal([self.PATIENTS], {"train": 0.7, "val": 0.2, "test": 0.1}, 42) == reference

    def test_stratified_folds(self) -> None:
        order = self.drawn(7)
        odd, even = order[:51], order[51:]  # any two strata: 51 = 10 × 5 + 1, and 50
        counts = [[11, 10, 10, 10, 10], [10] * 5]
        reference = {}
        for members, row in zip((odd, even), counts, strict=True):
            ends = [sum(row[: i + 1]) for i in range(5)]
            reference |= {p: f"fold{next(i for i, end in enumerate(ends) if n < end)}" for n, p in enumerate(members)}
        assert self.digest(reference) == "c5475c35f87df0ec1b6d6519697025afafc6087b13ba1a909b068def6cca2e9d"
        assert deal([sorted(odd), sorted(even)], FOLDS, 7) == reference

    def test_stable(self) -> None:
        def split(patient: str) -> str:
            byte = hashlib.sha256(b"3\x00" + patient.encode()).digest()[0]
            return "train" if byte < 128 else "val" if byte < 192 else "test"

        reference = {p: split(p) for p in self.PATIENTS}
        assert self.digest(reference) == "bf0771911cc37ababc848fc170953a0531b3f08f7f478171945c21eb94e2f89f"
        assert deal_stable(self.PATIENTS, {"train": 0.5, "val": 0.25, "test": 0.25}, 3) == reference
