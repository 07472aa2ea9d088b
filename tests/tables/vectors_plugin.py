"""A plugin for tests: a file of float32 numbers is its own vector, so a test knows every vector to the bit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from featstore import (
    Backbone,
    BackboneRequest,
    BackboneSpec,
    Fuser,
    FuserSpec,
    PoolerSpec,
    ReaderSpec,
    Source,
    Tokens,
    hookimpl,
)


class Identity(Backbone):
    """``numbers:<dim>``: the numbers themselves, one token an input; ``numbers:<tokens>x<dim>``: several."""

    def __init__(self, tokens: int, dim: int) -> None:
        self.shape = tokens, dim
        self.input_shape = (tokens * dim,)
        self.preprocessing = {"dim": dim}

    @staticmethod
    def transform(decoded: np.ndarray) -> np.ndarray:
        return decoded

    def forward(self, batch, layers):
        return {layer: Tokens(batch.reshape(-1, *self.shape)) for layer in layers}


class Twice(Fuser):
    """Learns the train rows' mean of the first part, and gives twice its distance from it."""

    def fit(self, blocks) -> None:
        first = np.concatenate([next(iter(parts.values())) for parts in blocks()])
        self.mean = np.nanmean(first, axis=0)

    def transform(self, parts) -> np.ndarray:
        return 2 * (next(iter(parts.values())) - self.mean)

    def estimators(self) -> dict[str, object]:
        return {"mean": self.mean}

    def restore(self, estimators) -> None:
        self.mean = estimators["mean"]


class Uneven(Fuser):
    """Gives one feature where it is asked for several rows, as a plugin with a mistake may."""

    def transform(self, parts) -> np.ndarray:
        first = next(iter(parts.values()))
        return first if len(first) == 1 else first[:, :1]


def _uneven(groups, *, prefix, grid) -> np.ndarray:
    return groups.mean(axis=1)[:, : 1 if groups.shape[1] > 1 else None]


def _read(source: Source) -> np.ndarray:
    return np.frombuffer(source.read_bytes(), "<f4")


def _load(request: BackboneRequest) -> Backbone:
    tokens, _, dim = request.rest.rpartition("x")
    return Identity(int(tokens or 1), int(dim))


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    return BackboneSpec(name, _load) if name.startswith("numbers:") else None


@hookimpl
def featstore_readers() -> Iterable[ReaderSpec]:
    yield ReaderSpec("numbers", (".f4", ".vec"), _read)


@hookimpl
def featstore_fusers() -> Iterable[FuserSpec]:
    yield FuserSpec("twice", Twice)
    yield FuserSpec("uneven", Uneven)


@hookimpl
def featstore_poolers() -> Iterable[PoolerSpec]:
    yield PoolerSpec("uneven", lambda: _uneven, accepts=frozenset({"groups"}))
