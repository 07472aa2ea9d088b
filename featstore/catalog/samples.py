"""Samples, patients and data sets: identity is checked here, in the transaction that adds the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from featstore.catalog.connection import first, registered
from featstore.catalog.runs import add_run
from featstore.errors import ConflictError

if TYPE_CHECKING:
    import duckdb

#: The columns of incoming rows. ``size`` and ``mtime_ns`` are -1 where the file isn't there; ``masks_told`` where this
#: ingest says which masks there are, so that none is none.
SCHEMA = pa.schema(
    [
        ("sample_key", pa.string()),
        ("uri", pa.string()),
        ("patient_id", pa.string()),
        ("modality", pa.string()),
        ("site", pa.string()),
        ("visit_id", pa.string()),
        ("acquired_at", pa.timestamp("us")),
        ("label", pa.string()),
        ("label_type", pa.string()),
        ("split", pa.string()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("mask_uri", pa.string()),
        ("mask_size", pa.int64()),
        ("mask_mtime_ns", pa.int64()),
        ("masks_told", pa.bool_()),
    ]
)


#: What the uri of a sample begins with that an import made, and the root of its data set: it has vectors and no bytes.
IMPORTED = "imported:"


@dataclass(frozen=True, slots=True)
class Checks:
    """Exceptions that the user has allowed."""

    same_patients_across_sites: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """What incoming rows would change."""

    dataset: str
    root: str
    added: int
    changed: int
    unchanged: int
    patients_added: int
    missing: int
    filled: int
    replaced: int

    @property
    def anything(self) -> bool:
        return bool(self.added or self.changed or self.patients_added or self.filled or self.replaced)


def _file(column: str) -> str:
    """The file of a part, by its key or uri, in SQL: what stands before the fragment, as keys.split_fragment has it."""
    return f"nullif(regexp_extract({column}, '(?s)^(.*)#(?:/[^#]*|[a-z]+=[^/#]*)$', 1), '')"


#: A file that could not be read when it was ingested, and was taken whole; by now its parts are known. It never had
#: a vector, so that nothing is lost with it.
_REPLACED = (
    f"(s.sample_key, s.uri) IN (SELECT {_file('sample_key')}, {_file('uri')} FROM incoming WHERE uri LIKE '%#%' "
    "AND sample_key NOT IN (SELECT sample_key FROM core.sample)) "
    "AND s.sample_key NOT IN (SELECT sample_key FROM incoming) "
    "AND NOT EXISTS (FROM core.vector v WHERE v.sample = s.id)"
)
#: Parts that a file no longer lists, while it has changed: their vectors are of bytes that aren't there any more.
_BEHIND = (
    f"FROM core.sample s JOIN (SELECT DISTINCT {_file('uri')} AS file, size, mtime_ns FROM incoming "
    f"WHERE uri LIKE '%#%') n ON {_file('s.uri')} = n.file "
    "WHERE s.uri LIKE '%#%' AND s.sample_key NOT IN (SELECT sample_key FROM incoming) "
    "AND (s.size, s.mtime_ns) IS DISTINCT FROM (n.size, n.mtime_ns)"
)
#: A sample's file, or its mask's, differs from the catalog's by size or time; or it has another mask.
_CHANGED = (
    "(s.size IS DISTINCT FROM i.size OR s.mtime_ns IS DISTINCT FROM i.mtime_ns "
    "OR (i.masks_told AND s.mask_uri IS NOT NULL AND (s.mask_uri, s.mask_size, s.mask_mtime_ns) "
    "IS DISTINCT FROM (i.mask_uri, i.mask_size, i.mask_mtime_ns)))"
)
_FILLED = (
    "((s.site IS NULL AND i.site IS NOT NULL) OR (s.visit_id IS NULL AND i.visit_id IS NOT NULL) "
    "OR (s.acquired_at IS NULL AND i.acquired_at IS NOT NULL) OR (s.mask_uri IS NULL AND i.mask_uri IS NOT NULL) "
    "OR cardinality(i.attributes) > cardinality(s.attributes))"
)


def compare(connection: duckdb.DuckDBPyConnection, rows: pa.Table, dataset: str, root: str, checks: Checks) -> Counts:
    """Check incoming rows against themselves and the catalog, and count what they would change.

    Raises:
        ConflictError: with the rows, for a duplicate sample, one patient under two sites, with two labels or two
            splits, labels of another type, a sample that was another patient's, a data set that lives elsewhere.
    """
    with registered(connection, incoming=rows):
        _check_dataset(connection, dataset, root)
        _check_samples(connection)
        _check_patients(connection, checks)

        def count(query: str, *parameters: Any) -> int:
            row = first(connection.execute(query, list(parameters)))
            return int(row[0]) if row else 0

        known = "FROM incoming i JOIN core.sample s USING (sample_key)"
        changed = count(f"SELECT count(*) {known} WHERE {_CHANGED}")
        unchanged = count(f"SELECT count(*) {known}") - changed
        behind = count(f"SELECT count(*) {_BEHIND}")
        label_filled = count(
            "SELECT count(DISTINCT p.id) FROM incoming i JOIN core.patient p USING (patient_id) "
            "WHERE p.label IS NULL AND i.label IS NOT NULL"
        )
        split_filled = count(
            "SELECT count(DISTINCT patient_id) FROM incoming i WHERE split IS NOT NULL AND patient_id NOT IN "
            "(SELECT patient_id FROM splits WHERE lower(scheme) = 'default')"
        )
        return Counts(
            dataset,
            root,
            added=rows.num_rows - changed - unchanged,
            changed=changed + behind,
            unchanged=unchanged,
            patients_added=count(
                "SELECT count(DISTINCT patient_id) FROM incoming "
                "WHERE patient_id NOT IN (SELECT patient_id FROM core.patient)"
            ),
            missing=count(
                "SELECT count(*) FROM core.sample s JOIN core.dataset d ON d.id = s.dataset "
                "WHERE lower(d.name) = lower(?) AND s.sample_key NOT IN (SELECT sample_key FROM incoming) "
                f"AND NOT ({_REPLACED})",
                dataset,
            ),
            replaced=count(f"SELECT count(*) FROM core.sample s WHERE {_REPLACED}"),
            filled=count(f"SELECT count(*) {known} WHERE {_FILLED}") + label_filled + split_filled,
        )


def apply(
    connection: duckdb.DuckDBPyConnection,
    rows: pa.Table,
    run_id: str,
    facts: Mapping[str, Any],
    counts: Counts,
) -> None:
    """Put checked rows into the catalog."""
    run = add_run(connection, run_id, facts, done=counts.added + counts.changed)
    with registered(connection, incoming=rows):
        connection.execute(
            "INSERT INTO core.dataset SELECT coalesce((SELECT max(id) FROM core.dataset), 0) + 1, $name, $root, $run "
            "WHERE NOT EXISTS (FROM core.dataset WHERE lower(name) = lower($name))",
            {"name": counts.dataset, "root": counts.root, "run": run},
        )
        connection.execute(
            "UPDATE core.dataset SET root = $root WHERE lower(name) = lower($name) AND root = $imported",
            {"name": counts.dataset, "root": counts.root, "imported": IMPORTED},
        )
        connection.execute(
            "INSERT INTO core.patient SELECT (SELECT coalesce(max(id), 0) FROM core.patient) "
            "+ row_number() OVER (ORDER BY patient_id), patient_id, any_value(label), any_value(label_type) "
            "FROM incoming WHERE patient_id NOT IN (SELECT patient_id FROM core.patient) GROUP BY patient_id"
        )
        connection.execute(
            "UPDATE core.patient p SET label = i.label, label_type = i.label_type FROM (SELECT patient_id, "
            "any_value(label) AS label, any_value(label_type) AS label_type FROM incoming WHERE label IS NOT NULL "
            "GROUP BY patient_id) i WHERE i.patient_id = p.patient_id AND p.label IS NULL"
        )
        if counts.changed or counts.filled:
            _update_samples(connection)
        if counts.replaced:
            connection.execute(f"CREATE TEMP TABLE replaced AS SELECT id FROM core.sample s WHERE {_REPLACED}")
        connection.execute(
            "INSERT INTO core.sample SELECT (SELECT coalesce(max(id), 0) FROM core.sample) "
            "+ row_number() OVER (ORDER BY i.sample_key), i.sample_key, "
            "(SELECT id FROM core.dataset WHERE lower(name) = lower($name)), p.id, i.visit_id, i.modality, i.site, "
            "i.acquired_at, i.uri, i.size, i.mtime_ns, NULL, 1, i.attributes, $run, "
            "i.mask_uri, i.mask_size, i.mask_mtime_ns, NULL "
            "FROM incoming i JOIN core.patient p USING (patient_id) "
            "WHERE i.sample_key NOT IN (SELECT sample_key FROM core.sample) ORDER BY i.sample_key",
            {"name": counts.dataset, "run": run},
        )
        if counts.replaced:
            # Now that their parts have higher ids: an id taken twice would get what a living run makes of the file.
            connection.execute("DELETE FROM core.failure WHERE sample IN (FROM replaced)")
            connection.execute("DELETE FROM core.sample WHERE id IN (FROM replaced)")
            connection.execute("DROP TABLE replaced")
        _add_splits(connection, run)


def _update_samples(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute(
        f"CREATE TEMP TABLE changed AS SELECT s.id, s.patient, {_CHANGED} AND NOT starts_with(s.uri, '{IMPORTED}') "
        "AS other_bytes, i.size, i.mtime_ns, i.uri, "
        "coalesce(s.site, i.site) AS site, coalesce(s.visit_id, i.visit_id) AS visit_id, "
        "coalesce(s.acquired_at, i.acquired_at) AS acquired_at, i.mask_uri, i.mask_size, i.mask_mtime_ns, "
        "i.attributes, i.masks_told "
        f"FROM incoming i JOIN core.sample s USING (sample_key) WHERE {_CHANGED} OR {_FILLED}"
    )
    connection.execute(
        "UPDATE core.sample s SET size = c.size, mtime_ns = c.mtime_ns, uri = c.uri, site = c.site, "
        "visit_id = c.visit_id, acquired_at = c.acquired_at, attributes = c.attributes, "
        "content = s.content + c.other_bytes::INTEGER, "
        "content_hash = CASE WHEN c.other_bytes THEN NULL ELSE s.content_hash END FROM changed c WHERE c.id = s.id"
    )
    connection.execute(
        "UPDATE core.sample s SET mask_uri = c.mask_uri, mask_size = c.mask_size, mask_mtime_ns = c.mask_mtime_ns, "
        "mask_hash = CASE WHEN (s.mask_uri, s.mask_size, s.mask_mtime_ns) IS DISTINCT FROM "
        "(c.mask_uri, c.mask_size, c.mask_mtime_ns) THEN NULL ELSE s.mask_hash END "
        "FROM changed c WHERE c.id = s.id AND c.masks_told"
    )
    connection.execute(f"CREATE TEMP TABLE behind AS SELECT s.id, s.patient, n.size, n.mtime_ns {_BEHIND}")
    connection.execute(
        "UPDATE core.sample s SET size = b.size, mtime_ns = b.mtime_ns, content = s.content + 1, content_hash = NULL "
        "FROM behind b WHERE b.id = s.id"
    )
    recount(connection, "SELECT patient FROM changed WHERE other_bytes UNION SELECT patient FROM behind")
    connection.execute("DROP TABLE changed")
    connection.execute("DROP TABLE behind")


def recount(connection: duckdb.DuckDBPyConnection, patients: str) -> None:
    """Count coverage anew for the patients that a query of ours gives, after samples' contents changed."""
    connection.execute(
        f"UPDATE core.coverage c SET extracted = coalesce((SELECT count(*) FROM core.vector v "
        "JOIN core.sample s ON s.id = v.sample AND s.content = v.content WHERE v.feature_set = c.feature_set "
        f"AND s.patient = c.patient AND s.modality = c.modality), 0) WHERE c.patient IN ({patients})"
    )


