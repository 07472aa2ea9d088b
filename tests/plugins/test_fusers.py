"""Fusers: each against its definition, or plain scikit-learn on all rows at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from featstore_fusers import featstore_fusers, late
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import eigh
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore import ConflictError, Fuser, Parts, UsageError
from featstore.keys import parse_words

SPECS = {spec.name: spec for spec in featstore_fusers()}


def fuser(text: str) -> Fuser:
    name, arguments = parse_words(text)
    return SPECS[name].load(*arguments)


def rows_of(parts: Parts, rows: Any) -> Parts:
    facts = (parts.labels, parts.patients, parts.train)
    labels, patients, train = (None if fact is None else fact[rows] for fact in facts)
    return Parts({a: part[rows] for a, part in parts.items()}, labels=labels, patients=patients, train=train)


def passes(parts: Parts, size: int = 9) -> Callable[[], Iterator[Parts]]:
    rows = len(next(iter(parts.values())))
    return lambda: (rows_of(parts, slice(at, at + size)) for at in range(0, rows, size))


def fitted(text: str, parts: Parts, size: int = 9) -> Fuser:
    made = fuser(text)
    made.fit(passes(parts, size))
    return made


# ---------------------------------------------------------------------------------------------------- side by side
@given(rows=st.integers(0, 5), widths=st.lists(st.integers(0, 4), min_size=1, max_size=4))
def test_parts_stand_side_by_side_in_their_order(rows: int, widths: list[int]) -> None:
    parts = Parts({f"part{-i}": np.full((rows, width), float(i)) for i, width in enumerate(widths)})
    out = fuser("concat").transform(parts)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, np.hstack(list(parts.values())))


def test_missing_inputs_stay_nan_and_nothing_is_learned() -> None:
    made = fuser("concat")
    made.fit(lambda: iter(()))
    out = made.transform(Parts({"a": np.full((2, 2), np.nan), "b": np.ones((2, 1))}))
    np.testing.assert_array_equal(out, [[np.nan, np.nan, 1]] * 2)
    assert made.estimators() == {}
    fuser("concat").restore({})


@pytest.mark.parametrize("text", ["concat", "mean", "max", "kronecker"])
def test_parts_that_cant_stand_side_by_side_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="same rows"):
        fuser(text).transform(Parts({"a": np.ones((2, 2)), "b": np.ones((1, 2))}))
    for parts in ({}, {"a": np.ones(3)}):
        with pytest.raises(ValueError, match="one or more"):
            fuser(text).transform(Parts(parts))


# ---------------------------------------------------------------------------------------------------- element-wise
@given(
    values=arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(1, 3)),
                  elements=st.floats(-1e6, 1e6) | st.just(np.nan))
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:All-NaN")
def test_mean_and_max_leave_missing_inputs_out(values: Any) -> None:
    parts = Parts({f"input{i}": part for i, part in enumerate(values)})
    np.testing.assert_allclose(fuser("mean").transform(parts), np.nanmean(values, axis=0), rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(fuser("max").transform(parts), np.nanmax(values, axis=0))


@pytest.mark.parametrize("text", ["mean", "max"])
def test_inputs_of_different_widths_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="one width, and these are a 2, b 3") as caught:
        fuser(text).transform(Parts({"a": np.ones((2, 2)), "b": np.ones((2, 3))}))
    assert "pca(64)" in caught.value.hint


# --------------------------------------------------------------------------------------------------- tensor fusion
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(0, 5), widths=st.lists(st.integers(1, 4), min_size=1, max_size=3)
)
def test_kronecker_is_the_outer_product_with_ones(seed: int, rows: int, widths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    parts = Parts({f"part{i}": rng.normal(size=(rows, width)) for i, width in enumerate(widths)})
    out = fuser("kronecker").transform(parts)
    assert out.shape == (rows, np.prod([width + 1 for width in widths]))
    for row in range(rows):
        expected = np.ones(1)
        for part in parts.values():
            expected = np.kron(expected, [*part[row], 1])
        np.testing.assert_allclose(out[row], expected, rtol=1e-12)
        assert out[row, -1] == 1


def test_what_a_missing_input_is_a_factor_of_is_nan() -> None:
    out = fuser("kronecker").transform(Parts({"a": np.array([[2.0, 3.0]]), "b": np.array([[np.nan]])}))
    np.testing.assert_array_equal(out, [[np.nan, 2, np.nan, 3, np.nan, 1]])


def test_kronecker_is_bounded() -> None:
    parts = Parts({"a": np.ones((1, 7)), "b": np.ones((1, 3))})
    assert fuser("kronecker(32)").transform(parts).shape == (1, 32)
    with pytest.raises(UsageError, match="widths a 7, b 3 would give 32 features, and 31 are allowed") as caught:
        fuser("kronecker(31)").transform(parts)
    assert "pca(16)" in caught.value.hint
    with pytest.raises(UsageError, match="66049 features, and 65536 are allowed"):
        fuser("kronecker").transform(Parts({"a": np.ones((1, 256)), "b": np.ones((1, 256))}))


# ------------------------------------------------------------------------------------------------------ components
def related(seed: int, rows: int, widths: tuple[int, ...], common: int = 3) -> Parts:
    """Parts that share some hidden causes, with noise of their own."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(rows, common)) * np.linspace(2, 1, common)
    return Parts(
        {
            f"part{i}": causes @ rng.normal(size=(common, width)) + 0.5 * rng.normal(size=(rows, width)) + 5
            for i, width in enumerate(widths)
        }
    )


