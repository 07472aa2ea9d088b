"""What the tests of imports share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import featstore

IDS = ["007", "7", "Ünï 3", "a b", "p10", "p2"]


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    """float32 (6, 5)."""
    return rng.normal(size=(6, 5)).astype(np.float32)


@pytest.fixture
def meta() -> pd.DataFrame:
    """Six samples of six patients: text that looks like numbers, spaces, letters beyond ASCII."""
    return pd.DataFrame(
        {
            "key": [f"{patient}/x {n}.png" for n, patient in enumerate(IDS)],
            "patient_id": IDS,
            "modality": "A",
            "label": [0, 1, 0, 1, 0, 1],
            "site": ["JM"] * 6,
            "fold": ["1", "01", "2", "02", "NaN ", "x"],
        }
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """``saved(frame, "x.csv")``: a table as CSV or Parquet."""

    def save(frame: pd.DataFrame, name: str = "meta.csv") -> Path:
        path = tmp_path / name
        if path.suffix == ".csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path, index=False)
        return path

    return save


@pytest.fixture
def array(tmp_path: Path) -> Callable[..., Path]:
    """``array(values, "x.npy")``: an array as NPY."""

    def save(values: np.ndarray, name: str = "x.npy") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, values)
        return path

    return save


def read(store: featstore.Store, name: str = "f") -> dict[str, np.ndarray]:
    """Sample key → vector."""
    values, _, keys = store.features(name).arrays()
    return dict(zip(keys.tolist(), values, strict=True))


def same(found: dict[str, np.ndarray], keys: list[str], values: np.ndarray) -> bool:
    """Whether these are the vectors, to the bit."""
    expected = dict(zip(keys, values, strict=True))
    assert found.keys() == expected.keys()
    return all(
        found[key].dtype == value.dtype and found[key].shape == value.shape and found[key].tobytes() == value.tobytes()
        for key, value in expected.items()
    )


def rows(store: featstore.Store, query: str) -> list[dict[str, Any]]:
    """What a query gives."""
    return list(store.sql(query).to_pylist())
