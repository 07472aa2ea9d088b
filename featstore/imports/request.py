"""What a user asks of an import, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.errors import UsageError, did_you_mean
from featstore.ingest.layout import LabelType
from featstore.keys import PLACES as PLACES  # of an export: no attributes
from featstore.keys import check_name
from featstore.spec import Json

DTYPES = ("float16", "float32")
#: Columns that may name the rows; the first of them that is there is taken.
KEYS = ("sample_key", "key", "id", "image_path", "path", "file")
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """One ``featstore import``.

    Attributes:
        source: the file or folder that holds vectors.
        name: of the feature set.
        index: a CSV or Parquet that says what the rows are.
        key: the column that names the rows, in the index and in the source; the first of :data:`KEYS` if not given.
        vectors: the column of vectors of a table, or what its numbered columns begin with.
        in_order: the index has the rows of the source, in its order. Never assumed.
        dataset: the first part of the sample keys that are made of another key; the feature set's name if not given.
        modality, patient_id, label_type, same_patients_across_sites: as in an ingest, for samples that are made.
        layout: where the files of a folder are, such as ``{split}/{modality}/grade{label:int}/{patient_id}.npy``.
        new_samples: some of the samples are in the store, and those that aren't are to be made.
        new_version: of a feature set of the same origin, whose vectors are others.
        backbone, model_version, layer, pooler: what the user says of where the vectors come from.
        shape: of one vector, where the source has its values in a row: tokens in a CSV.
        dtype: to store them in; their own if not given, and float32 for float64.
    """

    source: Path
    name: str
    index: Path | None = None
    key: str | None = None
    vectors: str | None = None
    in_order: bool = False
    dataset: str | None = None
    modality: str | None = None
    patient_id: str | None = None
    label_type: LabelType | None = None
    layout: str | None = None
    new_samples: bool = False
    new_version: bool = False
    backbone: str = UNKNOWN
    model_version: str = UNKNOWN
    layer: str = UNKNOWN
    pooler: str = UNKNOWN
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    same_patients_across_sites: bool = False

    def __post_init__(self) -> None:
        check_name(self.name, "feature set")
        check_name(self.data_set, "data set", hint="name it with --dataset NAME")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UsageError(f"--dtype {self.dtype!r} isn't one of {', '.join(DTYPES)}.")
        if self.label_type not in (None, "int", "float", "str"):
            known = ["int", "float", "str"]
            raise UsageError(f"--label-type {self.label_type!r} is no type.{did_you_mean(self.label_type, known)}")

    @property
    def data_set(self) -> str:
        """The first part of the sample keys that are made of another key."""
        return self.dataset or self.name

    def config(self, shape: tuple[int, ...], dtype: str) -> dict[str, Json]:
        """What makes the vectors what they are, as far as anybody said: it tells versions apart."""
        return {
            "encoding": 1, "imported": True, "backbone": self.backbone, "weights": self.model_version,
            "layer": self.layer, "facet": None, "pooler": self.pooler, "shape": list(shape), "dtype": dtype,
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Everything, for ``run.json``."""
        return {
            key: str(value.resolve()) if isinstance(value, Path) else value
            for key in self.__slots__
            if (value := getattr(self, key)) is not None
        }


@dataclass(slots=True)
class ImportResult:
    """What an import did.

    Attributes:
        run_id: the run; None where nothing was new.
        added, unchanged: vectors.
        failed: rows with a NaN, an infinity, or a value that the stored dtype can't hold: failures, not vectors.
        failed_before: such rows that a former import of the same feature set has recorded already.
        samples_added, patients_added: made from the index.
        key: the column that named the rows; None where they are called by their place in the file.
        in_order: rows were matched by their order, because the user said so.
        shape, dtype: of one stored vector.
        source_dtype: as it came; ``text`` for a CSV.
        other_versions: versions of the same name that were made otherwise.
        coordinates: what names the rows, where no column does: patches of slides.
        ignored: columns that say something of samples that are there which the store doesn't know: they were left out.
        unmatched: files with vectors that the layout doesn't match.
        lookalikes, known_elsewhere, known_such_as: as of an ingest.
    """

    name: str
    version: int
    run_id: str | None = None
    added: int = 0
    unchanged: int = 0
    failed: int = 0
    failed_before: int = 0
    samples_added: int = 0
    patients_added: int = 0
    key: str | None = None
    in_order: bool = False
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    source_dtype: str = "float32"
    other_versions: list[int] = field(default_factory=list)
    coordinates: bool = False
    ignored: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)
    lookalikes: list[tuple[str, str]] = field(default_factory=list)
    known_elsewhere: int = 0
    known_such_as: list[str] = field(default_factory=list)
