"""``texture:stats``: first-order and co-occurrence statistics of grey images, for featstore."""

from __future__ import annotations

from collections.abc import Iterable

import featstore


def _load(request: featstore.BackboneRequest) -> featstore.Backbone:
    from texture_stats.backbone import TextureStats  # imports NumPy: not when the plugin is only listed

    return TextureStats(request)


@featstore.hookimpl
def featstore_backbones() -> Iterable[featstore.BackboneSpec]:
    yield featstore.BackboneSpec(
        "texture:stats",
        load=_load,
        revision="1",
        description="first-order and co-occurrence statistics of grey images",
    )
