"""Stored tokens, one sample at a time: what a brain encoder's training loop reads."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import featstore


class TokenMaps:
    """A map-style data set, as torch's DataLoader takes it: sample number → float32 (channels, height, width).

    Args:
        names: feature sets of tokens; the maps of several stand above each other, the first one's grid is everybody's.
        where: a condition on the view ``samples``: ``attributes['partition'] = 'train' and patient_id = 'subj01'``.
    """

    def __init__(self, store: featstore.Store, names: Sequence[str], where: str = "true") -> None:
        query = f"select sample_key from samples where {where} order by sample_key"
        self.keys: list[str] = store.sql(query).column("sample_key").to_pylist()
        self._sets = [Places(store.features(name), self.keys) for name in names]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> torch.Tensor:
        return stacked([as_map(torch.from_numpy(places.read(number)).float()) for places in self._sets])


class Places:
    """Where the tokens of some samples lie in a feature set; reads one at a time. It can be sent to other processes."""

    def __init__(self, view: Any, keys: Sequence[str]) -> None:
        rows = {key: number for number, key in enumerate(view.rows.column("sample_key").to_pylist())}
        missing = [key for key in keys if key not in rows]
        if missing:
            raise KeyError(f"{len(missing)} samples have no {view.name}, such as {missing[0]}")
        chosen = view.rows.take([rows[key] for key in keys])
        self._segments, self._rows = (chosen.column(name).to_numpy() for name in ("segment", "row"))
        self._reader = view.reader(chosen)

    def read(self, number: int) -> npt.NDArray[np.float16]:
        """(tokens, channels), as stored."""
        part = slice(number, number + 1)
        return self._reader.gather(self._segments[part], self._rows[part])[0]


def as_map(tokens: torch.Tensor) -> torch.Tensor:
    """(1 + side², channels) → (channels, side, side): CLS goes, the other tokens are the image's patches by row."""
    positions, channels = len(tokens) - 1, tokens.shape[1]
    side = isqrt(positions)
    if side * side != positions:
        raise ValueError(f"{positions} patches are no square")
    return tokens[1:].T.reshape(channels, side, side)


def stacked(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Maps of one image, channels above each other: (768, 31, 31) and (768, 16, 16) → (1536, 31, 31).

    The grids differ, and cover the same square image: the others are resampled to the first one's, bilinearly.
    """
    first, *others = maps
    resized = [
        torch.nn.functional.interpolate(other[None], first.shape[1:], mode="bilinear", align_corners=False)[0]
        for other in others
    ]
    return torch.cat([first, *resized])
