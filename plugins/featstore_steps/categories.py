"""Categories of a clinical table → numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from featstore import ConflictError, Step
from featstore_steps.passes import Blocks


class OneHot(Step):
    """One column a category of the train rows, in the order of their text; an unseen one is all zeros.

    Gives a ``OneHotEncoder``. Raises ConflictError where no train row has a value.
    """

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.preprocessing import OneHotEncoder

        return OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(_categories(blocks))


class Ordinal(Step):
    """0, 1, 2, … for the train rows' categories in the order of their text; NaN for an unseen one.

    For what a tree splits, or a scale whose words sort: "1", "2", "3". Gives an ``OrdinalEncoder``. Raises
    ConflictError where no train row has a value.
    """

    def fit(self, blocks: Blocks) -> Any:
        from sklearn.preprocessing import OrdinalEncoder

        return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan).fit(_categories(blocks))


def _categories(blocks: Blocks) -> Any:
    """Each category once, sorted: object (categories, 1). scikit-learn learns the same of them as of all rows."""
    found: set[str] = set()
    for block in blocks():
        if block.values.ndim != 2 or block.values.shape[1] != 1:
            raise ValueError(f"One column of categories is encoded at a time, not {block.values.shape}.")
        found.update(value for value in block.values[:, 0] if value is not None)
    if not found:
        raise ConflictError("The column has no value in any train row.", hint="leave it out")
    return np.array(sorted(found), object)[:, None]
