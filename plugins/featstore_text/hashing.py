"""``text:hashing``: words and word pairs, hashed, then projected at random. It needs neither weights nor a corpus.

Hashing: Weinberger et al. 2009, https://arxiv.org/abs/0902.2206. Projection: Johnson and Lindenstrauss 1984; distances
between texts are kept to about ``1 / sqrt(dim)``, whatever the number of words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featstore import BackboneRequest, InputError
from featstore_text.settings import read_number, read_settings
from featstore_text.words import WordBackbone, count, find_words

# Two terms of a text share one with a chance of 1 in 16,384: far below what the projection blurs.
_BUCKETS = 2**14


@dataclass(frozen=True)
class HashedWords:
    """One text → float32 (buckets,) of length 1: sublinear counts of its words and word pairs, signed hashes."""

    buckets: int = _BUCKETS

    def __call__(self, text: Any) -> npt.NDArray[np.float32]:
        """Raises InputError: no text, no words, or terms that cancel each other out."""
        from sklearn.feature_extraction import FeatureHasher

        words = find_words(text)
        terms = count(words + [f"{first} {second}" for first, second in pairwise(words)])
        hashed = FeatureHasher(self.buckets, dtype=np.float64).transform([terms]).toarray()[0]
        norm = math.sqrt(np.square(hashed).sum())  # not BLAS, whose threads cost far more than they give here
        if norm == 0:
            raise InputError("The few words of the text cancel each other out when they are hashed.")
        return (hashed / norm).astype(np.float32)  # type: ignore[no-any-return]


class _Projection(torch.nn.Module):
    """A fixed Gaussian matrix, (buckets, dim), of variance 1 / dim: it keeps lengths on average."""

    projection: torch.Tensor

    def __init__(self, buckets: int, dim: int, seed: int) -> None:
        super().__init__()
        matrix = np.random.default_rng(seed).standard_normal((buckets, dim), dtype=np.float32)
        self.register_buffer("projection", torch.from_numpy(matrix / np.float32(math.sqrt(dim))))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return batch @ self.projection


def load(request: BackboneRequest) -> WordBackbone:
    """Settings: ``dim`` (256), the length of the vectors. The projection depends on the seed alone.

    Raises:
        UsageError: a setting that there isn't, or that isn't a number.
    """
    settings = read_settings(request, ["dim"])
    dim = read_number(settings, "dim", 256)
    backbone = WordBackbone()
    backbone.transform = HashedWords()
    backbone.input_shape = (_BUCKETS,)
    backbone.preprocessing = {"input": "text", "terms": "words, word pairs", "buckets": _BUCKETS, "dim": dim}
    backbone.module = _Projection(_BUCKETS, dim, request.seed)
    return backbone
