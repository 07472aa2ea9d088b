"""featstore: run each encoder once, keep the vectors, ask SQL about them, build leak-free fused training tables.
::

    import featstore
    store = featstore.open("./store")
    store.sql("select modality, count(*) n from features group by all").to_pandas()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from featstore.errors import (
    BusyError,
    ConflictError,
    CorruptError,
    FeatstoreError,
    InputError,
    LeakageError,
    MigrationError,
    NotFoundError,
    PluginError,
    SetupError,
    SqlError,
    UsageError,
)
from featstore.source import Source
from featstore.spec import (
    Backbone,
    BackboneRequest,
    BackboneSpec,
    Block,
    ExporterSpec,
    Fuser,
    FuserSpec,
    Part,
    Parts,
    Picture,
    PoolerSpec,
    ReaderSpec,
    Step,
    StepSpec,
    Tokens,
)

if TYPE_CHECKING:
    from featstore.activations import capture
    from featstore.hookspecs import hookimpl
    from featstore.imaging import ImageTransform
    from featstore.seeding import seeded
    from featstore.store import Store, init, open
    from featstore.vision import import_torchvision
    from featstore.weights import load_weights, read_weights, unavailable

__version__ = "0.1.0"

# Resolved on first use, so that a plugin's `import featstore` costs neither DuckDB, torch nor Pillow.
_LAZY = {
    "ImageTransform": "featstore.imaging",
    "Store": "featstore.store",
    "capture": "featstore.activations",
    "hookimpl": "featstore.hookspecs",
    "import_torchvision": "featstore.vision",
    "init": "featstore.store",
    "load_weights": "featstore.weights",
    "open": "featstore.store",
    "read_weights": "featstore.weights",
    "seeded": "featstore.seeding",
    "unavailable": "featstore.weights",
}

__all__ = [
    "Backbone",
    "BackboneRequest",
    "BackboneSpec",
    "Block",
    "BusyError",
    "ConflictError",
    "CorruptError",
    "ExporterSpec",
    "FeatstoreError",
    "Fuser",
    "FuserSpec",
    "ImageTransform",
    "InputError",
    "LeakageError",
    "MigrationError",
    "NotFoundError",
    "Part",
    "Parts",
    "Picture",
    "PluginError",
    "PoolerSpec",
    "ReaderSpec",
    "SetupError",
    "Source",
    "SqlError",
    "Step",
    "StepSpec",
    "Store",
    "Tokens",
    "UsageError",
    "__version__",
    "capture",
    "hookimpl",
    "import_torchvision",
    "init",
    "load_weights",
    "open",
    "read_weights",
    "seeded",
    "unavailable",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'featstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