@pytest.mark.parametrize(("text", "components"), [("pca(3)", 3), ("pca(0.9)", 0.9)])
@pytest.mark.parametrize("rows", [40, 8])
def test_pca_is_that_of_the_concatenation(text: str, components: float, rows: int) -> None:
    parts = related(rows, rows, (5, 6))
    x = np.hstack(list(parts.values()))
    expected = PCA(components, svd_solver="full").fit(x).transform(x)
    np.testing.assert_allclose(fitted(text, parts).transform(parts), expected, atol=1e-6)


def test_pca_learns_from_the_rows_that_have_every_input() -> None:
    parts = related(1, 40, (5, 6))
    complete = related(1, 40, (5, 6))
    parts["part1"][[3, 17]] = np.nan
    parts["part0"][5, 2] = np.nan
    whole = ~np.isin(np.arange(40), [3, 5, 17])
    out = fitted("pca(2)", parts).transform(parts)
    expected = fitted("pca(2)", rows_of(complete, whole)).transform(rows_of(complete, whole))
    np.testing.assert_allclose(out[whole], expected, atol=1e-9)
    assert np.isnan(out[~whole]).all()
    nothing = Parts({"part0": np.full((2, 5), np.nan), "part1": np.ones((2, 6))})
    assert fitted("pca(2)", parts).transform(nothing).shape == (2, 2)
    with pytest.raises(UsageError, match="PCA of 0 train rows"):
        fitted("pca(2)", nothing)


# ------------------------------------------------------------------------------------------- canonical correlation
def to_unit(x: Any) -> Any:
    """Of variance 1, and pointing up: canonical variates are known up to their scale and sign."""
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return x * np.sign(x[np.abs(x).argmax(axis=0), np.arange(x.shape[1])])


