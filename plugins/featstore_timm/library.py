"""The one place where timm is imported."""

from __future__ import annotations

import importlib
from typing import Any

from featstore import import_torchvision


def import_timm() -> Any:
    """Import timm, after torchvision was made importable (timm needs it)."""
    import_torchvision()
    return importlib.import_module("timm")
