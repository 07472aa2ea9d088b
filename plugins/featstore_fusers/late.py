"""Late fusion: each input has its say by itself, and a model of the table weighs what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from featstore_steps import read_labels

from featstore import ConflictError, Fuser, Parts, UsageError
from featstore_fusers.concat import Matrix

FOLDS = 5
#: Bytes of one input's train rows: its models need them at once.
INPUT_BYTES = 1 << 30
_HINT = "--fuser concat needs no labels"
#: Ways of dealing patients to folds that are tried before a class is said to have too few.
_SALTS = 32


class Late(Fuser):
    """Scores of one model an input, side by side.

    Of classes: an L2 logistic regression of the standardized input, and the probability of each class in the order of
    their names; of two classes, of the second. Of numbers: a ridge regression, and its prediction. A row that lacks the
    input, or some of it, isn't learned from, and its scores are NaN.

    What a model says of rows that it has learned from is too good, and a model of the table would lean on it (Wolpert,
    "Stacked generalization", 1992). So train rows get the scores of models that haven't seen their patient: patients
    are dealt to five folds by a hash. All other rows get those of the model of all train rows.

    Raises:
        UsageError: no labels, those of survival, one class, or an input too large to be learned from at once.
        ConflictError: an input that no train row has, or a class with too few patients to be learned without a fold.
    """

    labelled = True

    def fit(self, blocks: Callable[[], Iterator[Parts]]) -> None:
        labels, patients, has = _survey(blocks)
        self._classes: list[Any] | None = None
        codes = labels
        if labels.dtype.kind != "f":
            classes, codes = np.unique(labels, return_inverse=True)
            self._classes = classes.tolist()
            if len(classes) < 2:
                raise UsageError(f"late tells classes apart, and all train rows are {self._classes[0]!r}.", hint=_HINT)
        self._salt = self._deal(codes, patients, has)
        fold = folds(patients, self._salt)
        self._models: dict[str, dict[str, Any]] = {}
        for alias, present in has.items():
            rows, y, of = _rows(blocks, alias, int(present.sum())), codes[present], fold[present]
            self._models[alias] = {"all": self._learn(rows, y)}
            for n in range(FOLDS):
                self._models[alias][f"without{n}"] = self._learn(rows[of != n], y[of != n])

    def transform(self, parts: Parts) -> Matrix:
        rows = len(next(iter(parts.values())))
        fold = np.full(rows, -1)
        if parts.train is not None and parts.train.any():
            fold[parts.train] = folds(_patients(parts)[parts.train], self._salt)
        scores = []
        for alias, models in self._models.items():
            values = np.asarray(parts[alias], np.float64)
            whole = _is_whole(values)
            width = 1 if self._classes is None or len(self._classes) == 2 else len(self._classes)
            out = np.full((rows, width), np.nan)
            for n in range(-1, FOLDS):
                some = whole & (fold == n)
                if some.any():
                    out[some] = self._score(models["all" if n < 0 else f"without{n}"], values[some])
            scores.append(out)
        return np.concatenate(scores, axis=1)

    def estimators(self) -> Mapping[str, object]:
        return {"classes": self._classes, "salt": self._salt, "models": self._models}

    def restore(self, estimators: Mapping[str, Any]) -> None:
        self._classes, self._salt = estimators["classes"], estimators["salt"]
        self._models = estimators["models"]

    def _learn(self, rows: Matrix, y: npt.NDArray[Any]) -> Any:
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        numeric = self._classes is None
        model = Ridge(solver="cholesky") if numeric else LogisticRegression(tol=1e-6, max_iter=10_000)
        return make_pipeline(StandardScaler(), model).fit(rows, y)

    def _score(self, model: Any, rows: Matrix) -> Matrix:
        """(rows, 1) or (rows, classes)."""
        if self._classes is None:
            return np.asarray(model.predict(rows), np.float64)[:, None]
        chances = np.asarray(model.predict_proba(rows), np.float64)
        return chances[:, 1:] if len(self._classes) == 2 else chances

    def _deal(self, codes: npt.NDArray[Any], patients: npt.NDArray[Any], has: Mapping[str, npt.NDArray[Any]]) -> int:
        """The first hash by which every input's every fold can be left out, and all classes are still there."""
        kinds = 0 if self._classes is None else len(self._classes)
        for salt in range(_SALTS):
            fold = folds(patients, salt)
            left = [codes[present & (fold != n)] for present in has.values() for n in range(FOLDS)]
            if all(len(np.unique(some)) == kinds if kinds else len(some) > 1 for some in left):
                return salt
        raise ConflictError(
            "late learns each input without a fifth of the patients, and some class has too few that have it.",
            hint="each class needs several patients with each input; or --fuser concat",
        )


def folds(patients: npt.NDArray[Any], salt: int) -> npt.NDArray[np.int64]:
    """0 to 4 for each patient, int64 (rows,), by the hash splitmix64 (Steele, Lea, Flood 2014)."""
    x = np.asarray(patients, np.int64).astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(FOLDS)).astype(np.int64)


def _survey(blocks: Callable[[], Iterator[Parts]]) -> tuple[Any, Any, dict[str, Any]]:
    """Labels and patients of the train rows, (rows,), and of each input, bool (rows,): which of them have it."""
    labels, patients = [], []
    has: dict[str, list[Any]] = {}
    for parts in blocks():
        labels.append(read_labels(parts.labels, "late", hint=_HINT))
        patients.append(_patients(parts))
        for alias, part in parts.items():
            has.setdefault(alias, []).append(_is_whole(part))
            if 8 * part.shape[1] * sum(map(np.count_nonzero, has[alias])) > INPUT_BYTES:
                raise UsageError(
                    f"late needs all train rows of {alias!r} at once, and they are more than {INPUT_BYTES >> 20} MiB.",
                    hint="narrower inputs: steps of each input, such as pca(64)",
                )
    if not labels:
        raise ConflictError("No train row has anything to learn from.", hint="a split scheme with a split called train")
    found = {alias: np.concatenate(rows) for alias, rows in has.items()}
    for alias, present in found.items():
        if not present.any():
            raise ConflictError(f"No train row has the input {alias!r} without gaps.", hint="leave it out, or impute")
    return np.concatenate(labels), np.concatenate(patients), found


def _rows(blocks: Callable[[], Iterator[Parts]], alias: str, count: int) -> Matrix:
    """The train rows of one input, where they have it: (count, width)."""
    rows, start = np.zeros((0, 0)), 0
    for parts in blocks():
        values = parts[alias]
        rows = rows if start else np.empty((count, values.shape[1]))
        whole = values[_is_whole(values)]
        rows[start : start + len(whole)] = whole
        start += len(whole)
    return rows


def _patients(parts: Parts) -> npt.NDArray[Any]:
    if parts.patients is None:
        raise ValueError("late must know whose rows these are: Parts.patients.")
    return parts.patients


def _is_whole(values: Matrix) -> npt.NDArray[np.bool_]:
    return np.asarray(np.isfinite(values).all(axis=1), np.bool_)
