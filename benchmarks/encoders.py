"""What several layers and poolers of one pass cost, against one pass each, and against a plain loop over timm.

python benchmarks/encoders.py --images 256
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import featstore

BACKBONE, LAYERS, POOLERS = "timm:resnet18", ("0", "1", "2", "last"), ("mean", "meanstd", "max")


class Files(Dataset):
    def __init__(self, paths: list[Path], transform: Callable) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain(paths: list[Path], out: Path) -> None:
    """What most people's script is: a loader, a forward pass, a mean, one .npy."""
    featstore.import_torchvision()
    import timm

    model = timm.create_model("resnet18", pretrained=False, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
    with torch.inference_mode():
        vectors = [
            model.forward_features(batch).mean((2, 3)).numpy()
            for batch in DataLoader(Files(paths, transform), batch_size=32, num_workers=2)
        ]
    np.save(out, np.concatenate(vectors))


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory(prefix="featstore-encoders-") as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        paths = [folder / "data" / f"{number:04}" / "A" / "1.png" for number in range(images)]
        for path in paths:
            path.parent.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 256, (256, 256, 3), np.uint8)).save(path)
        store = featstore.init(folder / "store")
        store.ingest(folder / "data", layouts=["{patient_id}/{modality}/*.png"])

        def extract(name: str, layers: tuple[str, ...], poolers: tuple[str, ...]) -> None:
            store.extract(
                name=name,
                backbone=BACKBONE,
                pretrained=False,
                layers=layers,
                poolers=poolers,
                num_workers=2,
                device="cpu",
            )

        floor = timed(lambda: plain(paths, folder / "plain.npy"))  # the first of a kind pays for imports
        floor = timed(lambda: plain(paths, folder / "plain.npy"))
        one = timed(lambda: extract("one", ("last",), ("mean",)))
        one = min(one, timed(lambda: extract("again", ("last",), ("mean",))))
        together = timed(lambda: extract("all", LAYERS, POOLERS))
        count = len(LAYERS) * len(POOLERS)
        print(f"{images} images, {BACKBONE}, {torch.get_num_threads()} threads; a plain loop over timm: {floor:.1f} s")
        print(f"one output            {one:6.1f} s   {one / floor:.2f}x the floor")
        print(
            f"{count} outputs, one pass  {together:6.1f} s   {together / floor:.2f}x, {together / one:.2f}x one output"
        )


if __name__ == "__main__":
    main()
