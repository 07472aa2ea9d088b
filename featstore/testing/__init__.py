"""Whether a plugin keeps the laws that featstore relies on: for its author's own tests.

::

    from featstore.testing import check_backbone

    def test_it_keeps_the_laws():
        check_backbone("lab:histogram")

Each function raises :class:`ConformanceError`, an AssertionError that names every broken law, or gives the findings;
with ``strict=False`` it gives them all the same. ``featstore plugins check NAME`` does it on the command line.
"""

from __future__ import annotations

from featstore.testing.check import (
    check,
    check_backbone,
    check_exporter,
    check_fuser,
    check_pooler,
    check_reader,
    check_step,
)
from featstore.testing.laws import ConformanceError, Finding

__all__ = [
    "ConformanceError",
    "Finding",
    "check",
    "check_backbone",
    "check_exporter",
    "check_fuser",
    "check_pooler",
    "check_reader",
    "check_step",
]
