"""The laws of steps: ours keep all of them, and each way of being wrong is found."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, OneHotEncoder, StandardScaler

from featstore import NotFoundError, Step, StepSpec, UsageError
from featstore.plugins import Plugins
from featstore.testing import ConformanceError, check_step

ARGUMENTS = {"pca": "pca(3)", "select": "select(2)", "impute": "impute(mean)"}
OURS = [ARGUMENTS.get(item.name, item.name) for item in Plugins.load().registered("step")]


def broken(load: Any, **spec: Any) -> dict[str, str]:
    """The broken laws, by name, with what was seen."""
    return {f.law: f.seen for f in check_step(StepSpec("x", load, **spec), strict=False) if not f.ok}


@pytest.mark.parametrize("text", [*OURS, "pca(0.9)", "impute(median)", "impute(zero)", "impute(knn)", "impute(knn,2)"])
def test_ours_keep_every_law(text: str) -> None:
    check_step(text)


class Proper(Step):
    """By the largest absolute value of the train rows."""

    def fit(self, blocks: Any) -> Any:
        scaler = MaxAbsScaler()
        for block in blocks():
            scaler.partial_fit(block.values)
        return scaler


class ProperCategories(Step):
    def fit(self, blocks: Any) -> Any:
        rows = np.concatenate([block.values for block in blocks()])
        rows = rows[rows[:, 0] != np.array(None)]
        return OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(rows)


def test_proper_ones_keep_every_law() -> None:
    assert broken(Proper) == {}
    assert broken(ProperCategories, takes="categories") == {}


def test_arguments_are_words_and_numbers_of_the_name() -> None:
    check_step(StepSpec("x", lambda width, word: Proper()), 3, "much")
    assert all(finding.ok for finding in check_step("pca", 2))
    with pytest.raises(UsageError, match="missing a required argument"):
        check_step("pca")
    with pytest.raises(UsageError, match="knows mean, median, zero, knn"):
        check_step("impute(mod)")
    with pytest.raises(NotFoundError, match="Did you mean 'robust'"):
        check_step("robustt")


class Kept:
    """Something that makes rows, as an estimator does; each wrong one of these is kept by a step."""

    scale: Any = 1.0

    def transform(self, values: Any) -> Any:
        return values / self.scale


class Giving(Step):
    """A step that gives one of those, with the train rows' standard deviation."""

    kept: type[Any] = Kept

    def fit(self, blocks: Any) -> Any:
        made = self.kept()
        made.scale = float(np.nanstd(np.concatenate([block.values for block in blocks()])))
        return made


class ByItsBlock(Kept):
    def transform(self, values: Any) -> Any:
        return values / values.std()


class Learning(Kept):
    def transform(self, values: Any) -> Any:
        self.scale = 0.9 * self.scale + 0.1 * float(np.std(values))
        return super().transform(values)


class Writing(Kept):
    def transform(self, values: Any) -> Any:
        values -= 1
        return super().transform(values)


class Single(Kept):
    def transform(self, values: Any) -> Any:
        return super().transform(values).astype(np.float32)


class Swallowing(Kept):
    def transform(self, values: Any) -> Any:
        return values[: max(len(values) - 1, 1)]


class Frame(Kept):
    def transform(self, values: Any) -> Any:
        return values.tolist()


def giving(kept: type[Any]) -> type[Giving]:
    return type(f"Giving{kept.__name__}", (Giving,), {"kept": kept})


class Sharing(Proper):
    scaler = MaxAbsScaler()

    def fit(self, blocks: Any) -> Any:
        for block in blocks():
            self.scaler.partial_fit(block.values)
        return self.scaler


class Refitting(Step):
    """One estimator for all that the step learns: of the folds of a table, the last would be that of all."""

    def __init__(self) -> None:
        self.scaler = StandardScaler()

    def fit(self, blocks: Any) -> Any:
        return self.scaler.fit(np.concatenate([block.values for block in blocks()]))


class Drawing(Proper):
    def fit(self, blocks: Any) -> Any:
        scaler = super().fit(blocks)
        scaler.scale_ = scaler.scale_ + np.random.rand()
        return scaler


class ByBlock(Step):
    def fit(self, blocks: Any) -> Any:
        for block in blocks():
            scaler = StandardScaler().fit(block.values)
        return scaler


