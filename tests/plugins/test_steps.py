"""Steps: each against plain scikit-learn on all rows at once, in blocks of any size and in bounded memory."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from featstore_steps import featstore_steps, imputing, projection
from featstore_steps import passes as going
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest, f_classif, f_regression
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    RobustScaler,
    StandardScaler,
)

from featstore import Block, ConflictError, Step, UsageError
from featstore.keys import parse_words

SPECS = {spec.name: spec for spec in featstore_steps()}
#: What scikit-learn gives of all rows at once, where values may be missing.
THEIRS: dict[str, Callable[[], Any]] = {
    "standardize": StandardScaler,
    "robust": RobustScaler,
    "minmax": MinMaxScaler,
    "impute(mean)": SimpleImputer,
    "impute(median)": lambda: SimpleImputer(strategy="median"),
    "impute(zero)": lambda: SimpleImputer(strategy="constant", fill_value=0.0),
    "impute(knn)": KNNImputer,
    "impute(knn,2)": lambda: KNNImputer(n_neighbors=2),
}
NUMBERS = [*THEIRS, "l2", "pca(2)", "pca(0.8)", "select(2)"]


def step(text: str) -> Step:
    name, arguments = parse_words(text)
    return SPECS[name].load(*arguments)


def passes(values: Any, size: int = 7, labels: Any = None) -> Callable[[], Iterator[Block]]:
    return lambda: (
        Block(values[at : at + size], None if labels is None else labels[at : at + size])
        for at in range(0, len(values), size)
    )


def fit(text: str, values: Any, size: int = 7, labels: Any = None) -> Any:
    return step(text).fit(passes(values, size, labels))


def assert_same(ours: Any, theirs: Any) -> None:
    """Every attribute that scikit-learn documents."""
    names = {name for name in vars(theirs) if not name.startswith("_")}
    assert names == {name for name in vars(ours) if not name.startswith("_")}
    for name in names:
        mine, other = getattr(ours, name), getattr(theirs, name)
        if isinstance(other, (np.ndarray, float)):
            np.testing.assert_allclose(mine, other, rtol=1e-9, atol=1e-12, err_msg=name)
        else:
            assert mine == other, name


# Eighths: means and quartiles of different values are then told apart by more than rounding.
eighths = st.integers(-4000, 4000).map(lambda n: n / 8)
shapes = st.tuples(st.integers(2, 30), st.integers(1, 5))


@st.composite
def gapped(draw: Any) -> Any:
    """Rows with gaps, though each feature has some value."""
    shape = draw(shapes)
    values, gaps = draw(arrays(np.float64, shape, elements=eighths)), draw(arrays(bool, shape))
    gaps[draw(st.integers(0, shape[0] - 1))] = False
    return np.where(gaps, np.nan, values)


# ----------------------------------------------------------------------------------------- scaling and imputing
@pytest.mark.parametrize("text", THEIRS)
@given(values=gapped(), size=st.integers(1, 31))
@settings(max_examples=40)
def test_scalers_and_imputers_are_scikit_learns(text: str, values: Any, size: int) -> None:
    ours, theirs = fit(text, values, size), THEIRS[text]().fit(values)
    if text != "impute(zero)":
        assert_same(ours, theirs)
    others = np.concatenate([values[::-1] * 1.5 - 1, np.full((1, values.shape[1]), np.nan)])
    np.testing.assert_allclose(ours.transform(others), theirs.transform(others), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_standardize_keeps_its_digits_beside_a_large_mean(size: int) -> None:
    rng = np.random.default_rng(size)
    x = rng.normal(1e4, 1, (100, 6)) * [1, 1e-3, 1e3, 1, 1, 1]
    x[:, 3], x[:60, 4], x[rng.random(100) < 0.5, 5] = 0.1, np.nan, np.nan
    ours, theirs = fit("standardize", x, size), StandardScaler().fit(x)
    for name in ("mean_", "var_", "scale_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-9, atol=1e-20)
    np.testing.assert_array_equal(ours.n_samples_seen_, theirs.n_samples_seen_)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), atol=1e-6)


@pytest.mark.parametrize("text", ["standardize", "robust", "minmax"])
@pytest.mark.parametrize("value", [0.0, 5.0, 0.1, 1e9, -1e-9])
def test_a_constant_feature_is_only_moved(text: str, value: float) -> None:
    x = np.stack([np.full(9, value), np.arange(9.0)], axis=1)
    np.testing.assert_allclose(fit(text, x, 2).transform(x)[:, 0], np.zeros(9), atol=1e-6)
    moved = fit(text, x, 2).transform(x + np.array([3, 0]))[:, 0]
    np.testing.assert_allclose(moved, np.full(9, 3.0), rtol=1e-6)


@pytest.mark.parametrize("text", ["standardize", "robust", "minmax", "impute(mean)", "impute(median)", "impute(knn)"])
def test_a_feature_that_no_train_row_has_is_refused(text: str) -> None:
    x = np.ones((6, 3))
    x[:, 1] = np.nan
    with pytest.raises(ConflictError, match=r"1 feature\(s\) have no value in any train row"):
        fit(text, x, 2)
    with pytest.raises(ConflictError, match="No train row has anything"):
        fit(text, x[:0])
    x[:, 1], x[3, 1] = 1, np.inf
    with pytest.raises(ConflictError, match="infinite"):
        fit(text, x, 2)


def test_zero_is_filled_in_without_learning() -> None:
    x = np.array([[np.nan, 1, 2], [np.nan, np.nan, 3]])
    assert not step("impute(zero)").learns
    filled = step("impute(zero)").fit(lambda: iter(())).transform(x)
    np.testing.assert_array_equal(filled, [[0, 1, 2], [0, 0, 3]])
    np.testing.assert_array_equal(np.isnan(x).sum(), 3)


@given(values=arrays(np.float64, shapes, elements=eighths))
def test_l2_is_scikit_learns(values: Any) -> None:
    assert not step("l2").learns
    made = step("l2").fit(lambda: iter(())).transform(values)
    np.testing.assert_array_equal(made, Normalizer().fit_transform(values))


# ---------------------------------------------------------------------------------------------------- components
@pytest.mark.parametrize(("rows", "width"), [(50, 8), (6, 20), (200, 3)])
@pytest.mark.parametrize("components", [1, 3, 0.4, 0.8, 0.99])
def test_pca_is_scikit_learns(rows: int, width: int, components: float) -> None:
    rng = np.random.default_rng(rows + width)
    x = rng.normal(3, 1, (rows, width)) * rng.uniform(0.1, 10, width)
    ours = fit(f"pca({components})", x)
    theirs = PCA(components, svd_solver=ours.svd_solver).fit(x)
    assert ours.n_components_ == theirs.n_components_
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), atol=1e-6)
    for back in ("components_", "explained_variance_ratio_", "singular_values_", "noise_variance_"):
        np.testing.assert_allclose(getattr(ours, back), getattr(theirs, back), atol=1e-6)
    np.testing.assert_allclose(ours.get_covariance(), theirs.get_covariance(), atol=1e-6)
    if rows > width:
        assert ours.score(x) == pytest.approx(theirs.score(x), abs=1e-6)
    if components < 1:
        assert ours.explained_variance_ratio_.sum() > components
    assert {name for name in vars(theirs) if name[0] != "_"} == {name for name in vars(ours) if name[0] != "_"}


def test_pca_tells_tied_loadings_apart_by_place() -> None:
    """Yes and no columns have loadings of one size: rounding must not choose the sign, or bytes would depend on it."""
    rng = np.random.default_rng(3)
    yes = rng.integers(0, 2, 40).astype(float)
    x = np.stack([rng.normal(0, 0.01, 40), yes, 1 - yes], axis=1)
    for size in (1, 3, 40):
        assert fit("pca(1)", x * (1 + 1e-15 * size), size).components_[0, 1] > 0


def test_constant_rows_have_components_of_no_variance() -> None:
    assert np.isfinite(fit("pca(0.9)", np.ones((5, 3))).transform(np.ones((2, 3)))).all()


@pytest.mark.parametrize("components", [5, 200])
def test_too_many_components_are_refused(components: int) -> None:
    with pytest.raises(UsageError, match=rf"4 train rows with 6 features can't give {components}") as caught:
        fit(f"pca({components})", np.random.default_rng(0).normal(size=(4, 6)))
    assert "pca(2)" in caught.value.hint
    fit("pca(2)", np.random.default_rng(0).normal(size=(4, 6)))


def test_one_row_has_no_components_and_no_advice_gives_it_some() -> None:
    with pytest.raises(UsageError, match="PCA of 1 train rows") as caught:
        fit("pca(0.9)", np.ones((1, 6)))
    assert caught.value.hint == "more train rows"


def test_what_is_too_wide_to_decompose_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(20, 12))
    monkeypatch.setattr(projection, "MATRIX_BYTES", 8 * 12 * 11)
    for rows in (20, 12):
        with pytest.raises(UsageError, match="12 features are too many") as caught:
            fit("pca(2)", x[:rows])
        assert "pca(64)" in caught.value.hint
    assert fit("pca(2)", x[:11]).n_components_ == 2


# ----------------------------------------------------------------------------------------------------- selection
@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(6, 60), width=st.integers(1, 6), size=st.integers(1, 61),
    kinds=st.integers(2, 4), text=st.booleans(), data=st.data(),
)  # fmt: skip
def test_select_of_classes_is_scikit_learns(
    seed: int, rows: int, width: int, size: int, kinds: int, text: bool, data: Any
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % kinds)
    x = rng.normal(1, 1, (rows, width)) + labels[:, None] * rng.normal(0, 1, width)
    named = np.array([f"grade {n}" for n in labels], object) if text else labels
    k = data.draw(st.integers(1, width))
    ours, theirs = fit(f"select({k})", x, size, named), SelectKBest(f_classif, k=k).fit(x, named)
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.transform(x), theirs.transform(x))


@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(4, 60), width=st.integers(1, 6), size=st.integers(1, 61),
    data=st.data(),
)  # fmt: skip
def test_select_of_numbers_is_scikit_learns(seed: int, rows: int, width: int, size: int, data: Any) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (rows, width))
    labels = x @ rng.normal(size=width) + rng.normal(70, 2, rows)
    x[:, 0] = 3  # says nothing
    k = data.draw(st.integers(1, width))
    ours, theirs = fit(f"select({k})", x, size, labels), SelectKBest(f_regression, k=k).fit(x, labels)
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.transform(x), theirs.transform(x))


@pytest.mark.parametrize("constant", [3.0, 0.1, 1e6 / 3])
def test_select_takes_the_perfect_feature_and_no_constant_one(constant: float) -> None:
    labels = np.arange(30) % 2
    rng = np.random.default_rng(1)
    x = np.stack([np.full(30, constant), rng.normal(size=30), labels / 3 + 0.1], axis=1)
    for size in (1, 7, 30):
        for target in (labels, labels + 0.0):
            chosen = fit("select(1)", x, size, target)
            np.testing.assert_array_equal(chosen.get_support(), [False, False, True])
            ranked = fit("select(2)", x, size, target)
            np.testing.assert_array_equal(ranked.get_support(), [False, True, True])


def test_select_tells_equal_features_apart_by_place() -> None:
    """Yes and no columns say the same: which is taken mustn't depend on rounding."""
    rng = np.random.default_rng(5)
    yes = rng.integers(0, 2, 50).astype(float)
    labels = ((yes + rng.integers(0, 2, 50)) > 1).astype(np.int64)
    x = np.stack([yes, 1 - yes, yes * 0.1 + 7], axis=1)
    for size in (1, 3, 50):
        for target in (labels, labels * 1.7):
            np.testing.assert_array_equal(fit("select(1)", x, size, target).get_support(), [False, False, True])


