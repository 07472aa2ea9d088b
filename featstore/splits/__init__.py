"""Splitting patients: by ratio or in folds, stratified, by site, from files; the same seed gives the same anywhere."""

from featstore.splits.dealing import assign
from featstore.splits.make import split_patients
from featstore.splits.request import SplitRequest, SplitResult, check_ratios

__all__ = ["SplitRequest", "SplitResult", "assign", "check_ratios", "split_patients"]