def correlated(seed: int, rows: int = 120) -> Parts:
    """Two inputs with correlations of about 0.95 and 0.6 hidden in them, and none else: far enough apart for NIPALS."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(rows, 2))
    parts = {}
    for alias, width in (("a", 4), ("b", 6)):
        hidden = np.hstack([causes + rng.normal(size=(rows, 2)) * [0.2, 0.8], rng.normal(size=(rows, width - 2))])
        parts[alias] = hidden @ np.linalg.qr(rng.normal(size=(width, width)))[0] + 3
    return Parts(parts)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 2), size=st.integers(1, 121))
@settings(max_examples=20)
def test_cca_is_scikit_learns(seed: int, n: int, size: int) -> None:
    parts = correlated(seed)
    x, y = parts.values()
    theirs = CCA(n, tol=1e-16, max_iter=10_000).fit(x, y)
    expected = np.hstack([to_unit(scores) for scores in theirs.transform(x, y)])
    np.testing.assert_allclose(to_unit(fitted(f"cca({n})", parts, size).transform(parts)), expected, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_cca_solves_its_equation(seed: int) -> None:
    """Cxy Cyy⁻¹ Cyx a = ρ² Cxx a, by SciPy: the squares of all correlations, and the directions of the first two."""
    parts = correlated(seed)
    x, y = (part - part.mean(axis=0) for part in parts.values())
    squares, directions = eigh(x.T @ y @ np.linalg.solve(y.T @ y, y.T @ x), x.T @ x)
    made = fitted("cca(4)", parts)
    np.testing.assert_allclose(made.estimators()["correlations"] ** 2, squares[::-1], atol=1e-9)
    found = made.transform(parts)[:, :2]
    np.testing.assert_allclose(to_unit(found), to_unit(x @ directions[:, :-3:-1]), atol=1e-8)


def test_variates_go_together_and_alone() -> None:
    parts = related(2, 200, (5, 6))
    made = fitted("cca(3)", parts)
    out = made.transform(parts)
    seen = np.corrcoef(out.T)
    correlations = made.estimators()["correlations"]
    expected = np.eye(6)
    expected[[0, 1, 2], [3, 4, 5]] = expected[[3, 4, 5], [0, 1, 2]] = correlations
    np.testing.assert_allclose(seen, expected, atol=1e-9)
    np.testing.assert_allclose(out.var(axis=0, ddof=1), np.ones(6), rtol=1e-9)
    assert (np.diff(correlations) < 0).all()


def test_neither_units_nor_repeated_or_constant_features_change_a_variate() -> None:
    parts = related(3, 90, (4, 5))
    expected = to_unit(fitted("cca(2)", parts).transform(parts))
    x, y = parts.values()
    scaled = Parts({"one": np.hstack([x * [1, 1e6, 1e-6, 1], np.full((90, 1), 0.1)]), "other": np.hstack([y - 7, y])})
    np.testing.assert_allclose(to_unit(fitted("cca(2)", scaled).transform(scaled)), expected, atol=1e-6)


def test_cca_learns_from_the_rows_that_have_both() -> None:
    parts, complete = related(4, 60, (4, 5)), related(4, 60, (4, 5))
    parts["part1"][::6] = np.nan
    both = np.arange(60) % 6 != 0
    out = fitted("cca(2)", parts).transform(parts)
    expected = fitted("cca(2)", rows_of(complete, both)).transform(complete)
    np.testing.assert_allclose(out[:, :2], expected[:, :2], atol=1e-9)
    np.testing.assert_allclose(out[both], expected[both], atol=1e-9)
    assert np.isnan(out[~both, 2:]).all()


@pytest.mark.parametrize(
    ("text", "parts", "error", "match"),
    [
        ("cca(1)", related(0, 60, (3, 3, 3)), UsageError, "takes two inputs, and there are 3: part0, part1, part2"),
        ("cca(1)", related(0, 60, (3,)), UsageError, "takes two inputs, and there are 1: part0"),
        ("cca(4)", related(0, 60, (3, 5)), UsageError, r"cca\(4\) of 3 of part0 and 5 of part1 independent features"),
        ("cca(1)", related(0, 12, (6, 6)), UsageError, "perfect correlation in noise"),
        ("cca(1)", related(0, 1, (2, 2)), UsageError, "1 train row"),
        ("cca(1)", Parts({"a": np.ones((9, 2)), "b": np.eye(9)[:, :2]}), ConflictError, "'a' is the same"),
    ],
)
def test_what_cca_cant_do(text: str, parts: Parts, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fitted(text, parts)


def test_the_ways_out_of_cca_lead_out() -> None:
    parts = related(0, 60, (3, 5))
    with pytest.raises(UsageError) as caught:
        fitted("cca(4)", parts)
    assert caught.value.hint == "cca(3)"
    assert fitted(caught.value.hint, parts).transform(parts).shape == (60, 6)
    with pytest.raises(UsageError) as caught:
        fitted("cca(1)", related(0, 12, (6, 6)))
    assert caught.value.hint == "narrower inputs: steps of each input, such as pca(3)"
    fitted("cca(1)", related(0, 12, (3, 3)))
    with pytest.raises(UsageError) as caught:
        fitted("cca(1)", related(0, 4, (2, 2)))
    assert caught.value.hint == "more train rows"


# ----------------------------------------------------------------------------------------------------- late fusion
def of_fold(patient: int, salt: int) -> int:
    """splitmix64, in Python's own whole numbers."""
    whole = 2**64 - 1
    x = (patient + (salt + 1) * 0x9E3779B97F4A7C15) & whole
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & whole
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & whole
    return (x ^ (x >> 31)) % 5


