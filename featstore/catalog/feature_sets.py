"""Feature sets, their versions and segments."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first
from featstore.catalog.order import natural
from featstore.errors import ConflictError, NotFoundError, did_you_mean
from featstore.keys import Ref

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """One version of a feature set."""

    id: int
    name: str
    version: int
    fingerprint: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name}@v{self.version}"


def fingerprint(config: Mapping[str, Any]) -> str:
    """What tells versions of a feature set apart: SHA-256 of its configuration's canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


_SELECT = "SELECT id, name, version, fingerprint, shape, dtype FROM core.feature_set"


def _one(row: Sequence[Any]) -> FeatureSet:
    return FeatureSet(row[0], row[1], row[2], row[3], tuple(row[4]), row[5])


def find(connection: duckdb.DuckDBPyConnection, name: str, fingerprint: str) -> FeatureSet | None:
    """The version of ``name`` that has this fingerprint, if there is one.

    Raises:
        ConflictError: the name is taken by one that differs in case only.
    """
    spelled = first(
        connection.execute("SELECT name FROM core.feature_set WHERE lower(name) = lower(?) LIMIT 1", [name])
    )
    if spelled and spelled[0] != name:
        raise ConflictError(
            f"There is a feature set {spelled[0]!r}; {name!r} differs from it in case only.",
            hint="take another --name",
        )
    row = first(connection.execute(f"{_SELECT} WHERE name = ? AND fingerprint = ?", [name, fingerprint]))
    return _one(row) if row else None


def exists(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Whether ``name`` has any version."""
    return first(connection.execute("SELECT 1 FROM core.feature_set WHERE name = ? LIMIT 1", [name])) is not None


def get(connection: duckdb.DuckDBPyConnection, ref: Ref) -> FeatureSet:
    """A feature set at the version asked for, else at its latest.

    Raises:
        NotFoundError: no such name or version, with a suggestion.
    """
    rows = connection.execute(f"{_SELECT} WHERE name = ? ORDER BY version DESC", [ref.name]).fetchall()
    if not rows:
        known = [str(r[0]) for r in connection.execute("SELECT DISTINCT name FROM core.feature_set").fetchall()]
        raise NotFoundError(
            f"There is no feature set {ref.name!r}.{did_you_mean(ref.name, known)}",
            hint="featstore ls features",
        )
    for row in rows:
        if ref.version in {None, row[2]}:
            return _one(row)
    raise NotFoundError(
        f"The feature set {ref.name!r} has no version {ref.version}; its latest is v{rows[0][2]}.",
        hint=f"featstore show {ref.name}",
    )


def by_id(connection: duckdb.DuckDBPyConnection, id: int) -> FeatureSet:
    """The version of this surrogate id, which the catalog's own rows name."""
    row = first(connection.execute(f"{_SELECT} WHERE id = ?", [id]))
    assert row
    return _one(row)


def add(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    fingerprint: str,
    config: Mapping[str, Any],
    shape: Sequence[int],
    run: int,
    created_at: datetime,
) -> FeatureSet:
    """Add the next version of ``name``."""
    row = first(connection.execute(
        "INSERT INTO core.feature_set SELECT coalesce((SELECT max(id) FROM core.feature_set), 0) + 1, $name, "
        "coalesce((SELECT max(version) FROM core.feature_set WHERE name = $name), 0) + 1, $fingerprint, $config, "
        "$backbone, $weights, $layer, $facet, $pooler, $shape, $dtype, $created_at, $run "
        "RETURNING id, name, version, fingerprint, shape, dtype",
        {
            "name": name, "fingerprint": fingerprint, "config": json.dumps(config), "shape": list(shape), "run": run,
            "created_at": created_at,
            **{k: config[k] for k in ("backbone", "weights", "layer", "facet", "pooler", "dtype")},
        },
    ))  # fmt: skip
    assert row
    return _one(row)


def add_segment(
    connection: duckdb.DuckDBPyConnection, feature_set: int, run: int, path: str, size: int, chunk_rows: int
) -> int:
    """Add a segment; returns its id. ``path`` is relative to the store."""
    row = first(
        connection.execute(
            "INSERT INTO core.segment SELECT coalesce((SELECT max(id) FROM core.segment), 0) + 1, ?, ?, ?, ?, ? "
            "RETURNING id",
            [feature_set, run, path, size, chunk_rows],
        )
    )
    assert row
    return int(row[0])


def segment_paths(connection: duckdb.DuckDBPyConnection, feature_set: int) -> dict[int, str]:
    """Segment id → its path in the store."""
    return dict(
        connection.execute(
            "SELECT id, path FROM core.segment WHERE feature_set = ? ORDER BY id", [feature_set]
        ).fetchall()
    )


def rows(connection: duckdb.DuckDBPyConnection, feature_set: int, scheme: int | None) -> pa.Table:
    """Every current vector of a feature set, with what tables and people ask about it, in natural order of sample_key.

    Columns: ``sample_key, patient_id, modality, split, site, label, label_type, segment, row``; ``split`` is of the
    given scheme.
    """
    return arrow(
        connection,
        'SELECT s.sample_key, p.patient_id, s.modality, d.split, s.site, p.label, p.label_type, v.segment, v."row" '
        "FROM core.vector v JOIN core.sample s ON s.id = v.sample AND s.content = v.content "
        "JOIN core.patient p ON p.id = s.patient "
        "LEFT JOIN (SELECT patient, split FROM core.split WHERE scheme = $scheme) d ON d.patient = s.patient "
        f"WHERE v.feature_set = $feature_set ORDER BY {natural('s.sample_key')}",
        {"feature_set": feature_set, "scheme": scheme},
    )
