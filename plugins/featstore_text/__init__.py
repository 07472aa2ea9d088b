"""Texts without a network: ``text:hashing`` (no weights needed), ``text:lsa`` (fitted to a corpus)."""

from __future__ import annotations

from collections.abc import Iterable

from featstore import Backbone, BackboneRequest, BackboneSpec, hookimpl


def _load_hashing(request: BackboneRequest) -> Backbone:
    from featstore_text.hashing import load

    return load(request)


def _load_lsa(request: BackboneRequest) -> Backbone:
    from featstore_text.lsa import load

    return load(request)


@hookimpl
def featstore_backbones() -> Iterable[BackboneSpec]:
    yield BackboneSpec(
        "text:hashing", load=_load_hashing, description="hashed words and word pairs, projected at random: no weights"
    )
    yield BackboneSpec("text:lsa", load=_load_lsa, description="TF-IDF and truncated SVD, fitted to --set corpus=FILE")
