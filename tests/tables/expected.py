"""A training table by pandas and scikit-learn alone: what featstore should make of a recipe.

Nothing of featstore is used here but the recipe's own words, as a person writes them.
"""

from __future__ import annotations

import functools
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
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

KEYS = {"patient": ["patient_id"], "visit": ["patient_id", "visit_id"], "sample": ["sample_key"]}
NAMED = {**KEYS, "sample": ["patient_id", "visit_id", "sample_key"]}

AGGREGATES: Mapping[str | None, Callable[[np.ndarray], np.ndarray]] = {
    None: lambda rows: rows[0],
    "mean": lambda rows: rows.mean(axis=0),
    "max": lambda rows: rows.max(axis=0),
    "min": lambda rows: rows.min(axis=0),
    "median": lambda rows: np.median(rows, axis=0),
    "first": lambda rows: rows[0],
    "last": lambda rows: rows[-1],
    "meanstd": lambda rows: np.concatenate([rows.mean(axis=0), rows.std(axis=0)]),
    "gem(3)": lambda rows: (rows.clip(1e-6) ** 3).mean(axis=0) ** (1 / 3),
}


@dataclass
class Expected:
    """What featstore should make, with every fitted scikit-learn object.

    Attributes:
        rows: the key columns, ``split``, and ``label`` or ``time`` and ``event``, in order.
        parts: alias → float64 (rows, width), NaN where missing.
        clinical: table → its columns as they are, one row a row.
        masks: the columns of what may be missing.
    """

    rows: pd.DataFrame
    parts: dict[str, np.ndarray]
    clinical: dict[str, pd.DataFrame]
    masks: dict[str, np.ndarray]
    fused: np.ndarray
    train: np.ndarray
    fitted: dict[str, Any] = field(default_factory=dict)


def remade(
    cohort: Any,
    recipe: Mapping[str, Any],
    *,
    splits: Mapping[str, str | None] | None = None,
    tables: Mapping[str, pd.DataFrame] | None = None,
) -> Expected:
    """The table that a recipe asks for.

    Args:
        recipe: plain data, every input and table as a mapping.
        splits: by patient; the cohort's own if not given.
        tables: as frames with a column ``patient_id``.
    """
    entity, join = recipe.get("entity", "patient"), recipe.get("join", "inner")
    samples = cohort.samples()
    inputs = {i["alias"]: _with_defaults(i, recipe, entity) for i in recipe["inputs"]}
    groups = {alias: _groups(samples, item) for alias, item in inputs.items()}
    rows = _candidates(samples, entity, inputs)
    splits = cohort.splits if splits is None else splits
    rows["split"] = [splits.get(p) if recipe.get("scheme") else None for p in rows.patient_id]
    _label(rows, recipe.get("label", "label"), cohort, tables or {})
    if "as_of" in recipe:
        rows["as_of"] = _times(rows, inputs, groups, recipe["as_of"], tables or {})
    clinical = {t["name"]: _clinical(rows, t, (tables or {})[t["name"]]) for t in recipe.get("tables", [])}
    has = {alias: _lookup(rows, inputs[alias], groups[alias]).notna().to_numpy() for alias in inputs}
    has_row = {name: frame.pop("present").to_numpy(bool) for name, frame in clinical.items()}
    keep = rows.split.notna().to_numpy() | (recipe.get("scheme") is None)
    keep &= np.ones(len(rows), bool) if recipe.get("label") == "none" else rows[_labels(rows)].notna().all(axis=1)
    if "min_modalities" in recipe:
        keep &= sum(has.values()) >= recipe["min_modalities"]
    else:
        every = [*has.values(), *has_row.values()]
        keep &= {"inner": np.all(every, axis=0), "left": every[0], "outer": np.any(list(has.values()), axis=0)}[join]
    at = np.array(sorted(np.flatnonzero(keep), key=lambda i: _order(rows.iloc[i], entity)))
    rows = rows.iloc[at].reset_index(drop=True)
    clinical = {name: frame.iloc[at].reset_index(drop=True) for name, frame in clinical.items()}
    parts = {alias: _pooled(rows, inputs[alias], groups[alias]) for alias in inputs}
    masks = {}
    if join != "inner" or "min_modalities" in recipe:
        masks |= {f"has_{name}": some[at] for name, some in {**has, **has_row}.items()}
    for frame in clinical.values():
        masks |= {f"has_{c}": frame[c].notna().to_numpy() for c in frame if frame[c].isna().any()}
    train = (rows.split == "train").to_numpy()
    made = Expected(rows, parts, clinical, masks, np.zeros((0, 0)), train)
    _fuse(made, recipe, train)
    return made