def _add_splits(connection: duckdb.DuckDBPyConnection, run: int) -> None:
    """Splits that came with the rows belong to the scheme ``default``."""
    given = first(connection.execute("SELECT count(*) FROM incoming WHERE split IS NOT NULL"))
    if not given or not given[0]:
        return
    connection.execute(
        "INSERT INTO core.scheme SELECT coalesce((SELECT max(id) FROM core.scheme), 0) + 1, 'default', 1, ?, ? "
        "WHERE NOT EXISTS (FROM core.scheme WHERE lower(name) = 'default')",
        [json.dumps({"from": "ingest"}), run],
    )
    connection.execute(
        "INSERT INTO core.split SELECT (SELECT arg_max(id, version) FROM core.scheme WHERE lower(name) = 'default'), "
        "p.id, any_value(i.split) FROM incoming i JOIN core.patient p USING (patient_id) WHERE i.split IS NOT NULL "
        "AND p.id NOT IN (SELECT patient FROM core.default_split) GROUP BY p.id ORDER BY p.id"
    )


# ----------------------------------------------------------------------------------------------- checks
def _check_dataset(connection: duckdb.DuckDBPyConnection, dataset: str, root: str) -> None:
    row = first(connection.execute("SELECT name, root FROM core.dataset WHERE lower(name) = lower(?)", [dataset]))
    if row and row[0] != dataset:
        raise ConflictError(
            f"There is a data set {row[0]!r}: names differ by more than case.", hint=f"--dataset {row[0]}"
        )
    if row and row[1] not in (root, IMPORTED):
        raise ConflictError(
            f"The data set {row[0]!r} is that of {row[1]}, not of {root}.",
            hint="give this one another name: --dataset NAME",
        )


