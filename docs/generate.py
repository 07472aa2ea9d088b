"""Write what is generated: docs/, the README's part on the views, migrations/schema.sql. A test holds them true.

python docs/generate.py
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import duckdb

from featstore import cli
from featstore.catalog import migrations
from featstore.tables.recipe_schema import schema

ROOT = Path(__file__).resolve().parents[1]


def views_md() -> str:
    """Every public view, column by column, from the comments that the catalog itself carries."""
    connection = duckdb.connect(":memory:")
    migrations.apply(connection)
    parts = [
        "# The views",
        "The public SQL interface, for `featstore sql` and for plain DuckDB on `catalog.duckdb`. Columns are only "
        "ever added. Beside these there is each table that `ingest-table` took in, under its own name, and in "
        '`featstore sql` (not in plain DuckDB) `vectors."<feature set>"` with `sample_key, patient_id, modality, '
        "split, site, label, vector`.",
        "The same text is in the catalog: `select column_name, comment from duckdb_columns() "
        "where table_name = 'features'`.",
    ]
    views = connection.execute(
        "SELECT view_name, comment FROM duckdb_views() WHERE schema_name = 'main' AND NOT internal ORDER BY 1"
    ).fetchall()
    for view, comment in views:
        rows = connection.execute(
            "SELECT column_name, data_type, comment FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND table_name = ? ORDER BY column_index",
            [view],
        ).fetchall()
        lines = ["| column | type | |", "| --- | --- | --- |"]
        lines += [f"| `{name}` | {kind} | {text} |" for name, kind, text in rows]
        parts += [f"## {view}", comment, "\n".join(lines)]
    connection.close()
    return "\n\n".join(parts) + "\n"


def readme() -> str:
    """The README with its part on the views written anew."""
    text = (ROOT / "README.md").read_text()
    start, end = "<!-- views: written by `make docs` -->\n", "<!-- end of views -->"
    before, rest = text.split(start)
    _, after = rest.split(end)
    # A heading a view in docs/views.md; here each folds away.
    _, *views = views_md().split("\n## ")
    folded = []
    for view in views:
        name, _, body = view.partition("\n\n")
        summary, _, table = body.partition("\n\n")
        folded.append(f"<details><summary><code>{name}</code>: {summary}</summary>\n\n{table.strip()}\n\n</details>\n")
    return before + start + "\n" + "\n".join(folded) + "\n" + end + after


def cli_md() -> str:
    """The help of every command."""
    # With the command's own settings: click keeps each command's help option from the first time it is asked for.
    root = click.Context(cli.cli, info_name="featstore", max_content_width=110, **cli.cli.context_settings)
    root.terminal_width = 110
    parts = ["# The command line", f"```\n{cli.cli.get_help(root)}\n```"]
    for name in cli.COMMANDS:
        command = cli.cli.get_command(root, name)
        assert command
        parts += _helps(command, click.Context(command, root, name), f"featstore {name}")
    return "\n\n".join(parts) + "\n"


def _helps(command: click.Command, context: click.Context, name: str) -> list[str]:
    """The help of a command, and of the commands in it."""
    parts = [f"## {name}", f"```\n{command.get_help(context)}\n```"]
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            inner = command.get_command(context, word)
            assert inner
            parts += _helps(inner, click.Context(inner, context, word), f"{name} {word}")
    return parts


def generated() -> dict[Path, str]:
    """File → what it should hold."""
    return {
        ROOT / "README.md": readme(),
        ROOT / "docs" / "cli.md": cli_md(),
        ROOT / "docs" / "recipe.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
        ROOT / "docs" / "views.md": views_md(),
        ROOT / "migrations" / "schema.sql": migrations.schema_sql(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")
