"""Query, key and value of attention blocks: what their projections give, all heads side by side.

Before what some networks do next: the normalization of query and key, and the rotation of their positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

FACETS = ("query", "key", "value")

# Names of biases that EVA, BEiT and Swin v2 keep outside the projection, whose output is then not the whole.
_BIASES = ("q_bias", "k_bias", "v_bias", "qkv_bias")


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear module inside a block, and the facets that its output holds side by side."""

    module: str
    facets: tuple[str, ...]

    def part(self, output: torch.Tensor, facet: str) -> torch.Tensor:
        """One facet of the output, (N, L, D)."""
        return output.chunk(len(self.facets), dim=-1)[self.facets.index(facet)]


_FUSED = (Projection("attn.qkv", FACETS),)
_SEPARATE = tuple(Projection(f"attn.{facet[0]}_proj", (facet,)) for facet in FACETS)


def find_projections(blocks: Sequence[torch.nn.Module]) -> tuple[Projection, ...]:
    """Where all of the blocks have their facets, by their modules' names; empty where they have none."""
    for projections in (_FUSED, _SEPARATE):
        if blocks and all(_has(block, projections) for block in blocks):
            return projections
    return ()


def why_not(
    blocks: Sequence[Any],
    projections: Sequence[Projection],
    outputs: Mapping[str, torch.Tensor],
    projected: Mapping[str, torch.Tensor],
) -> str:
    """Why the projections' outputs can't be taken for query, key and value; empty where they can.

    It is tried, with random tokens in their place, rather than believed: a changed query moves its own token alone,
    a changed key moves others too, and without value neither matters. Heads whose query, key and value lie together
    (CoAtNet), and attention over channels (XCiT), are found out this way.

    Args:
        outputs: what the blocks gave for one image, each (1, L, D).
        projected: what the projections gave, or nothing where they don't run as modules.
    """
    if not projections or not outputs:
        return "its blocks have no projections of tokens to query, key and value"
    attention = blocks[0].attn
    if len({type(block.attn) for block in blocks}) > 1:
        return "its blocks have attention of several kinds"
    if any(getattr(attention, name, None) is not None for name in _BIASES):
        return "its attention adds the biases outside of the projection"
    if not projected:
        return "its attention doesn't run the projection as a module"
    lengths = {output.shape[:-1] for output in (*outputs.values(), *projected.values())}
    if len(lengths) > 1:
        return "its attention doesn't run on the blocks' own tokens"
    try:
        acts = _acts_as_attention(blocks[0], projections, lengths.pop()[-1])
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        return f"its attention can't be run by itself ({str(error).partition(chr(10))[0]})"
    return "" if acts else "its projection doesn't hold query, key and value side by side"


def _has(block: torch.nn.Module, projections: Iterable[Projection]) -> bool:
    modules = dict(block.named_modules())
    return all(
        isinstance(linear := modules.get(p.module), torch.nn.Linear) and linear.out_features % len(p.facets) == 0
        for p in projections
    )


def _acts_as_attention(block: Any, projections: Iterable[Projection], length: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    linears = {p: block.get_submodule(p.module) for p in projections}
    widths = {facet: linear.out_features // len(p.facets) for p, linear in linears.items() for facet in p.facets}
    first, second = (
        {facet: torch.randn(1, length, width, generator=generator) for facet, width in widths.items()} for _ in range(2)
    )
    nothing = torch.zeros_like(first["value"])
    one_query = torch.cat([second["query"][:, :1], first["query"][:, 1:]], dim=1)
    one_key = torch.cat([second["key"][:, :1], first["key"][:, 1:]], dim=1)

    def run(**changed: torch.Tensor) -> torch.Tensor:
        return _run(block.attn, linears, first | changed)

    base = run()
    threshold = 1e-4 * base.abs().max()

    def moved(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().amax(dim=(0, 2)) > threshold

    by_query = moved(base, run(query=one_query))
    return bool(
        by_query[0]
        and not by_query[1:].any()
        and moved(base, run(key=one_key))[1:].any()
        and not moved(run(value=nothing), run(value=nothing, query=second["query"], key=second["key"])).any()
    )


def _run(
    attention: Any, linears: Mapping[Projection, torch.nn.Linear], values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What the attention gives where its projections give ``values``."""

    def give(projection: Projection, *_: object) -> torch.Tensor:
        return torch.cat([values[facet] for facet in projection.facets], dim=-1)

    hooks = [linear.register_forward_hook(partial(give, projection)) for projection, linear in linears.items()]
    try:
        width = next(iter(linears.values())).in_features
        output: torch.Tensor = attention(torch.zeros(1, next(iter(values.values())).shape[1], width))
    finally:
        for hook in hooks:
            hook.remove()
    return output
