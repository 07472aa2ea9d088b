"""The order of rows: in SQL what it is in Python."""

from __future__ import annotations

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.catalog.order import natural
from featstore.keys import natural_order

keys = st.lists(
    st.from_regex(r"[a-c/#=_ü]{0,4}([0-9]{1,6}[a-c/.#=]{0,3}){0,3}", fullmatch=True), max_size=12, unique=True
)


@given(keys)
@settings(deadline=None, max_examples=150)
def test_sql_orders_keys_as_python_does(keys: list[str]) -> None:
    with duckdb.connect() as connection:
        rows = connection.execute(f"SELECT k FROM (SELECT unnest(?) AS k) ORDER BY {natural('k')}", [keys]).fetchall()
    assert [row[0] for row in rows] == sorted(keys, key=natural_order)


def test_numbers_count_as_numbers_where_they_come_last() -> None:
    parts = [f"d/x.h5#/valid/{row}" for row in range(120)]
    slices = [f"d/scan.nii.gz#axis=2&slice={k}" for k in range(0, 33, 3)]
    assert sorted(sorted(parts), key=natural_order) == parts
    assert sorted(sorted(slices), key=natural_order) == slices
