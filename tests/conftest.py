"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import PIL.Image
import pytest

import featstore
from featstore.catalog.connection import Catalog

# Before huggingface_hub is imported: a missing model is then a clear error at once, not 47 s of retries.
os.environ["HF_HUB_OFFLINE"] = "1"

SEED = int(os.environ.get("FEATSTORE_TEST_SEED", "20261121"))

# Time limits of single examples only measure how busy the machine is.
hypothesis.settings.register_profile("featstore", deadline=None, derandomize=True)
hypothesis.settings.load_profile("featstore")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"seed: {SEED} (another: FEATSTORE_TEST_SEED=…)")


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in each test, told by the seed."""
    return np.random.default_rng(SEED)


@pytest.fixture
def store(tmp_path: Path) -> featstore.Store:
    """A new, empty store."""
    return featstore.init(tmp_path / "store")


@pytest.fixture
def interrupted_after_commit(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function after whose call Ctrl-C comes right after each COMMIT."""
    write = Catalog.write

    @contextmanager
    def interrupted(self: Catalog, **options: Any) -> Iterator[Any]:
        with write(self, **options) as connection:
            yield connection
        raise KeyboardInterrupt

    return lambda: monkeypatch.setattr(Catalog, "write", interrupted)


@pytest.fixture
def make_tree(rng: np.random.Generator) -> Callable[..., Path]:
    """A function that writes a cohort of small grey PNGs: ``make_tree(root, patients=…, slices=…, …)``."""

    def write(
        root: Path,
        *,
        patients: int = 6,
        slices: int = 2,
        modalities: Sequence[str] = ("A", "P"),
        size: int = 32,
        home: str = "JM",
        external: str | None = "KD",
        folds: int = 2,
        grades: int = 2,
    ) -> Path:
        """``patients`` at the home site, in ``folds`` folds, and half as many (at least one) at the external one.

        ``{site}/fold{fold}/grade{label}/{patient}/{modality}/{patient}_{m}_slice_{n}.png`` at home; the external site
        has no folds. Patients are ``<site>001``…; labels take turns.
        """
        sites = [(home, patients, folds)] + ([(external, max(patients // 2, 1), 0)] if external else [])
        for site, count, site_folds in sites:
            for number in range(count):
                patient, grade = f"{site}{number + 1:03}", number % grades
                fold = f"fold{number % site_folds}" if site_folds else "."
                for modality in modalities:
                    folder = root / site / fold / f"grade{grade}" / patient / modality
                    folder.mkdir(parents=True)
                    for n in range(slices):
                        pixels = rng.integers(0, 256, (size, size), dtype=np.uint8)
                        PIL.Image.fromarray(pixels).save(folder / f"{patient}_{modality.lower()}_slice_{n}.png")
        return root

    return write
