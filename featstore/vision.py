"""torchvision, also where its compiled operators can't be loaded.

A CPU build of torch beside a CUDA build of torchvision (a common outcome of installing one after the other)
fails at import with ``operator torchvision::nms does not exist``: torchvision registers Python kernels for
two operators whose schemas only its own ``_C.so`` would have defined, and that library needs CUDA.
"""

from __future__ import annotations

import importlib
import sys
import threading
from types import ModuleType
from typing import Any

# The two operators that torchvision/_meta_registrations.py registers without a check that they exist.
_MISSING = ("nms", "qnms")
_SCHEMA = "{}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_lock = threading.Lock()
_fragments: list[Any] = []  # a torch.library.Library takes its schemas with it when it is collected


def import_torchvision() -> ModuleType:
    """Import torchvision, and repair the import where torch and torchvision were built for different devices.

    Call it before timm or open_clip is imported. The plain import is tried first; only the failure described
    above is repaired, by defining the two schemas and importing again. Transforms and models work then;
    ``torchvision.ops.nms`` and ``torchvision.io`` stay unusable (decode with Pillow).

    Returns:
        the module ``torchvision``; the same one however often it is called.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: the import fails for another reason.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms does not exist" not in str(error):
                raise
        if not _fragments:
            _fragments.append(_define_schemas())
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported: importing again must start anew
        return importlib.import_module("torchvision")


def _define_schemas() -> Any:
    library: Any = importlib.import_module("torch.library")  # it is untyped
    fragment = library.Library("torchvision", "FRAGMENT")
    for operator in _MISSING:
        fragment.define(_SCHEMA.format(operator))
    return fragment
