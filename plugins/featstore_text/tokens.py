"""A text → the tokens that a transformer reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featstore import InputError

#: What is done with texts that are too long.
TRUNCATE = ("refuse", "cut")


@dataclass(frozen=True)
class TextTokens:
    """One text → float32 (2, max_length): token ids, and 1 where there is a token. Picklable.

    The length is always the same, so that a vector doesn't depend on who is in the batch. Ids are whole numbers far
    below 2^24, which float32 holds exactly.

    Attributes:
        tokenizer: of transformers, for this model.
        max_length: how many tokens are read, special ones included.
        truncate: ``refuse`` makes longer texts failed inputs; ``cut`` leaves their ends out.
        lower, prompt: see :class:`~featstore_text.sentence.Sentence`.
    """

    tokenizer: Any
    max_length: int
    truncate: str = "refuse"
    lower: bool = False
    prompt: str = ""

    @property
    def pad_id(self) -> int:
        """What stands where no token is; masked, so that any id would do."""
        return self.tokenizer.pad_token_id or 0

    def __call__(self, text: Any) -> npt.NDArray[np.float32]:
        """Tokenize one text.

        Raises:
            InputError: no text, no token that the model knows, or more tokens than are read.
        """
        if not isinstance(text, str):
            raise InputError(
                f"A text encoder needs a text, and the input is {type(text).__name__}.",
                hint="ingest .txt files for it; images need another backbone, such as timm:resnet18",
            )
        text = text.lower() if self.lower else text
        # Special tokens only, unknown words among them: the vector would say nothing of the text.
        if set(self._ids(text)) <= set(self.tokenizer.all_special_ids):
            raise InputError("The text is empty, or the model knows none of its words.")
        ids = self._ids(self.prompt + text)
        if len(ids) > self.max_length:
            if self.truncate == "refuse":
                raise InputError(
                    f"The text has {len(ids)} tokens, and {self.max_length} are read: the rest would be ignored.",
                    hint="--set max_length=N, if the model can read more, or --set truncate=cut leaves the rest out",
                )
            ids = self._ids(self.prompt + text, truncation=True, max_length=self.max_length)
        tokens = np.zeros((2, self.max_length), np.float32)
        tokens[0] = self.pad_id
        tokens[0, : len(ids)] = ids
        tokens[1, : len(ids)] = 1
        return tokens

    def _ids(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self.tokenizer(text, verbose=False, **options)["input_ids"]
        return ids
