"""What a user asks of a split, checked before anything is read; and what a split says it did."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from featstore.errors import UsageError
from featstore.keys import FOLD, check_name
from featstore.splits.dealing import shares_of


@dataclass(frozen=True, slots=True)
class SplitRequest:
    """How patients are split: by ``ratios``, ``k_folds``, ``leave_one_site_out`` or ``sources``, just one of them.

    Attributes:
        scheme: the name of the split scheme; NAME@vK where it is only exported.
        ratios: split → share of the patients that are not held out; they sum to 1.
        k_folds: that many folds, ``fold0`` …, of equal shares.
        repeats: make so many schemes of folds, NAME-r1 …, each with a seed of its own.
        leave_one_site_out: one fold a site.
        sources: CSVs that say who is in which split, ``FILE`` or ``SPLIT=FILE``; see
            :func:`featstore.splits.files.read_sources`.
        allow_missing: leave out what those files list and the store hasn't.
        stratify: what keeps its shares: a column of the view ``patients``, an attribute of the samples, TABLE.COLUMN,
            or several, joined by ``+``.
        preserve_sites: all patients of a site come into one split.
        stable: each patient by its own hash alone, so that nobody who comes in later moves another.
        holdout: a condition on the view ``patients``; those who meet it become ``holdout_as``.
        require_modalities: patients without all of these are in no split.
        seed: another one is another split.
        replace: make a new version of a scheme that exists.
        export: a folder to write the scheme to, as CSVs; see :func:`featstore.splits.export.write_scheme`.
        relative: paths there are relative to their data sets' roots.
    """

    scheme: str = "default"
    ratios: Mapping[str, float] | None = None
    k_folds: int | None = None
    repeats: int | None = None
    leave_one_site_out: bool = False
    sources: Sequence[str | os.PathLike[str]] = ()
    allow_missing: bool = False
    stratify: str | None = None
    preserve_sites: bool = False
    stable: bool = False
    holdout: str | None = None
    holdout_as: str = "test"
    require_modalities: Sequence[str] = ()
    seed: int = 0
    replace: bool = False
    export: str | os.PathLike[str] | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        if not self.only_exports:
            check_name(self.scheme, "split scheme")
        check_name(self.holdout_as, "split")
        if len(self._given) > 1:
            raise UsageError(f"{' and '.join(self._given)} each say how to split; give one of them.")
        if self.ratios is not None:
            check_ratios(self.ratios)
        if self.k_folds is not None and self.k_folds < 2:
            raise UsageError(f"--k-folds must be 2 or more, not {self.k_folds}.")
        if self.repeats is not None and self.repeats < 1:
            raise UsageError(f"--repeats must be 1 or more, not {self.repeats}.")
        if self.holdout is not None and (self.holdout_as in (self.ratios or {}) or self._is_fold(self.holdout_as)):
            what = "--ratio fills" if self.ratios is not None else "the folds are called like"
            raise UsageError(
                f"Those held out would be mixed into {self.holdout_as!r}, which {what}.",
                hint="--holdout-as with a name of its own, such as external",
            )
        self._check_together()

    @property
    def _given(self) -> list[str]:
        flags = {
            "--ratio": self.ratios is not None, "--k-folds": self.k_folds is not None,
            "--leave-one-site-out": self.leave_one_site_out, "--from": bool(self.sources),
        }  # fmt: skip
        return [flag for flag, given in flags.items() if given]

    @property
    def only_exports(self) -> bool:
        return not self._given and self.export is not None

    def _is_fold(self, name: str) -> bool:
        return (self.k_folds is not None or self.leave_one_site_out) and FOLD.fullmatch(name) is not None

    def _check_together(self) -> None:
        """Refuse what would be ignored."""
        if not self._given and self.export is None:
            raise UsageError(
                "Nothing says how to split.",
                hint="--ratio train=0.7 --ratio val=0.3, --k-folds 5, --leave-one-site-out, or --from FILE.csv",
            )
        by_share = self.ratios is not None or self.k_folds is not None
        shares = "--ratio or --k-folds"
        needs: list[tuple[str, bool, bool, str]] = [
            ("--repeats", self.repeats is not None, self.k_folds is not None, "--k-folds"),
            ("--allow-missing", self.allow_missing, bool(self.sources), "--from"),
            ("--relative", self.relative, self.export is not None, "--export"),
            ("--replace", self.replace, bool(self._given), f"{shares}, --leave-one-site-out or --from"),
            ("--stratify", self.stratify is not None, by_share and not self.stable, f"{shares}, without --stable"),
            ("--preserve-sites", self.preserve_sites, by_share and not self.stable, f"{shares}, without --stable"),
            ("--stable", self.stable, by_share, shares),
        ]  # fmt: skip
        for flag, value in (("--holdout", self.holdout is not None), ("--require-modality", self.require_modalities)):
            needs.append((flag, bool(value), by_share or self.leave_one_site_out, f"{shares} or --leave-one-site-out"))
        for flag, given, fits, what in needs:
            if given and not fits:
                raise UsageError(f"{flag} goes with {what}.", hint=f"leave out {flag}")

    @property
    def shares(self) -> dict[str, Fraction]:
        """Split → share that is asked for, of those who aren't held out; empty where shares aren't asked for."""
        if self.k_folds is not None:
            return {f"fold{i}": Fraction(1, self.k_folds) for i in range(self.k_folds)}
        return {} if self.ratios is None else shares_of(self.ratios)

    @property
    def schemes(self) -> list[tuple[str, int, dict[str, Any]]]:
        """The schemes to make: each one's name, its seed, and what its recipe says beside."""
        if self.repeats is None:
            return [(self.scheme, self.seed, {})]
        return [
            (f"{self.scheme}-r{i}", _seed_of(self.seed, i), {"repeat": i, "seed_of_repeats": self.seed})
            for i in range(1, self.repeats + 1)
        ]

    def recipe(self, seed: int) -> dict[str, Any]:
        """What is kept with a scheme of shares; only what was asked for, so that it stays the same."""
        what = {"folds": self.k_folds} if self.ratios is None else {"ratios": dict(self.ratios)}
        flags = {"preserve_sites": self.preserve_sites, "stable": self.stable}
        return {
            **what, "stratify": self.stratify, **self.kept_out(), "seed": seed,
            **{name: True for name, given in flags.items() if given},
        }  # fmt: skip

    def kept_out(self) -> dict[str, Any]:
        """Who is held out or left out, for the recipe."""
        return {
            "holdout": self.holdout, "holdout_as": self.holdout_as, "require_modalities": list(self.require_modalities)
        }  # fmt: skip


