"""Deleting, reordering or duplicating rows anywhere upstream can't misalign a row.

Each test changes what a table is made of, somewhere between the user's files and the stored vectors, and looks whether
every row that is still there has just the values that it had before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

import featstore
from featstore import ConflictError, FeatstoreError, InputError
from featstore.arrays import pipeline
from featstore.tables.recipe_plain import from_json

RECIPE: dict[str, Any] = {
    "name": "t", "scheme": "default", "join": "outer",
    "inputs": [
        {"alias": "a", "features": "v", "modality": "A", "aggregation": "mean"},
        {"alias": "p", "features": "v", "modality": "P", "aggregation": "first", "order_by": "slice"},
    ],
    "tables": [{"name": "clinical", "numeric": ["age", "weight"], "categorical": ["sex"]}],
}  # fmt: skip
