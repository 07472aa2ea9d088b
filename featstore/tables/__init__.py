"""Training tables: a recipe → aligned rows → fitted steps → a versioned file with its report."""

from featstore.tables.materialize import materialize
from featstore.tables.recipe import Recipe, TabularInput
from featstore.tables.training import FeatureSetView, TrainingTable
from featstore.tables.writing import MaterializeResult

__all__ = ["FeatureSetView", "MaterializeResult", "Recipe", "TabularInput", "TrainingTable", "materialize"]
