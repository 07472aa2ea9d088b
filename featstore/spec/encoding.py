"""Backbones and poolers: inputs → tokens → vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # type names only: listing plugins must not cost an import of torch or pyarrow
    import torch

#: What may stand in a recorded setting: it must survive a trip through JSON unchanged.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

#: How the axes of what a network gives are laid out: N inputs, C channels, L tokens, H × W positions.
Format: TypeAlias = Literal["NC", "NLC", "NCHW", "NHWC"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a backbone gives for one layer, in one layout whatever the family.

    Attributes:
        values: float array of shape (N, L, D): N inputs, L tokens, D channels. A network that gives one vector
            per input has L = 1. Positions of a feature map are tokens in row-major order.
        prefix: how many leading tokens are not positions of the image (CLS, registers).
        grid: (H, W) with ``prefix + H * W == L`` where the tokens lie on a grid.
    """

    values: Any
    prefix: int = 0
    grid: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        features: Any,
        format: Format,
        prefix: int = 0,
        grid: tuple[int, int] | None = None,
    ) -> Tokens:
        """Tokens from what a network gave.

        Args:
            features: of torch, with the axes of ``format``: N inputs, C channels, L tokens, H × W positions.
            prefix, grid: of an ``NLC`` array; a map has no prefix, and its own grid.
        """
        if format == "NC":
            return cls(features[:, None, :])
        if format == "NLC":
            return cls(features, prefix, grid)
        if format == "NCHW":
            features = features.permute(0, 2, 3, 1)
        return cls(features.flatten(1, 2), 0, (features.shape[1], features.shape[2]))


@dataclass(frozen=True, slots=True)
class BackboneRequest:
    """What the user asked of a backbone; handed to :attr:`BackboneSpec.load`.

    Attributes:
        name: the full name, ``timm:resnet18``.
        pretrained: True, False, or None where the user didn't say.
        checkpoint: a local weights file, or None.
        in_chans: input channels, or None for the model's own number.
        settings: ``--set key=value`` overrides of the preprocessing, as text.
        seed: the seed for weights that are initialized at random.
        drop_last: how many of the network's last children are to be left out.
        trust_checkpoint: the user says that code in the checkpoint may run; see :func:`featstore.read_weights`.

    What a backbone never looks at is refused, where the user gave it: nobody's ``--checkpoint`` is ignored in silence.
    """

    name: str
    pretrained: bool | None = None
    checkpoint: Path | None = None
    in_chans: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    drop_last: int = 0
    trust_checkpoint: bool = False

    @property
    def rest(self) -> str:
        """The part after the provider: ``resnet18`` of ``timm:resnet18``."""
        return self.name.partition(":")[2]


class Backbone(ABC):
    """Turns decoded inputs into tokens. Subclass it, and hand it out with a :class:`BackboneSpec`.

    Attributes:
        transform: one decoded input → one float32 array or tensor of shape ``input_shape``. It runs in the
            loader's workers, so it must be picklable: a function of a module, or an object without the network.
            If it has a method ``mask`` (decoded mask → float32 of 0…1, of shape ``input_shape[-2:]``, by the same
            geometry; :class:`~featstore.ImageTransform` has it), region poolers can be used.
        input_shape: the shape that ``transform`` gives, such as ``(3, 224, 224)``.
        preprocessing: every resolved setting of ``transform``, as JSON; part of the fingerprint.
        layers: the names that ``forward`` understands; the last is the default. Blocks or stages are called by
            their numbers, ``"0"``, ``"1"``, …: featstore resolves ``--layer -1`` to the last of these.
        facets: what blocks have beside their tokens, such as ``("query", "key", "value")``: where asked for,
            ``forward`` gets the layer as ``"11.query"``.
        module: the network, or None. Its ``state_dict`` is the weights' digest; featstore moves it to the device.
    """

    transform: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    preprocessing: Mapping[str, Json] = {}
    layers: Sequence[str] = ("last",)
    facets: Sequence[str] = ()
    module: torch.nn.Module | None = None

    @abstractmethod
    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        """Run the network once and give the tokens of every layer asked for.

        Args:
            batch: float32 (N, *input_shape), on the device.
            layers: names from :attr:`layers`, also ``LAYER.FACET`` where there are :attr:`facets`.

        Returns:
            one :class:`Tokens` a layer, ``values`` of shape (N, L, D) on the batch's device; row i belongs to
            input i and depends on it alone.
        """


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """A backbone that can be listed. ``name`` is ``provider:rest``.

    Attributes:
        load: builds the backbone; imports its libraries there, not before. Raises
            :class:`~featstore.errors.SetupError` where weights are missing.
        revision: change it when the code changes what is computed; part of the fingerprint.
    """

    name: str
    load: Callable[[BackboneRequest], Backbone]
    revision: str = "1"
    description: str = ""


class PoolFunction(Protocol):
    """A pure function against the array API standard: torch tensors in the forward pass, NumPy for groups.

    (N, L, D) → (N, D′), or (N, L′, D′) for poolers that keep tokens. A pooler that accepts ``"regions"`` also gets
    ``weights``, float (N, L - prefix): the share of each position that lies inside the input's mask, 0…1, not all 0.
    """

    def __call__(self, values: Any, *, prefix: int, grid: tuple[int, int] | None, **weights: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class PoolerSpec:
    """A pooler that can be listed.

    Attributes:
        load: numeric arguments → the function: ``gem(3)`` calls ``load(3.0)``.
        accepts: ``"tokens"`` where it pools one input's tokens, ``"groups"`` where it pools the many rows of one
            patient (prefix 0, no grid, n ≥ 1 rows), ``"regions"`` where it pools one input's tokens inside its mask.
            Neither inputs nor groups may depend on others in the batch.
    """

    name: str
    load: Callable[..., PoolFunction]
    accepts: frozenset[Literal["tokens", "groups", "regions"]] = frozenset({"tokens", "groups"})
    revision: str = "1"
    description: str = ""
