"""``text:lsa``: latent semantic analysis, TF-IDF and truncated SVD (Deerwester et al. 1990).

It is *fitted*, to ``--set corpus=FILE``. What it is fitted to shapes every vector: a corpus with texts of patients that
you later test on leaks them into training, and nobody can see it in the vectors. So the corpus is never taken from the
samples by itself: it must hold texts of training patients alone, or texts from elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from featstore import BackboneRequest, InputError, UsageError
from featstore_text.corpus import digest, read_corpus
from featstore_text.settings import read_number, read_settings
from featstore_text.words import WORD, WordBackbone, count, find_words

# Of a large corpus, the most frequent words: the others hardly move the leading dimensions.
_MAX_WORDS = 2**15

_CORPUS = (
    "--set corpus=FILE, one document a line, or a folder of .txt files: of training patients only, or of texts from "
    "elsewhere; texts of patients that are tested later would leak into every vector"
)


@dataclass(frozen=True)
class KnownWords:
    """One text → float32 (words,): sublinear counts of the words that the corpus has.

    Attributes:
        vocabulary: word → its place.
    """

    vocabulary: Mapping[str, int]

    def __call__(self, text: Any) -> npt.NDArray[np.float32]:
        """Raises InputError: no text, no words, or none that the corpus has (its vector would be zero)."""
        words = find_words(text)
        known = count(word for word in words if word in self.vocabulary)
        if not known:
            raise InputError(
                f"None of the text's {len(set(words))} words is among those of the corpus: its vector would be zero.",
                hint="a corpus of such texts, or text:hashing, which needs none",
            )
        values = np.zeros(len(self.vocabulary), np.float32)
        values[[self.vocabulary[word] for word in known]] = list(known.values())
        return values


class _Lsa(torch.nn.Module):
    """Counts → TF-IDF of length 1 → the leading right singular vectors: (N, words) → (N, dim).

    The state dict, which is the weights' digest, holds neither: ARPACK rounds otherwise on another CPU, and the same
    corpus must not become another version there. What they are made of is recorded in the preprocessing.
    """

    idf: torch.Tensor
    components: torch.Tensor

    def __init__(self, idf: npt.NDArray[Any], components: npt.NDArray[Any]) -> None:
        super().__init__()
        self.register_buffer("idf", torch.from_numpy(idf.astype(np.float32)), persistent=False)
        leading = np.ascontiguousarray(components, np.float32)
        self.register_buffer("components", torch.from_numpy(leading), persistent=False)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(batch * self.idf, dim=-1) @ self.components.T


def load(request: BackboneRequest) -> WordBackbone:
    """Fit to the corpus. Settings: ``corpus`` (a file or folder, needed), ``dim`` (100), the length of the vectors.

    Raises:
        UsageError: no corpus, one that is too small for ``dim``, or a setting that there isn't.
        SetupError: the corpus can't be read.
    """
    settings = read_settings(request, ["corpus", "dim"])
    dim = read_number(settings, "dim", 100)
    if not settings.get("corpus"):
        raise UsageError(f"{request.name} is fitted to texts, and has none.", hint=_CORPUS)
    documents = read_corpus(Path(settings["corpus"]))
    vocabulary, module = _fit(documents, dim)
    backbone = WordBackbone()
    backbone.transform = KnownWords(vocabulary)
    backbone.input_shape = (len(vocabulary),)
    backbone.preprocessing = {
        "input": "text",
        "terms": "words",
        "dim": dim,
        "words": len(vocabulary),
        "documents": len(documents),
        "corpus": digest(documents),
    }
    backbone.module = module
    return backbone


def _fit(documents: list[str], dim: int) -> tuple[dict[str, int], _Lsa]:
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(token_pattern=WORD, sublinear_tf=True, max_features=_MAX_WORDS)
    try:
        weights = vectorizer.fit_transform(documents)
    except ValueError as error:  # scikit-learn's word for it is "empty vocabulary"
        raise UsageError("The corpus has no words.", hint=_CORPUS) from error
    if dim >= min(weights.shape):
        raise UsageError(
            f"The corpus has {weights.shape[0]} documents with {weights.shape[1]} different words, and more than "
            f"{dim} of each are needed for {dim} dimensions.",
            hint="more documents (one a line), or a smaller --set dim",
        )
    # ARPACK from a fixed start: the same corpus gives the same vectors; scikit-learn's default solver is randomized.
    svd = TruncatedSVD(dim, algorithm="arpack", random_state=0).fit(weights)
    rank = int((svd.singular_values_ > svd.singular_values_[0] * 1e-6).sum())
    if rank < dim:
        raise UsageError(
            f"The documents of the corpus differ in {rank} dimensions only, and {dim} were asked for: many are alike.",
            hint=f"more documents that differ, or --set dim={rank}",
        )
    return {str(word): int(place) for word, place in vectorizer.vocabulary_.items()}, _Lsa(
        vectorizer.idf_, svd.components_
    )
