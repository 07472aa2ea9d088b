"""Training tables: a recipe → aligned rows → fitted steps → a versioned file with its report."""

from featstore.tables.export import ExportResult, export
from featstore.tables.features import FeatureSetView
from featstore.tables.keeping import MaterializeResult
from featstore.tables.materialize import materialize
from featstore.tables.recipe import Recipe, TabularInput
from featstore.tables.training import TrainingTable

__all__ = [
    "ExportResult",
    "FeatureSetView",
    "MaterializeResult",
    "Recipe",
    "TabularInput",
    "TrainingTable",
    "export",
    "materialize",
]
