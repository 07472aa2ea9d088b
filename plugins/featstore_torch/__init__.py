"""``torch:MODULE:FACTORY``: a network of your own.

``MODULE`` is a file (``torch:./nets.py:Net``) or an importable name (``torch:mypkg.nets:Net``; the working folder is
looked in as well, unless it lies in a store). ``FACTORY`` is a class or function there that gives an ``nn.Module``; its
arguments are given by ``--set arg.NAME=VALUE``, and its weights come from ``--checkpoint`` or from itself.

What makes a new version: other code (of the module and of your own modules behind it), other arguments, weights or
buffers, those that no state dict holds among them. Files that the factory reads by itself, a table or a configuration,
are not looked at: where they change, give their content as arguments, or change the code.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from featstore import Backbone, BackboneRequest, BackboneSpec, UsageError, hookimpl

if TYPE_CHECKING:
    from featstore_torch.source import Factory

PREFIX = "torch:"

# Change it when this plugin's own code changes what is computed.
_REVISION = "1"


def _load(factory: Factory, request: BackboneRequest) -> Backbone:
    from featstore_torch.backbone import load

    return load(factory, request)


@hookimpl
def featstore_resolve_backbone(name: str, trusted: bool) -> BackboneSpec | None:
    if not name.startswith(PREFIX):
        return None
    if not trusted:
        raise UsageError(
            f"{name} names code to run, and a store's word isn't enough for that.",
            hint="featstore retry --trust-run, after reading what the run names: featstore show RUN",
        )
    from featstore_torch.source import find_factory

    factory = find_factory(name.removeprefix(PREFIX))
    return BackboneSpec(
        f"{PREFIX}{factory.name}",
        load=partial(_load, factory),
        revision=f"{_REVISION}+{factory.digest}",
        description="a network of your own",
    )
