"""The example's own network: a tile of sea surface temperature → 512 numbers, and 128 of the head behind them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn


class Encoder(nn.Module):
    """(N, 1, height, width) → (N, dim); its module ``encoder`` gives (N, 512)."""

    def __init__(self, dim: int = 128) -> None:
        super().__init__()
        widths = (1, 32, 64, 128, 512)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(tiles))
