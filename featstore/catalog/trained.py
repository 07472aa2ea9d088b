"""Whom an encoder's weights were trained on."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from featstore.catalog.connection import arrow, first, registered

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: What feature sets share that have no weights in common: nobody said which made the vectors; or a plugin's encoder has
#: none, and what is hashed is nothing.
_NONE = ("unknown", hashlib.sha256().hexdigest())
#: SQL: what the weights of a feature set ``f`` are called in ``core.trained_on``; of none, they are this one version's.
WEIGHTS = f"CASE WHEN f.model_version IN {_NONE} THEN f.name || '@v' || f.version ELSE f.model_version END"


def weights(connection: duckdb.DuckDBPyConnection, feature_set: int) -> tuple[str, list[str]]:
    """What a feature set's weights are called, and the feature sets that are made with them, as ``NAME@vK``."""
    row = first(connection.execute(f"SELECT {WEIGHTS} FROM core.feature_set f WHERE id = ?", [feature_set]))
    assert row
    same = connection.execute(
        f"SELECT name || '@v' || version FROM core.feature_set f WHERE {WEIGHTS} = ? ORDER BY name, version", [row[0]]
    ).fetchall()
    return str(row[0]), [str(r[0]) for r in same]


def unknown(connection: duckdb.DuckDBPyConnection, model_version: str, patients: pa.Table) -> pa.Table:
    """Those of some patients (``patient_id``, each once) whom nobody has named for these weights yet, in order."""
    with registered(connection, named=patients):
        return arrow(
            connection,
            "SELECT patient_id FROM named WHERE patient_id NOT IN "
            "(SELECT patient_id FROM core.trained_on WHERE model_version = ?) ORDER BY 1",
            [model_version],
        )


def put(connection: duckdb.DuckDBPyConnection, model_version: str, patients: pa.Table, run: int) -> None:
    """Add patients (``patient_id``) to those that some weights were trained on."""
    with registered(connection, named=patients):
        connection.execute(
            "INSERT INTO core.trained_on SELECT ?, patient_id, ? FROM named ORDER BY patient_id",
            [model_version, run],
        )