class Idle(Proper):
    learns = False

    def fit(self, blocks: Any) -> Any:
        scaler = MaxAbsScaler().fit(np.ones((1, 6)))
        for block in blocks():
            scaler.partial_fit(block.values)
        return scaler


class Quiet(Step):
    """Learns from labels, and doesn't say so."""

    def fit(self, blocks: Any) -> Any:
        found = list(blocks())
        rows = np.concatenate([block.values for block in found])
        if found[0].labels is None:
            return SelectKBest(f_classif, k=2).fit(rows, np.arange(len(rows)) % 2)
        return SelectKBest(f_classif, k=2).fit(rows, (np.concatenate([b.labels for b in found]) > 0.3) * rows[:, 5] > 1)


class Undemanding(Quiet):
    labelled = True


class Demanding(Proper):
    labelled = True

    def fit(self, blocks: Any) -> Any:
        raise UsageError("Labels are times of day.")


class AfraidOfGaps(Step):
    def fit(self, blocks: Any) -> Any:
        rows = np.concatenate([block.values for block in blocks()])
        if np.isnan(rows).any():
            raise ValueError("NaN!")
        return StandardScaler().fit(rows)


class Unsaveable(Proper):
    def fit(self, blocks: Any) -> Any:
        return FunctionTransformer(np.nan_to_num)


@pytest.mark.parametrize(
    ("load", "law", "seen"),
    [
        (dict, "loads", "no featstore.Step"),
        (giving(Single), "fits", "float32, not float64"),
        (giving(Swallowing), "fits", "24 rows give (23, 6)"),
        (giving(Frame), "fits", "transform gives list, not an array"),
        (giving(float), "fits", "AttributeError"),
        (Demanding, "fits", "neither classes nor numbers: UsageError: Labels are times of day."),
        (giving(Writing), "writes-nothing", "transform changed its rows"),
        (giving(ByItsBlock), "looks-at-each-row-alone", "differ"),
        (giving(Learning), "learns-in-fit-only", "differ"),
        (Sharing, "learns-for-itself", "differ"),
        (Refitting, "learns-for-itself", "after the same step was fitted again: they differ"),
        (Drawing, "is-deterministic", "differ"),
        (ByBlock, "is-the-same-in-any-blocks", "differ"),
        (Idle, "says-whether-it-learns", "learns is false, and without train rows"),
        (Quiet, "says-whether-it-learns-from-labels", "labelled is false"),
        (Undemanding, "says-whether-it-learns-from-labels", "without labels, fit is accepted"),
        (AfraidOfGaps, "takes-or-refuses-what-is-odd", "ValueError: NaN!"),
        (giving(Kept), "can-be-kept", "skops wouldn't load"),
        (Unsaveable, "can-be-kept", "skops wouldn't load numpy.nan_to_num"),
    ],
)
def test_wrong_steps(load: Any, law: str, seen: str) -> None:
    found = broken(load)
    assert law in found
    assert seen in found[law]


def test_types_that_a_spec_trusts_are_loaded() -> None:
    assert "can-be-kept" not in broken(Unsaveable, trusted=("numpy.nan_to_num",))


class AfraidOfOthers(Step):
    def fit(self, blocks: Any) -> Any:
        rows = np.concatenate([block.values for block in blocks()])
        return OneHotEncoder(sparse_output=False).fit(rows[rows[:, 0] != np.array(None)])


class AfraidOfNone(Step):
    def fit(self, blocks: Any) -> Any:
        rows = [[str(value).strip()] for block in blocks() for value in block.values[:, 0]]
        assert ["None"] not in rows
        return OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(np.array(rows, object))


@pytest.mark.parametrize(("load", "seen"), [(AfraidOfOthers, "Found unknown categories"), (AfraidOfNone, "Assertion")])
def test_wrong_steps_of_categories(load: Any, seen: str) -> None:
    found = broken(load, takes="categories")
    assert set(found) == {"takes-or-refuses-what-is-odd"}
    assert seen in found["takes-or-refuses-what-is-odd"]


def test_one_object_for_all_is_found() -> None:
    ones = itertools.repeat(Proper())
    assert "the same object twice" in broken(lambda: next(ones))["loads"]
    assert "takes is 'texts'" in broken(Proper, takes="texts")["loads"]
    with pytest.raises(ConformanceError, match="The step x breaks 1 of 12 laws"):
        check_step(StepSpec("x", Proper, takes="texts"))  # type: ignore[arg-type]
