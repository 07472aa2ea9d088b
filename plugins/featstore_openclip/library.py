"""The one place where open_clip is imported."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featstore import import_torchvision


def import_open_clip() -> Any:
    """Import open_clip, after torchvision was made importable (open_clip needs it)."""
    import_torchvision()
    return importlib.import_module("open_clip")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what open_clip says while it builds things off the terminal: what matters of it, featstore says.

    It speaks through the root logger, and by that sets one up where the program has none.
    """
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_not_from_open_clip)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "QuickGELU mismatch", UserWarning)  # what that leads to is in conventions
            yield
    finally:
        root.removeFilter(_not_from_open_clip)
        root.removeHandler(handler)


def _not_from_open_clip(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "open_clip"
