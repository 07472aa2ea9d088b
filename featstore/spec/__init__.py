"""What plugins are made of: typed, frozen specs, and the small classes that they hand over.

A spec can be listed without importing torch; the work is behind its ``load``. Everything here is public.
"""

from featstore.spec.encoding import (
    Backbone,
    BackboneRequest,
    BackboneSpec,
    Format,
    Json,
    PoolerSpec,
    PoolFunction,
    Tokens,
)
from featstore.spec.files import (
    ExporterSpec,
    ExportFunction,
    ExportSeveral,
    Part,
    Picture,
    ReaderSpec,
)
from featstore.spec.fusing import (
    Block,
    Fuser,
    FuserSpec,
    Matrix,
    Parts,
    Step,
    StepSpec,
    Transformer,
)

__all__ = [
    "Backbone",
    "BackboneRequest",
    "BackboneSpec",
    "Block",
    "ExportFunction",
    "ExportSeveral",
    "ExporterSpec",
    "Format",
    "Fuser",
    "FuserSpec",
    "Json",
    "Matrix",
    "Part",
    "Parts",
    "Picture",
    "PoolFunction",
    "PoolerSpec",
    "ReaderSpec",
    "Step",
    "StepSpec",
    "Tokens",
    "Transformer",
]
