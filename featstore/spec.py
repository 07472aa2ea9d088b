"""What plugins are made of: typed, frozen specs, and the small classes that they hand over.

A spec can be listed without importing torch; the work is behind its ``load``. Everything here is public.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:  # type names only: listing plugins must not cost an import of torch or pyarrow
    import numpy as np
    import pyarrow as pa
    import torch

#: What may stand in a recorded setting: it must survive a trip through JSON unchanged.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


# ------------------------------------------------------------------------------------------------ backbones
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
    """

    name: str
    pretrained: bool | None = None
    checkpoint: Path | None = None
    in_chans: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    @property
    def rest(self) -> str:
        """The part after the provider: ``resnet18`` of ``timm:resnet18``."""
        return self.name.partition(":")[2]


class Backbone(ABC):
    """Turns decoded inputs into tokens. Subclass it, and hand it out with a :class:`BackboneSpec`.

    Attributes:
        transform: one decoded input → one float32 array or tensor of shape ``input_shape``. It runs in the
            loader's workers, so it must be picklable: a function of a module, or an object without the network.
        input_shape: the shape that ``transform`` gives, such as ``(3, 224, 224)``.
        preprocessing: every resolved setting of ``transform``, as JSON; part of the fingerprint.
        layers: the names that ``forward`` understands; the last is the default.
        module: the network, or None. Its ``state_dict`` is the weights' digest; featstore moves it to the device.
    """

    transform: Callable[[Any], Any]
    input_shape: tuple[int, ...]
    preprocessing: Mapping[str, Json] = {}
    layers: Sequence[str] = ("last",)
    module: torch.nn.Module | None = None

    @abstractmethod
    def forward(self, batch: torch.Tensor, layers: Sequence[str]) -> Mapping[str, Tokens]:
        """Run the network once and give the tokens of every layer asked for.

        Args:
            batch: float32 (N, *input_shape), on the device.
            layers: names from :attr:`layers`.

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


# -------------------------------------------------------------------------------------------------- poolers
class PoolFunction(Protocol):
    """A pure function against the array API standard: torch tensors in the forward pass, NumPy for groups."""

    def __call__(self, values: Any, *, prefix: int, grid: tuple[int, int] | None) -> Any:
        """(N, L, D) → (N, D′), or (N, L, D) for poolers that keep tokens."""


@dataclass(frozen=True, slots=True)
class PoolerSpec:
    """A pooler that can be listed.

    Attributes:
        load: numeric arguments → the function: ``gem(3)`` calls ``load(3.0)``.
        accepts: ``"tokens"`` where it pools one input's tokens, ``"groups"`` where it pools the many rows of one
            patient (prefix 0, no grid, n ≥ 1 rows). Groups must not depend on other groups in the batch.
    """

    name: str
    load: Callable[..., PoolFunction]
    accepts: frozenset[Literal["tokens", "groups"]] = frozenset({"tokens", "groups"})
    revision: str = "1"
    description: str = ""


# --------------------------------------------------------------------------------------------------- fusers
#: The rows of a block, by alias: float64 (rows, width) each, in one row order. Missing inputs are NaN rows.
Parts: TypeAlias = "Mapping[str, np.ndarray[Any, np.dtype[np.float64]]]"


class Fuser(ABC):
    """Makes one vector of several inputs; learns from train rows only."""

    def fit(self, blocks: Callable[[], Iterator[Parts]]) -> None:
        """Learn from the train rows. ``blocks()`` starts a new pass over them, in bounded memory."""
        return None

    @abstractmethod
    def transform(self, parts: Parts) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Fuse one block: every part (rows, width_i) → (rows, width)."""

    def estimators(self) -> Mapping[str, object]:
        """Fitted scikit-learn or NumPy objects to keep with the table; what skops can save."""
        return {}


@dataclass(frozen=True, slots=True)
class FuserSpec:
    """A fuser that can be listed. ``load()`` makes a new, unfitted :class:`Fuser`."""

    name: str
    load: Callable[[], Fuser]
    revision: str = "1"
    description: str = ""


# -------------------------------------------------------------------------------------------------- readers
class Source:
    """One input's bytes. What a reader reads through it is what the content hash is taken of.

    Attributes:
        path: the file.
        fragment: the part of the file (``/valid/42``, ``axis=2&slice=17``), or None for the whole.
        content_hash: SHA-256 of what was read, as hex; None until something was.
        size, mtime_ns: of the file, as it was when it was read.
    """

    def __init__(self, path: str | os.PathLike[str], fragment: str | None = None) -> None:
        self.path = Path(path)
        self.fragment = fragment
        self.content_hash: str | None = None
        self.size: int | None = None
        self.mtime_ns: int | None = None

    def read_bytes(self) -> bytes:
        """The whole file. Size and time are of the very handle that is read, so no rename can come between."""
        with open(self.path, "rb") as file:
            stat = os.fstat(file.fileno())
            data = file.read()
        self.size, self.mtime_ns = stat.st_size, stat.st_mtime_ns
        self.hash(data)
        return data

    def hash(self, *parts: bytes | memoryview) -> None:
        """Take the content hash of ``parts``: for containers, where one sample is not the whole file."""
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        self.content_hash = digest.hexdigest()


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """Decodes files by their ending.

    Attributes:
        suffixes: endings in lower case, with the dot: ``(".png",)``. The longest match wins.
        read: a :class:`Source` → what backbones' transforms take. Images are (H, W) grey, (H, W, 2) grey + alpha,
            (H, W, 3) RGB or (H, W, 4) RGBA arrays in the file's own dtype and range; text is ``str``.
            Raises :class:`~featstore.errors.InputError` for what it can't decode.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Source], Any]
    revision: str = "1"
    description: str = ""


# ------------------------------------------------------------------------------------------------ exporters
@dataclass(frozen=True, slots=True)
class ExporterSpec:
    """Writes tables to files.

    Attributes:
        suffix: the ending that picks it, ``".parquet"``.
        write: ``write(path, schema, batches, wide=…)``: stream Arrow record batches into ``path``. Vector columns
            are fixed-size lists of float32; ``wide`` asks for one column per feature (``fused_0``, …). It must
            hold at most a few batches at a time. It may write more files beside ``path`` (an index); featstore gives it
            an empty folder, and moves all that it made into place when it returns.
    """

    name: str
    suffix: str
    write: ExportFunction
    revision: str = "1"
    description: str = ""


class ExportFunction(Protocol):
    def __call__(self, path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None: ...
