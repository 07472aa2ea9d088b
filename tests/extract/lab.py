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


def first() -> Any:
    """The first token, negated in the second revision."""
    sign = -1 if os.environ.get("LAB_POOLER_REVISION") == "2" else 1
    return lambda values, *, prefix, grid: sign * values[:, 0]


@featstore.hookimpl
def featstore_backbones() -> Any:
    revision = os.environ.get("LAB_REVISION", "1")
    yield BackboneSpec("lab:stats", load=Stats, revision=revision)
    yield BackboneSpec("lab:cramped", load=Cramped)


@featstore.hookimpl
def featstore_poolers() -> Any:
    yield PoolerSpec("fickle", load=fickle)
    yield PoolerSpec("first", load=first, revision=os.environ.get("LAB_POOLER_REVISION", "1"))


@featstore.hookimpl
def featstore_readers() -> Any:
    yield ReaderSpec("lab", (".lab",), read, revision=os.environ.get("LAB_READER_REVISION", "1"))
    yield ReaderSpec("unhashed", (".unhashed",), read_unhashed)
