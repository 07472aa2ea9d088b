"""Extraction: the chunk is the unit of work, of commit and of retry.

plan (one short transaction) → work (no catalog at all: chunks and receipts) → commit (receipts into the catalog).
"""

from featstore.extract.request import ExtractRequest
from featstore.extract.resume import absorb_dead_runs
from featstore.extract.retry import retry
from featstore.extract.run import ExtractResult, Progress, extract

__all__ = ["ExtractRequest", "ExtractResult", "Progress", "absorb_dead_runs", "extract", "retry"]
