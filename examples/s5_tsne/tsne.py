"""Lay features out on a plane by t-SNE: coordinates of 0…1, and a scatter coloured by class where matplotlib is there.

::

    python tsne.py features.npy [--perplexity 10] [--seed 0] [--names]

``features.npy`` and the ``features.index.csv`` beside it are what ``featstore export NAME --out features.npy`` writes.
Beside them go

    features.tsne.npy     (rows, 2) float32, row by row those of features.npy
    features.tsne.csv     sample_key, label, x, y
    features.tsne.png     300 dpi, no axes, a colour a class; --names writes each point's name beside it

t-SNE (van der Maaten and Hinton 2008) is scikit-learn's, in two dimensions from principal components. It looks at all
rows at once, and distances between far points mean nothing: it is for looking at, not for training on.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd


def embed(features: npt.NDArray[np.floating], *, perplexity: float = 10, seed: int = 0) -> npt.NDArray[np.float32]:
    """Features (rows, …) → coordinates (rows, 2), each axis from 0 to 1. The same features give the same coordinates.

    Raises:
        ValueError: no more rows than ``perplexity``, or a value that isn't finite.
    """
    from sklearn.manifold import TSNE

    flat = features.reshape(len(features), -1)
    if len(flat) <= perplexity:
        raise ValueError(f"{len(flat)} rows have no {perplexity:g} neighbours each; give a smaller --perplexity")
    found = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(flat)
    low, high = found.min(axis=0), found.max(axis=0)
    return np.asarray((found - low) / (high - low), np.float32)


def plot(coordinates: npt.NDArray[np.float32], labels: Sequence[str], names: Sequence[str], path: Path) -> None:
    """Draw a point a row, coloured by class: a PNG of 300 dpi without axes.

    Args:
        names: written beside the points; none, if empty.
    """
    from matplotlib.figure import Figure  # without pyplot: nothing here needs a display

    figure = Figure(figsize=(6, 6))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set_axis_off()
    for number, label in enumerate(dict.fromkeys(labels)):
        x, y = coordinates[np.asarray(labels) == label].T
        # Ten colours, and another mark after each ten.
        axes.scatter(x, y, s=12, color=f"C{number % 10}", marker="os^Dv"[number // 10 % 5], label=label)
    for name, (x, y) in zip(names, coordinates, strict=bool(names)):
        axes.annotate(name, (x, y), fontsize=4)
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=300)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Lay exported features out on a plane by t-SNE.")
    parser.add_argument("features", type=Path, metavar="FEATURES.npy", help="from featstore export; with its index.csv")
    parser.add_argument("--perplexity", type=float, default=10, help="about how many neighbours count (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--names", action="store_true", help="write each point's name into the scatter")
    args = parser.parse_args(argv)
    index = pd.read_csv(args.features.with_suffix(".index.csv"), dtype={"sample_key": str, "label": str})
    features = np.load(args.features)
    if len(index) != len(features):
        parser.error(f"the index has {len(index)} rows and the array {len(features)}: they aren't of one export")
    try:
        coordinates = embed(features, perplexity=args.perplexity, seed=args.seed)
    except ValueError as error:
        parser.error(str(error))
    target = args.features.with_suffix(".tsne.npy")
    np.save(target, coordinates)
    table = index[["sample_key", "label"]].assign(x=coordinates[:, 0], y=coordinates[:, 1])
    table.to_csv(target.with_suffix(".csv"), index=False)
    print(f"{target}: {len(coordinates)} points of {features[0].size:,} values each, and {target.stem}.csv.")
    if importlib.util.find_spec("matplotlib") is None:
        print("No scatter: matplotlib isn't installed.")
        return
    names = [Path(key).stem for key in index["sample_key"]] if args.names else []
    plot(coordinates, list(index["label"].fillna("none")), names, target.with_suffix(".png"))
    print(f"{target.with_suffix('.png')}: the scatter.")


if __name__ == "__main__":
    main()
