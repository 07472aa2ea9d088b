"""The one place where segmentation_models_pytorch is imported, and timm, which it brings."""

from __future__ import annotations

import importlib
from typing import Any

from featstore import SetupError, import_torchvision


def import_smp() -> Any:
    """Import segmentation_models_pytorch, after torchvision was made importable (smp needs it).

    Raises:
        SetupError: it isn't installed, or can't be imported.
    """
    import_torchvision()
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise SetupError(
            f"smp: needs segmentation_models_pytorch, which can't be imported: {error}",
            hint="pip install 'featstore[smp]'",
        ) from error


def import_timm() -> Any:
    """Import timm, after torchvision was made importable."""
    import_torchvision()
    return importlib.import_module("timm")
