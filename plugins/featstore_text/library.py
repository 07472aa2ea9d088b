"""The one place where transformers is imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from featstore import SetupError, import_torchvision


def import_transformers() -> Any:
    """Import transformers, after torchvision was made importable (its models need it, where it is installed).

    Raises:
        SetupError: it isn't installed.
    """
    import_torchvision()
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise SetupError(
            "Text encoders need the package transformers, which isn't installed.",
            hint="pip install 'featstore[text]'; text:hashing and text:lsa need nothing more",
        ) from error


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Keep its progress bars and remarks off the terminal; what matters of them is checked."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
