"""Whose vectors are compared, and how pairs of them are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from featstore.arrays import codes

if TYPE_CHECKING:
    import pyarrow as pa

#: Integers, (n,).
Codes = npt.NDArray[Any]
#: Rows ``start:stop``, float (n, width); a row with a NaN has no vector.
Read = Callable[[int, int], npt.NDArray[Any]]
#: Bytes of rows that go by at once, in both precisions.
PASSING_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Whose:
    """Whose the rows of a table are: ``patient_id, split``, and ``visit_id, sample_key`` where it has them."""

    rows: pa.Table
    everyone: bool

    @property
    def apart(self) -> Codes:
        """int (rows,): rows with different codes are compared, those below 0 not at all."""
        names, of = codes(self.rows.column("patient_id" if self.everyone else "split"))
        if not names.null_count:
            return of
        return np.where(of == names.to_pylist().index(None), -1, of)

    @property
    def across(self) -> str:
        return "" if self.everyone else " in different splits"

    def told(self, at: Codes) -> pa.Table:
        """Some rows, as they are told."""
        names = ("patient_id", "visit_id", "sample_key", "split")
        return self.rows.select([n for n in names if n in self.rows.column_names]).take(at)


def pairs_of(one: pa.Table, other: pa.Table) -> list[dict[str, Any]]:
    """Pairs of rows, one a line; of two rows of one input, the input is told once."""
    return [
        ours | {f"other_{k}": v for k, v in theirs.items() if k != "input" or v != ours[k]}
        for ours, theirs in zip(one.to_pylist(), other.to_pylist(), strict=True)
    ]
