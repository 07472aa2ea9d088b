"""Two-phase grading: slices of two modalities → splits, features, one fused table and what it is worth.

::

    python manage.py preprocess|extract|fuse|all [--config config.yaml] [--set key=value]

``preprocess`` ingests the tree, splits the patients and writes ``splits/train_A.csv`` … ``splits/test_P.csv``.
``extract`` makes the vectors of all slices and writes them as a tree, ``features/``. ``fuse`` makes a training table of
them and measures a logistic regression of it on every split. Each is a few commands of featstore, which it shows.

Exit code 3: slices couldn't be read, and all else was done; ``featstore errors`` says which, and why.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from config import Config

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
from inprocess import featstore, featstore_json
from shared import display, title

HERE = Path(__file__).parent
TREE = "{split}/{modality}/grade{label}/{patient_id}.npy"
FAILED_INPUTS = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Two-phase grading: preprocess, extract, fuse.")
    parser.add_argument("verb", choices=["preprocess", "extract", "fuse", "all"])
    parser.add_argument("--config", type=Path, default=HERE / "config.yaml")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="KEY=VALUE", help="repeatable")
    args = parser.parse_args(argv)
    config = Config.read(args.config, args.changes)
    failed = 0
    if args.verb in ("preprocess", "all"):
        preprocess(config)
    if args.verb != "preprocess":
        title("The vectors of all slices, by one encoder a modality: those that are there cost nothing")
        vectors, failed = make_vectors(config)
        if args.verb in ("extract", "all"):
            write_tree(config, vectors)
        if args.verb in ("fuse", "all"):
            fuse(config, vectors)
    if failed:
        raise SystemExit(FAILED_INPUTS)


# ------------------------------------------------------------------------------------------------ preprocess
def preprocess(config: Config) -> None:
    """The tree into the catalog; patients with all modalities into splits; the splits as CSVs."""
    title("preprocess: the tree, and who is in which split")
    if not (config.store / "featstore.toml").is_file():
        featstore("init", config.store)
    layouts = [word for layout in config.layouts for word in ("--layout", layout)]
    patient = ["--patient-id", config.patient_id] if config.patient_id else []
    featstore("ingest", Path(config.data), *layouts, *patient, "--store", config.store)

    home = config.home.replace("'", "''")
    modalities = [word for modality in config.encoders for word in ("--require-modality", modality)]
    whom = ["--stratify", "label", "--holdout", f"site <> '{home}'", "--holdout-as", "test", *modalities]
    ratios = [word for split, share in config.ratio.items() for word in ("--ratio", f"{split}={share}")]
    rest = ("--seed", config.seed, "--store", config.store)
    featstore("split", *ratios, *whom, "--export", Path(config.work, "splits"), *rest)
    if int(config.folds):
        featstore("split", "--scheme", scheme_of_folds(config), "--k-folds", config.folds, *whom, *rest)


def scheme_of_folds(config: Config) -> str:
    return f"folds{config.folds}"


# --------------------------------------------------------------------------------------------------- extract
def make_vectors(config: Config) -> tuple[dict[str, str], int]:
    """Those that aren't there yet: modality → feature set, ``NAME@vK``; and how many slices failed.

    Of one name there may be several versions, of other encoders: which one these settings mean is what ``extract``
    says. Where all is there, it takes a second.
    """
    if not config.store.is_dir():
        raise SystemExit(f"There is no {display(config.store)}: run preprocess first, or name its folder, --set work=…")
    found, failed = {}, 0
    for modality, encoder in config.encoders.items():
        weights = {"pretrained": ["--pretrained"], "random": ["--no-pretrained"]}
        made = featstore_json(
            *("extract", "--name", encoder.name, "--modality", modality, "--backbone", encoder.backbone),
            *weights.get(encoder.weights, ["--checkpoint", encoder.weights]),
            *("--in-chans", config.in_chans, "--set", f"image_size={encoder.image_size}", "--pooler", "mean"),
            *("--batch-size", config.batch_size, "--num-workers", config.num_workers, "--device", config.device),
            *("--seed", config.seed, "--store", config.store),
        )
        found[modality] = f"{encoder.name}@v{made['feature_sets'][encoder.name]}"
        lacking = made["failed"] + made["failed_before"]
        print(f"{found[modality]}: {made['matching'] - lacking} slices have their vectors, {made['done']} of them new.")
        if made["elsewhere"]:
            raise SystemExit("Another process is extracting some of them: wait for it.")
        if lacking:
            print(f"{lacking} slices failed.\n  next: featstore errors --store {display(config.store)}")
        failed += lacking
    return found, failed


def write_tree(config: Config, vectors: Mapping[str, str]) -> None:
    """``features/<split>/<modality>/grade<label>/<patient>.npy``, (slices, dim), and ``features_<modality>.csv``.

    Raises:
        SystemExit: there is a tree of other vectors already.
    """
    folder, new = Path(config.work, "features"), Path(config.work, "features.new")
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed
    new.mkdir()
    for modality, name in vectors.items():
        chosen = ("--layout", TREE, "--where", "split is not null")
        featstore("export", name, "--format", "tree", *chosen, "--out", new / modality, "--store", config.store)
        (new / modality / "index.csv").rename(new / modality / f"index_{modality}.csv")
        shutil.copytree(new / modality, new / "all", dirs_exist_ok=True)
    fits = not folder.exists() or is_same(new / "all", folder)
    if not folder.exists():
        (new / "all").rename(folder)
    shutil.rmtree(new)
    if not fits:
        raise SystemExit(f"{folder} holds other features than these. Move it away, and extract again.")
    print(f"{folder}: {len(list(folder.rglob('*.npy')))} arrays, one a patient and modality.")


def is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files with the same bytes."""
    files = [{path.relative_to(folder) for path in paths(folder)} for folder in (one, other)]
    return files[0] == files[1] and all(filecmp.cmp(one / name, other / name, shallow=False) for name in files[0])


def paths(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------ fuse
def fuse(config: Config, vectors: Mapping[str, str]) -> None:
    """A row a patient of the pooled vectors, side by side; a logistic regression of the train rows, measured on all."""
    title("fuse: one row a patient, and what a logistic regression makes of it")
    table(config, vectors, config.table, "default")
    if int(config.folds):
        title(f"fuse: the same in {config.folds} folds of the home site")
        table(config, vectors, f"{config.table}_{scheme_of_folds(config)}", scheme_of_folds(config))


def table(config: Config, vectors: Mapping[str, str], name: str, scheme: str) -> None:
    inputs = [f"{modality.lower()}={vectors[modality]}/{modality}:{config.aggregation}" for modality in vectors]
    said = {
        "name": name, "scheme": scheme, "inputs": f"[{', '.join(inputs)}]", "fuser": config.fuser,
        "steps": f"[{', '.join(config.steps)}]",
    }  # fmt: skip
    settings = [word for key, value in said.items() for word in ("--set", f"{key}={value}")]
    featstore("materialize", HERE / "recipe.yaml", *settings, "--store", config.store)
    tried = [word for value in config.C for word in ("--C", value)]
    options = ("--max-iter", config.max_iter, "--seed", config.seed, "--bootstrap", config.bootstrap)
    featstore("probe", name, "--model", "logistic", *tried, *options, "--store", config.store)


if __name__ == "__main__":
    main()
