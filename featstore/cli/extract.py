"""extract, retry, errors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from featstore.cli.options import json_option, pairs, with_store
from featstore.cli.output import console, note, plural, print_json, print_rows

if TYPE_CHECKING:
    from featstore.extract import ExtractResult, Progress
    from featstore.store import Store

FAILED_INPUTS = 3


@click.command()
@with_store
@click.option("--name", required=True, help="Name of the feature set; what is given twice adds its word: NAME.l3.mean.")
@click.option("--backbone", required=True, metavar="PROVIDER:NAME", help="Such as timm:resnet18.")
@click.option(
    "--pooler",
    "poolers",
    multiple=True,
    default=["mean"],
    show_default=True,
    help="Repeatable: one forward pass feeds all. roi-mean, roi-meanstd pool inside masks.",
)
@click.option("--layer", "layers", multiple=True, help="Block or stage, -1 the last; or a module's name; repeatable.")
@click.option(
    "--facet",
    "facets",
    multiple=True,
    help="token, or query, key, value of a layer's attention; repeatable.",
)
@click.option("--drop-last", type=int, default=0, metavar="N", help="Leave out the network's last N children.")
@click.option("--modality", "modalities", multiple=True, help="Only these; all if not given; repeatable.")
@click.option("--where", metavar="SQL", help="Condition on the view samples.")
@click.option(
    "--pretrained/--no-pretrained",
    default=None,
    help="The model's published weights, or random ones by --seed.",
)
@click.option("--checkpoint", metavar="PATH", help="Local weights: a file, for hf_text a folder.")
@click.option("--trust-checkpoint", is_flag=True, help="Let code that is pickled in the checkpoint run.")
@click.option("--in-chans", type=int, help="Input channels.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override preprocessing: image_size, mean, std, range, …; repeatable.",
)
@click.option("--window", metavar="CENTRE,WIDTH", help="What is black and white, as DICOM says it: 40,400.")
@click.option(
    "--amp",
    type=click.Choice(["off", "bf16", "fp16"]),
    default="off",
    show_default=True,
    help="Mixed precision.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="As stored.",
)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--chunk-rows", type=int, help="Rows a chunk, the unit of commit: what a kill costs (a 64th of all).")
@click.option("--num-workers", default=2, show_default=True, help="Processes that read and decode.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, mps.")
@click.option("--threads", type=int, help="For the network on a CPU.")
@click.option("--seed", default=0, show_default=True, help="For random weights.")
@json_option
def extract(store: Store, settings: tuple[str, ...], window: str | None, as_json: bool, **fields: Any) -> int:
    """Make every pending vector: samples without one of this very function, and changed ones.

    Killed, it goes on where it was when the same command is run again.
    """
    words = [*settings, f"window={window}"] if window else settings
    with progress_bar() as on_progress:
        result = store.extract(settings=pairs(words, "--set"), on_progress=on_progress, **fields)
    if as_json:
        print_json(asdict(result))
    return report([result], quiet=as_json)


@click.command()
@with_store
@click.argument("run", required=False)
@click.option("--trust-run", is_flag=True, help="Run code that the run names: a network of your own, a checkpoint's.")
@json_option
def retry(store: Store, run: str | None, trust_run: bool, as_json: bool) -> int:
    """Try failed inputs again, of one RUN or of all, with the settings that they failed with."""
    with progress_bar() as on_progress:
        results = store.retry(run, on_progress=on_progress, trust_run=trust_run)
    if as_json:
        print_json([asdict(result) for result in results])
    elif not results:
        note("No input has an unresolved failure.")
    return report(results, quiet=as_json)


@click.command()
@with_store
@click.argument("run", required=False)
@click.option("--all", "resolved", is_flag=True, help="Also failures that have been resolved since.")
@json_option
def errors(store: Store, run: str | None, resolved: bool, as_json: bool) -> None:
    """List failed inputs, with stage, error and file."""
    rows = store.errors(run, resolved=resolved)
    if as_json:
        print_rows(rows, "json")
    elif rows.num_rows:
        print_rows(rows.select(["sample_key", "stage", "error", "message", "attempts", "resolved", "uri"]))
        left = rows.filter([not resolved for resolved in rows.column("resolved").to_pylist()])
        stages = set(left.column("stage").to_pylist())
        if stages - {"import"}:
            note("  next: mend the files, then featstore retry")
        if "import" in stages:
            note("  next: mend the vectors, then featstore import them again")
    else:
        note("No failed inputs.")


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A progress bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("extracting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("", total=None, facts="")

        def show(progress: Progress) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            facts = f"{speed:.0f} images/s" if speed else ""
            facts += f", {progress.failed} failed" if progress.failed else ""
            facts += f", GPU {progress.gpu_bytes / 2**30:.1f} GiB" if progress.gpu_bytes else ""
            bar.update(task, total=progress.total, completed=progress.done + progress.failed, facts=facts)

        yield show


def report(results: Sequence[ExtractResult], *, quiet: bool) -> int:
    """Say what extractions did, unless quiet; returns the exit code."""
    failed = sum(result.failed + result.failed_before for result in results)
    if not quiet:
        for result in results:
            _say(result)
        if failed:
            note("  next: featstore errors   (mend the files, then: featstore retry)")
    return FAILED_INPUTS if failed else 0


def _say(result: ExtractResult) -> None:
    sets = ", ".join(f"{name}@v{version}" for name, version in result.feature_sets.items())
    for name in result.new_versions:
        note(f"{name} has a new version, v{result.feature_sets[name]}: what makes its vectors has changed.")
    for name, latest in result.later_versions.items():
        served = f"{name}@v{result.feature_sets[name]}"
        note(f"{served} is not the latest version (v{latest}): name it {served} in --input.")
    for run in result.resumed:
        note(f"Went on with the unfinished run {run}.")
    if result.pending:
        # An input without its mask has failed, and has its other vectors all the same.
        in_part = " (some perhaps in part)" if result.failed and len(result.feature_sets) > 1 else ""
        rate = (result.done + result.failed) / result.seconds if result.seconds else 0.0
        note(
            f"{sets}: {plural(result.done, 'sample')} extracted, {result.failed:,} failed{in_part}, "
            f"in {result.seconds:.1f} s ({rate:.0f}/s)."
        )
    elif not result.failed_before and not result.elsewhere:
        note(f"{sets}: nothing to do, all {plural(result.matching, 'sample')} have their vectors.")
    if result.failed_before:
        note(f"{sets}: {plural(result.failed_before, 'input')} failed before, and their files haven't changed since.")
    if result.elsewhere:
        note(
            f"{sets or 'Here'}: {plural(result.elsewhere, 'sample')} are being extracted by another process.\n"
            "  next: wait for it (featstore status), then run this again"
        )