SURVIVAL = np.zeros(6, [("event", bool), ("time", float)])


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        (None, UsageError, "this table has none"),
        (SURVIVAL, UsageError, "times and events"),
        (np.array([1, 0, np.nan, 1, 2, 3]), ConflictError, r"1 train row\(s\) have none"),
        (np.array(["a", None, "b", None, "a", "b"], object), ConflictError, r"2 train row\(s\) have none"),
        (np.zeros(6, int), UsageError, "there are 1 in 6 train rows"),
        (np.arange(6), UsageError, "there are 6 in 6 train rows"),
        (np.full(6, 0.1), UsageError, "labels that vary"),
    ],
)
def test_labels_that_select_cant_learn_from(labels: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        fit("select(1)", np.random.default_rng(0).normal(size=(6, 3)), 6, labels)


def test_select_more_than_there_are() -> None:
    with pytest.raises(UsageError, match="There are 3 features") as caught:
        fit("select(4)", np.random.default_rng(0).normal(size=(6, 3)), 2, np.arange(6) % 2)
    assert caught.value.hint == "select(3)"


@pytest.mark.parametrize("text", ["pca(1)", "select(1)"])
def test_gaps_are_refused_with_the_way_out(text: str) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    x[4, 1] = np.nan
    with pytest.raises(UsageError, match="missing values") as caught:
        fit(text, x, 2, np.arange(6) % 2)
    assert "--missing mean" in caught.value.hint


# ---------------------------------------------------------------------------------------------------- categories
@given(
    values=st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=20).filter(any),
    others=st.lists(st.text(max_size=3), min_size=1, max_size=10),
    size=st.integers(1, 21),
)
def test_categories_are_scikit_learns(values: list[str | None], others: list[str], size: int) -> None:
    column = np.array(values, object)[:, None]
    present = column[column[:, 0] != np.array(None)]
    rows = np.array([*others, *present[:, 0]], object)[:, None]
    for text, theirs in (
        ("onehot", OneHotEncoder(handle_unknown="ignore", sparse_output=False)),
        ("ordinal", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan)),
    ):
        ours = fit(text, column, size)
        np.testing.assert_array_equal(ours.transform(rows), theirs.fit(present).transform(rows))
        assert ours.categories_[0].tolist() == sorted({v for v in values if v is not None})


