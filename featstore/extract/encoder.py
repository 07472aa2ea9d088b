"""The encoder: a backbone and the poolers asked for, which together make the vectors of some feature sets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from featstore.extract import network as net
from featstore.extract.network import Network
from featstore.extract.plan import Frozen
from featstore.extract.request import ExtractRequest, Target, targets, with_defaults
from featstore.keys import parse_call
from featstore.plugins import Plugins
from featstore.spec import Backbone, BackboneSpec, PoolFunction


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
    def load(cls, plugins: Plugins, request: ExtractRequest) -> Self:
        """Load what a request names.

        Raises:
            NotFoundError: no such plugin. SetupError: no weights, or no such device.
        """
        poolers = {text: plugins.pooler(text, "tokens") for text in request.poolers}  # cheap, so wrong names fail first
        spec = plugins.backbone(request.backbone)
        device = net.choose_device(request.device)
        backbone = spec.load(request.for_backbone())
        loads = {r.name: r.spec.load for r in plugins.registered("pooler")}
        spelled = {text: with_defaults(text, loads[parse_call(text)[0]]) for text in request.poolers}
        known = {text: (spelled[text], plugins.pooler_revision(text)) for text in request.poolers}
        # A first revision is left unsaid: to install a plugin with one more reader makes no new versions.
        readers = {r.name: r.spec.revision for r in plugins.registered("reader") if r.spec.revision != "1"}
        wanted = targets(request, spec, backbone, net.weights_digest(backbone.module), known, readers)
        return cls(spec, backbone, poolers, wanted, device)

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

    def shapes(self, frozen: Frozen, names: Collection[str]) -> dict[str, tuple[int, ...]]:
        """The shape of one row of the named feature sets.

        Raises:
            ConflictError: a pooler can't work on this backbone's tokens.
        """
        wanted = [target for target in self.targets if target.name in names]
        if not wanted:
            return {}
        functions = [self.poolers[target.pooler] for target in wanted]
        shapes = self.network(frozen).shapes(wanted[0].layer, functions)
        return {target.name: shape for target, shape in zip(wanted, shapes, strict=True)}
