"""What plugins are made of: typed, frozen specs, and the small classes that they hand over.

A spec can be listed without importing torch; the work is behind its ``load``. Everything here is public.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from featstore.source import Source

if TYPE_CHECKING:  # type names only: listing plugins must not cost an import of torch or pyarrow
    import numpy as np
    import pyarrow as pa
    import torch

#: What may stand in a recorded setting: it must survive a trip through JSON unchanged.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"


#: How the axes of what a network gives are laid out: N inputs, C channels, L tokens, H × W positions.
Format: TypeAlias = Literal["NC", "NLC", "NCHW", "NHWC"]


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


# -------------------------------------------------------------------------------------------------- poolers
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


# -------------------------------------------------------------------------------------------- steps and fusers
#: float64 (rows, width).
Matrix: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"


class Parts(dict[str, Matrix]):
    """The rows of a block, by alias: float64 (rows, width) each, in one row order. Missing inputs are NaN rows.

    Attributes:
        labels: (rows,), or None where the table has none: int64, float64 or text; of survival, a structured array of
            ``event`` (bool) and ``time`` (float64).
        patients: int64 (rows,): equal numbers are rows of one patient. What is cross-fitted keeps them together.
        train: bool (rows,): those that ``fit`` gets.
    """

    def __init__(
        self,
        parts: Mapping[str, Matrix] | Iterable[tuple[str, Matrix]] = (),
        *,
        labels: np.ndarray[Any, Any] | None = None,
        patients: np.ndarray[Any, Any] | None = None,
        train: np.ndarray[Any, Any] | None = None,
    ) -> None:
        super().__init__(parts)
        self.labels, self.patients, self.train = labels, patients, train


class Fuser(ABC):
    """Makes one vector of several inputs; learns from train rows only.

    Attributes:
        labelled: it learns from labels, and is refused where a table has none.
    """

    labelled: bool = False

    def fit(self, blocks: Callable[[], Iterator[Parts]]) -> None:
        """Learn from the train rows. ``blocks()`` starts a new pass over them, in bounded memory.

        Raises:
            UsageError: these parts can't be fused so, and what the user could do.
        """
        return None

    @abstractmethod
    def transform(self, parts: Parts) -> Matrix:
        """Fuse one block: every part (rows, width_i) → (rows, width)."""

    def estimators(self) -> Mapping[str, object]:
        """Fitted scikit-learn or NumPy objects to keep with the table; what skops can save."""
        return {}

    def restore(self, estimators: Mapping[str, object]) -> None:
        """Take back what :meth:`estimators` gave, in place of :meth:`fit`: new patients go through what was fitted."""
        if estimators:
            raise NotImplementedError(f"{type(self).__name__} has estimators, and no restore().")


@dataclass(frozen=True, slots=True)
class FuserSpec:
    """A fuser that can be listed.

    Attributes:
        load: numbers and words → a new, unfitted :class:`Fuser`: ``kronecker(8)`` calls ``load(8.0)``. Raises
            :class:`~featstore.errors.UsageError` for arguments that it can't take.
        trusted: full names of types in its estimators that skops doesn't trust by itself.
    """

    name: str
    load: Callable[..., Fuser]
    revision: str = "1"
    description: str = ""
    trusted: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """Some train rows, as a step learns from them.

    Attributes:
        values: float64 (rows, width), NaN where missing; for steps that take categories, object (rows, columns) of
            text, None where missing.
        labels, patients: as in :class:`Parts`.
    """

    values: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any] | None = None
    patients: np.ndarray[Any, Any] | None = None


class Transformer(Protocol):
    """What a step has learned: scikit-learn's own interface, and something that skops can save."""

    def transform(self, X: Any) -> Any: ...


