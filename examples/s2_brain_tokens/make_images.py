"""Write the images that several subjects saw, as PNGs: one folder a subject, in it one a partition.

::

    python make_images.py OUT [--subjects 2] [--images 2] [--seed 0]

    OUT/subj01/train/0001.png …    425 × 425, RGB: photographs
    OUT/subj01/synt/0001.png …     the same size: changed photographs, in the place of generated images

The pixels are crops of photographs that come with scikit-image. No brain was measured. The same arguments give the
same bytes (with the same NumPy and Pillow).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageFilter, ImageOps

SIDE = 425
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "hubble_deep_field")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write images of several subjects.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--images", type=int, default=2, help="images a subject and partition (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(args.seed)
    photographs = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    for subject in range(1, args.subjects + 1):
        for partition in ("train", "synt"):
            folder = args.out / f"subj{subject:02}" / partition
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(1, args.images + 1):
                image = crop(photographs[rng.integers(len(photographs))], rng)
                image = change(image) if partition == "synt" else image
                image.save(folder / f"{number:04}.png")


def crop(photograph: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = int(rng.integers(180, min(photograph.size) + 1))
    left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
    return photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def change(image: Image.Image) -> Image.Image:
    return ImageOps.posterize(ImageOps.mirror(image).filter(ImageFilter.GaussianBlur(2)), 4)


if __name__ == "__main__":
    main()
