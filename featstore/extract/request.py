"""What a user asks of an extraction, and which feature sets it asks for."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from featstore.catalog.feature_sets import fingerprint
from featstore.errors import UsageError, did_you_mean
from featstore.keys import check_name, parse_call
from featstore.spec import Backbone, BackboneRequest, BackboneSpec, Json

DTYPES = ("float16", "float32")
AMP = ("off", "bf16", "fp16")
#: The word for a layer's own output, beside the facets of an attention block.
TOKEN = "token"


class Output(NamedTuple):
    """One feature set that is asked for, in the user's words. ``layer`` is None where none was named."""

    name: str
    layer: str | None
    facet: str | None
    pooler: str


@dataclass(frozen=True, slots=True)
class ExtractRequest:
    """One ``featstore extract``.

    Attributes:
        name: of the feature set; of what is given more than once, each adds its own word: ``name.l3.query.mean``.
        backbone: ``provider:rest``.
        poolers: one or more, such as ``mean`` or ``gem(3)``.
        layers: of the backbone, such as ``3`` or ``-1``, the last block; its default layer if none is given.
        facets: ``token``, or ``query``, ``key``, ``value`` of an attention block, the last if no layer is given.
        modalities: only these; all if empty.
        where: a condition on the view ``samples``.
        chunk_rows: rows a chunk at most, rounded to whole batches: what a power cut may cost. None: a 64th of the rows.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes a GPU where there is one.
        threads: for the network on a CPU; None leaves torch's own choice.
    """

    name: str
    backbone: str
    poolers: tuple[str, ...] = ("mean",)
    layers: tuple[str, ...] = ()
    facets: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    where: str | None = None
    pretrained: bool | None = None
    checkpoint: str | None = None
    in_chans: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    drop_last: int = 0
    trust_checkpoint: bool = False
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
        for several in ("layers", "facets", "modalities"):
            object.__setattr__(self, several, _several(getattr(self, several)))
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", str(Path(self.checkpoint).absolute()))
        object.__setattr__(self, "backbone", _anchored(self.backbone))
        if not self.poolers:
            raise UsageError("An extraction needs at least one --pooler.")
        for words, what in ((self.poolers, "pooler"), (self.layers, "layer"), (self.facets, "facet")):
            if len(set(words)) < len(words):
                raise UsageError(f"A {what} is given twice: {', '.join(words)}.")
        if self.trust_checkpoint and self.checkpoint is None:
            raise UsageError("--trust-checkpoint goes with --checkpoint FILE: it says that you trust that very file.")
        for value, known, flag in ((self.dtype, DTYPES, "--dtype"), (self.amp, AMP, "--amp")):
            if value not in known:
                raise UsageError(f"{flag} {value!r} isn't one of {', '.join(known)}.{did_you_mean(value, known)}")
        for number, least, flag in (
            (self.batch_size, 1, "--batch-size"),
            (1 if self.chunk_rows is None else self.chunk_rows, 1, "--chunk-rows"),
            (self.num_workers, 0, "--num-workers"),
            (self.drop_last, 0, "--drop-last"),
            (1 if self.threads is None else self.threads, 1, "--threads"),
        ):
            if number < least:
                raise UsageError(f"{flag} must be at least {least}, not {number}.")
        names = [output.name for output in self.outputs()]
        if len({name.lower() for name in names}) < len(names):
            raise UsageError(f"These would be feature sets of the same name: {', '.join(names)}.")

    def outputs(self) -> list[Output]:
        """The feature sets asked for: every layer × facet × pooler. A word is in the name only beside others."""
        found = []
        for layer, facet, pooler in product(self.layers or (None,), self.facets or (None,), self.poolers):
            words = [
                _layer_word(layer) if layer is not None and len(self.layers) > 1 else None,
                facet if len(self.facets) > 1 else None,
                # "gem(3)" can't be part of a name; "gem3" can.
                re.sub(r"[()]", "", pooler).replace(",", "_") if len(self.poolers) > 1 else None,
            ]
            name = check_name(".".join([self.name, *filter(None, words)]), "feature set")
            found.append(Output(name, layer, None if facet == TOKEN else facet, pooler))
        return found

    def for_backbone(self) -> BackboneRequest:
        """The part that concerns the backbone."""
        return BackboneRequest(
            self.backbone,
            self.pretrained,
            Path(self.checkpoint) if self.checkpoint else None,
            self.in_chans,
            dict(self.settings),
            self.seed,
            self.drop_last,
            self.trust_checkpoint,
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``run.json``; :meth:`from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote."""
        lists = {key: tuple(value.get(key, ())) for key in ("poolers", "layers", "facets", "modalities")}
        return cls(**{**value, **lists})


def _several(values: str | Sequence[str]) -> tuple[str, ...]:
    return (values,) if isinstance(values, str) else tuple(values)


def _anchored(backbone: str) -> str:
    """A backbone whose name begins with a Python file, which is to be found from elsewhere too, as a checkpoint is.

    >>> _anchored("timm:resnet18"), _anchored("torch:/home/me/nets.py:Net")
    ('timm:resnet18', 'torch:/home/me/nets.py:Net')
    """
    provider, colon, rest = backbone.partition(":")
    file, mark, more = rest.partition(".py:")
    return f"{provider}:{Path(file + '.py').expanduser().absolute()}:{more}" if colon and mark else backbone


def _layer_word(layer: str) -> str:
    """What a layer is called in a name: a number can't begin with a minus there, and says little alone.

    >>> _layer_word("3"), _layer_word("-1"), _layer_word("layer4.0")
    ('l3', 'l-1', 'layer4.0')
    """
    return f"l{layer}" if re.fullmatch(r"-?\d+", layer) else layer


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
    """One feature set that an extraction fills: its name and everything that makes its vectors what they are.

    ``regions``: they are of the inputs' masks.
    """

    name: str
    layer: str
    facet: str | None
    pooler: str
    config: Mapping[str, Json]
    regions: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the configuration's canonical JSON."""
        return fingerprint(self.config)


def targets(
    request: ExtractRequest,
    spec: BackboneSpec,
    backbone: Backbone,
    weights: str,
    poolers: Mapping[str, tuple[str, str, bool]],
    readers: Mapping[str, str],
) -> list[Target]:
    """The feature sets that a request asks for.

    Args:
        weights: the digest of the network's state dict.
        poolers: pooler → the same with its defaults filled in, its plugin's revision, whether it pools regions.
        readers: reader → its revision, where that isn't the first.

    Raises:
        UsageError: the backbone has no such layer or facet, or two words for one of them are given.
    """
    found = []
    for name, wanted, facet, pooler in request.outputs():
        layer = find_layer(backbone, spec.name, wanted, facet)
        config: dict[str, Json] = {
            "encoding": 1,
            "backbone": spec.name,
            "revision": spec.revision,
            "weights": weights,
            "preprocessing": dict(backbone.preprocessing),
            "layer": layer,
            "facet": facet,
            "pooler": poolers[pooler][0],
            "pooler_revision": poolers[pooler][1],
            "amp": request.amp,
            "dtype": request.dtype,
        }
        # What isn't asked for is left unsaid, so that these words could be added without new versions.
        if request.drop_last:
            config["drop_last"] = request.drop_last
        if readers:
            config["readers"] = dict(readers)
        found.append(Target(name, layer, facet, pooler, config, poolers[pooler][2]))
    for target in found:
        if same := [o.name for o in found if o is not target and o.fingerprint == target.fingerprint]:
            raise UsageError(
                f"{target.name} and {same[0]} would hold the very same vectors.",
                hint="leave out one of the two: they are two words for one thing",
            )
    return found


def find_layer(backbone: Backbone, name: str, wanted: str | None, facet: str | None) -> str:
    """The backbone's own name of a layer: of block -1, or of the one that is meant where none is named.

    Args:
        name: the backbone's, for messages.
        wanted: as typed; None: the default layer, or the last block if a facet is asked for.

    Raises:
        UsageError: there is no such layer or facet.
    """
    blocks = [layer for layer in backbone.layers if layer.isdecimal()]
    if facet is not None and facet not in backbone.facets:
        has = f"facets {', '.join([TOKEN, *backbone.facets])}" if backbone.facets else "no facets but token"
        raise UsageError(f"{name} has no facet {facet!r}.{did_you_mean(facet, backbone.facets)} It has {has}.")
    if wanted is None or (facet is not None and wanted == backbone.layers[-1]):
        # The query of a whole network is that of its last attention block.
        return backbone.layers[-1] if facet is None or not blocks else blocks[-1]
    if wanted in backbone.layers:
        return wanted
    if re.fullmatch(r"-\d+", wanted) and 1 <= -int(wanted) <= len(blocks):
        return blocks[int(wanted)]
    others = [layer for layer in backbone.layers if layer not in blocks]
    numbers = [f"{blocks[0]}…{blocks[-1]} (or -1…-{len(blocks)})"] if blocks else []
    shown = numbers + others[-12:]
    raise UsageError(
        f"{name} has no layer {wanted!r}.{did_you_mean(wanted, others)} "
        f"Its layers: {'…, ' if len(others) > 12 else ''}{', '.join(shown)}."
    )
