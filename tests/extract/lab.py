"""A plugin for tests: a tiny reader and backbones whose work can be counted, slowed down and made to fail.

A ``.lab`` file is 64 bytes, an 8 × 8 image. Its first two bytes number the input, and the third says what goes wrong.
What the fingerprint mustn't know comes by environment variables: ``LAB_LOG`` names a file that gets a line for each
forward pass, with the numbers of its inputs; ``LAB_SLEEP`` is seconds a forward pass. ``LAB_REVISION``,
``LAB_POOLER_REVISION`` and ``LAB_READER_REVISION`` are the backbone's, a pooler's and the reader's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

import featstore
from featstore import (
    Backbone,
    BackboneRequest,
    BackboneSpec,
    InputError,
    PoolerSpec,
    ReaderSpec,
    SetupError,
    Source,
    Tokens,
)

NAN, OVERFLOW, HALF_NAN, BAD_TRANSFORM, BAD_SHAPE, FAULT = 255, 254, 253, 252, 251, 250


def read(source: Source) -> np.ndarray:
    data = source.read_bytes()
    if len(data) != 64:
        raise InputError(f"{len(data)} bytes are no image of 64")
    return np.frombuffer(data, np.uint8).reshape(8, 8)


def read_unhashed(source: Source) -> np.ndarray:
    return np.zeros((8, 8), np.uint8)


def transform(pixels: np.ndarray) -> np.ndarray:
    if pixels[0, 2] == BAD_TRANSFORM:
        raise ValueError("these pixels can't be transformed")
    if pixels[0, 2] == FAULT:
        raise SetupError("The lab is closed.", hint="come back tomorrow")
    if pixels[0, 2] == BAD_SHAPE:
        return np.zeros((3, 3), np.float32)
    return pixels.astype(np.float32)


class Stats(Backbone):
    """Four tokens of 16 pixels each; no network."""

    transform = staticmethod(transform)
    input_shape = (8, 8)
    layers = ("last",)

    def __init__(self, request: BackboneRequest) -> None:
        self.scale = float(request.settings.get("scale", "1"))
        self.preprocessing = {"scale": self.scale}

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        numbers = [int(image[0, 0]) * 256 + int(image[0, 1]) for image in batch]
        if log := os.environ.get("LAB_LOG"):
            with open(log, "a") as file:
                file.write(" ".join(map(str, numbers)) + "\n")
        time.sleep(float(os.environ.get("LAB_SLEEP", "0")))
        values = batch.reshape(len(batch), 4, 16) * self.scale
        for row, mark in enumerate(batch[:, 0, 2].tolist()):
            if mark == NAN:
                values[row] = torch.nan
            elif mark == OVERFLOW:
                values[row] *= 1e4
            elif mark == HALF_NAN:
                values[row, 1] = -torch.inf  # the mean is infinite, the maximum isn't
        return {"last": Tokens(values, 0, (2, 2))}


class Pixels:
    """An 8 × 8 image as it is, and its mask."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        return transform(pixels)

    def mask(self, mask: np.ndarray, *, size: tuple[int, int], labels: tuple[int, ...] | None) -> np.ndarray:
        if not (marked := np.isin(mask, labels) if labels else mask > 0).any():
            raise InputError("nothing is marked")
        return marked.astype(np.float32)


class Blocks(Stats):
    """Two blocks, and the sum of both: 16 tokens of 4 pixels each."""

    transform = Pixels()  # type: ignore[assignment]
    layers = ("0", "1", "last")
    facets = ("query", "key")

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        values = super().forward(batch, ["last"])["last"].values.reshape(len(batch), 4, 2, 4, 2).transpose(2, 3)
        found = {"0": values.reshape(len(batch), 16, 4)}
        found["1"] = found["0"] ** 2
        found["last"] = found["0"] + found["1"]
        found |= {
            f"{layer}.{facet}": found[layer] + 100 * (n + 1) for n, facet in enumerate(self.facets) for layer in "01"
        }
        return {layer: Tokens(found[layer], 0, (4, 4)) for layer in layers}


class Deaf(Stats):
    """Looks at nothing that it is told."""

    def __init__(self, request: BackboneRequest) -> None:
        self.scale = 1.0


class Cramped(Stats):
    """Runs out of memory for more than two inputs."""

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        if len(batch) > int(os.environ.get("LAB_FITS", "2")):
            raise torch.OutOfMemoryError("not enough")
        return super().forward(batch, layers)


def fickle() -> Any:
    """A pooler whose width depends on the values."""

    def pool(values: Any, *, prefix: int, grid: Any) -> Any:
        return values[:, 0, : 1 if float(values.max()) > 0 else 2]

    return pool


def leading() -> Any:
    """The first token, negated in the second revision."""
    sign = -1 if os.environ.get("LAB_POOLER_REVISION") == "2" else 1
    return lambda values, *, prefix, grid: sign * values[:, 0]


def inside() -> Any:
    """The mean inside the mask."""

    def pool(values: Any, *, prefix: int, grid: Any, weights: Any) -> Any:
        return (values * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)

    return pool


@featstore.hookimpl
def featstore_backbones() -> Any:
    revision = os.environ.get("LAB_REVISION", "1")
    yield BackboneSpec("lab:stats", load=Stats, revision=revision)
    yield BackboneSpec("lab:cramped", load=Cramped)
    yield BackboneSpec("lab:blocks", load=Blocks)
    yield BackboneSpec("lab:deaf", load=Deaf)


@featstore.hookimpl
def featstore_poolers() -> Any:
    yield PoolerSpec("fickle", load=fickle)
    yield PoolerSpec("inside", load=inside, accepts=frozenset({"regions"}))
    yield PoolerSpec("leading", load=leading, revision=os.environ.get("LAB_POOLER_REVISION", "1"))


@featstore.hookimpl
def featstore_readers() -> Any:
    yield ReaderSpec("lab", (".lab",), read, revision=os.environ.get("LAB_READER_REVISION", "1"))
    yield ReaderSpec("unhashed", (".unhashed",), read_unhashed)
