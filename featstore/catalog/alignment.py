"""Aligning inputs by patient, in SQL: never by position. Every patient that is lost is counted, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from featstore.catalog.connection import arrow, first, identifier, registered
from featstore.catalog.identity import lookalike, lookalikes
from featstore.catalog.order import natural
from featstore.catalog.tabular import run_of
from featstore.errors import ConflictError, LeakageError, NotFoundError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featstore.catalog.feature_sets import FeatureSet


_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "BOOLEAN"}
_FLOATS = {"FLOAT", "DOUBLE"}


@dataclass(frozen=True, slots=True)
class VectorInput:
    """One input that is made of vectors."""

    alias: str
    feature_set: FeatureSet
    modality: str | None
    aggregated: bool


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """A label that a tabular data set gives instead of the patients' own."""

    table: str
    column: str

    def __str__(self) -> str:
        return f"{self.table}.{self.column}"


@dataclass(slots=True)
class Alignment:
    """What a table is made of.

    Attributes:
        patients: ``patient_id, split, label, label_type``, by patient_id: the table's rows, in their order.
        pointers: alias → ``position, segment, row``, by position and natural order of sample_key; position is the
            patient's row.
        runs: alias → the surrogate ids of the runs that made those vectors.
        table_runs: tabular data set, the label's among them → the run that took in these very rows.
        report: what each input had, who was lost and why.
    """

    patients: pa.Table
    pointers: dict[str, pa.Table] = field(default_factory=dict)
    runs: dict[str, list[int]] = field(default_factory=dict)
    table_runs: dict[str, int] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)


def align(
    connection: duckdb.DuckDBPyConnection,
    inputs: Sequence[VectorInput],
    tables: Sequence[str],
    *,
    scheme: int | None,
    scheme_name: str | None,
    label: LabelColumn | None,
    labelled: bool,
    join: str,
    chosen: pa.Table | None,
) -> Alignment:
    """Line up the inputs' vectors and the tables' rows by patient.

    Args:
        label: None for the patients' own.
        labelled: patients without a label are left out; where it is False, nobody has one.
        join: ``inner``, ``left`` or ``outer``.
        chosen: a table of ``sample_key`` to keep to, or None for all.

    Raises:
        ConflictError: an input mixes modalities, or has several rows of a patient and no aggregation.
        NotFoundError: an input is empty, or nobody is left. LeakageError: a patient is in two splits.
    """
    report: dict[str, Any] = {"inputs": {}, "tables": {}, "lost": []}
    for position, item in enumerate(inputs):
        report["inputs"][item.alias] = _gather_input(connection, position, item, chosen)
    for name in tables:
        report["tables"][name] = _look_at_table(connection, name)
    _candidates(connection, inputs, scheme, label, labelled)
    # One patient under "007" in one input and "7" in another would be lost to an inner join without a word.
    report["lookalikes"] = [list(pair) for pair in lookalikes(connection, "SELECT patient_id FROM candidates")]
    _lose_patients(connection, inputs, tables, scheme_name, str(label or "label") if labelled else None, join, report)
    patients = arrow(connection, "SELECT patient_id, split, label, label_type FROM aligned ORDER BY patient_id")
    if not patients.num_rows:
        lost = "; ".join(f"{item['patients']} {item['reason']}" for item in report["lost"])
        raise NotFoundError(
            f"No patient is left for this table: {lost or 'no input has any'}.",
            hint=("--label none, where there are no labels; or " if labelled else "") + "featstore ls samples",
        )
    _check_splits(patients)
    report["rows"] = patients.num_rows
    report["by_split"] = _by_split(connection)
    result = Alignment(patients, report=report)
    for position, item in enumerate(inputs):
        result.pointers[item.alias] = arrow(
            connection,
            f"SELECT a.position, i.segment, i.row FROM aligned a JOIN input_{position} i USING (patient) "
            f"ORDER BY a.position, {natural('i.sample_key')}",
        )
        runs = connection.execute(
            f"SELECT DISTINCT g.run FROM aligned a JOIN input_{position} i USING (patient) "
            "JOIN core.segment g ON g.id = i.segment ORDER BY 1"
        ).fetchall()
        result.runs[item.alias] = [int(row[0]) for row in runs]
    for name in (*tables, *([label.table] if label else [])):
        result.table_runs[name] = run_of(connection, name)
    return result


