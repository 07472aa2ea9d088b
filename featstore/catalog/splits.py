"""Split schemes: named assignments patient → split."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.order import natural
from featstore.errors import ConflictError, NotFoundError, did_you_mean
from featstore.keys import Ref

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Scheme:
    """One version of a split scheme.

    Attributes:
        folds: k where its splits are ``fold0`` … ``fold<k-1>`` (others beside them are held out), else 0.
        sites: fold → the site that it is of, where each is one.
    """

    id: int
    name: str
    version: int
    folds: int
    sites: Mapping[str, str] = field(default_factory=dict)


def candidates(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Every patient as the view ``patients`` has it, and ``sites``, a list, beside; by patient_id."""
    return arrow(
        connection,
        "SELECT v.*, coalesce(s.sites, []) AS sites FROM patients v JOIN core.patient p USING (patient_id) LEFT JOIN "
        "(SELECT patient, list_sort(list(DISTINCT site) FILTER (site IS NOT NULL)) AS sites FROM core.sample "
        "GROUP BY patient) s ON s.patient = p.id ORDER BY patient_id",
    )


def attributes(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of all attributes that samples have."""
    rows = connection.execute("SELECT DISTINCT unnest(map_keys(attributes)) AS name FROM core.sample ORDER BY 1")
    return [str(row[0]) for row in rows.fetchall()]


def attribute_values(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, list[str]]:
    """Patient → the different values that an attribute has among the samples."""
    rows = connection.execute(
        "SELECT p.patient_id, list_sort(list(DISTINCT s.attributes[$name])) FROM core.sample s "
        "JOIN core.patient p ON p.id = s.patient WHERE s.attributes[$name] IS NOT NULL GROUP BY 1 ORDER BY 1",
        {"name": name},
    ).fetchall()
    return dict(rows)


def samples(connection: duckdb.DuckDBPyConnection) -> pa.Table:
    """Every sample with what a path may be matched with: ``sample_key, uri, root, patient_id``."""
    return arrow(
        connection,
        "SELECT s.sample_key, s.uri, d.root, p.patient_id FROM core.sample s JOIN core.dataset d ON d.id = s.dataset "
        "JOIN core.patient p ON p.id = s.patient ORDER BY s.sample_key",
    )


def samples_of(connection: duckdb.DuckDBPyConnection, scheme: int) -> pa.Table:
    """The samples of a scheme's patients: ``split, modality, patient_id, label, label_type, sample_key, uri, root``."""
    return arrow(
        connection,
        "SELECT t.split, s.modality, p.patient_id, p.label, p.label_type, s.sample_key, s.uri, d.root "
        "FROM core.split t JOIN core.patient p ON p.id = t.patient JOIN core.sample s ON s.patient = p.id "
        "JOIN core.dataset d ON d.id = s.dataset WHERE t.scheme = $scheme "
        f"ORDER BY t.split, s.modality, p.patient_id, {natural('s.sample_key')}",
        {"scheme": scheme},
    )


def assignment_of(connection: duckdb.DuckDBPyConnection, scheme: int) -> pa.Table:
    """``patient_id, split`` of one version of a scheme, by patient_id."""
    return arrow(
        connection,
        "SELECT p.patient_id, t.split FROM core.split t JOIN core.patient p ON p.id = t.patient "
        "WHERE t.scheme = $scheme ORDER BY p.patient_id",
        {"scheme": scheme},
    )


def run_of(connection: duckdb.DuckDBPyConnection, scheme: int) -> str:
    """The run that made one version of a scheme."""
    query = "SELECT r.run_id FROM core.scheme c JOIN core.run r ON r.id = c.run WHERE c.id = ?"
    row = first(connection.execute(query, [scheme]))
    assert row
    return str(row[0])


def state(connection: duckdb.DuckDBPyConnection) -> int:
    """A number that changes whenever patients, samples or tables do: the last run's."""
    row = first(connection.execute("SELECT coalesce(max(id), 0) FROM core.run"))
    return int(row[0]) if row else 0


def next_version(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    assignment: pa.Table,
    recipe: Mapping[str, Any],
    *,
    replace: bool,
) -> tuple[str, int, bool]:
    """The name of a scheme as it is spelled here, the version that this assignment is, and whether it is there already.

    Args:
        assignment: ``patient_id, split``.

    Raises:
        ConflictError: the scheme is there, with another assignment or recipe, and ``replace`` wasn't given.
    """
    row = first(
        connection.execute(
            "SELECT id, name, version, recipe FROM core.scheme WHERE lower(name) = lower(?) ORDER BY version DESC",
            [name],
        )
    )
    if row is None:
        return name, 1, False
    latest, name, version, old = row  # a scheme keeps the spelling of its name
    if json.loads(old) == json.loads(json.dumps(recipe)) and _equal(connection, latest, assignment):
        return name, version, True
    if not replace:
        raise ConflictError(
            f"There is a split scheme {name!r} already.",
            hint=f"--scheme another_name; or --replace, which makes {name} version {version + 1} and keeps the old "
            "one for the tables that used it",
        )
    return name, version + 1, False


def _equal(connection: duckdb.DuckDBPyConnection, scheme: int, assignment: pa.Table) -> bool:
    old = (
        "(SELECT p.patient_id, t.split FROM core.split t JOIN core.patient p ON p.id = t.patient WHERE t.scheme = $id)"
    )
    new = "(SELECT patient_id, split FROM assignment)"
    with registered(connection, assignment=assignment):
        row = first(
            connection.execute(
                f"SELECT count(*) FROM (({old} EXCEPT {new}) UNION ALL ({new} EXCEPT {old}))", {"id": scheme}
            )
        )
    return row == (0,)


def put(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    version: int,
    assignment: pa.Table,
    recipe: Mapping[str, Any],
    run: int,
) -> None:
    """Add one version of a scheme.

    Args:
        assignment: ``patient_id, split``.
        run: the surrogate id of the run that made it.
    """
    row = first(
        connection.execute(
            "INSERT INTO core.scheme SELECT coalesce((SELECT max(id) FROM core.scheme), 0) + 1, ?, ?, ?, ? "
            "RETURNING id",
            [name, version, json.dumps(recipe), run],
        )
    )
    assert row
    with registered(connection, assignment=assignment):
        connection.execute(
            "INSERT INTO core.split SELECT ?, p.id, a.split FROM assignment a JOIN core.patient p USING (patient_id) "
            "ORDER BY p.id",
            [row[0]],
        )


def scheme(connection: duckdb.DuckDBPyConnection, name: str) -> Scheme:
    """A scheme by NAME, at its current version, or by NAME@vK.

    Raises:
        UsageError: neither of the two. NotFoundError: no such scheme or version, with a suggestion.
    """
    ref = Ref.parse(name)
    rows = connection.execute(
        "SELECT id, name, version, coalesce((recipe ->> 'folds')::INTEGER, 0), recipe -> 'sites' FROM core.scheme "
        "WHERE lower(name) = lower(?) ORDER BY version",
        [ref.name],
    ).fetchall()
    if not rows:
        known = [str(r[0]) for r in connection.execute("SELECT DISTINCT name FROM core.scheme ORDER BY 1").fetchall()]
        raise NotFoundError(
            f"There is no split scheme {ref.name!r}.{did_you_mean(ref.name, known)}",
            hint=f"featstore split --scheme {ref.name} --ratio train=0.7 --ratio val=0.3",
        )
    for row in rows if ref.version is not None else rows[-1:]:
        if ref.version in (None, row[2]):
            return Scheme(int(row[0]), str(row[1]), int(row[2]), int(row[3]), json.loads(row[4] or "{}") or {})
    raise NotFoundError(
        f"The split scheme {rows[0][1]!r} has no version {ref.version}.",
        hint=f"its versions: {', '.join(str(row[2]) for row in rows)}",
    )


def scheme_id(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    """The surrogate id of a scheme; see :func:`scheme`."""
    return scheme(connection, name).id
