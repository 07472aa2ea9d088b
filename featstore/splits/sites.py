"""Splits by site: one fold a site, and splits that divide no site.

Howard et al. 2021, Nature Communications 12:4423: what a model learns of the site looks like skill where patients of
one site are in train and test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from featstore.errors import UsageError
from featstore.splits.dealing import lot, shares_of

#: Ways of placing sites that are all tried; where there are more, sites are placed one by one and then moved.
_WAYS = 100_000


def by_site(rows: Sequence[Mapping[str, Any]], flag: str) -> dict[str, list[Mapping[str, Any]]]:
    """The patients of each site, sites in order of their names.

    Args:
        rows: ``patient_id`` and ``sites``, a list.

    Raises:
        UsageError: a patient has no site, or several.
    """
    wrong = [row for row in rows if len(row["sites"]) != 1]
    if wrong:
        lines = "".join(f"\n    {row['patient_id']}: {' and '.join(row['sites']) or 'no site'}" for row in wrong[:5])
        more = f"\n    … and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UsageError(
            f"{flag} needs each patient's one site; {len(wrong)} of {len(rows)} have none, or several:{lines}{more}",
            hint="ingest them with their site; or hold them out: --holdout \"site IS NULL OR site LIKE '%+%'\"",
        )
    sites: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: str(row["sites"][0])):
        sites.setdefault(row["sites"][0], []).append(row)
    return sites


def place_sites(
    sites: Mapping[str, Mapping[Any, int]], ratios: Mapping[str, float | Fraction], seed: int
) -> dict[str, str]:
    """Assign whole sites to splits, as near to the ratios as can be.

    What is made small is the sum of squares, over the splits, of how many patients more or fewer they have than asked
    for: of all patients, and of each stratum. Up to 100,000 ways are all tried, so that there is none better; of more,
    sites are placed largest first, each where it does least harm, and then moved and exchanged while that helps. Equals
    are told apart by seed and site. Every split gets a site.

    Args:
        sites: patients by stratum, of each site.

    Raises:
        UsageError: there are fewer sites than splits.
    """
    if len(sites) < len(ratios):
        raise UsageError(
            f"{len(sites)} site(s) can't fill {len(ratios)} splits without being divided.",
            hint="ask for fewer splits, or leave out --preserve-sites",
        )
    order = sorted(sites, key=lambda s: (-sum(sites[s].values()), lot(seed, s), s))
    balance = _Balance([sites[name] for name in order], list(shares_of(ratios).values()))
    if len(ratios) ** len(order) <= _WAYS:
        placed = _best(balance)
    else:
        placed = _improved(balance, _one_by_one(balance))
    names = list(ratios)
    return {site: names[j] for site, j in zip(order, placed, strict=True)}


class _Balance:
    """How far the splits are from what was asked for, in whole numbers, so that every machine agrees.

    Attributes:
        weights: of each site, its patients of each stratum and in all, times the shares' common denominator.
        off: of each split, how much it has more than asked, of each of these.
    """

    def __init__(self, sites: Sequence[Mapping[Any, int]], shares: Sequence[Fraction]) -> None:
        total = sum((Counter(site) for site in sites), Counter[Any]())
        strata = list(total)
        scale = math.lcm(*(share.denominator for share in shares))
        self.shares = shares
        self.weights = [[*(site.get(s, 0) * scale for s in strata), sum(site.values()) * scale] for site in sites]
        everyone = [sum(column) for column in zip(*self.weights, strict=True)]
        self.off = [[-int(n * share) for n in everyone] for share in shares]
        self.members = [0] * len(shares)

    def cost_of(self, site: int, split: int, sign: int = 1) -> int:
        """By how much the sum of squares rises when a site comes in (1) or goes (-1)."""
        return sum(w * (2 * sign * off + w) for off, w in zip(self.off[split], self.weights[site], strict=True))

    def put(self, site: int, split: int, sign: int = 1) -> int:
        """Put a site in (1) or take it out (-1); gives the cost."""
        cost = self.cost_of(site, split, sign)
        self.off[split] = [o + sign * w for o, w in zip(self.off[split], self.weights[site], strict=True)]
        self.members[split] += sign
        return cost

    def open_to(self, sites_left: int) -> list[int]:
        """The splits that the next site may come into, so that none stays empty; of equal empty ones the first."""
        empty = [j for j, n in enumerate(self.members) if not n]
        if sites_left <= len(empty):
            filled: list[int] = []
        else:
            filled = [j for j, n in enumerate(self.members) if n]
        first = {self.shares[j]: j for j in reversed(empty)}
        return sorted([*filled, *first.values()])


def _best(balance: _Balance) -> list[int]:
    """Try every way; of equally good ones the first."""
    count = len(balance.weights)
    placed: list[int] = []
    best: list[int] = []
    least: int | None = None

    def descend(cost: int) -> None:
        nonlocal best, least
        if len(placed) == count:
            if least is None or cost < least:
                best, least = placed.copy(), cost
            return
        site = len(placed)
        for split in balance.open_to(count - site):
            placed.append(split)
            descend(cost + balance.put(site, split))
            balance.put(site, split, -1)
            placed.pop()

    descend(0)
    return best


def _one_by_one(balance: _Balance) -> list[int]:
    count = len(balance.weights)
    placed = []
    for site in range(count):
        split = min(balance.open_to(count - site), key=lambda j: balance.cost_of(site, j))
        balance.put(site, split)
        placed.append(split)
    return placed


def _improved(balance: _Balance, placed: list[int]) -> list[int]:
    """Move sites, and exchange two of different splits, while that brings the splits nearer to what was asked."""
    changed = True
    while changed:
        changed = False
        for one in range(len(placed)):
            for split in range(len(balance.members)):
                if split != placed[one] and balance.members[placed[one]] > 1:
                    changed |= _try(balance, placed, [(one, split)])
            for other in range(one):
                if placed[other] != placed[one]:
                    changed |= _try(balance, placed, [(one, placed[other]), (other, placed[one])])
    return placed


def _try(balance: _Balance, placed: list[int], moves: list[tuple[int, int]]) -> bool:
    """Make the moves (site, split), and take them back unless they help."""
    before = [(site, placed[site]) for site, _ in moves]
    gain = 0
    for there in (moves, before):
        for site, _ in there:
            gain += balance.put(site, placed[site], -1)
        for site, split in there:
            gain += balance.put(site, split)
            placed[site] = split
        if gain < 0:
            return True
    return False
