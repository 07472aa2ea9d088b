"""``ocean:dt``: one number a tile, the spread of its temperatures (T90 - T10 of the middle 32 × 32 pixels), in °C."""

import numpy as np

import featstore


def spread(tile):
    numbers = isinstance(tile, np.ndarray) and tile.dtype.kind in "iuf"
    if not numbers or tile.ndim != 2 or min(tile.shape) < 32 or not np.isfinite(tile).all():
        raise featstore.InputError("A tile is a map of temperatures without gaps, 32 × 32 pixels at least.")
    top, left = (side // 2 - 16 for side in tile.shape)
    low, high = np.percentile(tile[top : top + 32, left : left + 32], (10, 90))
    return np.array([high - low], np.float32)


class Spread(featstore.Backbone):
    transform, input_shape, preprocessing = staticmethod(spread), (1,), {"pixels": 32, "percentiles": [10, 90]}

    def forward(self, batch, layers):
        if set(layers) != {"last"}:
            raise featstore.UsageError("There is one layer: last.")
        return {"last": featstore.Tokens(batch[:, None, :])}


@featstore.hookimpl
def featstore_backbones():
    yield featstore.BackboneSpec("ocean:dt", load=lambda request: Spread())
