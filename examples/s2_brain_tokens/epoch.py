"""Time one epoch in random order, and the memory that it takes: of stored tokens, or of the backbone on the fly.

::

    python epoch.py stored --store STORE
    python epoch.py backbone --images IMAGES [--small] [--pretrained]

Prints JSON: samples, seconds an epoch, the largest memory of the process in MiB. What an epoch does with the maps, a
training step, is the same for both and left out. ``backbone`` uses timm alone, as one would without a store.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from models import SMALL, TRUE, Backbones
from PIL import Image
from tokens import TokenMaps, as_map

import featstore

#: Of stored tokens, so many epochs that the clock can tell.
ROUNDS = 20


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Time one epoch.")
    parser.add_argument("source", choices=("stored", "backbone"))
    parser.add_argument("--store")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--pretrained", action="store_true")
    args = parser.parse_args(argv)
    if args.source == "stored":
        samples: Any = TokenMaps(featstore.open(args.store), ["dinov2.query"])
        seconds = epoch(samples, ROUNDS, lambda batch: batch)
    else:
        samples = OnTheFly(args.images, SMALL if args.small else TRUE, args.pretrained)
        seconds = epoch(samples, 1, samples.maps)
    print(json.dumps({"samples": len(samples), "seconds": round(seconds, 5), "peak_mib": round(peak_mib())}))


class OnTheFly:
    """Images as the backbone takes them, (3, height, width), and the same maps as those stored, made of a batch."""

    def __init__(self, images: Path, backbones: Backbones, pretrained: bool) -> None:
        featstore.import_torchvision()
        import timm

        self._files = sorted(images.rglob("*.png"))
        size = backbones.image_size
        self._model = timm.create_model(backbones.dino, pretrained=pretrained, img_size=size).eval()
        config = timm.data.resolve_data_config(model=self._model) | {"input_size": (3, size, size)}
        self._transform = timm.data.create_transform(**config)
        self._projected: list[torch.Tensor] = []
        self._model.blocks[-1].attn.qkv.register_forward_hook(lambda *call: self._projected.append(call[-1]))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> torch.Tensor:
        with Image.open(self._files[number]) as image:
            found: torch.Tensor = self._transform(image.convert("RGB"))
        return found

    def maps(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            self._model.forward_features(batch)
            query = self._projected.pop().chunk(3, dim=-1)[0]
        return torch.stack([as_map(tokens) for tokens in query])


def epoch(samples: Any, rounds: int, maps: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Mean seconds of an epoch."""
    loader = torch.utils.data.DataLoader(samples, batch_size=4, shuffle=True)
    began = time.perf_counter()
    for _ in range(rounds):
        for batch in loader:
            maps(batch)
    return (time.perf_counter() - began) / rounds


def peak_mib() -> float:
    """The largest resident memory of this process. ``getrusage`` may tell that of whoever started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main()
