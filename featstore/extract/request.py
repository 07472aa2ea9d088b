"""What a user asks of an extraction, and which feature sets it asks for."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from featstore.errors import UsageError, did_you_mean
from featstore.keys import check_name, parse_call
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
        chunk_rows: rows a chunk at most, rounded to whole batches: what a power cut may cost. None: a 64th of the rows.
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
    chunk_rows: int | None = None
    num_workers: int = 0
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name, "feature set")
        # One spelling each: gem( 3 ) and gem(3.0) are one function, and a request is compared with older ones.
        object.__setattr__(self, "poolers", tuple(_canonical(pooler) for pooler in _several(self.poolers)))
        object.__setattr__(self, "modalities", _several(self.modalities))
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", str(Path(self.checkpoint).absolute()))
        if not self.poolers:
            raise UsageError("An extraction needs at least one --pooler.")
        if len(set(self.poolers)) < len(self.poolers):
            raise UsageError("A pooler is given twice.")
        for value, known, flag in ((self.dtype, DTYPES, "--dtype"), (self.amp, AMP, "--amp")):
            if value not in known:
                raise UsageError(f"{flag} {value!r} isn't one of {', '.join(known)}.{did_you_mean(value, known)}")
        for number, least, flag in (
            (self.batch_size, 1, "--batch-size"),
            (1 if self.chunk_rows is None else self.chunk_rows, 1, "--chunk-rows"),
            (self.num_workers, 0, "--num-workers"),
            (1 if self.threads is None else self.threads, 1, "--threads"),
        ):
            if number < least:
                raise UsageError(f"{flag} must be at least {least}, not {number}.")
        if len({name.lower() for name in self._names()}) < len(self.poolers):
            raise UsageError(f"The poolers {', '.join(self.poolers)} would give feature sets of the same name.")

    def outputs(self) -> dict[str, str]:
        """Feature set name → pooler: a suffix only where there is more than one."""
        return dict(zip(self._names(), self.poolers, strict=True))

    def _names(self) -> list[str]:
        if len(self.poolers) == 1:
            return [self.name]
        # "gem(3)" can't be part of a name; "gem3" can.
        plain = [pooler.replace("(", "").replace(")", "").replace(",", "_") for pooler in self.poolers]
        return [check_name(f"{self.name}.{suffix}", "feature set") for suffix in plain]

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


def _several(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _canonical(pooler: str) -> str:
    """One spelling of a pooler with arguments.

    >>> _canonical("gem( 3.0 )"), _canonical("mean()"), _canonical("gem(2.5)")
    ('gem(3)', 'mean', 'gem(2.5)')
    """
    name, arguments = parse_call(pooler)
    texts = [repr(int(a)) if a.is_integer() else repr(a) for a in arguments]
    return f"{name}({','.join(texts)})" if texts else name


def with_defaults(pooler: str, load: Callable[..., Any]) -> str:
    """A pooler with the arguments that its loader fills in: ``gem`` and ``gem(3)`` are one function.

    >>> with_defaults("gem", lambda p=3.0: ...), with_defaults("gem(2)", lambda p=3.0: ...)
    ('gem(3)', 'gem(2)')
    """
    name, arguments = parse_call(pooler)
    try:
        bound = inspect.signature(load).bind(*arguments)
        bound.apply_defaults()
        return _canonical(f"{name}({','.join(str(float(a)) for a in bound.args)})")
    except (TypeError, ValueError):  # it has no signature, or defaults that are no numbers
        return pooler


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
    poolers: Mapping[str, tuple[str, str]],
    readers: Mapping[str, str],
) -> list[Target]:
    """The feature sets that a request asks for.

    Args:
        weights: the digest of the network's state dict.
        poolers: pooler → the same with its defaults filled in, and its plugin's revision.
        readers: reader → its revision, where that isn't the first.
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
                "pooler": poolers[pooler][0],
                "pooler_revision": poolers[pooler][1],
                "amp": request.amp,
                "dtype": request.dtype,
                **({"readers": dict(readers)} if readers else {}),
            },
        )
        for name, pooler in request.outputs().items()
    ]
