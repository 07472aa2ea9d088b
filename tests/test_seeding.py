"""Random numbers by a seed, and the caller's own left as they were."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import torch

from featstore import seeded


def drawn() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()


@pytest.mark.parametrize("seed", [0, 7, 2**63 + 5])
def test_the_seed_decides(seed: int) -> None:
    expected = (
        float(torch.rand(1, generator=torch.Generator().manual_seed(seed))),
        float(np.random.RandomState(seed % 2**32).rand()),
        random.Random(seed).random(),
    )
    with seeded(seed):
        assert drawn() == expected
    with seeded(seed + 1):
        assert drawn() != expected


def test_all_three_are_put_back_after_errors_too() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    expected = [drawn() for _ in range(2)]
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    found = [drawn()]
    with contextlib.suppress(KeyError), seeded(3):
        raise KeyError(drawn())
    assert [*found, drawn()] == expected
