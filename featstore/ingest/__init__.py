"""Ingest: from folders, manifests and tables to rows of the catalog. Headers are read here; no pixels are decoded."""

from featstore.ingest.expand import expand_all, find, parse_settings
from featstore.ingest.layout import Layout
from featstore.ingest.manifest import read_manifest
from featstore.ingest.samples import IngestResult, add_samples
from featstore.ingest.scan import scan
from featstore.ingest.tabular import TabularResult, add_table

__all__ = [
    "IngestResult", "Layout", "TabularResult", "add_samples", "add_table", "expand_all", "find", "parse_settings",
    "read_manifest", "scan",
]  # fmt: skip
