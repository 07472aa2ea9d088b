"""Saying whom an encoder was trained on, so that a table which holds them out is refused."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.catalog import feature_sets, identity, sandbox, splits
from featstore.catalog import trained as catalog
from featstore.catalog.connection import Catalog
from featstore.catalog.runs import add_run
from featstore.errors import NotFoundError, UsageError, did_you_mean
from featstore.ingest.columns import check_ids, read_rows, require
from featstore.keys import Ref
from featstore.plugins import Plugins
from featstore.runs import RunFolder, finished, utc_now

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa


@dataclass(slots=True)
class TrainedOnResult:
    """What a ``trained-on`` did.

    Attributes:
        feature_sets: all that are made with the same weights, as ``NAME@vK``: it is said of each.
        model_version: the weights; ``NAME@vK`` of vectors that were imported without saying which weights made them,
            and of encoders without weights.
        run_id: the run; None where nothing was new.
        added: patients.
        known: patients that were named for these weights before.
        here: of both, how many are in the store now. The others count as soon as they are.
        lookalikes: ids that match no patient but would, but for case, spaces or leading zeros: (theirs, ours).
    """

    feature_sets: list[str]
    model_version: str
    run_id: str | None
    added: int
    known: int
    here: int
    lookalikes: list[tuple[str, str]]


def trained_on(
    store: Path,
    catalog_file: Catalog,
    plugins: Plugins,
    name: str,
    *,
    scheme: str | None = None,
    split: Sequence[str] = (),
    where: str | None = None,
    patients: str | os.PathLike[str] | None = None,
) -> TrainedOnResult:
    """Record that a feature set's weights were trained, fine-tuned or fitted on some patients.

    They are told in one of three ways. Telling the same again changes nothing; telling others adds them.

    Args:
        name: the feature set, ``NAME`` or ``NAME@vK``.
        scheme: a split scheme, ``NAME`` or ``NAME@vK``: the patients of some of its splits.
        split: those; ``train`` if not given.
        where: a condition on the view ``patients``.
        patients: a CSV or Parquet file with a column ``patient_id``.

    Raises:
        UsageError: none of the three, or several. SqlError: the condition. ConflictError: ids that are missing.
        NotFoundError: no such feature set, scheme, version, split or file; or nobody was told.
    """
    started = utc_now()
    if sum(way is not None for way in (scheme, where, patients)) != 1:
        raise UsageError(
            "Whom the weights were trained on is told by --scheme, --where or --patients, one of them.",
            hint=f"featstore trained-on {name} --scheme default --split train",
        )
    if split and scheme is None:
        raise UsageError("--split names splits of a scheme.", hint="--scheme default")
    request: dict[str, Any] = {"feature_set": name}
    named = None
    if where is not None:
        request["where"] = where
        named = sandbox.predicate(catalog_file, "patients", "patient_id", where, "--where")
    elif patients is not None:
        request["patients"] = os.fspath(patients)
        named = _of_file(Path(patients))
    else:
        split = split or ("train",)
        request |= {"scheme": scheme, "split": list(split)}
    with catalog_file.write() as connection, RunFolder.creating(store, "trained-on") as create_run:
        feature_set = feature_sets.get(connection, Ref.parse(name))
        model_version, same = catalog.weights(connection, feature_set.id)
        named = _of_scheme(connection, str(scheme), split) if named is None else named
        new = catalog.unknown(connection, model_version, named)
        here, alike = identity.match_patients(connection, named)
        if not named.num_rows:
            raise NotFoundError("No patient was told.", hint='featstore sql "select patient_id from patients"')
        result = TrainedOnResult(same, model_version, None, new.num_rows, named.num_rows - new.num_rows, here, alike)
        if not new.num_rows:
            return result
        run = create_run()
        run.save_rows("trained_on", new)
        facts = finished("trained-on", started, request | {"model_version": model_version}, plugins)
        run.record(**facts)
        catalog.put(connection, model_version, new, add_run(connection, run.run_id, facts, done=new.num_rows))
        result.run_id = run.run_id
    return result


def _of_scheme(connection: duckdb.DuckDBPyConnection, name: str, wanted: Sequence[str]) -> pa.Table:
    """The patients of some splits of a scheme."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = splits.assignment_of(connection, splits.scheme_id(connection, name))
    known = sorted(set(rows.column("split").to_pylist()))
    for one in wanted:
        if one not in known:
            raise NotFoundError(
                f"The split scheme {name!r} has no split {one!r}.{did_you_mean(one, known)}",
                hint=f"it has: {', '.join(known)}",
            )
    return rows.filter(pc.is_in(rows.column("split"), pa.array(list(wanted), pa.string()))).select(["patient_id"])


def _of_file(path: Path) -> pa.Table:
    """The patients that a file names, each once."""
    rows = read_rows(path, text=["patient_id"], typed=[])
    require(rows, ["patient_id"], path.name)
    check_ids(rows.column("patient_id"), "patient_id")
    return rows.group_by("patient_id").aggregate([])