def cohort(seed: int, rows: int, kinds: int = 2, text: bool = False) -> Parts:
    """Inputs, labels of classes (or of numbers, where there is one kind), patients of two rows, and a third as test."""
    parts = related(seed, rows, (4, 3))
    rng = np.random.default_rng(seed + 1)
    score = parts["part0"][:, 0] + rng.normal(0, 2, rows)
    labels: Any = score if kinds == 1 else np.digitize(score, np.quantile(score, np.arange(1, kinds) / kinds))
    parts.labels = np.array([f"grade {n}" for n in labels], object) if text else labels
    parts.patients = 1000 + np.arange(rows) // 2
    parts.train = parts.patients % 3 != 0
    return parts


def expected_late(parts: Parts, salt: int = 0) -> Any:
    """The scores of every row, learned from those of train, model by model."""
    fold = np.array([of_fold(int(p), salt) for p in parts.patients])
    out = []
    for part in parts.values():
        whole = ~np.isnan(part).any(axis=1)
        learned, columns = parts.train & whole, []
        for row in range(len(part)):
            rows = learned & (fold != fold[row]) if parts.train[row] else learned
            columns.append((row, tuple(rows)))
        models = {}
        scores: list[Any] = []
        for row, rows in columns:
            if rows not in models:
                numeric = parts.labels.dtype.kind == "f"
                model = Ridge() if numeric else LogisticRegression(tol=1e-6, max_iter=10_000)
                models[rows] = make_pipeline(StandardScaler(), model).fit(part[list(rows)], parts.labels[list(rows)])
            model = models[rows]
            one = np.nan_to_num(part[[row]])
            score = model.predict(one) if not hasattr(model, "predict_proba") else model.predict_proba(one)[0]
            score = score[1:] if len(score) == 2 else score
            scores.append(score if whole[row] else np.full(len(score), np.nan))
        out.append(np.array(scores))
    return np.hstack(out)


@pytest.mark.parametrize(("kinds", "text", "width"), [(2, False, 1), (2, True, 1), (3, True, 3), (1, False, 1)])
@pytest.mark.parametrize("seed", [0, 1])
def test_late_is_scikit_learns_without_each_rows_own_fold(kinds: int, text: bool, width: int, seed: int) -> None:
    parts = cohort(seed, 90, kinds, text)
    parts["part1"][[2, 3, 40, 80]] = np.nan
    for size in (9, 90):
        made = fitted("late", rows_of(parts, parts.train), size)
        out = made.transform(parts)
        assert out.shape == (90, 2 * width)
        np.testing.assert_allclose(out, expected_late(parts), atol=1e-6)


def test_no_train_row_is_scored_by_its_own_label() -> None:
    """The other patients' scores change with it; its own rows' don't, though those of the test rows do."""
    parts = cohort(5, 120)
    out = fitted("late", rows_of(parts, parts.train)).transform(parts)
    patient = parts.patients[parts.train][0]
    own = parts.patients == patient
    changed = cohort(5, 120)
    changed.labels = np.where(own, 1 - parts.labels, parts.labels)
    again = fitted("late", rows_of(changed, changed.train)).transform(changed)
    np.testing.assert_array_equal(out[own], again[own])
    assert (out[~parts.train] != again[~parts.train]).any(axis=1).all()