def _gather_input(
    connection: duckdb.DuckDBPyConnection, position: int, item: VectorInput, chosen: pa.Table | None
) -> dict[str, Any]:
    """Make ``input_<position>`` of an input's current vectors, and check that it is one row a patient, or can be."""
    name = f"input_{position}"
    query = (
        f"CREATE TEMP TABLE {name} AS SELECT s.id, s.patient, s.modality, s.sample_key, v.segment, v.row "
        "FROM core.vector v JOIN core.sample s ON s.id = v.sample AND s.content = v.content "
        "WHERE v.feature_set = $feature_set AND ($modality IS NULL OR s.modality = $modality)"
    )
    parameters = {"feature_set": item.feature_set.id, "modality": item.modality}
    if chosen is None:
        connection.execute(query, parameters)
    else:
        with registered(connection, chosen=chosen):
            connection.execute(f"{query} AND s.sample_key IN (SELECT sample_key FROM chosen)", parameters)
    samples, patients, modalities = first(
        connection.execute(f"SELECT count(*), count(DISTINCT patient), list_sort(list(DISTINCT modality)) FROM {name}")
    ) or (0, 0, None)
    known = [
        str(r[0])
        for r in connection.execute(
            "SELECT DISTINCT s.modality FROM core.vector v JOIN core.sample s ON s.id = v.sample "
            "AND s.content = v.content WHERE v.feature_set = ? ORDER BY 1",
            [item.feature_set.id],
        ).fetchall()
    ]
    if not samples:
        of = f" of modality {item.modality!r}" if item.modality else ""
        of += " that meet the --where" if chosen is not None else ""
        raise NotFoundError(
            f"The input {item.alias!r} is empty: {item.feature_set} has no vectors{of}.",
            hint=f"modalities that it has: {', '.join(known) or 'none yet; run featstore extract'}",
        )
    if len(modalities) > 1:
        raise ConflictError(
            f"The input {item.alias!r} would mix modalities: {item.feature_set} has {', '.join(modalities)}.",
            hint=f"name one: --input {item.alias}={item.feature_set}/{modalities[0]}:mean",
        )
    if not item.aggregated and samples > patients:
        raise ConflictError(
            f"The input {item.alias!r} has several rows of a patient: {samples} of {patients} patients.",
            hint=f"say how they become one: --input {item.alias}={item.feature_set}/{modalities[0]}:mean",
        )
    failed, pending = _lacking(connection, name, item.feature_set.id, modalities[0], chosen)
    return {
        "feature_set": str(item.feature_set), "modality": modalities[0], "samples": samples, "patients": patients,
        "failed_samples": failed, "pending_samples": pending,
    }  # fmt: skip


def _lacking(
    connection: duckdb.DuckDBPyConnection, name: str, feature_set: int, modality: str, chosen: pa.Table | None
) -> tuple[int, int]:
    """How many samples of an input's modality have no current vector: failed ones, and those not extracted (again)."""
    keys = chosen if chosen is not None else arrow(connection, "SELECT sample_key FROM core.sample WHERE false")
    with registered(connection, chosen=keys):
        counts = first(
            connection.execute(
                "SELECT count(*) FILTER (failed), count(*) FILTER (NOT failed) FROM (SELECT s.id IN ("
                "SELECT f.sample FROM core.failure f JOIN core.segment g ON g.run = f.run JOIN core.sample o "
                "ON o.id = f.sample AND o.content = f.content WHERE f.resolved_at IS NULL "
                "AND g.feature_set = $feature_set) AS failed FROM core.sample s "
                f"WHERE s.modality = $modality AND s.id NOT IN (SELECT id FROM {name}) "
                "AND ($every OR s.sample_key IN (SELECT sample_key FROM chosen)))",
                {"feature_set": feature_set, "modality": modality, "every": chosen is None},
            )
        )
    return counts or (0, 0)