def test_unseen_and_missing_categories_are_taken() -> None:
    column = np.array([["m"], ["f"], [None], ["m"]], object)
    odd = np.array([["f"], ["other"], [None], [""]], object)
    np.testing.assert_array_equal(fit("onehot", column).transform(odd), [[1, 0], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(fit("ordinal", column).transform(odd), [[0], [np.nan], [np.nan], [np.nan]])


@pytest.mark.parametrize("text", ["onehot", "ordinal"])
def test_a_column_without_values_is_refused(text: str) -> None:
    assert SPECS[text].takes == "categories"
    with pytest.raises(ConflictError, match="no value in any train row"):
        fit(text, np.full((4, 1), None, object))
    with pytest.raises(ValueError, match="One column"):
        fit(text, np.full((4, 2), "a", object))


# ----------------------------------------------------------------------------------------------- blocks and memory
@pytest.mark.parametrize("text", NUMBERS)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(6, 40), size=st.integers(1, 41), part=st.integers(1, 20))
@settings(max_examples=25)
def test_no_row_depends_on_its_block(text: str, seed: int, rows: int, size: int, part: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 1, (rows, 4)) * [1, 3, 9, 27]  # variances that are told apart
    labels = rng.permutation(np.arange(rows) % 2)
    ours, whole = fit(text, x, size, labels), fit(text, x, rows, labels)
    others = rng.normal(2, 1, (part * 2, 4))
    if text.startswith(("impute", "stand", "robust", "minmax")):
        others[rng.random(others.shape) < 0.2] = np.nan
    expected = whole.transform(others)
    np.testing.assert_allclose(ours.transform(others), expected, rtol=1e-9, atol=1e-9)
    apart = np.concatenate([whole.transform(others[:part]), whole.transform(others[part:])])
    np.testing.assert_allclose(apart, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "most"),
    [("standardize", 1), ("minmax", 1), ("impute(mean)", 1), ("pca(2)", 2), ("select(2)", 2), ("robust", 2)],
)
def test_blocks_are_let_go(text: str, most: int) -> None:
    """However many blocks there are, no more than two are held at a time; and few passes are asked for."""
    rng, started, alive, held = np.random.default_rng(0), 0, [], []
    labels = np.arange(4) % 2

    def blocks() -> Iterator[Block]:
        nonlocal started
        started += 1
        for _ in range(50):
            values = rng.normal(size=(4, 3))
            alive.append(weakref.ref(values))
            block = Block(values, labels)
            del values
            held.append(sum(ref() is not None for ref in alive))
            yield block
            del block

    step(text).fit(blocks)
    assert max(held) <= 2
    assert len(held) <= most * 50 + (text == "select(2)")  # which looks at one block for the kind of labels
    assert started <= most + (text == "select(2)")


