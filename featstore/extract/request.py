"""What a user asks of an extraction, and which feature sets it asks for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from featstore.errors import UsageError, did_you_mean
from featstore.keys import check_name
from featstore.spec import Backbone, BackboneRequest, BackboneSpec, Json

DTYPES = ("float16", "float32")
AMP = ("off", "bf16", "fp16")


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """One ``featstore extract``.

    Attributes:
        name: of the feature set; with several poolers, ``name.<pooler>`` each.
        backbone: ``provider:rest``.
        poolers: one or more, such as ``mean`` or ``gem(3)``.
        modalities: only these; all if empty.
        where: a condition on the view ``samples``.
        chunk_rows: rows a chunk at most, before it is rounded to whole batches: what a power cut may cost.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes a GPU where there is one.
        threads: for the network on a CPU; None leaves torch's own choice.
    """

    name: str
    backbone: str
    poolers: tuple[str, ...] = ("mean",)
    modalities: tuple[str, ...] = ()
    where: str | None = None
    pretrained: bool | None = None
    checkpoint: str | None = None
    in_chans: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    amp: Literal["off", "bf16", "fp16"] = "off"
    dtype: Literal["float16", "float32"] = "float32"
    batch_size: int = 32
    chunk_rows: int = 1024
    num_workers: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "feature set")
        if not self.poolers:
            raise UsageError("An extraction needs at least one --pooler.")
        if len(set(self.poolers)) < len(self.poolers):
            raise UsageError("A pooler is given twice.")
        for value, known, flag in ((self.dtype, DTYPES, "--dtype"), (self.amp, AMP, "--amp")):
            if value not in known:
                raise UsageError(f"{flag} {value!r} isn't one of {', '.join(known)}.{did_you_mean(value, known)}")
        for number, least, flag in (
            (self.batch_size, 1, "--batch-size"),
            (self.chunk_rows, 1, "--chunk-rows"),
            (self.num_workers, 0, "--num-workers"),
        ):
            if number < least:
                raise UsageError(f"{flag} must be at least {least}, not {number}.")

    def outputs(self) -> dict[str, str]:
        """Feature set name → pooler: a suffix only where there is more than one."""
        if len(self.poolers) == 1:
            return {self.name: self.poolers[0]}
        # "gem(3)" can't be part of a name; "gem3" can.
        plain = {p: p.replace("(", "").replace(")", "").replace(",", "_").replace(" ", "") for p in self.poolers}
        return {check_name(f"{self.name}.{plain[p]}", "feature set"): p for p in self.poolers}

    def for_backbone(self) -> BackboneRequest:
        """The part that concerns the backbone."""
        return BackboneRequest(
            self.backbone,
            self.pretrained,
            Path(self.checkpoint) if self.checkpoint else None,
            self.in_chans,
            dict(self.settings),
            self.seed,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``run.json``; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        lists = {key: tuple(value[key]) for key in ("poolers", "modalities")}
        return cls(**{**value, **lists})


@dataclass(frozen=True, slots=True)
class Target:
    """One feature set that an extraction fills: its name and everything that makes its vectors what they are."""

    name: str
    layer: str
    pooler: str
    config: Mapping[str, Json]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        text = json.dumps(self.config, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


def targets(
    request: ExtractRequest,
    spec: BackboneSpec,
    backbone: Backbone,
    weights: str,
    revisions: Mapping[str, str],
) -> list[Target]:
    """The feature sets that a request asks for.

    Args:
        weights: the digest of the network's state dict.
        revisions: pooler → its plugin's revision.
    """
    layer = backbone.layers[-1]
    return [
        Target(
            name,
            layer,
            pooler,
            {
                "encoding": 1,
                "backbone": spec.name,
                "revision": spec.revision,
                "weights": weights,
                "preprocessing": dict(backbone.preprocessing),
                "layer": layer,
                "facet": None,
                "pooler": pooler,
                "pooler_revision": revisions[pooler],
                "amp": request.amp,
                "dtype": request.dtype,
            },
        )
        for name, pooler in request.outputs().items()
    ]