def _look_at_table(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    rows, known = first(
        connection.execute(
            f'SELECT count(*), count(p.id) FROM tabular."{name}" t LEFT JOIN core.patient p USING (patient_id)'
        )
    ) or (0, 0)
    alike = connection.execute(
        f'SELECT t.patient_id, p.patient_id FROM tabular."{name}" t JOIN core.patient p '
        f"ON {lookalike('t.patient_id')} = {lookalike('p.patient_id')} "
        "WHERE t.patient_id NOT IN (SELECT patient_id FROM core.patient) ORDER BY ALL LIMIT 20"
    ).fetchall()
    return {"rows": rows, "patients": known, "lookalikes": [list(pair) for pair in alike]}


def _candidates(
    connection: duckdb.DuckDBPyConnection,
    inputs: Sequence[VectorInput],
    scheme: int | None,
    label: LabelColumn | None,
    labelled: bool,
) -> None:
    """Make ``candidates``: every patient of any input, with split and label."""
    union = " UNION ".join(f"SELECT DISTINCT patient FROM input_{i}" for i in range(len(inputs)))
    value, kind, source = "p.label" if labelled else "NULL::VARCHAR", "p.label_type", ""
    if label is not None:
        column = f"t.{identifier(label.column)}"
        row = first(connection.execute(f'SELECT typeof(any_value({column})) FROM tabular."{label.table}" t'))
        type_ = row[0] if row else "VARCHAR"
        kind = "'int'" if type_ in _INTEGERS else "'float'" if type_ in _FLOATS else "'str'"
        value = f"{column}::VARCHAR"
        if type_ == "BOOLEAN":
            value = f"{column}::INTEGER::VARCHAR"
        elif type_ in _FLOATS:  # NaN is no value either
            value = f"CASE WHEN isnan({column}) THEN NULL ELSE {column}::VARCHAR END"
        source = f'LEFT JOIN tabular."{label.table}" t ON t.patient_id = p.patient_id'
    connection.execute(
        f"CREATE TEMP TABLE candidates AS SELECT p.id AS patient, p.patient_id, x.split, {value} AS label, "
        f"CASE WHEN {value} IS NULL THEN NULL ELSE {kind} END AS label_type FROM core.patient p "
        f"JOIN ({union}) u ON u.patient = p.id "
        f"LEFT JOIN (FROM core.split WHERE scheme = $scheme) x ON x.patient = p.id {source}",
        {"scheme": scheme},
    )


def _lose_patients(
    connection: duckdb.DuckDBPyConnection,
    inputs: Sequence[VectorInput],
    tables: Sequence[str],
    scheme_name: str | None,
    label: str | None,
    join: str,
    report: dict[str, Any],
) -> None:
    """Make ``aligned`` of the candidates that meet every condition; count the others at the first one they fail."""
    conditions = []
    if scheme_name is not None:
        conditions.append((f"in no split of the scheme {scheme_name!r}", "split IS NOT NULL"))
    if label is not None:
        conditions.append((f"without a value of {label!r}", "label IS NOT NULL"))
    has = [(f"without {i.alias!r}", f"patient IN (SELECT patient FROM input_{n})") for n, i in enumerate(inputs)]
    has_row = [(f"without a row in {t!r}", f'patient_id IN (SELECT patient_id FROM tabular."{t}")') for t in tables]
    if join == "inner":
        conditions += has + has_row
    elif join == "left":
        conditions += has[:1]
    start = first(connection.execute("SELECT count(*) FROM candidates"))
    report["candidates"] = start[0] if start else 0
    kept = "true"
    for reason, condition in conditions:
        lost = first(
            connection.execute(
                "SELECT count(*), list(patient_id ORDER BY patient_id)[:5] FROM candidates "
                f"WHERE ({kept}) AND NOT ({condition})"
            )
        )
        if lost and lost[0]:
            report["lost"].append({"reason": reason, "patients": lost[0], "such_as": lost[1]})
        kept += f" AND ({condition})"
    connection.execute(
        "CREATE TEMP TABLE aligned AS SELECT patient, patient_id, split, label, label_type, "
        f"row_number() OVER (ORDER BY patient_id) - 1 AS position FROM candidates WHERE {kept}"
    )


def _check_splits(patients: pa.Table) -> None:
    """The catalog's key makes this impossible; a table that leaked would be worth a second look all the same."""
    ids = patients.column("patient_id").to_pylist()
    if len(set(ids)) < len(ids):
        twice = sorted(i for i, count in Counter(ids).items() if count > 1)[:5]
        raise LeakageError(
            f"Patients stand in more than one split: {', '.join(twice)}.",
            hint="restore the catalog from a backup",
        )


def _by_split(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    rows = connection.execute(
        "SELECT coalesce(split, ''), label, label_type, count(*) FROM aligned GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    counts: dict[str, Any] = {}
    for split, label, kind, n in rows:
        entry = counts.setdefault(split, {"rows": 0, "labels": {}})
        entry["rows"] += n
        if label is not None and kind != "float":  # a number has no classes to count
            entry["labels"][label] = n
    return counts
