"""A text → its words and their weights, for the backbones that count words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from featstore import Backbone, InputError, Tokens, UsageError

#: Runs of letters, digits and underscores: single ones too, because "T 1" and "grade 2" mean something.
WORD = r"(?u)\b\w+\b"
_FIND = re.compile(WORD).findall


def find_words(text: Any) -> list[str]:
    """The words of one text, in lower case, in their order.

    Raises:
        InputError: no text, or no word in it.
    """
    if not isinstance(text, str):
        raise InputError(
            f"A text backbone needs a text, and the input is {type(text).__name__}.",
            hint="ingest .txt files for it; images need another backbone, such as timm:resnet18",
        )
    words = _FIND(text.lower())
    if not words:
        raise InputError("The text has no words.")
    return words


def count(terms: Iterable[str]) -> dict[str, float]:
    """Sublinear term frequencies: 1 + log(how often), so that a word said ten times isn't ten times as important."""
    return {term: 1 + math.log(times) for term, times in Counter(terms).items()}


class WordBackbone(Backbone):
    """Counted words through one linear map. Layer ``last``: (N, 1, dim)."""

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        """Float32 (N, terms) → (N, 1, dim). Raises UsageError for a layer other than ``last``."""
        unknown = set(layers) - set(self.layers)
        if unknown:
            raise UsageError(f"No layer {', '.join(sorted(unknown))}; there is last.")
        assert self.module is not None
        return {"last": Tokens.of(self.module(batch), "NC")}
