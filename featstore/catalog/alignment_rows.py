"""The rows of a table: patients, visits or samples, with splits, labels and times; who stays, and why others don't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featstore.catalog.alignment_labels import columns as label_columns
from featstore.catalog.connection import arrow, first, registered
from featstore.catalog.order import natural

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from featstore.catalog.alignment import Wanted


def candidates(connection: duckdb.DuckDBPyConnection, wanted: Wanted) -> None:
    """Make ``candidates``: every patient, visit or sample that could be a row, with split and label; and those that
    can't, without a visit or sample, so that they are counted among the lost: patients who have none, and samples of
    visits that nobody named.
    """
    of = {
        "patient": "SELECT DISTINCT patient, NULL::VARCHAR AS visit_id, NULL::VARCHAR AS sample_key, "
        "NULL::BIGINT AS sample FROM core.sample",
        "visit": " UNION ".join([
            "SELECT patient, visit_id, NULL, NULL FROM core.sample WHERE visit_id IS NOT NULL",
            "SELECT patient, NULL, NULL, NULL FROM core.sample GROUP BY patient HAVING count(visit_id) = 0",
            *(
                f"SELECT patient, NULL, NULL, NULL FROM samples_{n} WHERE visit_id IS NULL"
                for n, item in enumerate(wanted.inputs)
                if item.per == "visit"
            ),
        ]),
        "sample": " UNION ".join([
            *(f"SELECT patient, visit_id, sample_key, sample FROM samples_{n}" for n in own_samples(wanted)),
            "SELECT patient, NULL, NULL, NULL FROM core.sample WHERE "
            + " AND ".join(f"patient NOT IN (SELECT patient FROM samples_{n})" for n in own_samples(wanted)),
        ]),
    }[wanted.entity]  # fmt: skip
    rowless = {"patient": "false", "visit": "e.visit_id IS NULL", "sample": "e.sample IS NULL"}[wanted.entity]
    columns, joins = label_columns(connection, wanted.labels)
    scheme = wanted.scheme[0] if wanted.scheme else None
    connection.execute(
        "CREATE TEMP TABLE candidates AS SELECT row_number() OVER () AS candidate, e.*, p.patient_id, x.split, "
        f"{rowless} AS rowless, {columns}, NULL::TIMESTAMP AS as_of "
        f"FROM ({of}) e(patient, visit_id, sample_key, sample) JOIN core.patient p ON p.id = e.patient "
        f"LEFT JOIN (FROM core.split WHERE scheme = $scheme) x ON x.patient = p.id {joins}",
        {"scheme": scheme},
    )


def own_samples(wanted: Wanted) -> list[int]:
    """The inputs whose samples are the rows of a table of samples."""
    return [n for n, item in enumerate(wanted.inputs) if item.per == "sample"]


def judge(connection: duckdb.DuckDBPyConnection, wanted: Wanted, report: dict[str, Any]) -> int:
    """Make ``judged``, every candidate with the first reason to leave it out, and ``aligned`` of those without one.

    Returns:
        how many conditions come before those of the inputs.
    """
    parts, joins, before = ["SELECT c.*"], [], _before(wanted, report)
    for n, item in enumerate(wanted.inputs):
        key = {"patient": "patient", "visit": "patient, visit_id", "sample": "sample"}[item.per]
        on = " AND ".join(f"s{n}.{k} = c.{k}" for k in key.split(", "))
        joins.append(
            f"LEFT JOIN (SELECT {key}, bool_or(chosen AND segment IS NOT NULL) AS ok, bool_or(chosen) AS chosen, "
            f"bool_or(chosen AND failed) AS failed FROM samples_{n} GROUP BY {key}) s{n} ON {on}"
        )
        parts.append(
            f"coalesce(s{n}.ok, false) AS has_{n}, CASE WHEN s{n}.ok THEN NULL WHEN s{n}.chosen IS NULL "
            f"THEN 'no such modality' WHEN NOT s{n}.chosen THEN 'where' WHEN s{n}.failed THEN 'failed' "
            f"ELSE 'not extracted' END AS why_{n}"
        )
    for m in range(len(wanted.tables)):
        joins.append(f"LEFT JOIN table_{m} t{m} ON t{m}.candidate = c.candidate")
        parts.append(f"t{m}.place AS place_{m}, t{m}.gap AS gap_{m}")
    conditions = before + _of_inputs(wanted, report)
    reason = " ".join(f"WHEN NOT coalesce({kept}, false) THEN {text}" for text, kept in conditions)
    stage = " ".join(f"WHEN NOT coalesce({kept}, false) THEN {place}" for place, (_, kept) in enumerate(conditions))
    query = (
        f"CREATE TEMP TABLE judged AS SELECT *, {_case(reason)} AS reason, {_case(stage)} AS stage "
        f"FROM ({', '.join(parts)} FROM candidates c {' '.join(joins)}) c"
    )
    with registered(connection, **_given(wanted)):
        connection.execute(query)
    order = ", ".join(["patient_id", "visit_id", natural("sample_key")])
    connection.execute(
        f"CREATE TEMP TABLE aligned AS SELECT row_number() OVER (ORDER BY {order}) - 1 AS position, * FROM judged "
        "WHERE reason IS NULL"
    )
    start = first(connection.execute("SELECT count(*) FROM candidates"))
    report["candidates"] = start[0] if start else 0
    name = {"patient": "patient_id", "visit": "patient_id || ', ' || visit_id", "sample": "sample_key"}[wanted.entity]
    name = f"coalesce({name}, patient_id)"
    # Patients without a sample that could be a row are counted as patients; without a visit_id, as a visit.
    rowless = "bool_and(rowless)" if wanted.entity == "sample" else "false"
    lost = f"count(*), count(DISTINCT patient), list({name} ORDER BY {order})[:5], {rowless}"
    report["lost"] = [
        {"reason": why, "rows": rows, "patients": patients, "such_as": such_as} | ({"rowless": True} if rowless else {})
        for why, rows, patients, such_as, rowless in connection.execute(
            f"SELECT reason, {lost} FROM judged WHERE reason IS NOT NULL GROUP BY stage, reason ORDER BY stage, reason"
        ).fetchall()
    ]
    for n, item in enumerate(wanted.inputs):
        counts = connection.execute(
            f"SELECT why_{n}, count(*) FROM judged WHERE why_{n} IS NOT NULL AND NOT rowless GROUP BY ALL"
        )
        report["inputs"][item.alias]["lost"] = dict(sorted(counts.fetchall()))
        # What nobody in the table could use is no reason to extract: patients of no split, outside the --where.
        failed, pending = first(
            connection.execute(
                "SELECT count(*) FILTER (failed), count(*) FILTER (NOT failed) FROM "
                f"samples_{n} WHERE chosen AND segment IS NULL AND patient IN "
                "(SELECT patient FROM judged WHERE stage IS NULL OR stage >= $before)",
                {"before": len(before)},
            )
        ) or (0, 0)
        report["inputs"][item.alias] |= {"failed_samples": failed, "pending_samples": pending}
    return len(before)


def _case(whens: str) -> str:
    return f"CASE {whens} END" if whens else "NULL"


def _given(wanted: Wanted) -> dict[str, pa.Table]:
    given = {"chosen": wanted.chosen, "without": wanted.without}
    return {name: table for name, table in given.items() if table is not None}


def _before(wanted: Wanted, report: dict[str, Any]) -> list[tuple[str, str]]:
    """What a row must be, whatever its inputs: reasons, as SQL text, and conditions."""
    found = []
    if wanted.without is not None:
        keys = [k for k in ("patient_id", "visit_id", "sample_key") if k in wanted.without.column_names]
        same = " AND ".join(f"w.{k} IS NOT DISTINCT FROM c.{k}" for k in keys)
        found.append((_text("in the table already"), f"NOT EXISTS (SELECT 1 FROM without w WHERE {same})"))
    if wanted.chosen is not None:
        # A sample that no input has can meet the condition too: what is asked is whether the row does.
        chosen = "FROM core.sample s JOIN chosen USING (sample_key)"
        meets = {
            "patient": f"c.patient IN (SELECT s.patient {chosen})",
            "visit": f"EXISTS (SELECT 1 {chosen} WHERE s.patient = c.patient "
            "AND s.visit_id IS NOT DISTINCT FROM c.visit_id)",
            "sample": f"c.sample IN (SELECT s.id {chosen}) OR (c.rowless AND c.patient IN (SELECT s.patient {chosen}))",
        }[wanted.entity]
        found.append((_text("outside the --where"), meets))
    if wanted.entity == "visit":
        found.append((_text("without a visit_id"), "NOT rowless"))
    if wanted.entity == "sample":
        aliases = [wanted.inputs[n].alias for n in own_samples(wanted)]
        modalities = " or ".join(dict.fromkeys(report["inputs"][alias]["modality"] for alias in aliases))
        found.append((_text(f"without a sample of modality {modalities}"), "NOT rowless"))
    if wanted.scheme is not None:
        found.append((_text(f"in no split of the scheme {wanted.scheme[1]!r}"), "split IS NOT NULL"))
    if wanted.labels:
        found.append((_text(unlabelled(wanted)), "label IS NOT NULL"))
    return found


def unlabelled(wanted: Wanted) -> str:
    """The reason to leave out a row that has no label."""
    return f"without a value of {str(wanted.labels)!r}"


def _of_inputs(wanted: Wanted, report: dict[str, Any]) -> list[tuple[str, str]]:
    def lacks(n: int) -> tuple[str, str]:
        alias, modality = wanted.inputs[n].alias, report["inputs"][wanted.inputs[n].alias]["modality"]
        why = {
            "no such modality": f"no sample of modality {modality}", "where": "none that meets the --where",
            "failed": "it failed, see featstore errors", "not extracted": "not extracted yet",
        }  # fmt: skip
        whens = " ".join(f"WHEN {_text(k)} THEN {_text(f'without {alias!r}: {text}')}" for k, text in why.items())
        return f"CASE why_{n} {whens} END", f"has_{n}"

    every = range(len(wanted.inputs))
    count = " + ".join(f"has_{n}::INTEGER" for n in every)
    if wanted.min_modalities is not None:
        reason = f"with fewer than {wanted.min_modalities} of the {len(wanted.inputs)} inputs"
        return [(_text(reason), f"{count} >= {wanted.min_modalities}")]
    if wanted.join == "left":
        return [lacks(0)]
    if wanted.join == "outer":
        return [(_text("without any of the inputs"), f"{count} >= 1")]

    def unmatched(m: int) -> tuple[str, str]:
        why = {
            "no_row": "", "too_old": " that is recent enough", "future": " at or before its time",
            "untimed": ": it has no time of its own",
        }  # fmt: skip
        none = f"without a row in {wanted.tables[m].name!r}"
        whens = " ".join(f"WHEN {_text(gap)} THEN {_text(none + text)}" for gap, text in why.items())
        return f"CASE gap_{m} {whens} END", f"place_{m} IS NOT NULL"

    return [*map(lacks, every), *map(unmatched, range(len(wanted.tables)))]


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def lost(connection: duckdb.DuckDBPyConnection, keys: tuple[str, ...]) -> pa.Table:
    """The keys of the rows that were left out, and why."""
    order = ", ".join(["patient_id", "visit_id", natural("sample_key")])
    return arrow(
        connection, f"SELECT {', '.join(keys)}, reason FROM judged WHERE reason IS NOT NULL ORDER BY stage, {order}"
    )


def table_rows(connection: duckdb.DuckDBPyConnection, m: int) -> pa.ChunkedArray:
    """Which row of a tabular data set goes into each row; null where none does."""
    return arrow(connection, f"SELECT place_{m} FROM aligned ORDER BY position").column(0)


def by_split(connection: duckdb.DuckDBPyConnection, *, classes: bool) -> dict[str, Any]:
    """Rows by split, and within it by label: not of numbers, unless they are names of ``classes``."""
    rows = connection.execute(
        "SELECT coalesce(split, ''), label, label_type, count(*) FROM aligned GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    counts: dict[str, Any] = {}
    for split, label, kind, n in rows:
        entry = counts.setdefault(split, {"rows": 0, "labels": {}})
        entry["rows"] += n
        if label is not None and (classes or kind != "float"):
            entry["labels"][label] = n
    return counts


def coverage(connection: duckdb.DuckDBPyConnection, aliases: list[str], before: int) -> list[dict[str, Any]]:
    """Which inputs rows have, most first: of all that meet the conditions that :func:`judge` put before the inputs'."""
    has = ", ".join(f"has_{n}" for n in range(len(aliases)))
    found: dict[tuple[bool, ...], dict[str, Any]] = {}
    for *flags, split, rows, kept in connection.execute(
        f"SELECT {has}, coalesce(split, ''), count(*), count(*) FILTER (reason IS NULL) FROM judged "
        "WHERE stage IS NULL OR stage >= $first GROUP BY ALL ORDER BY ALL",
        {"first": before},
    ).fetchall():
        entry = found.setdefault(
            tuple(flags),
            {"has": [a for a, f in zip(aliases, flags, strict=True) if f], "rows": 0, "kept": 0, "by_split": {}},
        )
        entry["rows"] += rows
        entry["kept"] += kept
        entry["by_split"][split] = rows
    return sorted(found.values(), key=lambda entry: (-entry["rows"], entry["has"]))
