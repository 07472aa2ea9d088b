"""Write handwritten digits as PNGs, a folder a class.

::

    python make_digits.py OUT [--count 300] [--seed 0]

    OUT/{label}/{number}.png     8 × 8 pixels, 8-bit grey

They are real: the test set of UCI's "Optical Recognition of Handwritten Digits", as they come inside
scikit-learn, where ``number`` is their place. ``--count`` of its 1,797 are drawn, as many of each class as of the
others. The same arguments give the same bytes (with the same Pillow).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

LARGEST = 174  # digits of the rarest class


def make_digits(out: Path, *, count: int = 300, seed: int = 0) -> int:
    """Write the digits below ``out``, which must be empty or not exist; returns how many.

    Raises:
        ValueError: for fewer than 10 digits, or more than there are.
        FileExistsError: when ``out`` holds anything.
    """
    if not 1 <= count // 10 <= LARGEST:
        raise ValueError(f"need 10 to {LARGEST * 10} digits, not {count}")
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty")
    digits = load_digits()
    rng = np.random.default_rng(seed)
    for label in range(10):
        (out / str(label)).mkdir(parents=True)
        for number in sorted(rng.permutation(np.flatnonzero(digits.target == label))[: count // 10]):
            pixels = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).save(out / str(label) / f"{number}.png")
    return count // 10 * 10


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write handwritten digits as PNGs, a folder a class.")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; must be empty or not exist")
    parser.add_argument("--count", type=int, default=300, help="how many, of all classes together (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice (default: 0)")
    args = parser.parse_args(argv)
    try:
        count = make_digits(args.out, count=args.count, seed=args.seed)
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    print(f"{args.out}: {count} digits, {count // 10} of each class.")


if __name__ == "__main__":
    main()
