"""The whole of it on a small cohort: real tissue and real weights, simulated patients.

::

    python examples/s4_two_phase_grading/run.py [--patients 80] [--slices 4] [--config FILE] [--set key=value]

Everything goes to the config's ``work``, which must be new or empty. About two minutes on two CPU cores, no download.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
sys.path.insert(0, str(Path(__file__).absolute().parents[1] / "grade_cohort"))
import make_cohort
import manage
import one_channel
from config import Config
from inprocess import featstore, script
from shared import empty_folder, title

HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Two-phase grading, from a cohort that is made to its metrics.")
    parser.add_argument("--patients", default="80", help="patients of both sites (default: 80)")
    parser.add_argument("--slices", default="4", help="mean slices per patient and modality (default: 4)")
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    args = parser.parse_args(argv)
    config = Config.read(args.config, args.changes)
    work = empty_folder(config.work)
    given = ["--config", args.config, *(word for change in args.changes for word in ("--set", change))]

    title("A cohort of two sites and two modalities, and weights for grey images")
    sizes = ("--patients", args.patients, "--slices", args.slices)
    script(HERE.parent / "grade_cohort" / "make_cohort.py", make_cohort.main, work / "data", *sizes)
    script(HERE / "one_channel.py", one_channel.main, work / "one_channel.pth")

    script(HERE / "manage.py", manage.main, "all", *given)
    title("Late fusion: a model a modality, and one of what they say")
    late = ("--set", "fuser=late", "--set", f"table={config.table}_late", "--set", "folds=0")
    script(HERE / "manage.py", manage.main, "fuse", *given, *late)
    title("Another aggregation: another version of the table, and what is different")
    script(HERE / "manage.py", manage.main, "fuse", *given, "--set", "aggregation=max", "--set", "folds=0")
    featstore("diff", f"{config.table}@v1", f"{config.table}@v2", "--store", config.store)
    title("Is anything of one split in another? Where is the table from?")
    featstore("leaks", f"{config.table}@v1", "--store", config.store)
    featstore("lineage", f"{config.table}@v1", "--store", config.store)


if __name__ == "__main__":
    main()
