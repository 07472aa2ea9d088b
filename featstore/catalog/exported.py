"""What leaves with a feature set's vectors, beside what :mod:`featstore.catalog.feature_sets` says of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, identifier
from featstore.keys import attribute_column

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_CURRENT = (
    "FROM core.vector v JOIN core.sample s ON s.id = v.sample AND s.content = v.content "
    "WHERE v.feature_set = $feature_set"
)


def details(connection: duckdb.DuckDBPyConnection, feature_set: int) -> pa.Table:
    """``sample_key, visit_id`` of every current vector, and each attribute that one has, as a column of text.

    The attributes come by name, each as :func:`~featstore.keys.attribute_column` calls it; in no order of rows.
    """
    parameters = {"feature_set": feature_set}
    found = connection.execute(
        f"SELECT DISTINCT unnest(map_keys(s.attributes)) AS attribute {_CURRENT} ORDER BY 1", parameters
    ).fetchall()
    names = [str(row[0]) for row in found]
    columns = "".join(f", s.attributes[$key{n}] AS {identifier(f'a{n}')}" for n in range(len(names)))
    keys = {f"key{n}": name for n, name in enumerate(names)}
    rows = arrow(connection, f"SELECT s.sample_key, s.visit_id{columns} {_CURRENT}", parameters | keys)
    return rows.rename_columns(["sample_key", "visit_id", *map(attribute_column, names)])


def provenance(connection: duckdb.DuckDBPyConnection, feature_set: int) -> dict[str, Any]:
    """What made the vectors: ``backbone, model_version, layer, facet, pooler``, those that there are."""
    names = ("backbone", "model_version", "layer", "facet", "pooler")
    row = first(connection.execute(f"SELECT {', '.join(names)} FROM core.feature_set WHERE id = ?", [feature_set]))
    assert row
    return {name: value for name, value in zip(names, row, strict=True) if value is not None}


def kinds(connection: duckdb.DuckDBPyConnection, name: str) -> set[str]:
    """What a name is the name of: ``feature set``, ``training table``, both or neither."""
    found = connection.execute(
        "SELECT 'feature set' FROM core.feature_set WHERE name = $name "
        "UNION SELECT 'training table' FROM core.training_table WHERE name = $name",
        {"name": name},
    ).fetchall()
    return {str(row[0]) for row in found}


def names(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Every name that :func:`kinds` knows."""
    found = connection.execute(
        "SELECT name FROM core.feature_set UNION SELECT name FROM core.training_table ORDER BY 1"
    ).fetchall()
    return [str(row[0]) for row in found]
