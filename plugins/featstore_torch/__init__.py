"""``torch:MODULE:FACTORY``: a network of your own.

``MODULE`` is a file (``torch:./nets.py:Net``) or an importable name (``torch:mypkg.nets:Net``; the working folder is
looked in as well, unless it lies in a store). ``FACTORY`` is a class or function there that gives an ``nn.Module``; its
arguments are given by ``--set arg.NAME=VALUE``, and its weights come from ``--checkpoint`` or from itself.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from featstore import Backbone, BackboneRequest, BackboneSpec, hookimpl

if TYPE_CHECKING:
    from featstore_torch.source import Factory

PREFIX = "torch:"

# Change it when this plugin's own code changes what is computed.
_REVISION = "1"


def _load(factory: Factory, request: BackboneRequest) -> Backbone:
    from featstore_torch.backbone import load

    return load(factory, request)


@hookimpl
def featstore_resolve_backbone(name: str) -> BackboneSpec | None:
    if not name.startswith(PREFIX):
        return None
    from featstore_torch.source import find_factory

    factory = find_factory(name.removeprefix(PREFIX))
    return BackboneSpec(
        f"{PREFIX}{factory.name}",
        load=partial(_load, factory),
        revision=f"{_REVISION}+{factory.digest}",
        description="a network of your own",
    )
