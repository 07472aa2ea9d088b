"""The laws of fusers: ours keep all of them, and each way of being wrong is found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from featstore import Fuser, FuserSpec, NotFoundError, UsageError
from featstore.plugins import Plugins
from featstore.testing import check_fuser

ARGUMENTS = {"pca": "pca(3)", "cca": "cca(2)"}
OURS = [ARGUMENTS.get(item.name, item.name) for item in Plugins.load().registered("fuser")]


class Scaled(Fuser):
    """A proper fuser that learns: every part by the standard deviation of its train rows, side by side."""

    def fit(self, blocks: Any) -> None:
        rows = {alias: np.concatenate([parts[alias] for parts in blocks()]) for alias in next(iter(blocks()))}
        self.scales = {alias: float(np.nanstd(part)) for alias, part in rows.items()}

    def transform(self, parts: Any) -> Any:
        return np.concatenate([part / self.scales[alias] for alias, part in parts.items()], axis=1)

    def estimators(self) -> Mapping[str, object]:
        return {"scales": self.scales}

    def restore(self, estimators: Mapping[str, Any]) -> None:
        self.scales = estimators["scales"]


def broken(load: Any) -> dict[str, str]:
    """The broken laws, by name, with what was seen."""
    return {f.law: f.seen for f in check_fuser(FuserSpec("x", load), strict=False) if not f.ok}


@pytest.mark.parametrize("name", [*OURS, "pca(0.9)", "kronecker(400)"])
def test_ours_keep_every_law(name: str) -> None:
    check_fuser(name)


def test_a_proper_one_that_learns_keeps_every_law() -> None:
    assert broken(Scaled) == {}


def test_arguments_are_words_and_numbers_of_the_name() -> None:
    check_fuser(FuserSpec("x", lambda width, word: Scaled()), 3, "much")
    assert all(finding.ok for finding in check_fuser("pca", 2))
    with pytest.raises(UsageError, match="missing a required argument"):
        check_fuser("pca")
    with pytest.raises(UsageError, match="at least 1"):
        check_fuser("pca(0)")
    with pytest.raises(NotFoundError, match="Did you mean 'pca'"):
        check_fuser("pac(2)")


class Peeking(Scaled):
    def transform(self, parts: Any) -> Any:
        return super().transform(parts) + (0 if parts.labels is None else parts.labels[:, None])


class Quiet(Scaled):
    """Learns from labels, and doesn't say so."""

    def fit(self, blocks: Any) -> None:
        super().fit(blocks)
        labels = [parts.labels for parts in blocks()]
        self.scales["a"] += float(np.concatenate(labels)[:7].sum()) if labels[0] is not None else 0


class Undemanding(Quiet):
    labelled = True


class ByBlock(Scaled):
    def fit(self, blocks: Any) -> None:
        for parts in blocks():
            self.scales = {alias: float(np.nanstd(part)) or 1.0 for alias, part in parts.items()}


class Unrestored(Scaled):
    def restore(self, estimators: Mapping[str, Any]) -> None:
        self.scales = dict.fromkeys(estimators["scales"], 1.0)


class Choosy(Scaled):
    def fit(self, blocks: Any) -> None:
        raise UsageError("Only on Sundays.")


class ScaledByItsBlock(Scaled):
    def transform(self, parts: Any) -> Any:
        return np.concatenate([part / part.std() for part in parts.values()], axis=1)


class Learning(Scaled):
    def transform(self, parts: Any) -> Any:
        self.scales = {alias: 0.9 * self.scales[alias] + 0.1 * float(np.nanstd(part)) for alias, part in parts.items()}
        return super().transform(parts)


class Sharing(Scaled):
    scales: dict[str, float] = {}  # noqa: RUF012 - the mistake that is tried

    def fit(self, blocks: Any) -> None:
        for parts in blocks():
            self.scales.update({alias: float(np.nanstd(part)) for alias, part in parts.items()})


class Drawing(Scaled):
    def fit(self, blocks: Any) -> None:
        super().fit(blocks)
        self.scales = {alias: scale + np.random.rand() for alias, scale in self.scales.items()}


class Writing(Scaled):
    def transform(self, parts: Any) -> Any:
        for part in parts.values():
            part -= 1
        return super().transform(parts)


class Filling(Scaled):
    def transform(self, parts: Any) -> Any:
        filled = {alias: np.where(np.isnan(part), 0, part) for alias, part in parts.items()}
        return super().transform(filled) + 0.5 * np.isnan(parts["p"]).any()


class AfraidOfMissingTrainRows(Scaled):
    def fit(self, blocks: Any) -> None:
        rows = np.concatenate([parts["a"] for parts in blocks()])
        self.pca = PCA(2).fit(rows)  # raises for NaN
        super().fit(blocks)


class Single(Scaled):
    def transform(self, parts: Any) -> Any:
        return super().transform(parts).astype(np.float32)


class Swallowing(Scaled):
    def transform(self, parts: Any) -> Any:
        return super().transform(parts)[: max(len(parts["a"]) - 1, 1)]


class Odd:
    pass


class Unsaveable(Scaled):
    def estimators(self) -> Mapping[str, object]:
        return {"odd": Odd()}


class Forgetting(Scaled):
    def estimators(self) -> Mapping[str, object]:
        return {}


@pytest.mark.parametrize(
    ("fuser", "law", "seen"),
    [
        (ScaledByItsBlock, "looks-at-each-row-alone", "differ"),
        (Learning, "learns-in-fit-only", "differ"),
        (Sharing, "learns-for-itself", "differ"),
        (Drawing, "is-deterministic", "differ"),
        (Writing, "writes-nothing", "transform changed its parts"),
        (Filling, "keeps-missing-inputs-to-their-rows", "differ"),
        (AfraidOfMissingTrainRows, "keeps-missing-inputs-to-their-rows", "ValueError"),
        (Single, "fuses", "float32, not float64"),
        (Swallowing, "fuses", "24 rows give"),
        (Choosy, "fuses", "neither three inputs nor two: UsageError: Only on Sundays."),
        (Peeking, "looks-at-no-label", "with other labels: they differ"),
        (Quiet, "says-whether-it-learns-from-labels", "labelled is false"),
        (Undemanding, "says-whether-it-learns-from-labels", "without labels, fit is accepted"),
        (ByBlock, "is-the-same-in-any-blocks", "blocks of 1"),
        (Unrestored, "can-be-kept", "saved, loaded and restored: they differ"),
        (Unsaveable, "can-be-kept", "skops wouldn't load"),
        (Forgetting, "can-be-kept", "gives no estimators"),
        (dict, "loads", "no featstore.Fuser"),
    ],
)  # fmt: skip
def test_wrong_fusers(fuser: type[Any], law: str, seen: str) -> None:
    found = broken(fuser)
    assert law in found
    assert seen in found[law]


def test_one_object_for_all_is_found() -> None:
    ones = itertools.repeat(Scaled())
    assert "the same object twice" in broken(lambda: next(ones))["loads"]
