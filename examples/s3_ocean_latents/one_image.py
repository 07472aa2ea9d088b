"""One tile in memory: its latents, its temperature spread, its place on the map of all tiles, and its nearest ones.

::

    python one_image.py tile.npy --options options.json --store ocean_store --checkpoint encoder.pth

The map is the training table ``map``: two principal components, fitted on the tiles of ``train`` alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from dt import spread
from options import Options

import featstore

Vector = npt.NDArray[np.float32]


class OneImage:
    """The network, loaded once, for tiles that are in no file and in no store."""

    def __init__(self, store: featstore.Store, options: Options, checkpoint: Path) -> None:
        request = featstore.BackboneRequest(
            options.backbone, checkpoint=checkpoint, in_chans=1, settings=options.settings
        )
        self.layer = options.layer
        self.backbone = store.plugins.backbone(options.backbone).load(request)
        self.pool = store.plugins.pooler("mean", "tokens")

    def latents(self, tile: Vector) -> Vector:
        """(64, 64), °C → (128,) or (512,): what ``featstore extract`` would store."""
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(self.backbone.transform(tile))[None]
            tokens = self.backbone.forward(batch, [self.layer])[self.layer]
            return np.asarray(self.pool(tokens.values, prefix=tokens.prefix, grid=tokens.grid)[0])


def nearest(store: featstore.Store, latents: Vector, count: int = 5) -> pa.Table:
    """The most similar tiles, with the facts that stand beside them."""
    values = ", ".join(f"{value:.9g}" for value in latents)
    return store.sql(
        f"select sample_key as tile, array_cosine_similarity(l.vector, [{values}]::FLOAT[{len(latents)}]) as likeness, "
        "d.vector[1] as dt, s.attributes['lat']::double as lat, s.attributes['mean_temperature']::double as mean "
        "from vectors.latents l join vectors.dt d using (sample_key) join samples s using (sample_key) "
        f"order by likeness desc, tile limit {count}"
    )


def place(store: featstore.Store, latents: Vector) -> Vector:
    """(2,): where the tile lies on the map."""
    pca = store.table("map").fitted()["steps"]["pca"]
    return np.asarray(pca.transform(latents[None].astype(np.float64))[0])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Latents of one tile, and what is like it.")
    parser.add_argument("tile", type=Path, help=".npy of (64, 64), °C")
    parser.add_argument("--options", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    args = parser.parse_args(argv)
    store, tile = featstore.open(args.store), np.load(args.tile)
    latents = OneImage(store, Options.read(args.options), args.checkpoint).latents(tile)
    x, y = place(store, latents)
    print(f"{len(latents)} latents: {np.array2string(latents[:4], precision=3)[1:-1]} …")
    print(f"DT {spread(tile)[0]:.2f} °C, mean {tile.mean():.2f} °C, on the map at ({x:.3f}, {y:.3f})")
    for row in nearest(store, latents).to_pylist():
        print("  {tile:<36} likeness {likeness:.5f}  DT {dt:.2f} °C  mean {mean:5.2f} °C  lat {lat:6.1f}".format(**row))


if __name__ == "__main__":
    main()
