"""Split schemes: named assignments patient → split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.runs import add_run
from featstore.errors import ConflictError, NotFoundError, did_you_mean

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


def candidates(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Every patient with what a split may look at: ``patient_id, site, label, modalities``, by patient_id."""
    return arrow(connection, "SELECT patient_id, site, label, modalities FROM patients ORDER BY patient_id")


def state(connection: duckdb.DuckDBPyConnection) -> int:
    """A number that changes whenever patients, samples or tables do: the last run's."""
    row = first(connection.execute("SELECT coalesce(max(id), 0) FROM core.run"))
    return int(row[0]) if row else 0


def put(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    assignment: pa.Table,
    recipe: Mapping[str, Any],
    run_id: str,
    facts: Mapping[str, Any],
    *,
    replace: bool,
) -> int:
    """Add a scheme, or its next version; returns the version.

    Args:
        assignment: ``patient_id, split``.

    Raises:
        ConflictError: the scheme exists, and ``replace`` wasn't given.
    """
    row = first(
        connection.execute("SELECT max(version), any_value(name) FROM core.scheme WHERE lower(name) = lower(?)", [name])
    )
    version = 1
    if row and row[0]:
        version, name = int(row[0]) + 1, str(row[1])  # a scheme keeps the spelling of its name
    if version > 1 and not replace:
        raise ConflictError(
            f"There is a split scheme {name!r} already.",
            hint=f"--scheme another_name; or --replace, which makes {name} version {version} and keeps the old "
            "one for the tables that used it",
        )
    run = add_run(connection, run_id, facts, done=assignment.num_rows)
    with registered(connection, assignment=assignment):
        row = first(
            connection.execute(
                "INSERT INTO core.scheme SELECT coalesce((SELECT max(id) FROM core.scheme), 0) + 1, ?, ?, ?, ? "
                "RETURNING id",
                [name, version, json.dumps(recipe), run],
            )
        )
        assert row
        connection.execute(
            "INSERT INTO core.split SELECT ?, p.id, a.split FROM assignment a JOIN core.patient p USING (patient_id) "
            "ORDER BY p.id",
            [row[0]],
        )
    return version


def scheme_id(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """The current version of a scheme.

    Raises:
        NotFoundError: no such scheme, with a suggestion.
    """
    row = first(connection.execute("SELECT arg_max(id, version) FROM core.scheme WHERE lower(name) = lower(?)", [name]))
    if not row or row[0] is None:
        known = [str(r[0]) for r in connection.execute("SELECT DISTINCT name FROM core.scheme ORDER BY 1").fetchall()]
        raise NotFoundError(
            f"There is no split scheme {name!r}.{did_you_mean(name, known)}",
            hint=f"featstore split --scheme {name} --ratio train=0.7 --ratio val=0.3",
        )
    return int(row[0])
