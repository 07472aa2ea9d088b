"""The encoder: a backbone and the poolers asked for, which together make the vectors of some feature sets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from featstore.errors import ConflictError, UsageError
from featstore.extract import network as net
from featstore.extract.network import Network, Way
from featstore.extract.plan import Frozen, PlannedSet
from featstore.extract.request import ExtractRequest, Target, targets, with_defaults
from featstore.keys import parse_call
from featstore.plugins import Plugins
from featstore.spec import Backbone, BackboneRequest, BackboneSpec, PoolFunction

#: What a backbone must have looked at, where the user gave it.
_FLAGS = {
    "checkpoint": "--checkpoint", "in_chans": "--in-chans", "settings": "--set", "drop_last": "--drop-last",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Encoder:
    """A backbone with everything that names its outputs; put on a device only when there is something to do.

    Attributes:
        poolers: by their texts.
        targets: the feature sets that it makes.
        device: where it is to run.
    """

    spec: BackboneSpec
    backbone: Backbone
    poolers: dict[str, PoolFunction]
    targets: list[Target]
    device: str

    @classmethod
    def load(
        cls, plugins: Plugins, request: ExtractRequest, only: Collection[str] | None = None, *, trusted: bool = True
    ) -> Self:
        """Load what a request names.

        Args:
            only: the feature sets that are wanted of those that the request names; all if None.
            trusted: the user typed the request, or trusts whoever did; else no code that it names is run.

        Raises:
            NotFoundError: no such plugin. SetupError: no weights, or no such device. UsageError: no such layer or
            facet, or an option that the backbone doesn't take. ConflictError: regions of what has none.
        """
        # Poolers are cheap, so wrong names fail first.
        poolers = {text: plugins.pooler(text, "tokens", "regions") for text in request.poolers}
        spec = plugins.backbone(request.backbone, trusted=trusted)
        device = net.choose_device(request.device)
        backbone = load_backbone(spec, request.for_backbone())
        specs = {text: plugins.spec("pooler", parse_call(text)[0]) for text in request.poolers}
        known = {
            text: (
                with_defaults(text, pooler.load),
                plugins.revision("pooler", pooler.name, pooler),
                "regions" in pooler.accepts,
            )
            for text, pooler in specs.items()
        }
        # A first revision is left unsaid: to install a plugin with one more reader makes no new versions.
        readers = {r.name: r.spec.revision for r in plugins.registered("reader") if r.spec.revision != "1"}
        spec = replace(spec, revision=plugins.revision("backbone", request.backbone, spec))
        wanted = targets(request, spec, backbone, net.weights_digest(backbone.module), known, readers)
        encoder = cls(spec, backbone, poolers, [t for t in wanted if only is None or t.name in only], device)
        if any(target.regions for target in encoder.targets) and not hasattr(backbone.transform, "mask"):
            raise ConflictError(
                f"{spec.name} can't pool inside masks: its transform has no method that does to a mask what it does "
                "to the image."
            )
        return encoder

    @property
    def makes(self) -> set[tuple[str, str]]:
        """Name and fingerprint of every feature set that it makes."""
        return {(target.name, target.fingerprint) for target in self.targets}

    def frozen(self, request: ExtractRequest) -> Frozen:
        """The settings that a new run of it freezes."""
        import torch

        return Frozen(
            request.batch_size, request.chunk_rows or 0, request.threads or torch.get_num_threads(),
            self.device == "cpu", request.amp, self.device.partition(":")[0], net.capability(),
        )  # fmt: skip

    def network(self, frozen: Frozen) -> Network:
        """The network on the device, set up as a run froze it."""
        return Network.place(self.backbone, self.device, frozen.amp, frozen.threads, frozen.channels_last)

    def way(self, target: Target | PlannedSet) -> Way:
        """How a feature set's vectors come out of the network."""
        layer = target.layer if target.facet is None else f"{target.layer}.{target.facet}"
        return Way(layer, self.poolers[target.pooler], target.regions)

    def shapes(self, frozen: Frozen, names: Collection[str]) -> dict[str, tuple[int, ...]]:
        """The shape of one row of the named feature sets.

        Raises:
            ConflictError: a pooler can't work on this backbone's tokens.
        """
        wanted = [target for target in self.targets if target.name in names]
        if not wanted:
            return {}
        shapes = self.network(frozen).shapes([self.way(target) for target in wanted])
        return {target.name: shape for target, shape in zip(wanted, shapes, strict=True)}


class _Watched(BackboneRequest):
    """A request that knows which of its fields were looked at."""

    seen: set[str]

    def __getattribute__(self, name: str) -> Any:
        if name in _FLAGS or name == "pretrained":
            # A copy that the backbone makes, for another backbone, has none: copying has looked at everything.
            object.__getattribute__(self, "__dict__").get("seen", set()).add(name)
        return object.__getattribute__(self, name)


def load_backbone(spec: BackboneSpec, request: BackboneRequest) -> Backbone:
    """Load a backbone, and see to it that nothing that the user gave was ignored.

    Raises:
        UsageError: the backbone never looked at an option that was given; and whatever its ``load`` raises.
    """
    watched = _Watched(*(getattr(request, field.name) for field in fields(BackboneRequest)))
    object.__setattr__(watched, "seen", set())
    backbone = spec.load(watched)
    ignored = [flag for name, flag in _FLAGS.items() if getattr(request, name) and name not in watched.seen]
    if request.pretrained and "pretrained" not in watched.seen:
        ignored.append("--pretrained")
    if ignored:
        raise UsageError(f"{spec.name} takes no {' and no '.join(ignored)}.", hint="leave it out")
    return backbone
