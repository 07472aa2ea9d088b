"""Readers and exporters: files → what encoders take, and tables → files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from featstore.source import Source

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


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