@dataclass(slots=True)
class SplitResult:
    """What a split did.

    Attributes:
        run_id: the run that made the scheme.
        counts: patients by split, and within it by stratum.
        left_out: patients that lack a required modality, by that modality.
        unchanged: the scheme was there already, just so: no new version was made.
        samples: samples by split, and within it by stratum.
        asked: the share that was asked for of each split, of those who aren't held out.
        folds: how many of the splits are folds.
        sites: by split, where splits divide no site.
        small: strata of fewer patients than there are splits, with how many they have.
        unmatched: what files list and the store hasn't, by what it is, where that was allowed.
        exported: the CSVs that were written, with their rows.
        repeats: the other schemes that were made with it.
    """

    scheme: str
    version: int
    run_id: str
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int] = field(default_factory=dict)
    unchanged: bool = False
    samples: dict[str, dict[str, int]] = field(default_factory=dict)
    asked: dict[str, float] = field(default_factory=dict)
    folds: int = 0
    sites: dict[str, list[str]] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)
    exported: dict[str, int] = field(default_factory=dict)
    repeats: list[SplitResult] = field(default_factory=list)


def check_ratios(ratios: Mapping[str, float]) -> None:
    """Raise :class:`UsageError` unless the ratios are positive and sum to 1."""
    check_splits(ratios)
    for name, ratio in ratios.items():
        if not (math.isfinite(ratio) and 0 < ratio <= 1):
            raise UsageError(f"The ratio of {name!r} must be above 0 and at most 1, not {ratio:g}.")
    if abs(sum(ratios.values()) - 1) > 1e-9:  # 1/3 + 1/3 + 1/3 isn't 1 to the last bit
        written = " + ".join(f"{r:g}" for r in ratios.values())
        raise UsageError(
            f"The ratios sum to {sum(ratios.values()):g} ({written}), not to 1.",
            hint="they are shares of the patients who aren't held out",
        )


def check_splits(names: Mapping[str, Any]) -> None:
    """Raise :class:`UsageError` for names that can't be splits', or that differ by case alone."""
    seen: dict[str, str] = {}
    for name in names:
        check_name(name, "split")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise UsageError(f"The splits {other!r} and {name!r} differ by case alone.", hint="give them one spelling")


def folds_among(names: Sequence[str]) -> int:
    """How many of the splits of a file are folds: ``fold0`` … without a gap; 0 where none is.

    Raises:
        UsageError: they begin at another number, or one is missing.
    """
    folds = [name for name in names if FOLD.fullmatch(name)]
    if folds and (len(folds) < 2 or set(folds) != {f"fold{i}" for i in range(len(folds))}):
        raise UsageError(
            f"The folds are {', '.join(sorted(folds))}: folds are fold0, fold1, …, at least two, without a gap.",
            hint="rename them in the file; or call them part0 …, if they are no folds",
        )
    return len(folds)


def _seed_of(seed: int, repeat: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0repeat {repeat}".encode()).digest()[:6], "big")
