"""Import: features that somebody extracted before, in whatever form, become a feature set of the store."""

from featstore.imports.request import ImportRequest, ImportResult
from featstore.imports.run import import_features
from featstore.imports.staging import sweep

__all__ = ["ImportRequest", "ImportResult", "import_features", "sweep"]
