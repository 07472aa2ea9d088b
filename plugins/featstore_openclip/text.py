"""The text tower of an open_clip model as a backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featstore import Backbone, BackboneRequest, InputError, SetupError, Tokens, UsageError
from featstore.errors import did_you_mean
from featstore.spec import Json
from featstore_openclip.library import import_open_clip, quiet

_TRUNCATE = ("refuse", "cut")
_SETTINGS = ("input", "truncate")


@dataclass(frozen=True)
class TextIds:
    """One text → its token ids, float32 (context_length,), padded by the tokenizer. Picklable.

    Ids are whole numbers, and far below 2^24: float32 holds them exactly.

    Attributes:
        tokenizer: open_clip's, for this model.
        context_length: how many tokens the model reads, marks of beginning and end included.
        truncate: what is done with longer texts. ``refuse``: they are failed inputs; ``cut``: the rest is left out, as
            open_clip itself does without a word.
    """

    tokenizer: Any
    context_length: int
    truncate: str = "refuse"

    def __call__(self, text: Any) -> npt.NDArray[np.float32]:
        """Tokenize one text.

        Raises:
            InputError: no text, nothing left of it by the tokenizer's cleaning, or more tokens than the model reads.
        """
        if not isinstance(text, str):
            raise InputError(
                f"The model was loaded for texts, and the input is {type(text).__name__}.",
                hint="without --set input=text it takes images",
            )
        ids = self._ids(text)
        if not text.strip() or np.array_equal(ids, self._ids("")):
            raise InputError("The text is empty, or nothing is left of it after the tokenizer's cleaning.")
        count = self._count(text)
        if count > self.context_length and self.truncate == "refuse":
            raise InputError(
                f"The text has {count} tokens, and the model reads {self.context_length}: the rest would be ignored.",
                hint="shorten the text, or --set truncate=cut leaves the rest out",
            )
        return ids

    def _ids(self, text: str) -> npt.NDArray[np.float32]:
        ids: npt.NDArray[np.float32] = self.tokenizer([text], context_length=self.context_length)[0].numpy()
        return ids.astype(np.float32)

    def _count(self, text: str) -> int:
        """How many tokens the text has, with the marks of beginning and end, were none cut."""
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:
            return len(self.tokenizer.encode(text)) + 2
        return len(inner(self.tokenizer.clean_fn(text), verbose=False).input_ids)


class TextTower(Backbone):
    """The text tower, in evaluation mode. Layer ``text``: what ``encode_text`` gives, not normalized, (N, 1, D)."""

    layers = ("text",)

    def __init__(self, model: Any, transform: TextIds, recorded: Mapping[str, Json]) -> None:
        for other in ("visual", "text_decoder"):
            if hasattr(model, other):
                delattr(model, other)
        self.module = model
        self.transform = transform
        self.input_shape = (transform.context_length,)
        self.preprocessing = recorded

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        """Float32 ids (N, context_length) → (N, 1, D). Raises UsageError for a layer other than ``text``."""
        unknown = set(layers) - set(self.layers)
        if unknown:
            raise UsageError(f"No layer {', '.join(sorted(unknown))}; a text tower has text.")
        model: Any = self.module
        return {"text": Tokens.of(model.encode_text(batch.long(), normalize=False), "NC")}


def text_transform(
    request: BackboneRequest, architecture: str, settings: Mapping[str, str]
) -> tuple[TextIds, dict[str, Json]]:
    """The model's own tokenizer as a transform, and what is to be recorded of it.

    Raises:
        UsageError: a setting that there isn't.
        SetupError: the tokenizer's files or its library aren't here.
    """
    for key in settings:
        if key not in _SETTINGS:
            raise UsageError(
                f"{key!r} isn't a setting of a text tower.{did_you_mean(key, _SETTINGS)} "
                f"The settings are {', '.join(_SETTINGS)}."
            )
    truncate = settings.get("truncate", "refuse")
    if truncate not in _TRUNCATE:
        raise UsageError(f"truncate={truncate} isn't one of {', '.join(_TRUNCATE)}.{did_you_mean(truncate, _TRUNCATE)}")
    tokenizer = _tokenizer(request.name, architecture)
    inner = getattr(tokenizer, "tokenizer", None)
    vocabulary = tokenizer.encoder if inner is None else inner.get_vocab()
    facts: dict[str, Json] = {
        "tokenizer": type(tokenizer).__name__ if inner is None else type(inner).__name__,
        "vocabulary": hashlib.sha256(json.dumps(vocabulary, sort_keys=True).encode()).hexdigest(),
        "context_length": tokenizer.context_length,
        "truncate": truncate,
    }
    return TextIds(tokenizer, tokenizer.context_length, truncate), facts


def _tokenizer(name: str, architecture: str) -> Any:
    try:
        with quiet():
            return import_open_clip().get_tokenizer(architecture)
    except ImportError as error:
        raise SetupError(
            f"The tokenizer of {name} needs {error.name}.", hint="pip install 'featstore[text]'"
        ) from error
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise SetupError(
            f"The tokenizer of {name} isn't in the local cache, and can't be fetched: {first}",
            hint="a machine with internet fills the cache ($HF_HOME) that this one can use",
        ) from error
