"""The command line: each command is a few lines over a method of :class:`featstore.Store`.

`featstore --help` imports neither DuckDB, pandas, zarr nor torch, and scans no entry points: what a command needs is
imported when it runs.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from featstore import __version__
from featstore.errors import FeatstoreError, did_you_mean

COMMANDS: Mapping[str, str] = {
    "init": "featstore.cli.manage",
    "ingest": "featstore.cli.ingest",
    "ingest-table": "featstore.cli.ingest",
    "import": "featstore.cli.imports",
    "split": "featstore.cli.split",
    "extract": "featstore.cli.extract",
    "retry": "featstore.cli.extract",
    "errors": "featstore.cli.extract",
    "sql": "featstore.cli.ask",
    "ls": "featstore.cli.ask",
    "show": "featstore.cli.ask",
    "status": "featstore.cli.ask",
    "trained-on": "featstore.cli.leaks",
    "materialize": "featstore.cli.materialize",
    "probe": "featstore.cli.probe",
    "apply": "featstore.cli.tables",
    "leaks": "featstore.cli.leaks",
    "diff": "featstore.cli.lineage",
    "lineage": "featstore.cli.lineage",
    "reproduce": "featstore.cli.tables",
    "export": "featstore.cli.export",
    "plugins": "featstore.cli.plugins",
    "migrate": "featstore.cli.manage",
}


class _Commands(click.Group):
    """Commands in the order of a day's work, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(
            importlib.import_module(COMMANDS[name]), "import_" if name == "import" else name.replace("-", "_")
        )
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that has gone can still be told from an error
            return result
        except BrokenPipeError:  # `featstore sql … | head`: click would make it a failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise click.UsageError(f"There is no command {args[0]!r}.{did_you_mean(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="featstore")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Run each encoder once, keep the vectors, ask SQL about them, build leak-free fused training tables.

    \b
    featstore init ./store; export FEATSTORE_STORE=./store
    featstore ingest DATA --layout '{site}/grade{label:int}/{patient_id}/{modality}/*.png'
    featstore split --ratio train=0.7 --ratio val=0.3
    featstore extract --name r18 --backbone timm:resnet18 --pooler mean
    featstore materialize --name grade --input a=r18/A:mean --input p=r18/P:mean --scheme default

    Exit codes: 0 done, 1 failed, 2 usage, 3 done with failed inputs.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger("featstore").handlers[:] = [handler]
    debug = "--debug" in sys.argv
    try:
        code = cli.main(prog_name="featstore", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted. What was finished is kept; run the same command to go on.", err=True)
        sys.exit(130)
    except FeatstoreError as error:
        if debug:
            raise
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"Error: {type(error).__name__}: {error}\n  next: this is a defect of featstore or of a plugin; "
            "run it again with featstore --debug … and report what it prints",
            err=True,
        )
        sys.exit(1)
