"""A timm model's layers and facets: found by running it once, then given in one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from featstore import Backbone, BackboneRequest, ImageTransform, Tokens, UsageError, capture
from featstore_timm.facets import Projection, find_projections, why_not
from featstore_timm.layout import Layout, find_layout, find_layouts
from featstore_timm.stages import find_stages


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a layer or facet comes from: a module's output, how it is read, and the part of it that is meant."""

    module: str
    layout: Layout
    projection: Projection | None = None
    facet: str = ""

    def tokens(self, output: torch.Tensor) -> Tokens:
        """The module's output → tokens."""
        return self.layout.tokens(self.projection.part(output, self.facet) if self.projection else output)


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What a network was found to give.

    Attributes:
        last: the layout of ``forward_features``.
        origins: the other layers and facets, by name.
        has_head: whether its head can be stopped before the classifier.
        no_facets: why it has none, or an empty text.
    """

    last: Layout
    origins: dict[str, Origin]
    has_head: bool
    no_facets: str


class TimmBackbone(Backbone):
    """One timm model, in evaluation mode.

    The layer ``last`` is what ``forward_features`` gives: what timm's own head sees, after the final norm where that
    comes before pooling. ``head`` is the one vector that the classifier itself sees, after pooling and every norm.
    ``0``, ``1``, … are the outputs of the blocks or stages as they are, before any final norm; ``3.query`` is a facet.
    """

    def __init__(self, name: str, module: Any, transform: ImageTransform, anatomy: Anatomy) -> None:
        self.module = module
        self.transform = transform
        self.input_shape = (transform.channels, *transform.image_size)
        self.preprocessing = transform.settings
        stages = [layer for layer, origin in anatomy.origins.items() if not origin.facet]
        self.layers = (*stages, *(["head"] if anatomy.has_head else []), "last")
        self.facets = tuple(dict.fromkeys(origin.facet for origin in anatomy.origins.values() if origin.facet))
        self._name = name
        self._anatomy = anatomy

    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        anatomy = self._anatomy
        origins = {layer: anatomy.origins[layer] for layer in layers if layer in anatomy.origins}
        if unknown := [layer for layer in layers if layer not in origins and layer not in self.layers]:
            raise self._unknown(unknown)
        module: Any = self.module
        with capture(module, {origin.module: origin.module for origin in origins.values()}) as outputs:
            features = module.forward_features(batch)
        tokens = {layer: origin.tokens(outputs[origin.module]) for layer, origin in origins.items()}
        if "last" in layers:
            tokens["last"] = anatomy.last.tokens(features)
        if "head" in layers:
            tokens["head"] = Tokens.of(_pre_logits(module, features), "NC")
        return tokens

    def _unknown(self, unknown: Sequence[str]) -> UsageError:
        facets = (
            f"facets of blocks are {', '.join(self.facets)}, as in {next(reversed(self._anatomy.origins))}"
            if self.facets
            else f"facets there are none, because {self._anatomy.no_facets}"
        )
        return UsageError(
            f"{self._name}: No layer {', '.join(unknown)}; there is {', '.join(self.layers)}, and {facets}."
        )


def probe(module: Any, transform: ImageTransform, request: BackboneRequest) -> TimmBackbone:
    """One blank image through the network: what it gives is understood, or refused, before any work.

    Raises:
        SetupError: what ``forward_features`` gives isn't understood. UsageError: it can't take such images.
    """
    blank = torch.zeros(1, transform.channels, *transform.image_size)
    stages = find_stages(module)
    blocks = [module.get_submodule(stage) for stage in stages.values()]
    projections = find_projections(blocks)
    with torch.inference_mode():
        try:
            inner = [f"{stage}.{projection.module}" for stage in stages.values() for projection in projections]
            outputs, projected, features = _run(module, blank, list(stages.values()), inner)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UsageError(
                f"{request.name} can't take {transform.channels} channels of {transform.image_size}: {error}"
            ) from error
        layout = find_layout(module, features, transform.image_size, request.name)
        layouts = find_layouts(module, outputs, features, layout)
        tokens = {stage: outputs[stage] for stage in layouts if layouts[stage].format == "NLC"}
        no_facets = why_not(blocks, projections, tokens, projected)
        has_head = _has_head(module, features)
    origins = {number: Origin(stage, layouts[stage]) for number, stage in stages.items() if stage in layouts}
    if not no_facets:
        origins |= {
            f"{number}.{facet}": Origin(f"{stage}.{projection.module}", layouts[stage], projection, facet)
            for number, stage in stages.items()
            for projection in projections
            for facet in projection.facets
        }
    return TimmBackbone(request.name, module, transform, Anatomy(layout, origins, has_head, no_facets))


def _run(
    module: Any, batch: torch.Tensor, stages: Sequence[str], projections: Sequence[str]
) -> tuple[Mapping[str, Any], Mapping[str, Any], Any]:
    """What the stages, their projections and ``forward_features`` give; none of those that don't run once each."""
    outputs: Mapping[str, Any] = {}
    projected: Mapping[str, Any] = {}
    features = None
    with suppress(UsageError):
        with capture(module, {stage: stage for stage in stages}) as found, suppress(UsageError):
            with capture(module, {projection: projection for projection in projections}) as inner:
                features = module.forward_features(batch)
            projected = inner
        outputs = found
    return outputs, projected, features


def _has_head(module: Any, features: Any) -> bool:
    try:
        vector = _pre_logits(module, features)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return False
    return torch.is_tensor(vector) and vector.ndim == 2 and len(vector) == 1


def _pre_logits(module: Any, features: torch.Tensor) -> Any:
    # Of a copy: a head may begin in place, and the features are the layer "last" as well.
    return module.forward_head(features.clone(), pre_logits=True)