def test_new_patients_get_the_model_of_all_train_rows() -> None:
    parts = cohort(6, 90)
    made = fitted("late", rows_of(parts, parts.train))
    new = Parts(parts)  # whose train, labels and patients nobody knows
    out, of_all = made.transform(parts), made.transform(new)
    np.testing.assert_array_equal(out[~parts.train], of_all[~parts.train])
    assert (out[parts.train] != of_all[parts.train]).any(axis=1).all()


def test_patients_are_dealt_until_every_class_is_left() -> None:
    """Two patients have the rare class; where they share a fold, it would be unknown to the models without it."""
    parts = cohort(7, 60)
    parts.train = np.ones(60, bool)
    same = next((a, b) for a in range(30) for b in range(a) if of_fold(1000 + a, 0) == of_fold(1000 + b, 0))
    parts.labels = np.isin(np.arange(60) // 2, same).astype(np.int64)
    made = fitted("late", parts)
    salt = made.estimators()["salt"]
    assert salt > 0
    assert of_fold(1000 + same[0], salt) != of_fold(1000 + same[1], salt)
    np.testing.assert_allclose(made.transform(parts), expected_late(parts, salt), atol=1e-6)


SURVIVAL = np.zeros(30, [("event", bool), ("time", float)])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"labels": None}, UsageError, "this table has none"),
        ({"labels": SURVIVAL}, UsageError, "times and events"),
        ({"labels": np.zeros(30, int)}, UsageError, "all train rows are 0"),
        ({"labels": np.array([1] + [0] * 29)}, ConflictError, "some class has too few"),
        ({"patients": np.zeros(30, int)}, ConflictError, "without a fifth of the patients"),
        ({"patients": None}, ValueError, "whose rows these are"),
    ],
)
def test_what_late_cant_learn_from(change: dict[str, Any], error: type[Exception], match: str) -> None:
    parts = cohort(8, 30)
    for name, value in change.items():
        setattr(parts, name, value)
    with pytest.raises(error, match=match):
        fitted("late", parts)


def test_inputs_that_late_cant_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = cohort(9, 30)
    with pytest.raises(ConflictError, match="No train row"):
        fitted("late", rows_of(parts, slice(0)))
    monkeypatch.setattr(late, "INPUT_BYTES", 8 * 4 * 20)
    with pytest.raises(UsageError, match="all train rows of 'part0' at once") as caught:
        fitted("late", parts)
    assert "pca(64)" in caught.value.hint
    monkeypatch.undo()
    parts["part1"][:] = np.nan
    with pytest.raises(ConflictError, match="No train row has the input 'part1'"):
        fitted("late", parts)


# ------------------------------------------------------------------------------------------------------ all of them
@pytest.mark.parametrize("text", ["concat", "mean", "max", "kronecker", "pca(2)", "cca(2)", "late"])
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 59))
@settings(max_examples=6)
def test_no_row_depends_on_its_block(text: str, seed: int, cut: int) -> None:
    parts = cohort(seed, 60)
    parts["part1"] = np.hstack([parts["part1"], parts["part1"][:, :1] ** 2])
    parts["part0"][::11] = np.nan
    made = fitted(text, rows_of(parts, parts.train))
    out = made.transform(parts)
    apart = [made.transform(rows_of(parts, rows)) for rows in (slice(cut), slice(cut, None))]
    np.testing.assert_allclose(np.concatenate(apart), out, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("kronecker(0)", "at least 1, not 0"),
        ("kronecker(much)", "not 'much'"),
        ("pca(0)", "not 0"),
        ("cca(1.5)", "not 1.5"),
        ("cca(0)", "not 0"),
    ],
)
def test_arguments_that_cant_be(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        fuser(text)