def _refuse(connection: duckdb.DuckDBPyConnection, query: str, fact: str, hint: str) -> None:
    """Raise with the first rows of a query that should have had none. Its first column names the offender."""
    rows = connection.execute(f"SELECT * FROM ({query}) ORDER BY 1 LIMIT 6").fetchall()
    if not rows:
        return
    total = first(connection.execute(f"SELECT count(*) FROM ({query})"))
    assert total
    lines = "\n".join("    " + ", ".join(str(value) for value in row) for row in rows[:5])
    more = f"\n    … and {total[0] - 5} more" if total[0] > 5 else ""
    raise ConflictError(f"{fact.format(n=total[0])}\n{lines}{more}", hint=hint)


def _check_samples(connection: duckdb.DuckDBPyConnection) -> None:
    _refuse(
        connection,
        "SELECT sample_key, count(*) || ' times' FROM incoming GROUP BY sample_key HAVING count(*) > 1",
        "{n} sample(s) stand more than once in what is ingested:",
        "leave each sample once; parts of one file are told apart by a #fragment",
    )
    _refuse(
        connection,
        "SELECT i.sample_key, 'is ' || s.sample_key || ' of patient ' || p.patient_id FROM incoming i "
        "JOIN core.sample s ON s.uri = i.uri AND s.sample_key <> i.sample_key JOIN core.patient p ON p.id = s.patient",
        "{n} file(s) are in the catalog already, as other samples: a file twice could be in train and in test.",
        "ingest them as the data set that they are of, from the same folder",
    )
    _refuse(
        connection,
        "SELECT DISTINCT s.sample_key, 'is the mask of ' || i.sample_key FROM incoming i "
        "JOIN core.sample s ON s.uri = regexp_replace(i.mask_uri, '[#&]label=.*$', '')",
        "{n} file(s) are in the catalog as samples, and would be masks now:",
        "a store that took masks for images is best made anew, with --mask-layout from the first ingest on",
    )
    _refuse(
        connection,
        "SELECT DISTINCT i.sample_key, 'is the mask of ' || s.sample_key FROM incoming i "
        "JOIN core.sample s ON i.uri = regexp_replace(s.mask_uri, '[#&]label=.*$', '')",
        "{n} file(s) are masks in the catalog, and would be samples now:",
        "give --mask-layout again, or a layout that leaves them out",
    )
    for column in ("patient_id", "modality", "site", "visit_id", "acquired_at"):
        old = "p.patient_id" if column == "patient_id" else f"s.{column}"
        _refuse(
            connection,
            f"SELECT i.sample_key, {old} || ' → ' || i.{column} FROM incoming i JOIN core.sample s USING (sample_key) "
            f"JOIN core.patient p ON p.id = s.patient WHERE {old} IS NOT NULL AND i.{column} IS NOT NULL "
            f"AND {old} <> i.{column}",
            f"{{n}} sample(s) are in the catalog with another {column}:",
            f"correct the {column}; a store that is wrong throughout is best made anew",
        )
    _refuse(
        connection,
        "SELECT i.sample_key, s.attributes::VARCHAR || ' → ' || i.attributes::VARCHAR FROM incoming i "
        "JOIN core.sample s USING (sample_key) WHERE s.attributes::VARCHAR <> i.attributes::VARCHAR "
        "AND len(list_filter(map_keys(s.attributes), lambda k: s.attributes[k] IS DISTINCT FROM i.attributes[k])) > 0",
        "{n} sample(s) are in the catalog with other attributes:",
        "use the layout or columns that they were ingested with",
    )


def _check_patients(connection: duckdb.DuckDBPyConnection, checks: Checks) -> None:
    if not checks.same_patients_across_sites:
        _refuse(
            connection,
            "SELECT patient_id, array_to_string(list_sort(list(DISTINCT site)), ' and ') FROM (SELECT patient_id, site "
            "FROM incoming UNION ALL SELECT p.patient_id, s.site FROM core.sample s JOIN core.patient p "
            "ON p.id = s.patient WHERE p.patient_id IN (SELECT i.patient_id FROM incoming i LEFT JOIN core.sample k "
            "USING (sample_key) WHERE k.id IS NULL OR (k.site IS NULL AND i.site IS NOT NULL))) "
            "WHERE site IS NOT NULL GROUP BY patient_id HAVING count(DISTINCT site) > 1",
            "{n} patient id(s) occur under more than one site. Hospitals reuse ids, so these may be different people:",
            "make them distinct with --patient-id '{site}-{patient_id}', or say that they are the same people with "
            "--same-patients-across-sites",
        )
    _refuse(
        connection,
        "SELECT DISTINCT 'labels here are ' || i.label_type || ', in the catalog ' || p.label_type FROM incoming i, "
        "(SELECT DISTINCT label_type FROM core.patient WHERE label_type IS NOT NULL) p "
        "WHERE i.label_type IS NOT NULL AND i.label_type <> p.label_type",
        "The labels are of another type than those in the catalog:",
        "give the type in the layout, {label:int}, or --label-type int|float|str",
    )
    _refuse(
        connection,
        "SELECT patient_id, array_to_string(list_sort(list(DISTINCT label)), ' and ') FROM (SELECT patient_id, label "
        "FROM incoming UNION ALL SELECT patient_id, label FROM core.patient "
        "WHERE patient_id IN (SELECT patient_id FROM incoming)) "
        "WHERE label IS NOT NULL GROUP BY patient_id HAVING count(DISTINCT label) > 1",
        "{n} patient(s) have more than one label:",
        "a label belongs to the patient: correct it, or leave it out here and join it from a table later",
    )
    _refuse(
        connection,
        "SELECT patient_id, array_to_string(list_sort(list(DISTINCT split)), ' and ') FROM (SELECT patient_id, split "
        "FROM incoming UNION ALL SELECT patient_id, split FROM splits WHERE lower(scheme) = 'default' "
        "AND patient_id IN (SELECT patient_id FROM incoming WHERE split IS NOT NULL)) "
        "WHERE split IS NOT NULL GROUP BY patient_id HAVING count(DISTINCT split) > 1",
        "{n} patient(s) would be in more than one split of the scheme 'default':",
        "a patient is in one split; correct it, or leave the split out here and use: featstore split",
    )
