"""Images that several subjects saw → DINOv2 and CLIP tokens, stored once, read one sample at a time.

::

    python examples/s2_brain_tokens/run.py [--out DIR] [--subjects 2] [--images 2] [--small] [--pretrained]

Shapes are the original's: (962, 768) tokens of DINOv2 a sample, (257, 768) of CLIP. The networks are untrained unless
``--pretrained`` says otherwise, which needs their weights. About a minute and a half on two CPU cores; ``--small``
takes small networks of the same families.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from featstore import Store

sys.path.insert(0, str(Path(__file__).absolute().parents[1]))
import make_images
from inprocess import featstore, script
from models import SMALL, TRUE
from shared import display, empty_folder, shell_line, title

HERE = Path(__file__).parent
#: Feature set → <backbone>_<layer> of the original.
FOLDERS = {"dinov2.query": "dinov2_q_last", "dinov2.token": "dinov2_last", "clip": "clip_last"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Tokens for a brain encoder, from images to random reads.")
    parser.add_argument("--out", type=empty_folder, default="brain_demo", help="a new folder (default: brain_demo)")
    parser.add_argument("--subjects", default="2")
    parser.add_argument("--images", default="2", help="images a subject and partition (default: 2)")
    parser.add_argument("--small", action="store_true", help="small networks, for a quick look")
    parser.add_argument("--pretrained", action="store_true", help="the published weights")
    args = parser.parse_args(argv)
    backbones = SMALL if args.small else TRUE
    images, store, features = args.out / "images", args.out / "store", args.out / "features"

    title("Images of several subjects, in two partitions")
    script(HERE / "make_images.py", make_images.main, images, "--subjects", args.subjects, "--images", args.images)

    title("A store: a folder is a subject, the one in it a partition")
    featstore("init", store)
    featstore(
        *("ingest", images, "--layout", "{patient_id}/{partition}/*.png"),
        *("--modality", "image", "--store", store),
    )

    title("Tokens of all subjects, each backbone in one command")
    clip = f"open_clip:{backbones.clip}" + (f"/{backbones.clip_tag}" if args.pretrained and backbones.clip_tag else "")
    common = ["--pooler", "tokens", "--dtype", "float16", "--batch-size", "4", "--store", store]
    common += ["--num-workers", "0"] if args.small else []
    weights = [] if args.pretrained else ["--no-pretrained"]
    featstore(
        *("extract", "--name", "dinov2", "--backbone", f"timm:{backbones.dino}", *weights),
        *("--set", f"image_size={backbones.image_size}", "--facet", "token", "--facet", "query", *common),
    )
    featstore("extract", "--name", "clip", "--backbone", clip, *weights, *common)
    featstore(
        "sql",
        "select feature_set, patient_id, attributes['partition'] as partition, count(*) as images, "
        "any_value(shape) as shape, any_value(dtype) as dtype "
        "from features join samples using (sample_key, patient_id) group by all order by all",
        *("--store", store),
    )

    title("The original's files: <backbone>_<layer>/<subject>/<partition>.npy")
    features.mkdir()
    for name, folder in FOLDERS.items():
        layout = ("--layout", "{patient_id}/{partition}.npy")
        featstore("export", name, "--format", "tree", *layout, "--out", features / folder, "--store", store)

    title("One sample at random, as a training loop reads it")
    show_one(store)

    title("An epoch: stored tokens against the backbone on the fly")
    small = ["--small"] if args.small else []
    pretrained = ["--pretrained"] if args.pretrained else []
    stored = measure("stored", "--store", display(store))
    on_the_fly = measure("backbone", "--images", display(images), *small, *pretrained)
    ratio, more = on_the_fly["seconds"] / stored["seconds"], on_the_fly["peak_mib"] - stored["peak_mib"]
    print(f"The backbone takes {ratio:,.0f} times as long, and {more:,.0f} MiB more.")


def show_one(store: Path) -> None:
    from tokens import TokenMaps

    opened = Store(store)
    train = TokenMaps(opened, ["dinov2.query", "clip"], "attributes['partition'] = 'train'")
    number = int(np.random.default_rng(0).integers(len(train)))
    dino = TokenMaps(opened, ["dinov2.query"], f"sample_key = '{train.keys[number]}'")[0]
    clip = TokenMaps(opened, ["clip"], f"sample_key = '{train.keys[number]}'")[0]
    print(f"{train.keys[number]}: DINOv2 {tuple(dino.shape)}, CLIP {tuple(clip.shape)}", end="")
    print(f", both {tuple(train[number].shape)}")


def measure(*words: str) -> dict[str, float]:
    command = [display(HERE / "epoch.py"), *words]
    print(f"\n$ {shell_line('python', command)}", flush=True)
    done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