class Step(ABC):
    """One step on the way from an input, or from the fused vector, to the table.

    Attributes:
        learns: it needs train rows; False for what looks at each row alone, such as a norm.
        labelled: it learns from labels.
    """

    learns: bool = True
    labelled: bool = False

    @abstractmethod
    def fit(self, blocks: Callable[[], Iterator[Block]]) -> Transformer:
        """Learn from train rows only, in bounded memory; ``blocks()`` starts a new pass over them.

        Returns:
            a fitted estimator: (rows, width) → (rows, width′). Nothing else is kept of the step.

        Raises:
            UsageError, ConflictError: these rows can't be learned from, and what the user could do.
        """


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step that can be listed.

    Attributes:
        load: numbers and words → a new :class:`Step`: ``impute(median)`` calls ``load("median")``. Raises
            :class:`~featstore.errors.UsageError` for arguments that it can't take.
        takes: ``"numbers"``, or ``"categories"``: one column of text of a clinical table, which becomes numbers.
        trusted: full names of types in its estimators that skops doesn't trust by itself.
    """

    name: str
    load: Callable[..., Step]
    takes: Literal["numbers", "categories"] = "numbers"
    revision: str = "1"
    description: str = ""
    trusted: tuple[str, ...] = ()


# -------------------------------------------------------------------------------------------------- readers
@dataclass(frozen=True, slots=True)
class Part:
    """One sample of a file, as :attr:`ReaderSpec.expand` lists it.

    Attributes:
        fragment: what names it in the file, unique and stable: ``/valid/42``, or ``axis=2&slice=17`` (``key=value``
            with ``&`` between, no ``/``; :func:`urllib.parse.quote` does what may hold one). None: the whole file.
        fields: what the file says of it: ``patient_id``, ``modality``, ``split``, ``label``, ``site``, ``visit_id``,
            ``acquired_at`` (ISO 8601); every other name becomes an attribute. All text.
        alone: it stands for itself, as a row of a data set does. Where nothing says which patient it is of, it is an
            entity of its own. False for slices and frames: those belong together, and somebody must say to whom.
    """

    fragment: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """Pixels with what their file says about showing them; readers give it where plain pixels wouldn't say enough.

    Attributes:
        pixels: as readers give them: (H, W), (H, W, 3), … in the file's own values (DICOM: after rescaling).
        window: the values that the file itself calls black and white, or None.
        extent: the smallest and largest value of the whole volume that this is a slice of, or None.
        inverted: small values are bright (DICOM's MONOCHROME1).
    """

    pixels: np.ndarray[Any, Any]
    window: tuple[float, float] | None = None
    extent: tuple[float, float] | None = None
    inverted: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.pixels.shape
        return shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        import numpy as np

        return np.array(self.pixels, dtype=dtype, copy=copy)


@dataclass(frozen=True, slots=True)
class ReaderSpec:
    """Decodes files by their ending.

    Attributes:
        suffixes: endings in lower case, with the dot: ``(".png",)``. The longest match wins. ``""`` stands for names
            without an ending, as scanners write them: no dot, or only digits after the last one.
        read: a :class:`Source` → what backbones' transforms take. Images are (H, W) grey, (H, W, 2) grey + alpha,
            (H, W, 3) RGB or (H, W, 4) RGBA arrays in the file's own dtype and range, or a :class:`Picture` of such;
            whole volumes are (X, Y, Z, channels); text is ``str``.
            Raises :class:`~featstore.errors.InputError` for what it can't decode.
        expand: the samples that a file holds, for files that hold several or say what they are: a :class:`Source`
            without a fragment, and the ``--expand`` settings that the user gave → :class:`Part` s, in the file's order.
            Called when the file is ingested; it reads headers, not pixels. Raises InputError for a file that it can't
            read, which is then ingested whole, to fail when it is extracted; UsageError for a bad setting.
        settings: the names of ``--expand`` that ``expand`` understands: ``("axis", "step")``.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Source], Any]
    revision: str = "1"
    description: str = ""
    expand: Callable[[Source, Mapping[str, str]], Iterable[Part]] | None = None
    settings: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------ exporters
class ExportFunction(Protocol):
    """``write(path, schema, batches, wide=…)``: stream Arrow record batches into ``path``, holding a few at a time.

    **Vectors** are fixed-size lists of float32, or of float16 where they are stored so, flattened in C order; the
    field's metadata ``b"shape"`` is the row's shape as JSON, ``[962, 768]``; without it, (list size,). A null vector is
    a missing one, and becomes NaN.

    **Columns.** Of a feature set: ``sample_key, patient_id, visit_id, modality, split, site`` (text), ``label`` (int64,
    float64 or text, as declared), its samples' attributes (text), and the vector ``features``. Of a training table: its
    own, the vector ``fused`` among them. Nulls may stand anywhere but in sample_key and patient_id.

    **The schema's metadata** ``b"featstore"`` is a JSON object: ``rows``, how many come; ``name`` and ``version`` of
    what is exported, and of a feature set ``fingerprint, backbone, layer, pooler`` and ``label_type`` (``int``,
    ``float`` or ``str``), each where it is known;
    ``groups``, where rows are grouped (see :class:`ExporterSpec`): ``[[name, rows], …]`` in the order in which they
    come, rows of one group together. Names are POSIX paths without ``.`` and ``..``; no part begins with a dot.

    Args:
        path: what to write: a file, or a folder (:attr:`ExporterSpec.folder`). There is nothing yet. More files may be
            written beside it (an index): it lies in an empty folder, and featstore puts all in place when this returns.
        wide: one column a feature (``fused_0``, …) is asked for, where the format has columns.

    Raises:
        UsageError: the format can't hold this table. SetupError: a library is missing.
    """

    def __call__(self, path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, wide: bool) -> None: ...


class ExportSeveral(Protocol):
    """As :class:`ExportFunction`, for several feature sets in one file: name → (schema, batches), taken one by one."""

    def __call__(self, path: Path, parts: Mapping[str, tuple[pa.Schema, Iterable[pa.RecordBatch]]]) -> None: ...


@dataclass(frozen=True, slots=True)
class ExporterSpec:
    """Writes training tables, and the vectors of feature sets, to files.

    Attributes:
        name: what ``--format`` calls it.
        suffix: the ending that picks it, ``".parquet"``.
        write: streams a table into a file; see :class:`ExportFunction`.
        folder: it makes a folder, which is never written over.
        index: it writes ``<stem>.index.csv`` beside the file: ``row``, then ``sample_key`` or ``patient_id``, ….
        grouped: it can put rows that go together into a place of their own, a file or a data set: ``--layout``, a
            template over the row's columns, names each row's group.
        layout: the template where the user gives none; ``""``: then rows aren't grouped.
        write_several: writes several feature sets into one file, where the format can hold them.
    """

    name: str
    suffix: str
    write: ExportFunction
    revision: str = "1"
    description: str = ""
    folder: bool = False
    index: bool = False
    grouped: bool = False
    layout: str = ""
    write_several: ExportSeveral | None = None
