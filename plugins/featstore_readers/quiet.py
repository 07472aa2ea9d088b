"""Warnings of libraries about malformed files, kept off the terminal: what matters of them is checked, and raises."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# warnings.catch_warnings changes the filters of the whole process: two threads must not restore each other's.
_lock = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore all warnings, in one thread at a time."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
