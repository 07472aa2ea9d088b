"""Who comes into which split: by lot, in proportion, and the same on every machine and Python."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction


def shares_of(ratios: Mapping[str, float | Fraction]) -> dict[str, Fraction]:
    """Ratios as they are written, 0.7 for seven tenths, of a sum of exactly 1."""
    shares = {name: Fraction(str(ratio)) for name, ratio in ratios.items()}
    return {name: share / sum(shares.values()) for name, share in shares.items()}


def lot(seed: int, word: str) -> bytes:
    """The lot that someone draws: SHA-256 of seed and id."""
    return hashlib.sha256(f"{seed}\0{word}".encode()).digest()


def assign(patients: Sequence[str], ratios: Mapping[str, float | Fraction], seed: int) -> dict[str, str]:
    """Assign patients to splits so that each count is within one patient of its ratio.

    >>> sorted(assign(["a", "b", "c", "d"], {"train": 0.5, "val": 0.5}, seed=0).values())
    ['train', 'train', 'val', 'val']
    """
    return deal([patients], ratios, seed)


def deal(strata: Sequence[Sequence[str]], ratios: Mapping[str, float | Fraction], seed: int) -> dict[str, str]:
    """Assign the patients of each stratum to splits, in the order of their lots.

    Each count is within one patient of its ratio, in every stratum and over all of them; the order of the strata only
    says which of them are rounded up.
    """
    shares = shares_of(ratios)
    splits: dict[str, str] = {}
    for members, counts in zip(strata, apportion([len(s) for s in strata], list(shares.values())), strict=True):
        names = [name for name, count in zip(shares, counts, strict=True) for _ in range(count)]
        splits |= zip(sorted(members, key=lambda p: (lot(seed, p), p)), names, strict=True)
    return splits


def deal_stable(patients: Sequence[str], ratios: Mapping[str, float | Fraction], seed: int) -> dict[str, str]:
    """Assign each patient by its own lot alone: a number of [0, 1) among the cumulated ratios.

    Nobody's split depends on who else is there; ratios are met on average only.
    """
    shares = shares_of(ratios)
    splits = {}
    for patient in patients:
        left = Fraction(int.from_bytes(lot(seed, patient), "big"), 1 << 256)
        for name, share in shares.items():
            if left < share:
                splits[patient] = name
                break
            left -= share
    return splits


def apportion(sizes: Sequence[int], shares: Sequence[Fraction]) -> list[list[int]]:
    """How many of each stratum come into each split: every exact count rounded down or up, and so is every total.

    Such a rounding always exists (Bacharach 1966). First, stratum by stratum, whoever is furthest behind gets the next
    patient (for one stratum: the largest remainder, ties by the order of the shares); then patients change places
    until the totals hold as well.

    Args:
        sizes: patients of each stratum.
        shares: of each split; their sum is 1.
    """
    exact = [[size * share for share in shares] for size in sizes]
    floors = [[math.floor(count) for count in row] for row in exact]
    extra = [[0] * len(shares) for _ in sizes]
    behind = [Fraction(0)] * len(shares)
    for i, size in enumerate(sizes):
        rest = [count - floor for count, floor in zip(exact[i], floors[i], strict=True)]
        behind = [b + r for b, r in zip(behind, rest, strict=True)]
        candidates = sorted((j for j in range(len(shares)) if rest[j]), key=lambda j: -behind[j])
        for j in candidates[: size - sum(floors[i])]:
            extra[i][j] = 1
            behind[j] -= 1
    _even_out(exact, floors, extra, behind)
    return [[f + e for f, e in zip(*rows, strict=True)] for rows in zip(floors, extra, strict=True)]


def _even_out(
    exact: list[list[Fraction]], floors: list[list[int]], extra: list[list[int]], behind: list[Fraction]
) -> None:
    """Move extras within strata until each split is less than one patient behind or ahead of its share."""
    splits = range(len(behind))
    while True:
        if ahead := [j for j in splits if behind[j] <= -1]:
            path = _path(ahead[0], {j for j in splits if behind[j] > 0}, exact, floors, extra)
        elif short := [j for j in splits if behind[j] >= 1]:
            sources = {j for j in splits if behind[j] < 0}
            path = next(p for j in sorted(sources) if (p := _path(j, {short[0]}, exact, floors, extra)))
        else:
            return
        for i, j, k in path:
            extra[i][j], extra[i][k] = 0, 1
        behind[path[0][1]] += 1
        behind[path[-1][2]] -= 1


def _path(
    source: int, targets: set[int], exact: list[list[Fraction]], floors: list[list[int]], extra: list[list[int]]
) -> list[tuple[int, int, int]]:
    """The fewest moves (stratum, from, to) that take one patient out of a split and into one of others; or none."""
    came: dict[int, tuple[int, int, int]] = {}
    frontier = [source]
    while frontier:
        following = []
        for j in frontier:
            for i, row in enumerate(extra):
                if not row[j]:
                    continue
                for k in range(len(row)):
                    if k == source or k in came or row[k] or exact[i][k] == floors[i][k]:
                        continue
                    came[k] = (i, j, k)
                    following.append(k)
                    if k in targets:
                        path = [came[k]]
                        while path[0][1] != source:
                            path.insert(0, came[path[0][1]])
                        return path
        frontier = following
    return []
