"""Learning from training tables: probes."""

from __future__ import annotations

from featstore.learn.models import Probe
from featstore.learn.probe import probe
from featstore.learn.request import MODELS, ProbeRequest
from featstore.learn.results import FoldSummary, Measured, ProbeResult, SplitMeasures

__all__ = ["MODELS", "FoldSummary", "Measured", "Probe", "ProbeRequest", "ProbeResult", "SplitMeasures", "probe"]
