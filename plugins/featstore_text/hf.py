"""``hf_text:NAME``: the text encoders of transformers (https://huggingface.co/docs/transformers)."""

from __future__ import annotations

from featstore import Backbone, BackboneRequest, BackboneSpec, NotFoundError, hookimpl

PREFIX = "hf_text:"


def _load(request: BackboneRequest) -> Backbone:
    from featstore_text.transformer import load

    return load(request)


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    if not name.startswith(PREFIX):
        return None
    if not name.removeprefix(PREFIX):
        raise NotFoundError(
            f"{name!r} names no model.",
            hint="hf_text:sentence-transformers/all-MiniLM-L6-v2, a folder, or any name with --checkpoint FOLDER",
        )
    return BackboneSpec(name, load=_load, description="a text encoder of transformers")
