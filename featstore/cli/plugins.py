"""plugins: list, check, begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from featstore.cli.options import json_option, pairs
from featstore.cli.output import note, print_json, print_table

plugin_option = click.option(
    "--plugin", "paths", multiple=True, metavar="FILE.py", help="A plugin file or module; repeatable."
)


@click.group(invoke_without_command=True)
@plugin_option
@click.option("--strict-plugins", is_flag=True, help="Fail on a broken plugin instead of listing it.")
@json_option
@click.pass_context
def plugins(context: click.Context, paths: tuple[str, ...], strict_plugins: bool, as_json: bool) -> None:
    """List plugins: what each provides, its version, and why it can't be used, if so.

    SECONDS is what importing it takes: every command waits for it.
    """
    if context.invoked_subcommand:
        return
    from featstore.plugins import Plugins

    found = Plugins.load(paths, strict=strict_plugins).describe()
    if as_json:
        print_json(found)
    else:
        print_table(list(found[0]), [list(row.values()) for row in found])


@plugins.command()
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice(["backbone", "pooler", "fuser", "step", "reader", "exporter"]),
    help="Where NAME is of several kinds.",
)
@click.option(
    "--input", "files", multiple=True, metavar="FILE", help="A file for a backbone, or of a reader; repeatable."
)
@click.option("--pretrained/--no-pretrained", default=None, help="A backbone's published weights, or random ones.")
@click.option("--checkpoint", metavar="FILE", help="A backbone's local weights.")
@click.option("--trust-checkpoint", is_flag=True, default=None, help="The checkpoint may run the code that it holds.")
@click.option("--in-chans", type=int, help="A backbone's input channels.")
@click.option("--drop-last", type=int, help="Children of a network's end to leave out.")
@click.option("--seed", type=int, help="For random weights.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A backbone's preprocessing; repeatable.")
@plugin_option
@json_option
@click.pass_context
def check(
    context: click.Context,
    /,
    name: str,
    kind: str | None,
    files: tuple[str, ...],
    settings: tuple[str, ...],
    paths: tuple[str, ...],
    as_json: bool,
    **request: Any,
) -> int:
    """Try whether NAME keeps the laws that featstore relies on: one line a law, exit code 1 if one is broken.

    NAME is a backbone, pooler, fuser, step, reader or exporter: timm:test_vit, gem(3), concat, impute(knn), image, csv.
    """
    from featstore import testing

    assert context.parent
    above = context.parent.params
    asked = {key: value for key, value in request.items() if value is not None}
    if settings:
        asked["settings"] = pairs(settings, "--set")
    kind, findings = testing.check(
        name, kind=kind, files=files, plugins=tuple(dict.fromkeys((*above["paths"], *paths))), request=asked
    )
    broken = [finding for finding in findings if finding.tried and not finding.ok]
    if as_json or above["as_json"]:
        rows = [{"law": f.law, "ok": f.ok, "seen": f.seen, "rule": f.rule, "tried": f.tried} for f in findings]
        print_json({"name": name, "kind": kind, "ok": not broken, "findings": rows})
    else:
        print_table(
            ["law", "", "seen"],
            [[f.law, "ok" if f.ok else "BROKEN" if f.tried else "", f.seen] for f in findings],
            title=f"{kind} {name}",
        )
        for finding in broken:
            note(f"{finding.law}: {finding.rule}".replace("``", "`"))
        held, untried = sum(f.ok for f in findings), sum(not f.tried for f in findings)
        note(f"{held} of {len(findings)} laws hold" + (f", {untried} could not be tried." if untried else "."))
    return 1 if broken else 0


@plugins.command()
@click.argument("kind", type=click.Choice(["backbone", "pooler", "fuser", "step", "reader"]))
@click.argument("name")
@click.option("--dir", "into", default=".", show_default=True, metavar="DIR", help="Where to make the folder NAME.")
def new(kind: str, name: str, into: str) -> None:
    """Begin a plugin: a package of your own that installs, passes its test, and is listed."""
    from featstore.scaffold import scaffold

    folder = scaffold(kind, name, Path(into))
    note(f"Made {folder}.\n  next: pip install -e '{folder}[test]'; pytest {folder}; featstore plugins")