def _with_defaults(item: Mapping[str, Any], recipe: Mapping[str, Any], entity: str) -> dict[str, Any]:
    per = "patient" if entity == "sample" and item.get("aggregation") else entity
    usual = {"per": per, "max_samples": recipe.get("max_samples"), "order_by": recipe.get("order_by")}
    return {"aggregation": None, "steps": []} | usual | dict(item)


def natural(key: str) -> tuple[str, int, str]:
    last = re.search(r"([0-9]+)[^0-9]*$", key)
    return (key[: last.start()], int(last[1]), key) if last else (key, 0, key)


def spread(count: int, most: int | None) -> list[int]:
    """Of so many, the middle ones of ``most`` equal stretches."""
    if most is None or count <= most:
        return list(range(count))
    return [math.floor((j + 0.5) * count / most) for j in range(most)]


def _groups(samples: pd.DataFrame, item: Mapping[str, Any]) -> dict[Any, pd.DataFrame]:
    """Key → the samples that may be pooled for it, in order."""
    mine = samples[samples.modality == item["modality"]].copy()
    mine["natural"] = mine.sample_key.map(natural)
    by = [item["order_by"]] if item["order_by"] else []
    mine = mine.sort_values([*by, "natural"], kind="stable")
    keys = KEYS[item["per"]]
    mine = mine.dropna(subset=keys)
    return dict(list(mine.groupby(keys[0] if len(keys) == 1 else keys)))


def _candidates(samples: pd.DataFrame, entity: str, inputs: Mapping[str, Any]) -> pd.DataFrame:
    names = NAMED[entity]
    if entity == "sample":
        own = {item["modality"] for item in inputs.values() if item["per"] == "sample"}
        return samples[samples.modality.isin(own)][names].reset_index(drop=True)
    return samples[names].dropna().drop_duplicates().reset_index(drop=True)


def _order(row: pd.Series, entity: str) -> tuple[Any, ...]:
    visit = (row.visit_id is None, row.visit_id or "") if entity != "patient" else ()
    return row.patient_id, visit, natural(row.sample_key) if entity == "sample" else ()


def _label(rows: pd.DataFrame, label: Any, cohort: Any, tables: Mapping[str, pd.DataFrame]) -> None:
    """Add ``label``, or ``time`` and ``event``."""

    def column(text: str) -> list[Any]:
        table, _, name = text.partition(".")
        found = dict(zip(tables[table].patient_id, tables[table][name], strict=True))
        return [found.get(p) for p in rows.patient_id]

    if isinstance(label, dict) and "time" in label:
        rows["time"], rows["event"] = column(label["time"]), column(label["event"])
        return
    source = label["column"] if isinstance(label, dict) else label
    kind = label.get("kind") if isinstance(label, dict) else None
    if source != "none":
        values = [cohort.labels.get(p) for p in rows.patient_id] if source == "label" else column(source)
        known = [None if pd.isna(v) else float(v) if kind == "number" else v for v in values]
        rows["label"] = pd.Series(known, dtype=object)


def _labels(rows: pd.DataFrame) -> list[str]:
    return [name for name in ("label", "time", "event") if name in rows]


def _times(
    rows: pd.DataFrame, inputs: Mapping[str, Any], groups: Mapping[str, Any], as_of: str, tables: Mapping[str, Any]
) -> list[Any]:
    """The time of each row: the earliest of its samples, if all have one; or a column's."""
    if as_of != "acquired_at":
        table, _, column = as_of.partition(".")
        found = dict(zip(tables[table].patient_id, pd.to_datetime(tables[table][column]), strict=True))
        return [found.get(p, pd.NaT) for p in rows.patient_id]
    times = []
    for _, row in rows.iterrows():
        mine: list[Any] = []
        for alias, item in inputs.items():
            group = groups[alias].get(_key(row, item["per"]))
            mine += [] if group is None else group.acquired_at.tolist()
        times.append(pd.NaT if not mine or any(pd.isna(t) for t in mine) else min(mine))
    return times


def _key(row: pd.Series, per: str) -> Any:
    names = KEYS[per]
    return row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)


def _lookup(rows: pd.DataFrame, item: Mapping[str, Any], groups: Mapping[Any, pd.DataFrame]) -> pd.Series:
    """Whether each row has the input."""
    return pd.Series([1.0 if _key(row, item["per"]) in groups else np.nan for _, row in rows.iterrows()])


