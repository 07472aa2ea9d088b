"""How many threads work on numbers: one, where the last digits count."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread(when: bool = True) -> Iterator[None]:
    """Let linear algebra work on one thread within the block, in all threads that it starts.

    Sums in parts have other last digits with another number of parts: a table would be another one in a job that was
    given more cores.

    Args:
        when: do so; else this does nothing.
    """
    if not when:
        yield
        return
    import scipy.linalg  # noqa: F401 - it brings a BLAS of its own, which can be limited once it is there
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield
