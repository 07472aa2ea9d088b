"""Where and with what the samples of an aligned table's rows were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.catalog.connection import arrow

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

#: Attributes, of samples, that tell of a scanner and how it was set.
_SCANNER = "scanner|manufacturer|model|station|vendor|magnet|field.?strength|kvp|protocol"
NONE = "(none)"


def values(connection: duckdb.DuckDBPyConnection, inputs: int) -> pa.Table:
    """The rows of ``aligned`` that have a label, those alike counted: ``label, label_type, rows``, then ``site,
    dataset`` and what tells of a scanner, as text: the values of a row's samples joined by ``+``, or ``(none)``.
    """
    used = " UNION ".join(f"SELECT position, sample FROM used_{n}" for n in range(inputs))
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE made AS SELECT u.position, s.site, d.name AS dataset, s.attributes "
        f"FROM ({used}) u JOIN core.sample s ON s.id = u.sample JOIN core.dataset d ON d.id = s.dataset"
    )
    names = connection.execute(
        "SELECT name FROM (SELECT DISTINCT unnest(map_keys(attributes)) AS name FROM made) "
        "WHERE regexp_matches(lower(name), $scanner) ORDER BY 1",
        {"scanner": _SCANNER},
    ).fetchall()
    # Numbered: names of attributes may differ in case only, and columns of SQL may not.
    sources = ["site", "dataset", *(f"attributes[$name_{n}]" for n in range(len(names)))]
    parts = ", ".join(
        f"array_to_string(list_sort(list(DISTINCT {source}) FILTER ({source} IS NOT NULL)), '+') AS c{n}"
        for n, source in enumerate(sources)
    )
    columns = ", ".join(f"coalesce(nullif(m.c{n}, ''), '{NONE}') AS c{n}" for n in range(len(sources)))
    rows = arrow(
        connection,
        f"WITH m AS (SELECT position, {parts} FROM made GROUP BY position) "
        f"SELECT a.label, a.label_type, count(*) AS rows, {columns} FROM aligned a LEFT JOIN m USING (position) "
        "WHERE a.label IS NOT NULL GROUP BY ALL ORDER BY ALL",
        {f"name_{n}": name for n, (name,) in enumerate(names)},
    )
    connection.execute("DROP TABLE made")
    return rows.rename_columns(["label", "label_type", "rows", "site", "dataset", *(str(name) for (name,) in names)])