def _pooled(rows: pd.DataFrame, item: Mapping[str, Any], groups: Mapping[Any, pd.DataFrame]) -> np.ndarray:
    found: list[Any] = []
    for _, row in rows.iterrows():
        group = groups.get(_key(row, item["per"]))
        if group is None:
            found.append(None)
            continue
        values = np.stack(group.vector.tolist()).astype(np.float64)[spread(len(group), item["max_samples"])]
        found.append(AGGREGATES[item["aggregation"]](values))
    width = next(len(v) for v in found if v is not None)
    return np.stack([np.full(width, np.nan) if v is None else v for v in found])


def _clinical(rows: pd.DataFrame, spec: Mapping[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    """The table's columns for each row, and whether it has a row there."""
    columns = [*spec.get("numeric", []), *spec.get("categorical", [])]
    if "time" not in spec:
        found = rows[["patient_id"]].merge(table.assign(present=True), on="patient_id", how="left")
    else:
        left = rows[["patient_id", "as_of"]].reset_index().dropna().sort_values("as_of", kind="stable")
        left["as_of"] = pd.to_datetime(left.as_of).astype("datetime64[us]")
        right = table.assign(present=True)
        right[spec["time"]] = pd.to_datetime(right[spec["time"]]).astype("datetime64[us]")
        within = pd.Timedelta(spec["within"]) if "within" in spec else None
        found = pd.merge_asof(
            left, right.sort_values(spec["time"], kind="stable"), left_on="as_of", right_on=spec["time"],
            by="patient_id", direction="backward", tolerance=within,
        ).set_index("index").reindex(rows.index)  # fmt: skip
    found["present"] = found["present"].eq(True)
    return found[[*columns, "present"]].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------ fusing
def learned(word: str, x: np.ndarray, y: Any) -> Any:
    """scikit-learn's own object of that name, fitted to these rows."""
    match = re.fullmatch(r"(\w+)(?:\(([^()]*)\))?", word)
    assert match, word
    name, words = match[1], [w.strip() for w in (match[2] or "").split(",") if w.strip()]
    if name == "pca":
        share = float(words[0])
        solver = "full" if len(x) <= x.shape[1] else "covariance_eigh"  # neither draws random numbers
        return PCA(share if share < 1 else int(share), svd_solver=solver).fit(x)
    if name == "select":
        return SelectKBest(f_regression if y.dtype.kind == "f" else f_classif, k=int(words[0])).fit(x, y)
    if name == "knn":
        return KNNImputer(n_neighbors=int(words[0]) if words else 5).fit(x)
    made: Any = {
        "standardize": StandardScaler, "robust": RobustScaler, "minmax": MinMaxScaler, "l2": Normalizer,
        "mean": SimpleImputer, "median": functools.partial(SimpleImputer, strategy="median"),
        "zero": functools.partial(SimpleImputer, strategy="constant", fill_value=0.0),
        "onehot": functools.partial(OneHotEncoder, handle_unknown="ignore", sparse_output=False),
        "ordinal": functools.partial(OrdinalEncoder, handle_unknown="use_encoded_value", unknown_value=np.nan),
    }[name]()  # fmt: skip
    return made.fit(x)


def _fuse(made: Expected, recipe: Mapping[str, Any], train: np.ndarray) -> None:
    y = _y(made.rows, recipe.get("label", "label"))
    known = None if y is None else y[train]
    steps = {i["alias"]: i.get("steps", []) for i in recipe["inputs"]}
    parts = dict(made.parts)
    for spec in recipe.get("tables", []):
        parts[spec["name"]] = _encoded(made, spec, train)
        steps[spec["name"]] = spec.get("steps", [])
    for alias, words in steps.items():
        there = ~np.isnan(parts[alias]).all(axis=1)
        for word in words:
            mine = parts[alias]
            one = learned(word, mine[train & there], None if y is None else y[train & there])
            made.fitted.setdefault("inputs", {}).setdefault(alias, []).append(one)
            through = one.transform(mine[there])
            parts[alias] = np.full((len(mine), through.shape[1]), np.nan)
            parts[alias][there] = through
    if recipe.get("missing", "none") != "none":
        whole = np.concatenate(list(parts.values()), axis=1)
        made.fitted["missing"] = learned(recipe["missing"], whole[train], None)
        filled = made.fitted["missing"].transform(whole)
        ends = np.cumsum([part.shape[1] for part in parts.values()])[:-1]
        parts = dict(zip(parts, np.split(filled, ends, axis=1), strict=True))
    made.fused = fused(recipe.get("fuser", "concat"), parts, train, made.fitted)
    for word in recipe.get("steps", []):
        one = learned(word, made.fused[train], known)
        made.fitted.setdefault("steps", []).append(one)
        made.fused = one.transform(made.fused)


def _y(rows: pd.DataFrame, label: Any) -> Any:
    if "label" not in rows:
        return None
    values = rows.label.tolist()
    y = np.array(values) if not any(isinstance(v, str) for v in values) else np.array(list(map(str, values)))
    return y.astype(str) if isinstance(label, dict) and label.get("kind") == "classes" else y


def _encoded(made: Expected, spec: Mapping[str, Any], train: np.ndarray) -> np.ndarray:
    frame = made.clinical[spec["name"]]
    columns = [frame[list(spec.get("numeric", []))].to_numpy(np.float64)]
    for name in spec.get("categorical", []):
        has = frame[name].notna().to_numpy()
        text = np.array([None if pd.isna(v) else str(v) for v in frame[name]], object)[:, None]
        encoder = learned(spec.get("encode", "onehot"), text[train & has], None)
        made.fitted.setdefault("encode", {}).setdefault(spec["name"], {})[name] = encoder
        out = np.full((len(frame), encoder.transform(text[has][:1]).shape[1]), np.nan)
        out[has] = encoder.transform(text[has])
        columns.append(out)
    return np.concatenate(columns, axis=1)


def fused(fuser: str, parts: Mapping[str, np.ndarray], train: np.ndarray, fitted: dict[str, Any]) -> np.ndarray:
    """What a fuser that needs no labels makes of the parts."""
    side = np.concatenate(list(parts.values()), axis=1)
    if fuser == "concat":
        return side
    if fuser in ("mean", "max"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # rows without any
            return {"mean": np.nanmean, "max": np.nanmax}[fuser](np.stack(list(parts.values())), axis=0)
    if fuser.startswith("kronecker"):
        ones = [np.concatenate([part, np.ones((len(part), 1))], axis=1) for part in parts.values()]
        return np.stack([functools.reduce(np.kron, row) for row in zip(*ones, strict=True)])
    assert fuser.startswith("pca"), fuser
    whole = ~np.isnan(side).any(axis=1)
    fitted["fuser"] = learned(fuser, side[train & whole], None)
    out = np.full((len(side), fitted["fuser"].n_components_), np.nan)
    out[whole] = fitted["fuser"].transform(side[whole])
    return out


# ------------------------------------------------------------------------------------------------ comparing
def check(table: Any, expected: Expected, *, fold: int | None = None, signs: Any = 1.0, fuse: bool = True) -> None:
    """Every column of a training table is what is expected, to 1e-6.

    Args:
        signs: of the components, where rounding decides those of scikit-learn.
    """
    frame = table.to_pandas(fold=fold)
    rows = expected.rows
    keys = [name for name in ("patient_id", "visit_id", "sample_key") if name in rows]
    labels = ["time", "event"] if "time" in rows else ["label"]
    clinical = [column for part in expected.clinical.values() for column in part]
    assert frame.columns.tolist() == [
        *keys, "split", *labels, *expected.parts, *clinical, "fused", *expected.masks
    ]  # fmt: skip
    for name in (*keys, "split", *labels):
        wanted = rows[name].tolist() if name in rows else [None] * len(rows)
        assert [none(v) for v in frame[name]] == [none(v) for v in wanted], name
    for alias, part in expected.parts.items():
        np.testing.assert_allclose(np.stack(frame[alias]), part, rtol=1e-6, atol=1e-6)
    for part in expected.clinical.values():
        for column in part:
            assert [none(v) for v in frame[column]] == [none(v) for v in part[column]], column
    for name, mask in expected.masks.items():
        assert frame[name].tolist() == mask.tolist(), name
    if fuse:
        np.testing.assert_allclose(np.stack(frame.fused), expected.fused * signs, rtol=1e-6, atol=2e-6)


def none(value: Any) -> Any:
    """NaN, NaT and the like are all missing."""
    return None if value is None or (not isinstance(value, str) and pd.isna(value)) else value


def assert_fitted_alike(ours: Any, theirs: Any) -> None:
    """Everything that the estimator of scikit-learn learned, ours has learned too."""
    assert type(ours) is type(theirs)
    for name, value in vars(theirs).items():
        if not name.endswith("_") or name.startswith("_") or name in ("indicator_", "n_samples_seen_", "n_samples_"):
            continue
        mine = getattr(ours, name, None)
        if isinstance(value, list):
            assert [list(v) for v in mine] == [list(v) for v in value]
        elif isinstance(value, np.ndarray | float) and mine is not None:
            np.testing.assert_allclose(mine, value, rtol=1e-6, atol=1e-6, err_msg=name)
