"""What all tests share."""

from __future__ import annotations

import os
import secrets

import hypothesis
import numpy as np
import pytest

# Before huggingface_hub is imported: a missing model is then a clear error at once, not 47 s of retries.
os.environ["HF_HUB_OFFLINE"] = "1"

SEED = int(os.environ.get("FEATSTORE_TEST_SEED") or secrets.randbits(32))

# Time limits of single examples only measure how busy the machine is.
hypothesis.settings.register_profile("featstore", deadline=None)
hypothesis.settings.load_profile("featstore")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"to repeat these random numbers: FEATSTORE_TEST_SEED={SEED}")


@pytest.fixture
def rng() -> np.random.Generator:
    """Other numbers in each session, the same in each test of it."""
    return np.random.default_rng(SEED)