@pytest.mark.parametrize("text", ["robust", "impute(median)"])
def test_medians_go_over_the_columns_in_bounded_memory(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(60, 10))
    x[::7, 3] = np.nan
    expected = fit(text, x).transform(x)
    started = 0

    def blocks() -> Iterator[Block]:
        nonlocal started
        started += 1
        yield from passes(x)()

    monkeypatch.setattr(going, "COLUMN_BYTES", 8 * 60 * 3)
    np.testing.assert_array_equal(step(text).fit(blocks).transform(x), expected)
    assert started == 1 + 4  # one to count, and ten columns by threes
    assert all(some.shape[1] <= 3 for some in going.columns(going.numbers(blocks)))


def test_too_many_train_rows_for_neighbours_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def blocks() -> Iterator[Block]:
        nonlocal read
        for _ in range(50):
            read += 1
            yield Block(np.ones((4, 3)))

    monkeypatch.setattr(imputing, "NEIGHBOUR_BYTES", 10 * 4 * 3 * 8)
    with pytest.raises(UsageError, match="compares with every train row") as caught:
        step("impute(knn)").fit(blocks)
    assert "impute(median)" in caught.value.hint
    assert read == 11  # it stops there


# ----------------------------------------------------------------------------------------------------- arguments
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("pca(0)", "at least 1, not 0"),
        ("pca(-0.5)", "not -0.5"),
        ("pca(1.5)", "not 1.5"),
        ("pca(most)", "not 'most'"),
        ("select(0)", "at least 1, not 0"),
        ("select(2.5)", "not 2.5"),
        ("select(best)", "not 'best'"),
        ("impute(mod)", "knows mean, median, zero, knn, not 'mod'"),
        ("impute(5)", "not 5"),
        ("impute(mean,5)", "takes nothing more"),
        ("impute(knn,0)", "at least 1, not 0"),
        ("impute(knn,few)", "not 'few'"),
    ],
)
def test_arguments_that_cant_be(text: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        step(text)
