"""Printing: data to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import click

from featstore.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.console import Console

#: Rows that a table on the screen shows; csv and json give all.
SCREEN_ROWS = 200


def console(*, stderr: bool = False) -> Console:
    """A rich console. Output that isn't a terminal gets the width that it needs, so that nothing is cut."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 200, highlight=False)


def note(text: str) -> None:
    """Say something to the person, on stderr."""
    click.echo(text, err=True)


def note_unmatched(pairs: Iterable[Sequence[str]]) -> None:
    """Say which ids match no patient, but look as if they should."""
    for theirs, ours in pairs:
        note(f"  {theirs!r} matches nobody, but looks like the patient {ours!r}.")


def note_lookalikes(pairs: Iterable[Sequence[str]]) -> None:
    """Say which patients may be one under two ids: nothing joins their rows."""
    for one, other in pairs:
        note(f"The patients {one!r} and {other!r} look alike, and are taken for two.")


def print_json(value: Any) -> None:
    """Print JSON; a NaN is null, a time ISO 8601."""
    click.echo(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    return str(value)


def print_rows(rows: pa.Table, form: str = "table", *, title: str = "") -> None:
    """Print an Arrow table as ``table``, ``json`` or ``csv``.

    Raises:
        UsageError: two columns have one name, and JSON would keep the last alone.
    """
    if form == "json":
        twice = [name for name in rows.column_names if rows.column_names.count(name) > 1]
        if twice:
            raise UsageError(
                f"Two columns of the result are called {twice[0]!r}, and JSON can keep only one.",
                hint="name one of them anew: select … as another_name",
            )
        print_json(rows.to_pylist())
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(rows.column_names)
        for batch in rows.to_batches():
            columns = [column.to_pylist() for column in batch.columns]
            writer.writerows(["" if v is None else _plain(v) for v in row] for row in zip(*columns, strict=True))
    else:
        shown = rows.slice(0, SCREEN_ROWS)
        cells = zip(*(column.to_pylist() for column in shown.columns), strict=True)  # by place: names may stand twice
        print_table(rows.column_names, list(cells), title=title)
        if rows.num_rows > SCREEN_ROWS:
            note(f"… {rows.num_rows - SCREEN_ROWS:,} more rows; --format csv or json gives all.")


def print_table(names: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """Print a table for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if title:  # rich would wrap a table's own title at the table's width
        console().print(Text(title, style="italic"))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    numeric = [
        all(isinstance(r[i], (int, float)) or r[i] is None for r in rows) and bool(rows) for i in range(len(names))
    ]
    for name, right in zip(names, numeric, strict=True):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, (list, tuple)) and len(value) > 8:
        return f"[{', '.join(_cell(v) for v in value[:3])}, … {len(value)} values]"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_cell(v) for v in value)}]"
    return str(value)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        text = json.dumps(_plain(value), ensure_ascii=False) if isinstance(value, (dict, list)) else _cell(value)
        click.echo(f"{name:<{width}}  {text}")


def plural(count: int, noun: str) -> str:
    """A count with its noun.

    >>> plural(1, "sample"), plural(1200, "sample")
    ('1 sample', '1,200 samples')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
